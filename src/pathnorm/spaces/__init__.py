"""Which functions: adaptive linear splines (BV²) and the shallow ReLU networks that they are."""

from pathnorm.spaces.radon import RadonMeasure
from pathnorm.spaces.shallow import ShallowNet
from pathnorm.spaces.spline import LinearSpline

__all__ = ["LinearSpline", "RadonMeasure", "ShallowNet"]
