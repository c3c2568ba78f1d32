"""Widths in the configuration that a model carries, so that its own ``from_pretrained`` builds the smaller one.

Models of transformers build themselves from a ``config`` that has one number for all blocks. It is corrected where
all blocks have become equally wide; where they have not, it is left alone and only a recipe describes the network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from pathnorm.deep.uniform import place

__all__ = ["builds_itself", "correct_configs"]

_INNER = ("intermediate_size", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "hidden_dim")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads")
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
_FUSED = (1, 3)  # query, key and value made by one layer


def correct_configs(model: nn.Module, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Correct the widths in every configuration of ``model``, given the outputs of its layers by module path."""
    changed = _uniform_changes(before, after)
    configs = {
        id(config): config for module in model.modules() if _is_config(config := getattr(module, "config", None))
    }
    for config in configs.values():
        size = _head_size(config)
        for name in _INNER:
            old = getattr(config, name, None)
            if old is None and name == "n_inner" and hasattr(config, name):
                old = 4 * _stated(config, _WIDTH)
            if (new := _new(changed, old)) is not None:
                setattr(config, name, new)
        for name in _HEADS:
            heads = getattr(config, name, None)
            if not isinstance(heads, int) or not size:
                continue
            found = {new // (fused * size) for fused in _FUSED if (new := _new(changed, fused * heads * size))}
            if len(found) == 1:
                setattr(config, name, found.pop())


def builds_itself(model: nn.Module) -> bool:
    """Whether every model with a configuration gets the shapes that it has when it is built from that alone."""
    inner: tuple[nn.Module, ...] = ()
    for module in model.modules():
        if module in inner or not (hasattr(module, "save_pretrained") and _is_config(getattr(module, "config", None))):
            continue
        inner += tuple(module.modules())
        try:
            with torch.device("meta"):
                fresh = type(module)(copy.deepcopy(module.config)).state_dict()
        except Exception:  # noqa: BLE001  (the model's own code may raise anything)
            return False
        if {key: value.shape for key, value in fresh.items()} != {
            key: value.shape for key, value in module.state_dict().items()
        }:
            return False
    return True


def _uniform_changes(before: Mapping[str, int], after: Mapping[str, int]) -> dict[int, set[int]]:
    """Return old width -> new widths of what has changed; nothing if blocks have become unequal."""
    places: dict[str, set[tuple[int, int]]] = {}
    for name, old in before.items():
        places.setdefault(place(name), set()).add((old, after[name]))
    changed: dict[int, set[int]] = {}
    for pairs in places.values():
        if all(old == new for old, new in pairs):
            continue
        if len(pairs) > 1:
            return {}
        ((old, new),) = pairs
        changed.setdefault(old, set()).add(new)
    return changed


def _new(changed: Mapping[int, set[int]], old: Any) -> int | None:
    found = changed.get(old, set()) if isinstance(old, int) else set()
    return next(iter(found)) if len(found) == 1 else None


def _head_size(config: Any) -> int:
    """Return the channels of a head; it does not change."""
    stated = getattr(config, "head_dim", None)
    if isinstance(stated, int):
        return stated
    heads = _stated(config, _HEADS[:4])
    return _stated(config, _WIDTH) // heads if heads else 0


def _stated(config: Any, names: Iterable[str]) -> int:
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), 0)


def _is_config(config: Any) -> bool:
    return hasattr(config, "to_dict") and hasattr(config, "save_pretrained")
