"""Chains and block interiors of everything that is said to be treated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathnorm.deep import compress


class Dilated(nn.Module):
    """Stride, padding, dilation, no bias; SiLU and Tanh; adaptive pooling; a module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 8, 3, padding=2, dilation=2, bias=False)
        self.b = nn.Conv2d(8, 8, (3, 1), stride=(2, 1), padding=(1, 0))
        self.c = nn.Conv2d(8, 8, 1, bias=False)
        self.pool, self.act = nn.AdaptiveAvgPool2d(2), nn.SiLU()
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = self.act(self.b(self.act(self.a(x))))
        return self.head(torch.flatten(self.pool(torch.tanh(self.c(x))), 1))


class PreActivation(nn.Module):
    """The interior of a pre-activation block; its output joins the stream without a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1, self.bn2 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.BatchNorm2d(9)
        self.conv1 = nn.Conv2d(6, 9, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(9, 6, 3, padding=1, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return self.head(F.max_pool2d(x, 8)[:, :, 0, 0])


def batch_norm_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.BatchNorm1d(16),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.5),
        nn.Linear(16, 12, bias=False),
        nn.BatchNorm1d(12),
        nn.ELU(),
        nn.Linear(12, 4),
    )


@pytest.mark.parametrize(
    ("factory", "kind", "groups"),
    [
        (Dilated, "chain", ["a", "b", "c"]),
        (PreActivation, "chain", ["conv1"]),
        (batch_norm_mlp, "mlp", ["0", "4"]),
    ],
)
def test_it_is_treated_and_beats_dropping_the_neurons(factory, kind, groups, sample):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = factory()
        model.train()
        for seed in range(5):  # BatchNorm statistics of the data
            model(sample(kind, 200, seed=seed))
    data = sample(kind, 500)
    made = compress(model, data, widths=0.6, batch_size=100)
    assert [group.name for group in made.record.groups] == groups
    assert all(group.width_after == round(0.6 * group.width_before) for group in made.record.groups)
    with torch.no_grad():
        truth = model.eval()(data)
        error = float((made.model(data) - truth).norm() / (truth - truth.mean(0)).norm())
    assert error < 0.6
