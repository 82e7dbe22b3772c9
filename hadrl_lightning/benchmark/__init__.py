"""`hadrl benchmark`: policies × scenarios × seeds on the same requests, positions and fading."""

from .cells import Cell, CellResult
from .compute import compute
from .outcomes import MAX_RETRIES, Outcome
from .plan import Plan, PlanSettings, make_plan
from .policies import LEARNERS, PairPolicy, default_policies, label_of
from .report import result_table, write_report
from .runner import Engine, computed_cells, run_cells
from .statistics import Interval, bootstrap

__all__ = [
    "LEARNERS",
    "MAX_RETRIES",
    "Cell",
    "CellResult",
    "Engine",
    "Interval",
    "Outcome",
    "PairPolicy",
    "Plan",
    "PlanSettings",
    "bootstrap",
    "compute",
    "computed_cells",
    "default_policies",
    "label_of",
    "make_plan",
    "result_table",
    "run_cells",
    "write_report",
]
