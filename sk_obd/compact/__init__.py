"""The pruned network made really smaller: dense, sparse, with the same predictions."""

from .estimator import compact_estimator
from .report import Report
from .select import Select
from .shrink import dead, shrink, sweep

__all__ = ["Report", "Select", "compact_estimator", "dead", "shrink", "sweep"]
