"""What is minimised: objectives that know their dual and their certificate, but no algorithm."""

from pathnorm.problems.certificate import Certificate, Scope
from pathnorm.problems.multitask_lasso import MultitaskLasso
from pathnorm.problems.trend import BV2Problem
from pathnorm.problems.variation import RBV2Problem

__all__ = ["BV2Problem", "Certificate", "MultitaskLasso", "RBV2Problem", "Scope"]
