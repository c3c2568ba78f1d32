"""Architectures of torchvision and timm at full size, small ones of transformers: what is found, and runs when cut."""

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


SMALL = {"vocab_size": 60, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES = SMALL | {"hidden_size": 32, "intermediate_size": 48}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
TRANSFORMERS = {
    "LlamaForCausalLM": GROUPED,
    "MistralForCausalLM": GROUPED,
    "Qwen2ForCausalLM": SIZES | {"num_key_value_heads": 2},
    "GemmaForCausalLM": GROUPED,
    "PhiForCausalLM": SIZES,
    "GPTNeoXForCausalLM": SIZES,
    "OPTForCausalLM": SMALL | {"hidden_size": 32, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "GPT2LMHeadModel": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "BertForMaskedLM": SIZES,
    "RobertaForMaskedLM": SIZES,
    "DistilBertForMaskedLM": {"vocab_size": 60, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
}


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.usefixtures("torchvision_operators")
def test_heads_neurons_and_the_stream_of_models_of_transformers_can_be_cut(name, attention):
    transformers = pytest.importorskip("transformers", reason="transformers is optional and is not installed")
    kind = getattr(transformers, name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = kind.config_class(**TRANSFORMERS[name], pad_token_id=0, bos_token_id=1, eos_token_id=2)
        model = Logits(kind._from_config(config, attn_implementation=attention)).eval()
    tokens = torch.randint(2, 60, (4, 7), generator=torch.Generator().manual_seed(0))
    calibration, _ = split_batches(tokens, heldout=0.5, batch_size=2, seed=0, device=torch.device("cpu"))
    for streams, expected in ((False, 4), (True, 5)):
        seen = survey(model, calibration, streams=streams)
        groups = seen.neurons.groups
        assert len(groups) == expected and sum(group.heads for group in groups) == 2
        keep = {group.name: torch.arange(group.width // 2) for group in groups}
        small = cut(model, seen.state, groups, keep, turned=seen.graph.turned)
        with torch.no_grad():
            assert small(tokens).shape == (4, 7, 60)
