"""Turn a reduction into its record: certificates per layer, measurements of the whole."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pathnorm.deep.cost import Cost
from pathnorm.deep.reduce import LayerFacts, Setup
from pathnorm.deep.selectors import SELECTORS, lasso_problem, rank_neurons
from pathnorm.deep.trial import Met, Trial
from pathnorm.deep.verify import compare_outputs
from pathnorm.problems.certificate import Certificate
from pathnorm.problems.reconstruction import LayerReconstruction
from pathnorm.report.records import CompressionRecord, Frontier, GroupRecord
from pathnorm.solvers.multitask_lasso import multitask_lasso

__all__ = ["describe", "peak_memory_mb"]

Array = NDArray[np.float64]

_RANK_TOLERANCE = 1e-4
_SEARCH_START, _SEARCH_RATIO, _SEARCH_POINTS = 0.3, 1e-3, 12
# What error is close enough to that allowed, and the longest step of the logarithm of lambda.
_CLOSE, _LONGEST = 2.0, np.log(0.25)
_FRONTIER_POINTS = 12
_FRONTIER_ROWS = 1024
_LARGE = 2048  # features of a layer


def describe(
    setup: Setup,
    met: Met,
    models: tuple[nn.Module, nn.Module],
    *,
    trial: Trial,
    costs: tuple[Cost, Cost],
    budget: Mapping[str, Any],
    started: float,
) -> CompressionRecord:
    """Return the record of a finished reduction; both networks are run on the held-out data.

    Parameters
    ----------
    met : Met
        The reduction, and what was measured while widths were chosen.
    models : (given, smaller)
    trial : Trial
        What latency is measured with.
    costs : (params, macs)
    started : float
        ``time.perf_counter()`` when the work began.
    """
    reduction = met.reduction
    groups = tuple(_group_record(setup, facts, at) for at, facts in enumerate(reduction.layers))
    old, new = models
    before = np.array([group.width for group in setup.neurons.groups])
    after = np.array([reduction.keep[group.name].numel() for group in setup.neurons.groups])
    setup.progress("verifying", 0, 1)
    seen = compare_outputs(trial.model, new, setup.heldout, seed=setup.seed)
    latency = trial.measure([trial.model, new], trial.batch)
    setup.progress("verifying", 1, 1)
    return CompressionRecord(
        groups=groups,
        skipped=setup.neurons.skipped,
        params_before=costs[0](before),
        params_after=costs[0](after),
        macs_before=costs[1](before),
        macs_after=costs[1](after),
        bytes_before=_weight_bytes(old),
        bytes_after=_weight_bytes(new),
        output_error_heldout=seen.output_error,
        output_error_interval=seen.output_error_interval,
        agreement_heldout=seen.agreement,
        accuracy_before=seen.accuracy_before,
        accuracy_after=seen.accuracy_after,
        accuracy_change_interval=seen.accuracy_change_interval,
        latency_ms_before=latency[0],
        latency_ms_after=latency[1],
        latency_batch=int(trial.batch.shape[0]),
        latency_threads=torch.get_num_threads(),
        samples_calibration=setup.calibration.count(),
        samples_heldout=seen.samples,
        budget=dict(budget),
        outputs=setup.outputs,
        slide_steps=setup.slide_steps,
        selector=setup.selector if isinstance(setup.selector, str) else getattr(setup.selector, "__name__", "callable"),
        seed=setup.seed,
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(),
        frontiers=_frontiers(reduction.layers),
        check=met.check,
    )


def _group_record(setup: Setup, facts: LayerFacts, at: int) -> GroupRecord:
    setup.progress("certifying", at, len(setup.neurons.groups))
    problem, group, refit = facts.problem, facts.group, facts.refit
    lam, certificate = _certificate(problem, refit.error)
    bound = max(0.0, (certificate.dual - 0.5 * refit.error * problem.energy) / lam) if lam > 0.0 else 0.0
    rank_features, rank_outputs = problem.ranks(_RANK_TOLERANCE)
    applies, reason = group.theorem()
    silent = problem.gram.reshape(problem.n_neurons, problem.block, -1)
    norms = np.linalg.norm(facts.coef_before.reshape(group.width, -1), axis=1)
    return GroupRecord(
        name=group.name,
        consumers=tuple(consumer.layer.name for consumer in group.consumers),
        width_before=group.width,
        width_lossless=facts.alive.size,
        width_after=refit.keep.size,
        silent=int((np.abs(silent).max(axis=(1, 2)) == 0.0).sum()),
        rank_features=rank_features,
        rank_outputs=rank_outputs,
        rank_tolerance=_RANK_TOLERANCE,
        width_bound=rank_features * rank_outputs,
        width_lower_bound=problem.width_lower_bound(facts.error_calibration**2),
        error_calibration=facts.error_calibration,
        error_heldout=facts.error_heldout,
        lam=lam,
        primal=certificate.primal,
        dual=certificate.dual,
        gap=certificate.gap,
        path_norm_before=float(facts.cost @ norms),
        path_norm_after=facts.path_norm_after,
        path_norm_lower_bound=bound,
        ridge=refit.ridge,
        slid=facts.slid,
        theorem_applies=applies,
        theorem_reason=reason,
        error_curve=tuple(float(value) for value in np.sqrt(facts.ranking.errors)),
    )


def _certificate(problem: LayerReconstruction, error: float) -> tuple[float, Certificate]:
    """Return the lambda whose lasso bounds the path norm at ``error`` best, and its certificate.

    For every V with ``1/2 ||Psi - Phi V||^2 <= e`` and every lambda, ``path norm >= (dual(lambda) - e) / lambda``. The
    derivative of the right-hand side is ``(e - 1/2 ||Psi - Phi V_lambda||^2) / lambda^2``: the best lambda is that
    whose own solution has the error e. Secants of one logarithm against the other find it; near the top the bound is
    flat, so that coarse solutions do until the last one. Its gap is 1e-6, and 1e-2 where a step takes seconds.
    """
    allowed = 0.5 * error * problem.energy
    lasso = lasso_problem(problem, 1.0)
    if not lasso.lam_max > 0.0:
        return 0.0, Certificate(primal=0.5 * problem.energy, dual=0.5 * problem.energy)
    floor, lam, coef = _SEARCH_RATIO * lasso.lam_max, _SEARCH_START * lasso.lam_max, None
    coarse, fine = (1e-2, 1e-6) if problem.gram.shape[0] <= _LARGE else (1e-1, 1e-2)
    seen: list[tuple[float, float]] = []
    while True:
        coef = multitask_lasso(lasso.with_lam(lam), start=coef, tol=coarse).coef
        misfit = 0.5 * problem.error(coef) * problem.energy
        seen.append((np.log(lam), np.log(max(misfit, np.finfo(np.float64).tiny))))
        found = max(_crossing(seen, allowed), floor)
        if misfit <= _CLOSE * allowed or lam <= floor or len(seen) == _SEARCH_POINTS:
            break
        lam = found
    final = multitask_lasso(lasso.with_lam(found), start=coef, tol=fine)
    return float(final.problem.lam), final.certificate


def _crossing(seen: list[tuple[float, float]], allowed: float) -> float:
    """Return where the misfit reaches what is allowed, by the line through the last two points; no step is too long."""
    lam, misfit = seen[-1]
    if not allowed > 0.0:
        return float(np.exp(lam + _LONGEST))
    slope = 1.0 if len(seen) == 1 else (misfit - seen[-2][1]) / (lam - seen[-2][0])
    # The misfit falls faster and faster: less than linearly only where hardly any neuron is in yet.
    step = (np.log(allowed) - misfit) / max(slope, 1.0)
    return float(np.exp(lam + np.clip(step, _LONGEST, -_LONGEST)))


def _frontiers(layers: tuple[LayerFacts, ...]) -> tuple[Frontier, ...]:
    """Return what each selector reaches on the widest treated layer that is small enough to ask them all."""
    small = [item for item in layers if item.problem.gram.shape[0] <= _FRONTIER_ROWS]
    if not small:
        return ()
    facts = max(small, key=lambda item: item.problem.n_neurons)
    problem = facts.problem
    widths = np.unique(np.geomspace(1, problem.n_neurons, _FRONTIER_POINTS).round().astype(int))
    found = []
    for selector in SELECTORS:
        ranking = rank_neurons(problem, selector)
        refits = [problem.refit(ranking.order[:width], ridge=1e-8) for width in widths]
        found.append(
            Frontier(
                group=facts.group.name,
                selector=selector,
                widths=tuple(int(width) for width in widths),
                errors=tuple(float(np.sqrt(refit.error)) for refit in refits),
                path_norms=tuple(problem.path_norm(refit.coef) for refit in refits),
                bound=tuple(np.sqrt(problem.least_errors(widths)).tolist()),
            )
        )
    return tuple(found)


def _weight_bytes(model: nn.Module) -> int:
    from safetensors.torch import save

    tensors = {value.data_ptr(): (key, value.contiguous()) for key, value in model.state_dict().items()}
    return len(save(dict(tensors.values())))


def peak_memory_mb() -> float:
    """Return the peak resident memory of the process; NaN where the platform does not tell."""
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
