"""Figures of a network of two inputs and its measure."""

from __future__ import annotations

import io

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from pathnorm.report import radon_plots
from pathnorm.report.radon_plots import DOWN, MOST_LINES, MOST_SAMPLES, UP, plot_measure
from pathnorm.spaces import ShallowNet


def random_net(seed, neurons=6, inputs=2, outputs=1):
    rng = np.random.default_rng(seed)
    shapes = ((neurons, inputs), neurons, (neurons, outputs), (inputs, outputs), outputs)
    return ShallowNet(*(rng.standard_normal(shape) for shape in shapes))


def draw(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


@pytest.mark.parametrize("neurons", [0, 6, 400])
@pytest.mark.parametrize("samples", [None, 1, 2500])
def test_every_network_of_two_inputs_can_be_drawn(neurons, samples):
    X = None if samples is None else np.random.default_rng(0).standard_normal((samples, 2))
    figure = draw(plot_measure(random_net(1, neurons), X))
    drawn = max(len(part.get_offsets()) for part in figure.axes[0].collections) if samples else 0
    assert drawn == min(samples or 0, MOST_SAMPLES)
    segments = [part for part in figure.axes[0].collections if hasattr(part, "get_segments")]
    assert sum(len(part.get_segments()) for part in segments) == min(neurons, MOST_LINES)


def test_a_constant_function_and_hinges_through_the_origin_can_be_drawn():
    flat = ShallowNet(np.zeros((0, 2)), [], np.zeros((0, 1)), np.zeros((2, 1)), [0.0])
    draw(plot_measure(flat))
    draw(plot_measure(ShallowNet([[1.0, 1.0]], [0.0], [[1.0]], np.zeros((2, 1)), [0.0])))


def test_dots_are_the_atoms_and_lines_are_where_the_function_bends():
    net = random_net(3)
    measure = net.radon_measure()
    left, right = draw(plot_measure(net)).axes[:2]
    dots = [part for part in right.collections if len(part.get_offsets())]
    angle = np.degrees(np.arctan2(measure.directions[:, 1], measure.directions[:, 0]))
    expected = {(round(a, 6), round(b, 6)) for a, b in zip(angle, measure.offsets, strict=True)}
    assert {(round(a, 6), round(b, 6)) for part in dots for a, b in part.get_offsets()} == expected
    lines = next(part for part in left.collections if hasattr(part, "get_segments"))
    for segment, direction, offset in zip(lines.get_segments(), measure.directions, measure.offsets, strict=True):
        np.testing.assert_allclose(segment @ direction, offset, atol=1e-10)
    widths = lines.get_linewidths()
    assert list(widths) == sorted(widths, reverse=True)


def test_the_colour_is_the_side_to_which_it_bends():
    net = ShallowNet([[1.0, 0.0], [0.0, -1.0]], [0.0, 0.2], [[2.0], [-1.0]], np.zeros((2, 1)), [0.0])
    left, right = draw(plot_measure(net)).axes[:2]
    texts = [text.get_text() for text in right.get_legend().get_texts()]
    assert texts == ["bends up: 1, mass 2.00", "bends down: 1, mass 1.00"]
    from matplotlib.colors import to_hex

    assert [to_hex(part.get_facecolor()[0]) for part in right.collections] == [UP, DOWN]
    lines = next(part for part in left.collections if hasattr(part, "get_segments"))
    assert [to_hex(colour) for colour in lines.get_colors()] == [UP, DOWN]


def test_hinges_out_of_sight_are_counted():
    net = ShallowNet([[1.0, 0.0], [0.0, 1.0]], [0.0, 50.0], [[2.0], [-1.0]], np.zeros((2, 1)), [0.0])
    _, right = draw(plot_measure(net, np.random.default_rng(0).uniform(-1, 1, (20, 2)))).axes[:2]
    assert right.get_ylabel() == "offset b, 1 out of sight"
    assert right.get_ylim()[1] < 10.0


@pytest.mark.parametrize(
    ("net", "X", "output", "message"),
    [
        (random_net(0, inputs=3), None, 0, "drawn for 2 inputs; the network has 3"),
        (random_net(0), None, 1, "one of 0 to 0; got 1"),
        (random_net(0), np.zeros((4, 3)), 0, r"shape \(N, 2\) with N >= 1; got \(4, 3\)"),
        (random_net(0), np.zeros((0, 2)), 0, r"got \(0, 2\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(net, X, output, message):
    with pytest.raises(ValueError, match=message):
        radon_plots.plot_measure(net, X, output=output)
