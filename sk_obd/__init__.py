"""Optimal Brain Damage as a scikit-learn estimator."""

__version__ = "0.1.0"

from .estimators import OBDClassifier, OBDRegressor
from .path import PruningPath
from .taylor import TaylorTerms, taylor_terms

__all__ = ["OBDClassifier", "OBDRegressor", "PruningPath", "TaylorTerms", "taylor_terms"]
