"""Optimal Brain Damage as a scikit-learn estimator."""

__version__ = "0.1.0"

from .cv import OBDClassifierCV, OBDRegressorCV
from .estimators import OBDClassifier, OBDRegressor, obd_path
from .path import PruningPath
from .taylor import TaylorTerms, taylor_terms

__all__ = [
    "OBDClassifier",
    "OBDClassifierCV",
    "OBDRegressor",
    "OBDRegressorCV",
    "PruningPath",
    "TaylorTerms",
    "obd_path",
    "taylor_terms",
]
