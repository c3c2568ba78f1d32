"""How a problem is solved: functions ``problem -> Solution``."""

from pathnorm.solvers.bv2 import bv2, bv2_lam_max, bv2_solutions
from pathnorm.solvers.knot_exchange import knot_exchange
from pathnorm.solvers.multitask_lasso import multitask_lasso, multitask_lasso_path
from pathnorm.solvers.rbv2 import rbv2, rbv2_lam_max
from pathnorm.solvers.solution import Solution, Status

__all__ = [
    "Solution",
    "Status",
    "bv2",
    "bv2_lam_max",
    "bv2_solutions",
    "knot_exchange",
    "multitask_lasso",
    "multitask_lasso_path",
    "rbv2",
    "rbv2_lam_max",
]
