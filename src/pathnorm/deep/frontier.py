"""Which output error to expect at which size, before anything is compressed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pathnorm.deep.allocate import allocate, allocate_error
from pathnorm.deep.arguments import check_heldout, check_outputs
from pathnorm.deep.budget import MOMENT_BYTES
from pathnorm.deep.compress import METRIC_BATCHES, Compression, compress
from pathnorm.deep.cost import Cost
from pathnorm.deep.data import split_batches
from pathnorm.deep.lossless import remove_redundant
from pathnorm.deep.reduce import Progress, Setup, predicted_curves
from pathnorm.deep.selectors import Scores
from pathnorm.deep.sensitivity import Outputs, output_metrics
from pathnorm.deep.survey import device_of, survey
from pathnorm.deep.uniform import Ties, everyone, same_places
from pathnorm.report.frontier import FrontierPoint, FrontierRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Frontier", "frontier"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Frontier:
    """Predicted output error against parameters and multiply-accumulates.

    Attributes
    ----------
    record : FrontierRecord
        Plain numbers: ``.points``, ``.columns()``, ``.to_json()``, ``.plot()``.
    curves : tuple of ndarray
        Per group, the predicted squared relative output error at every width, from none to all neurons that the
        lossless stage left.
    """

    record: FrontierRecord
    curves: tuple[Array, ...] = field(repr=False)
    _costs: tuple[Cost, Cost] = field(repr=False)
    _round_to: int = field(repr=False)
    _again: Callable[..., Compression] = field(repr=False)
    _ties: Ties | None = field(default=None, repr=False)

    @property
    def points(self) -> tuple[FrontierPoint, ...]:
        """See :class:`~pathnorm.report.frontier.FrontierRecord`."""
        return self.record.points

    def at(
        self, *, params: float | None = None, macs: float | None = None, error: float | None = None
    ) -> FrontierPoint:
        """Return the network with the smallest predicted error within a budget, or a small one within an error.

        The widths are chosen for exactly this budget, not looked up among the points; for ``params`` and ``macs``
        they are those that :func:`pathnorm.deep.compress` chooses. For an ``error`` compress measures and corrects,
        whereas this relies on the prediction.

        Parameters
        ----------
        params, macs : float
            Largest share of the whole network.
        error : float
            Largest predicted relative output error; the multiply-accumulates are made small.

        Raises
        ------
        ValueError
            If not exactly one is given, or it is no share in (0, 1].
        BudgetError
            If even one neuron per group is too much.
        """
        given = {
            name: value for name, value in (("params", params), ("macs", macs), ("error", error)) if value is not None
        }
        if len(given) != 1 or not all(0.0 < value <= 1.0 for value in given.values()):
            raise ValueError(
                f"Exactly one of params, macs and error must be given, as a share in (0, 1]. Got {given or 'none'}. "
                "For example frontier.at(params=0.5)."
            )
        (name, value), *_ = given.items()
        if name == "error":
            widths = allocate_error(self.curves, self._costs[1], value**2, round_to=self._round_to, ties=self._ties)
            return self._point(name, widths)
        cost = self._costs[0] if name == "params" else self._costs[1]
        full = self._whole(cost)
        widths = allocate(
            self.curves, cost, value * full, round_to=self._round_to, reference=full, name=name, ties=self._ties
        )
        return self._point(name, widths)

    def compress(
        self,
        point: FrontierPoint,
        *,
        selector: str | Scores = "backward",
        labels: Any = None,
        slide: int = 0,
        path_norm_cap: float = 2.0,
        progress: Progress | None = None,
    ) -> Compression:
        """Return the network of a point, made from the model and the data that the frontier was made from.

        This is ``compress(model, data, widths=point.widths, ...)`` with the arguments of the frontier, and takes as
        long: only the widths are used again. The moments behind the curves are those of the uncompressed network,
        while every layer has to be refitted to what the layers before it have become.

        Parameters
        ----------
        selector, labels, slide, path_norm_cap, progress
            As in :func:`pathnorm.deep.compress`.
        """
        return self._again(
            widths=point.widths,
            selector=selector,
            labels=labels,
            slide=slide,
            path_norm_cap=path_norm_cap,
            progress=progress,
        )

    def columns(self) -> dict[str, list[Any]]:
        """Return one list per column, a row per point, e.g. for ``pandas.DataFrame``."""
        return self.record.columns()

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the record as strict JSON text."""
        return self.record.to_json(indent=indent)

    def plot(self) -> Figure:
        """Return predicted error against parameters and against multiply-accumulates."""
        return self.record.plot()

    def __str__(self) -> str:
        return str(self.record)

    def _point(self, budget: str, widths: NDArray[np.intp]) -> FrontierPoint:
        return _point(budget, widths, self.curves, self._costs, self.record.widths_full)

    def _whole(self, cost: Cost) -> int:
        return cost(list(self.record.widths_full.values()))


def frontier(  # noqa: PLR0913  (the public front door; everything behind it takes few arguments)
    model: nn.Module,
    data: Any,
    *,
    points: int = 24,
    skip: Sequence[str] = (),
    streams: bool = False,
    uniform: bool = False,
    seed: int = 0,
    heldout: float = 0.2,
    round_to: int = 1,
    outputs: Outputs = "values",
    max_positions: int | None = 64,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> Frontier:
    """Return the predicted output error of the whole network for a sequence of sizes, without compressing it.

    One pass over the calibration data per set of groups whose moments fit into memory gives, by backward elimination,
    the error of every group at all its widths; the reaction of the output to three widths of each group alone turns
    it into a predicted output error. Budgets from the whole network down to one neuron per group are then
    distributed over the groups, see :mod:`pathnorm.deep.allocate`. Predictions add squared errors of single groups;
    they leave out that later layers correct earlier ones, and that errors meet.

    Parameters
    ----------
    model : torch.nn.Module
        One tensor in, one tensor out. Not modified.
    data : array, tensor, DataLoader or list of batches
        Unlabelled calibration data, scaled as in training.
    points : int
        Budgets of parameters, and of multiply-accumulates, evenly spaced; points that another one beats are left out.
    skip, streams, uniform, seed, heldout, round_to, outputs, max_positions, batch_size, progress
        As in :func:`pathnorm.deep.compress`; the held-out part of the data is not used here.

    Raises
    ------
    ValueError
        If an argument is out of range.
    DataError, TraceError, UnsupportedModelError
        See :mod:`pathnorm.errors`.

    References
    ----------
    ``docs/frontier.md``.
    """
    started = time.perf_counter()
    if points < 2 or round_to < 1:
        raise ValueError(f"points must be at least 2 and round_to at least 1. Got {points!r} and {round_to!r}.")
    check_heldout(heldout)
    check_outputs(outputs)
    calibration, held = split_batches(
        data, None, heldout=heldout, batch_size=batch_size, seed=seed, device=device_of(model)
    )
    seen = survey(model, calibration, skip=skip, streams=streams, uniform=uniform)
    seen.require(outputs)
    groups = seen.neurons.groups
    start, alive = remove_redundant(groups, seen.state)
    setup = Setup(
        graph=seen.graph,
        neurons=seen.neurons,
        state=seen.state,
        start=start,
        alive=everyone(groups) if uniform else alive,
        metrics=output_metrics(
            seen.graph,
            start,
            groups,
            calibration.first(METRIC_BATCHES),
            outputs=outputs,
            max_positions=max_positions,
            seed=seed,
        ),
        calibration=calibration,
        heldout=held,
        selector="backward",
        max_positions=max_positions,
        path_norm_cap=float("inf"),
        ridge=1e-8,
        repair=True,
        slide_steps=0,
        outputs=outputs,
        cache_bytes=0,
        seed=seed,
        progress=progress or (lambda stage, done, total: None),
        ties=same_places(groups) if uniform else None,
    )
    curves = tuple(predicted_curves(setup, limit_bytes=MOMENT_BYTES, macs=seen.costs[1]))
    full = {group.name: group.width for group in groups}
    record = FrontierRecord(
        points=_points(curves, seen.costs, full, count=points, round_to=round_to, ties=setup.ties),
        skipped=seen.neurons.skipped,
        widths_full=full,
        params_full=seen.costs[0](list(full.values())),
        macs_full=seen.costs[1](list(full.values())),
        outputs=outputs,
        samples_calibration=calibration.count(),
        seed=seed,
        seconds=time.perf_counter() - started,
    )

    again = partial(
        compress,
        model,
        data,
        skip=skip,
        streams=streams,
        uniform=uniform,
        seed=seed,
        heldout=heldout,
        outputs=outputs,
        max_positions=max_positions,
        batch_size=batch_size,
    )
    return Frontier(record, curves, seen.costs, round_to, again, setup.ties)


def _points(
    curves: Sequence[Array],
    costs: tuple[Cost, Cost],
    full: dict[str, int],
    *,
    count: int,
    round_to: int,
    ties: Ties | None,
) -> tuple[FrontierPoint, ...]:
    """Return the points of both kinds of budget that no other of its kind beats."""
    most = np.array([curve.size - 1 for curve in curves], dtype=np.intp)
    least = np.minimum(most, round_to)
    found: list[FrontierPoint] = []
    for name, cost in zip(("params", "macs"), costs, strict=True):
        # From the smallest network up: a larger one is worth a point where its error is smaller.
        best = np.inf
        kept: list[FrontierPoint] = []
        for budget in np.linspace(cost(least), cost(most), count):
            point = _point(
                name, allocate(curves, cost, float(budget), round_to=round_to, ties=ties), curves, costs, full
            )
            if point.error < best:
                kept.append(point)
                best = point.error
        found += kept[::-1]
    return tuple(found)


def _point(
    budget: str, widths: NDArray[np.intp], curves: Sequence[Array], costs: tuple[Cost, Cost], full: dict[str, int]
) -> FrontierPoint:
    whole = list(full.values())
    shares = [cost(widths) / cost(whole) for cost in costs]
    # A group that keeps all its neurons is not touched; its curve ends in the rounding of the moments.
    squared = sum(float(curve[width]) for curve, width in zip(curves, widths, strict=True) if width < curve.size - 1)
    return FrontierPoint(
        budget=budget,
        params=shares[0],
        macs=shares[1],
        error=max(squared, 0.0) ** 0.5,
        widths={name: int(width) for name, width in zip(full, widths, strict=True)},
    )
