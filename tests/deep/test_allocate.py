from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnorm.deep.allocate import allocate, allocate_error, convex_minorant
from pathnorm.deep.cost import Cost, macs_cost, params_cost
from pathnorm.deep.graph import state_of, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.surgery import cut
from pathnorm.errors import BudgetError


def linear_cost(prices):
    size = len(prices)
    return Cost(np.array(prices, float), np.arange(size), np.full(size, size))


def random_curves(seed, widths):
    rng = np.random.default_rng(seed)
    return [np.append(np.sort(rng.exponential(size=width))[::-1].cumsum()[::-1], 0.0) for width in widths]


def convex_curves(seed, widths):
    """The first neuron gains most: on other curves the minorant hides what a width really costs."""
    rng = np.random.default_rng(seed)
    return [np.append(np.sort(rng.exponential(size=width)).cumsum()[::-1], 0.0) for width in widths]


@given(seed=st.integers(0, 10**6), share=st.floats(0.3, 0.95))
@settings(max_examples=40, deadline=None)
def test_greedy_is_optimal_up_to_one_neuron_for_linear_costs(seed, share):
    widths, prices = (4, 5, 3), [3, 1, 2]
    curves, cost = convex_curves(seed, widths), linear_cost(prices)
    budget = share * cost(widths)
    try:
        got = allocate(curves, cost, budget)
    except BudgetError:
        assert cost((1, 1, 1)) > budget
        return
    assert cost(got) <= budget

    def value(k):
        return sum(curve[i] for curve, i in zip(curves, k, strict=True))

    cells = itertools.product(*(range(1, width + 1) for width in widths))
    reachable = [k for k in cells if cost(k) <= budget - max(prices)]
    if reachable:
        assert value(got) <= min(map(value, reachable)) + 1e-9


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_minorant_is_convex_and_below(seed):
    (curve,) = random_curves(seed, [12])
    hull = convex_minorant(curve, np.arange(1, 13))
    assert (hull <= curve[1:] + 1e-12).all()
    assert (np.diff(hull, 2) >= -1e-9).all()
    assert hull[-1] == curve[-1] and hull[0] == curve[1]


def test_widths_are_rounded_and_the_impossible_is_refused_with_the_smallest_share():
    curves, cost = random_curves(0, [20, 33]), linear_cost([1, 1])
    widths = allocate(curves, cost, 30, round_to=8)
    assert all(width % 8 == 0 or width == full for width, full in zip(widths, (20, 33), strict=True))
    with pytest.raises(BudgetError, match=r"smallest reachable is 0\.3019"):
        allocate(curves, cost, 15, round_to=8)


def test_error_budget_bounds_the_predicted_error():
    curves, cost = random_curves(3, [10, 10]), linear_cost([1, 2])
    for error in (0.0, 0.5, 3.0, 1e9):
        widths = allocate_error(curves, cost, error)
        hulls = [convex_minorant(curve, np.arange(1, 11)) for curve in curves]
        assert sum(hull[width - 1] for hull, width in zip(hulls, widths, strict=True)) <= error + 1e-12
    assert allocate_error(curves, cost, 1e9).tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["chain", "residual", "branching", "mlp"])
def test_costs_are_exact_at_any_width(kind, build, sample):
    model, example = build(kind), sample(kind, 2)
    graph, state = trace(model, example), state_of(model)
    found = find_neurons(graph, state, example)
    params, macs = params_cost(model, found.groups), macs_cost(graph, found.labels, found.groups)
    full = [group.width for group in found.groups]
    assert params(full) == sum(p.numel() for p in model.parameters())
    keep = {group.name: torch.arange(0, group.width, 2) for group in found.groups}
    small = cut(model, state, found.groups, keep)
    widths = [keep[group.name].numel() for group in found.groups]
    assert params(widths) == sum(p.numel() for p in small.parameters())
    again = trace(small, example)
    small_found = find_neurons(again, state_of(small), example)
    assert macs(widths) == macs_cost(again, small_found.labels, ())([])
    k = np.array(full)
    for index in range(k.size):
        less = k.copy()
        less[index] -= 1
        assert params(k) - params(less) == pytest.approx(params.marginal(k)[index])


def test_macs_are_counted_as_by_hand(build, sample):
    model, example = build("mlp"), sample("mlp", 2)
    graph = trace(model, example)
    found = find_neurons(graph, state_of(model), example)
    assert macs_cost(graph, found.labels, found.groups)([20, 14]) == 6 * 20 + 20 * 14 + 14 * 4
