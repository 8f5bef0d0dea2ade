"""Optimal Brain Damage as a scikit-learn estimator."""

__version__ = "0.1.0"

from .estimators import OBDClassifier, OBDRegressor, obd_path
from .path import PruningPath
from .taylor import TaylorTerms, taylor_terms

__all__ = [
    "OBDClassifier",
    "OBDRegressor",
    "PruningPath",
    "TaylorTerms",
    "obd_path",
    "taylor_terms",
]
