"""The pruned network made really smaller: dense, sparse, with the same predictions."""

from .report import CompactReport
from .select import SelectColumns
from .shrink import check_traceable, dead_parameters, shrink, sweep

__all__ = [
    "CompactReport",
    "SelectColumns",
    "check_traceable",
    "dead_parameters",
    "shrink",
    "sweep",
]
