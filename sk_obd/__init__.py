"""Optimal Brain Damage as a scikit-learn estimator."""

__version__ = "0.1.0"

from .cv import OBDClassifierCV, OBDRegressorCV
from .estimators import OBDClassifier, OBDRegressor
from .path import PruningPath

__all__ = ["OBDClassifier", "OBDClassifierCV", "OBDRegressor", "OBDRegressorCV", "PruningPath"]
