"""Two processes on machines of different speed, each with half of the data, choose the same widths."""

from __future__ import annotations

import json

import pytest
import torch
import torch.distributed as dist

SCRIPT = """
import importlib, json, sys
import torch, torch.distributed as dist
from torch import nn
from pathnorm.deep import compress

rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
generator = torch.Generator().manual_seed(0)
torch.manual_seed(5)
model = nn.Sequential(nn.Linear(7, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4))
data = torch.randn(400, 7, generator=generator)
with torch.no_grad():
    model[4].bias -= model(data).mean(0)
    labels = model(data).argmax(1)

def measure(models, batch):
    return [1.0 + (1 + rank) * sum(p.numel() for p in model.parameters()) / 1000 for model in models]

importlib.import_module("pathnorm.deep.compress").measure_ms = measure
mine = slice(rank, None, 2)
for name, budget in (("latency", {"latency_ms": 1.45}), ("accuracy", {"accuracy_drop": 5.0, "heldout": 0.4})):
    made = compress(model, data[mine], labels=labels[mine], **budget)
    torch.save(made.model.state_dict(), f"{folder}/{name}{rank}.pt")
    with open(f"{folder}/{name}{rank}.json", "w") as file:
        json.dump(made.record.to_dict(), file)
dist.destroy_process_group()
"""


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_two_ranks_meet_a_measured_budget_as_one(two_ranks):
    folder = two_ranks(SCRIPT)
    for name in ("latency", "accuracy"):
        one, two = (torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in range(2))
        assert all(torch.equal(one[key], two[key]) for key in one)
        records = [json.loads((folder / f"{name}{rank}.json").read_text()) for rank in range(2)]
        checks = [record["check"] for record in records]
        assert records[0]["params_after"] < records[0]["params_before"]
        assert checks[0]["rounds"] == checks[1]["rounds"]
        if name == "latency":
            assert checks[0]["after"] == checks[1]["after"] <= 1.45
        else:
            drops = [100 * (check["before"] - check["after"]) * check["samples"] for check in checks]
            assert sum(drops) / sum(check["samples"] for check in checks) <= 5.0
