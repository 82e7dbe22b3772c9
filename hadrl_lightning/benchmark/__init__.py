"""`hadrl benchmark`: policies × scenarios × seeds on the same requests, positions and fading."""

from .archive import Archive, chosen
from .cells import Cell, CellResult
from .compute import compute
from .outcomes import MAX_RETRIES, Outcome
from .plan import Plan, PlanSettings, make_plan
from .policies import LEARNERS, Learner, PairPolicy, default_policies, label_of
from .records import Group, Record, groups, intervals, records_of
from .report import result_table, write_report
from .runner import Engine, computed_cells, run_cells

__all__ = [
    "LEARNERS",
    "MAX_RETRIES",
    "Archive",
    "Cell",
    "CellResult",
    "Engine",
    "Group",
    "Learner",
    "Outcome",
    "PairPolicy",
    "Plan",
    "PlanSettings",
    "Record",
    "chosen",
    "compute",
    "computed_cells",
    "default_policies",
    "groups",
    "intervals",
    "label_of",
    "make_plan",
    "records_of",
    "result_table",
    "run_cells",
    "write_report",
]
