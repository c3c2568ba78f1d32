"""Architectures of torchvision and timm at full size: what is found, what it costs, and that the cut network runs."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest
import torch

from pathnorm.deep.data import split_batches
from pathnorm.deep.surgery import cut
from pathnorm.deep.survey import survey

# name -> side of the image, neurons found between layers, and in streams as well (None: not asked)
TORCHVISION = {
    "resnet50": (64, 33, 37),
    "resnext50_32x4d": (64, 17, None),
    "mobilenet_v2": (64, 20, 25),
    "efficientnet_b0": (64, 35, None),
    "convnext_tiny": (64, 18, None),
    "densenet121": (32, 120, None),
    "vit_b_16": (64, 12, None),
}
TIMM = {
    "vit_tiny_patch16_224": (224, 24, 25),
    "swin_tiny_patch4_window7_224": (224, 24, 28),
    "convnext_atto": (64, 12, 16),
    "convnextv2_atto": (64, 12, 16),
    "regnety_002": (64, 27, 31),
}


def network(library, name, size):
    if library == "timm":
        return importlib.import_module("timm").create_model(name, pretrained=False)
    options = {"image_size": size} if name.startswith("vit") else {}
    return getattr(importlib.import_module("torchvision").models, name)(weights=None, **options)


def surveyed(model, size, *, streams):
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    calibration, _ = split_batches(images, heldout=0.5, batch_size=2, seed=0, device=torch.device("cpu"))
    return survey(model, calibration, streams=streams), images


CASES = [
    pytest.param(library, name, *facts, id=name)
    for library, names in (("torchvision", TORCHVISION), ("timm", TIMM))
    for name, facts in names.items()
]


@pytest.mark.parametrize(("library", "name", "size", "interior", "streams"), CASES)
@pytest.mark.usefixtures("torchvision_operators")
def test_half_of_every_group_can_be_cut(library, name, size, interior, streams):
    pytest.importorskip(library, reason=f"{library} is optional and is not installed", exc_type=ImportError)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network(library, name, size).eval()
    for expected, with_streams in ((interior, False), (streams, True)):
        if expected is None:
            continue
        seen, images = surveyed(model, size, streams=with_streams)
        groups = seen.neurons.groups
        assert len(groups) == expected, Counter(item.reason for item in seen.neurons.skipped)
        widths = [max(group.width // 2, 1) for group in groups]
        keep = {group.name: torch.arange(width) for group, width in zip(groups, widths, strict=True)}
        small = cut(model, seen.state, groups, keep, turned=seen.graph.turned)
        assert small(images[:2]).shape == (2, 1000)
        assert seen.costs[0](widths) == sum(parameter.numel() for parameter in small.parameters())
        assert seen.costs[1](widths) < 0.75 * seen.costs[1]([group.width for group in groups])
