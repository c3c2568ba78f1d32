"""Two processes, each with half of the data, get the moments of the whole and the same network."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from pathnorm.deep.moments import Moments

SCRIPT = """
import sys
import torch, torch.distributed as dist
from torch import nn
from pathnorm.deep import compress
from pathnorm.deep.moments import Moments

rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
generator = torch.Generator().manual_seed(0)
features, targets = torch.randn(101, 7, generator=generator), torch.randn(101, 3, generator=generator)
sums = Moments.zeros(7, 3, torch.device("cpu"))
sums.add(features[rank::2], targets[rank::2])
sums.sum_over_ranks()
torch.manual_seed(5)
model = nn.Sequential(nn.Linear(7, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4))
data = torch.randn(400, 7, generator=generator)
made = compress(model, data[rank::2], params=0.5)
torch.save([sums.count, sums.features, sums.gram, sums.cross, sums.outer], f"{folder}/sums{rank}.pt")
torch.save(made.model.state_dict(), f"{folder}/model{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_two_ranks_act_as_one(two_ranks):
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(101, 7, generator=generator), torch.randn(101, 3, generator=generator)
    whole = Moments.zeros(7, 3, torch.device("cpu"))
    whole.add(features, targets)
    expected = [whole.count, whole.features, whole.gram, whole.cross, whole.outer]
    folder = two_ranks(SCRIPT)
    for rank in range(2):
        for got, total in zip(torch.load(folder / f"sums{rank}.pt", weights_only=True), expected, strict=True):
            torch.testing.assert_close(got, total, rtol=1e-12, atol=1e-12)
    one, two = (torch.load(folder / f"model{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
