"""The weight of the path norm from the measurements alone: discrepancy, or measurements that were held out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pathnorm.errors import DataError
from pathnorm.imaging._coordinate_training import ImplicitProblem, Progress, descended, path_norms
from pathnorm.imaging.operators import Operator
from pathnorm.imaging.perturbations import Samples

__all__ = ["Answer", "Trial", "chosen", "held_out_mask"]

# The first lam makes the penalty of the untrained network this share of the data term of the zero image.
_FIRST = 0.1
_FALL, _RISE, _MOST, _BISECTIONS = 3.0, 3.0, 10, 2
_LITTLE, _AGAIN = 1.5, 3
# Of the least misfit of what was held out, and how often in a row, until the search gives up.
_WORSE, _PATIENCE = 1.01, 2


@dataclass(frozen=True, eq=False)
class Trial:
    """One lam that was tried: ``||A f - y||``, the same of what was held out (NaN if nothing was), path norm, image."""

    lam: float
    misfit: float
    held_out: float
    path_norm: float
    image: Tensor


@dataclass(frozen=True, eq=False)
class Answer:
    """The fit for the lam that was chosen, and how it was found; ``steps`` counts all."""

    problem: ImplicitProblem
    module: nn.Sequential
    trials: tuple[Trial, ...]
    steps: int


class _Search:
    """Fits for one lam after another, each from weights that are known."""

    def __init__(self, problem: ImplicitProblem, steps: int, rate: float, progress: Progress | None) -> None:
        self.problem, self.steps, self.rate, self.progress = problem, steps, rate, progress
        self.trials: list[Trial] = []
        self.spent = 0

    def fit(self, module: nn.Sequential, lam: float, *, loosely: bool = True) -> nn.Sequential:
        """Half as many steps while lam is looked for, and at half the rate, once there is something to start from."""
        first = not self.trials
        steps = self.steps if first or not loosely else max(1, self.steps // 2)
        rate = self.rate if first else 0.5 * self.rate
        problem = self.problem.with_lam(lam)
        found = descended(problem, module, steps=steps, rate=rate, progress=self.progress)
        self.spent += steps
        image = problem.image(found)
        hidden = None if problem.seen is None else ~problem.seen
        self.trials.append(
            Trial(
                lam,
                problem.misfit(image),
                math.nan if hidden is None else problem.misfit(image, hidden),
                _total(found),
                image,
            )
        )
        return found

    def answer(self, module: nn.Sequential, lam: float) -> Answer:
        """Return the fit with what led to it; measurements that were held out are no longer hidden."""
        problem = replace(self.problem.with_lam(lam), seen=None)
        return Answer(problem, module, tuple(self.trials), self.spent)


def chosen(
    problem: ImplicitProblem,
    module: nn.Sequential,
    *,
    rule: str,
    noise: float | None,
    steps: int,
    rate: float,
    progress: Progress | None,
) -> Answer:
    """Return the fit for the lam that a rule chooses, along a sequence of lam that falls from a large one.

    A falling sequence comes from simple images: a fit that has once followed the noise does not easily leave it again.

    Raises
    ------
    ValueError
        If ``noise`` is missing for ``"discrepancy"``, or no fit reaches it.
    """
    search = _Search(problem, steps, rate, progress)
    untrained = _total(module)
    first = _FIRST * problem.energy / max(untrained, 1e-300)
    if rule == "held-out":
        return _least_held_out(search, module, first)
    if noise is None or not (math.isfinite(noise) and noise > 0.0):
        raise ValueError(
            "To choose lam by discrepancy, the standard deviation of the noise must be given as noise=. "
            f"Got {noise}. Use lam='held-out' if it is not known."
        )
    return _discrepancy(search, module, first, math.sqrt(Samples.of(problem.operator, problem.y).count) * noise)


def _discrepancy(search: _Search, module: nn.Sequential, first: float, allowed: float) -> Answer:
    lam, found = first, search.fit(module, first)
    fits = search.trials[-1].misfit <= allowed
    for _ in range(_MOST):
        last, lam = (lam, found), lam * _RISE if fits else lam / _FALL
        found = search.fit(found, lam)
        if (search.trials[-1].misfit <= allowed) != fits:
            break
    else:
        if not fits:
            least = min(trial.misfit for trial in search.trials)
            raise ValueError(
                f"The network must fit the measurements to the size of the noise, {allowed:.4g}, with next to no "
                f"penalty. The least misfit reached is {least:.4g}: take more steps, a wider network, or see whether "
                "noise= is too small."
            )
        return search.answer(found, lam)
    below, above = (last, (lam, found)) if fits else ((lam, found), last)
    for _ in range(_BISECTIONS):
        middle = math.sqrt(below[0] * above[0])
        moved = middle, search.fit(above[1], middle)
        below, above = (moved, above) if search.trials[-1].misfit <= allowed else (below, moved)
    lam, found = below
    for _ in range(_AGAIN):
        found = search.fit(found, lam, loosely=False)
        if search.trials[-1].misfit <= allowed:
            return search.answer(found, lam)
        # More steps let the penalty have its way: a little less of it.
        lam /= _LITTLE
    return search.answer(below[1], below[0])


def _least_held_out(search: _Search, module: nn.Sequential, first: float) -> Answer:
    lam, best, worse = first, (math.inf, first, module), 0
    for _ in range(_MOST):
        module = search.fit(module, lam)
        error = search.trials[-1].held_out
        best = min(best, (error, lam, module), key=lambda item: item[0])
        worse = worse + 1 if error > _WORSE * best[0] else 0
        if worse == _PATIENCE:
            break
        lam /= _FALL
    # The same lam with all measurements: what was held out is no longer hidden.
    search.problem = replace(search.problem, seen=None)
    return search.answer(search.fit(best[2], best[1], loosely=False), best[1])


def held_out_mask(operator: Operator, y: Tensor, held_out: float | Tensor, seed: int) -> Tensor:
    """Return which measurements are held out, like y: a given mask, or a share of rows or of complex positions.

    Raises
    ------
    ValueError, DataError
        If the share is not in (0, 1), the mask has another shape, or nothing, or everything, would be held out.
    """
    sampled = getattr(operator, "mask", None)
    sampled = torch.ones(y.shape[-2:], dtype=torch.bool) if sampled is None else sampled.bool()
    if isinstance(held_out, Tensor):
        if tuple(held_out.shape) != tuple(y.shape):
            raise ValueError(f"A mask of what is held out must have the shape {tuple(y.shape)} of y. Got "
                             f"{tuple(held_out.shape)}.")  # fmt: skip
        mask = held_out.bool()
    else:
        if not 0.0 < held_out < 1.0:
            raise ValueError(f"held_out must be a share between 0 and 1, or a mask. Got {held_out}.")
        draws = torch.rand(y.shape[-2:], generator=torch.Generator().manual_seed(seed))
        if not y.is_complex():
            draws = draws[:, :1].expand_as(draws)
        count = max(1, round(held_out * draws.unique().numel()))
        mask = (draws <= draws.unique()[count - 1]).expand(y.shape)
    mask = mask & sampled
    if not bool(mask.any()) or bool((mask | ~sampled).all()):
        raise DataError("Some measurements must be held out, and some not. Change held_out.")
    return mask


def _total(module: nn.Sequential) -> float:
    return sum(float(value.detach()) for value in path_norms(module))
