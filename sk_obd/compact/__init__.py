"""Pruned networks made really smaller, dense or sparse, with the same predictions."""

from .agreement import check_traceable
from .dead import dead_parameters, sweep
from .report import CompactReport
from .select import SelectColumns
from .shrink import shrink

__all__ = [
    "CompactReport",
    "SelectColumns",
    "check_traceable",
    "dead_parameters",
    "shrink",
    "sweep",
]
