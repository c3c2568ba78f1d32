"""What a network makes of one feature, and of two: effects, averaged over the samples and centred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pathnorm.report.network_plots import plain_numbers, short, tints
from pathnorm.report.radon_plots import plot_measure
from pathnorm.report.style import INK, PALETTE, dress, new_figure
from pathnorm.report.table import shorten
from pathnorm.spaces import ShallowNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Effects", "MainEffect", "PairEffect", "effect_captions", "effects_of", "plot_effects", "plot_function"]

Vector = NDArray[np.float64]

MOST_MAIN, MOST_PAIRS = 9, 6

_GRID, _PAIR_GRID = 201, 61
FEW = 5  # different values that are drawn one by one
_SAMPLES = 300  # that an average is taken over, per point of a grid
_NAME = 32


class _Fitted(Protocol):
    """A fitted estimator."""

    solution_: Any
    standard_: Any
    network_: ShallowNet


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MainEffect:
    """``f_j`` on a grid; ``values`` (G, D) have mean zero over the samples, and ``size`` is their deviation."""

    feature: int
    grid: Vector
    values: Vector
    size: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairEffect:
    """``f_jk`` on a grid: (G, G), rows along the second feature; without what either feature does alone."""

    features: tuple[int, int]
    grids: tuple[Vector, Vector]
    values: Vector
    size: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Effects:
    """Effects of all features and of the pairs that share neurons, largest first.

    ``exact`` says whether constant, main effects and pair effects add up to f; else the main effects are averages over
    the other features, and there are no pairs.
    """

    main: tuple[MainEffect, ...]
    pairs: tuple[PairEffect, ...]
    exact: bool


def effects_of(net: ShallowNet, X: Vector, *, output: int = 0, seed: int = 0) -> Effects:
    """Return the effects of a network over samples X (N, d).

    The main effect of feature j at t is the mean of f over the samples with their j-th feature set to t, centred. Where
    no neuron sees more than two features, f is a constant, plus main effects, plus for each pair what its neurons do
    beyond the main effects, averages being taken over all combinations of the two features.

    Parameters
    ----------
    net : ShallowNet
    X : array (N, d)
    output : int
        Which of several outputs.
    seed : int
        Of the samples that averages are taken over, where there are many.
    """
    rng = np.random.default_rng(seed)
    some = X if len(X) <= _SAMPLES else X[rng.choice(len(X), _SAMPLES, replace=False)]
    seen = np.count_nonzero(net.W, axis=1)
    moving = [j for j in range(X.shape[1]) if np.ptp(X[:, j]) > 0.0 and (net.W[:, j].any() or net.A[j, output] != 0.0)]
    main = [_main(net, X[:, j], some, j, output) for j in moving]
    exact = bool((seen <= 2).all())
    pairs = []
    if exact:
        places = {(int(j[0]), int(j[1])) for j in (np.flatnonzero(w) for w in net.W[seen == 2])}
        pairs = [_pair(net, some, pair, output) for pair in sorted(places)]
    return Effects(
        main=tuple(sorted(main, key=lambda effect: -effect.size)),
        pairs=tuple(sorted((pair for pair in pairs if pair.size > 0.0), key=lambda effect: -effect.size)),
        exact=exact,
    )


def _main(net: ShallowNet, values: Vector, some: Vector, feature: int, output: int) -> MainEffect:
    grid = _grid(values, _GRID)
    # Only neurons that see the feature change with it.
    hit = net.W[:, feature] != 0.0
    W, v = net.W[hit], net.V[hit, output]
    rest = some @ W.T - net.b[hit] - np.outer(some[:, feature], W[:, feature])
    found = np.array([float((np.maximum(rest + t * W[:, feature], 0.0) @ v).mean()) for t in grid])
    found += grid * net.A[feature, output]
    at = np.interp(values, grid, found)
    return MainEffect(feature=feature, grid=grid, values=found - at.mean(), size=float(at.std()))


def _pair(net: ShallowNet, some: Vector, pair: tuple[int, int], output: int) -> PairEffect:
    first, second = pair
    hit = (net.W[:, first] != 0.0) & (net.W[:, second] != 0.0)
    W, b, v = net.W[np.ix_(hit, list(pair))], net.b[hit], net.V[hit, output]

    def table(x: Vector, y: Vector) -> Vector:
        hidden = y[:, None, None] * W[:, 1] + x[None, :, None] * W[:, 0] - b
        return np.asarray(np.maximum(hidden, 0.0) @ v)

    one, two = some[:, first], some[:, second]
    grids = (_grid(one, _PAIR_GRID), _grid(two, _PAIR_GRID))
    values = table(*grids)
    # Means along one feature, for grid points of the other; the mean of all is that over both sets of samples.
    over_first, over_second = table(one, grids[1]).mean(axis=1), table(grids[0], two).mean(axis=0)
    everything = table(one, two)
    whole = float(everything.mean())
    values = values - over_first[:, None] - over_second[None, :] + whole
    at = np.maximum(np.column_stack((one, two)) @ W.T - b, 0.0) @ v
    at = at - everything.mean(axis=1) - everything.mean(axis=0) + whole
    return PairEffect(features=pair, grids=grids, values=values, size=float(at.std()))


def _grid(values: Vector, size: int) -> Vector:
    distinct = np.unique(values)
    return distinct if distinct.size <= FEW else np.linspace(distinct[0], distinct[-1], size)


# ------------------------------------------------------------------------------ figures


def plot_effects(
    model: _Fitted, names: Sequence[str] | None = None, *, output: int = 0, most: int = MOST_MAIN + MOST_PAIRS
) -> Figure:
    """Return the largest main effects as curves and, below, the largest pair effects as maps; all are centred.

    Where neurons see more than two features, curves are averages over the samples and say nothing of interactions.
    """
    net, X = model.network_, _samples(model)
    names = _names(model, names, X.shape[1])
    found = effects_of(net, X, output=output)
    main, pairs = found.main[: min(MOST_MAIN, most)], found.pairs[: min(MOST_PAIRS, most)]
    if not main:
        raise ValueError("There is no effect to draw; the fitted function is constant. A smaller lam gives more.")
    columns = min(3, max(len(main), len(pairs), 2))
    rows = [-(-len(part) // columns) for part in (main, pairs)]
    figure = new_figure(10.0, 2.3 * rows[0] + 2.9 * rows[1])
    grid = figure.add_gridspec(sum(rows), columns, height_ratios=[2.3] * rows[0] + [2.9] * rows[1])
    seen = np.concatenate([effect.values[_within(effect, X[:, effect.feature])] for effect in main])
    low, high = float(seen.min()), float(seen.max())
    margin = 0.06 * (high - low) or 1.0
    for place, effect in enumerate(main):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        _draw_main(axes, effect, X[:, effect.feature], names[effect.feature])
        axes.set_ylim(low - margin, high + margin)
        plain_numbers(axes, x=effect.grid.size != 2)
    for place, pair in enumerate(pairs):
        axes = figure.add_subplot(grid[rows[0] + place // columns, place % columns])
        _draw_pair(axes, pair, (names[pair.features[0]], names[pair.features[1]]))
    return figure


def _within(effect: MainEffect, values: Vector) -> NDArray[np.bool_]:
    """The part of the grid that is drawn: between the first and the last hundredth of the samples, if it is a curve."""
    if effect.grid.size <= FEW:
        return np.ones(effect.grid.size, dtype=np.bool_)
    low, high = np.quantile(values, (0.01, 0.99))
    inside = (effect.grid >= low) & (effect.grid <= high)
    return inside if inside.sum() > 1 else np.ones(effect.grid.size, dtype=np.bool_)


def _draw_main(axes: Axes, effect: MainEffect, values: Vector, name: str) -> None:
    if effect.grid.size <= FEW:
        axes.vlines(effect.grid, 0.0, effect.values, color=PALETTE[0], linewidth=3.0)
        axes.plot(effect.grid, effect.values, linestyle="none", marker="o", markersize=7, color=PALETTE[0])
        if effect.grid.size == 2:
            axes.set_xticks(effect.grid, [f"{value:.4g}" for value in effect.grid])
        axes.set_xmargin(0.25)
    else:
        inside = _within(effect, values)
        axes.plot(effect.grid[inside], effect.values[inside], color=PALETTE[0], linewidth=2.0)
        margin = 0.03 * float(np.ptp(effect.grid[inside]))
        axes.set_xlim(float(effect.grid[inside].min()) - margin, float(effect.grid[inside].max()) + margin)
        # Where samples are: twentieths of them along the edge.
        axes.plot(
            np.quantile(values, np.linspace(0.0, 1.0, 21)),
            np.full(21, 0.02),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker="|",
            markersize=7,
            color=PALETTE[5],
        )
    axes.axhline(0.0, color=INK, linewidth=0.8, linestyle=(0, (5, 3)), zorder=1)
    axes.set_xlabel(shorten(name, _NAME))
    dress(axes)


def _draw_pair(axes: Axes, pair: PairEffect, names: tuple[str, str]) -> None:
    limit = float(np.abs(pair.values).max()) or 1.0
    edges = [_edges(grid) for grid in pair.grids]
    image = axes.pcolormesh(edges[0], edges[1], pair.values, cmap=tints(), vmin=-limit, vmax=limit, rasterized=True)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=8, length=0)
    bar.ax.yaxis.set_major_formatter(lambda value, _: short(value))
    plain_numbers(axes)
    axes.set_xlabel(shorten(names[0], _NAME))
    axes.set_ylabel(shorten(names[1], _NAME))
    for axis, grid in zip((axes.xaxis, axes.yaxis), pair.grids, strict=True):
        if grid.size == 2:
            axis.set_ticks(list(grid), [f"{value:.4g}" for value in grid])
    dress(axes)
    axes.grid(visible=False)


def _edges(grid: Vector) -> Vector:
    middle = (grid[1:] + grid[:-1]) / 2.0
    return np.concatenate(([2.0 * grid[0] - middle[0]], middle, [2.0 * grid[-1] - middle[-1]]))


def plot_function(model: _Fitted, names: Sequence[str] | None = None, *, output: int = 0) -> Figure:
    """Return the fitted function: a curve with its knots for one feature, a map with hinges and measure for two."""
    net, X = model.network_, _samples(model)
    names = _names(model, names, X.shape[1])
    if X.shape[1] == 2:
        figure = plot_measure(net, X, output=output)
        figure.axes[0].set_xlabel(shorten(names[0], 40))
        figure.axes[0].set_ylabel(shorten(names[1], 40))
        return figure
    if X.shape[1] > 2:
        raise ValueError(
            f"The function can be drawn for one or two features; the model has {X.shape[1]}. Draw its effects instead."
        )
    low, high = float(X.min()), float(X.max())
    slopes = net.W[:, 0]
    knots = net.b[slopes != 0.0] / slopes[slopes != 0.0]
    knots = np.unique(knots[(knots > low) & (knots < high)])
    grid = np.unique(np.concatenate(([low, high], knots)))
    figure = new_figure(9.0, 4.4)
    axes = figure.add_subplot()
    axes.plot(grid, net(grid[:, None])[:, output], color=PALETTE[0], linewidth=2.0)
    axes.plot(knots, net(knots[:, None])[:, output], linestyle="none", marker="o", markersize=5, color=PALETTE[0])
    axes.set_xlabel(shorten(names[0], 40))
    axes.set_ylabel("f")
    dress(axes)
    return figure


def _samples(model: _Fitted) -> Vector:
    """Samples (N, d) that the model was fitted to, as they came."""
    problem, standard = model.solution_.problem, model.standard_
    return np.asarray((problem.X + problem.origin) * standard.scale + standard.mean)


def _names(model: _Fitted, names: Sequence[str] | None, inputs: int) -> list[str]:
    if names is None:
        names = getattr(model, "feature_names_in_", [f"x{j + 1}" for j in range(inputs)])
    if len(names) != inputs:
        raise ValueError(f"names must hold one name for each of the {inputs} features; got {len(names)}.")
    return [str(name) for name in names]


def effect_captions(model: _Fitted) -> str:
    """What :func:`plot_effects` shows, in words."""
    if (np.count_nonzero(model.network_.W, axis=1) <= 1).all():
        return "Effects: the function is a constant plus these functions of one feature; the largest come first."
    if (np.count_nonzero(model.network_.W, axis=1) <= 2).all():
        return (
            "Effects: the function is a constant, plus functions of one feature, plus functions of two features (the "
            "maps) that hold what goes beyond them; the largest come first."
        )
    return (
        "Effects: the function averaged over the training rows, with one feature set to each of its values; the "
        "largest come first. Neurons see many features, so interactions are not in these curves."
    )
