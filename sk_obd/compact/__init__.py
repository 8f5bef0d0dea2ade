"""The pruned network made really smaller: dense, sparse, with the same predictions."""

from .report import Report
from .select import Select
from .shrink import dead, shrink, sweep

__all__ = ["Report", "Select", "dead", "shrink", "sweep"]
