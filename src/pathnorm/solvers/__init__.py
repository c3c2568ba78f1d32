"""How a problem is solved: functions ``problem -> Solution``."""

from pathnorm.solvers.multitask_lasso import multitask_lasso, multitask_lasso_path
from pathnorm.solvers.solution import Solution, Status

__all__ = ["Solution", "Status", "multitask_lasso", "multitask_lasso_path"]
