"""The certificate of a network of two inputs as a picture: the dual function over all directions and offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pathnorm.problems.losses import Pinball
from pathnorm.problems.variation import RBV2Problem
from pathnorm.report.numbers import count, decimal
from pathnorm.report.style import INK, PALETTE, dress, new_figure
from pathnorm.spaces import ShallowNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Landscape", "landscape_of", "plot_landscape"]

Vector = NDArray[np.float64]

_GRID = 400
_TOUCHES = 0.99


class _Solved(Protocol):
    """A fitted estimator."""

    solution_: Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Landscape:
    """``||h(w, b)|| / lam`` with ``h(w, b) = sum_n r_n (w' x_n - b)_+``, which is at most one at a solution.

    Attributes
    ----------
    angles : array (M,)
        Of w, in degrees; half a turn where (w, b) and (-w, -b) have the same h.
    offsets : array (L,)
        b, from the centre of the samples.
    heights : array (L, M)
    neurons : array (K, 2)
        Angle and offset of each neuron.
    neuron_heights : array (K,)
        Heights there: one, up to the tolerance of the solver.
    """

    angles: Vector
    offsets: Vector
    heights: Vector
    neurons: Vector
    neuron_heights: Vector


def landscape_of(problem: RBV2Problem, net: ShallowNet, *, size: int = _GRID) -> Landscape:
    """Evaluate the dual function of a network on a grid: for each angle one sort of the samples and running sums.

    Parameters
    ----------
    problem : RBV2Problem
        Of two features.
    net : ShallowNet
        Its solution, in the coordinates of the samples as they came.
    size : int
        Angles, and offsets.
    """
    if problem.n_features != 2:
        raise ValueError(
            f"The landscape can be drawn for 2 features; the problem has {problem.n_features}. "
            "Read the certificate instead."
        )
    if isinstance(problem.loss, Pinball):
        raise ValueError(
            "The landscape needs a loss with a derivative; the absolute and quantile losses have none at samples that "
            "the fit meets. Read the certificate instead."
        )
    R = problem.dual_point(net)
    half = problem.affine == "free"
    angles = np.linspace(-90.0, 90.0, size) if half else np.linspace(-180.0, 180.0, size)
    reach = 1.02 * float(np.linalg.norm(problem.X, axis=1).max())
    offsets = np.linspace(-reach, reach, size)
    heights = np.empty((size, size))
    for place, angle in enumerate(np.radians(angles)):
        heights[:, place] = _heights(problem, R, np.array([np.cos(angle), np.sin(angle)]), offsets)
    inner = problem.centred(net)
    norms = np.linalg.norm(inner.W, axis=1)
    there = norms * np.linalg.norm(inner.V, axis=1) > 0.0
    W, b = inner.W[there] / norms[there, None], inner.b[there] / norms[there]
    at = [_heights(problem, R, w, np.array([offset]))[0] for w, offset in zip(W, b, strict=True)]
    return Landscape(
        angles=angles,
        offsets=offsets,
        heights=heights,
        neurons=_places(W, b, half=half),
        neuron_heights=np.array(at),
    )


def _heights(problem: RBV2Problem, R: Vector, w: Vector, offsets: Vector) -> Vector:
    """``||h(w, b)|| / lam`` (L,) at each offset."""
    along = problem.X @ w
    order = np.argsort(along)
    # Sums over the samples beyond each place in the order; nothing is beyond the last.
    pulls, moments = R[order], R[order] * along[order, None]
    behind = [np.vstack((np.cumsum(part[::-1], axis=0)[::-1], np.zeros(R.shape[1]))) for part in (pulls, moments)]
    place = np.searchsorted(along[order], offsets)
    h = behind[1][place] - offsets[:, None] * behind[0][place]
    return np.asarray(np.linalg.norm(h, axis=1) / problem.lam)


def _places(W: Vector, b: Vector, *, half: bool) -> Vector:
    """Angles in degrees and offsets (K, 2), on the half turn that is shown."""
    angles = np.degrees(np.arctan2(W[:, 1], W[:, 0]))
    if half:
        turn = np.abs(angles) > 90.0
        angles = np.where(turn, angles - np.sign(angles) * 180.0, angles)
        b = np.where(turn, -b, b)
    return np.column_stack((angles, b))


def plot_landscape(model: _Solved, *, size: int = _GRID) -> Figure:
    """Return the picture of the proof for two features: the dual function over lam, with the neurons on its summits.

    The answer is optimal if no direction and offset is above one, and every neuron is at one. Coordinates are the
    standardised ones, in which the penalty is measured.
    """
    solution = model.solution_
    found = landscape_of(solution.problem, solution.coef, size=size)
    figure = new_figure(9.0, 4.6)
    axes = figure.add_subplot()
    top = max(1.0, float(found.heights.max(initial=0.0)))
    image = axes.imshow(
        found.heights,
        origin="lower",
        aspect="auto",
        extent=(found.angles[0], found.angles[-1], found.offsets[0], found.offsets[-1]),
        cmap=_shades(),
        vmin=0.0,
        vmax=top,
        interpolation="bilinear",
    )
    if found.heights.max(initial=0.0) > _TOUCHES:
        axes.contour(found.angles, found.offsets, found.heights, levels=[_TOUCHES], colors=[PALETTE[1]], linewidths=1.2)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9, length=0)
    bar.set_label("|h(w, b)| / \N{GREEK SMALL LETTER LAMDA}", color=INK)
    if found.neurons.size:
        axes.plot(
            found.neurons[:, 0],
            found.neurons[:, 1],
            linestyle="none",
            marker="o",
            markersize=6,
            color=PALETTE[0],
            markeredgecolor="white",
            markeredgewidth=0.9,
            label=f"{count(len(found.neurons))} neuron{'s' * (len(found.neurons) != 1)}, "
            f"at {decimal(float(found.neuron_heights.min()), digits=4)} or more",
        )
    axes.plot([], [], color=PALETTE[1], label=f"above {_TOUCHES:g}; largest {decimal(top_of(found), digits=4)}")
    ends = (-90, -45, 0, 45, 90) if found.angles[-1] < 100.0 else (-180, -90, 0, 90, 180)
    axes.set_xticks(ends, [f"{end}\N{DEGREE SIGN}" for end in ends])
    axes.set_xlabel("direction of w")
    axes.set_ylabel("offset b")
    dress(axes)
    axes.grid(visible=False)
    axes.legend(frameon=False, labelcolor=INK, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0), fontsize=9)
    return figure


def top_of(found: Landscape) -> float:
    """The largest height on the grid and at the neurons."""
    return float(max(found.heights.max(initial=0.0), found.neuron_heights.max(initial=0.0)))


def _shades() -> Any:
    """One hue from paper to ink, so that the blue of the neurons and the orange of the summits stand out."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("proof", ["#fbfbfd", "#c3c6cc", "#6d727b"])
