"""Optimal Brain Damage as a scikit-learn estimator.

Public is what is listed here, and in ``sk_obd.curvature``, ``sk_obd.compact`` and
``sk_obd.display``. All else is private, and may change from one version to the next.
"""

from importlib.metadata import version

from .estimators.cv import OBDClassifierCV, OBDRegressorCV
from .estimators.plain import OBDClassifier, OBDRegressor, obd_path
from .pruning.path import PruningPath
from .pruning.taylor import TaylorTerms, taylor_terms

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

__version__ = version("sk_obd")
