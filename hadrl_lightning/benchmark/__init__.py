"""`hadrl benchmark`: policies × scenarios × seeds on the same requests, positions and fading."""

from hadrl_lightning.benchmark.archive import Archive, chosen
from hadrl_lightning.benchmark.cells import MAX_RETRIES, Cell, CellResult, Outcome
from hadrl_lightning.benchmark.compute import compute
from hadrl_lightning.benchmark.plan import Plan, PlanSettings, make_plan
from hadrl_lightning.benchmark.policies import (
    LEARNERS,
    Learner,
    OwnPolicy,
    PairPolicy,
    default_policies,
    label_of,
)
from hadrl_lightning.benchmark.records import Group, Record, groups, intervals, records_of
from hadrl_lightning.benchmark.report import result_table, write_report
from hadrl_lightning.benchmark.runner import Engine, computed_cells, run_cells

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
    "OwnPolicy",
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
