"""scikit-learn estimators: the certified ones, and the classical linear methods beside them."""

from pathnorm.estimators.bv2 import BV2Regressor
from pathnorm.estimators.bv2_cv import BV2RegressorCV
from pathnorm.estimators.ntk import NTKRegressor
from pathnorm.estimators.relu import ReLUClassifier, ReLURegressor
from pathnorm.estimators.relu_cv import RBV2Path, ReLUClassifierCV, ReLURegressorCV
from pathnorm.estimators.selection import BV2Path, bv2_path
from pathnorm.estimators.smoothing_spline import SmoothingSplineRegressor
from pathnorm.estimators.thin_plate import ThinPlateRegressor

__all__ = [
    "BV2Path",
    "BV2Regressor",
    "BV2RegressorCV",
    "NTKRegressor",
    "RBV2Path",
    "ReLUClassifier",
    "ReLUClassifierCV",
    "ReLURegressor",
    "ReLURegressorCV",
    "SmoothingSplineRegressor",
    "ThinPlateRegressor",
    "bv2_path",
]
