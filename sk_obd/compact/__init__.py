"""The pruned network made really smaller: dense, sparse, with the same predictions."""

from .flow import NotTraced
from .report import Report
from .select import Select
from .shrink import check_traced, dead, shrink, sweep

__all__ = [
    "NotTraced",
    "Report",
    "Select",
    "check_traced",
    "dead",
    "shrink",
    "sweep",
]
