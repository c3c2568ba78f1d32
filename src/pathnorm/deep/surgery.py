"""Cut neurons out of a module: slice its tensors, then correct the attributes that state widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from pathnorm.deep.coupling import NO_NEURON
from pathnorm.deep.graph import State, clean_copy
from pathnorm.deep.neuron_group import NeuronGroup

__all__ = ["cut", "install", "sliced_state", "width_attributes"]

_M = TypeVar("_M", bound=nn.Module)

_HEADS = ("num_heads", "num_attention_heads", "num_key_value_heads", "num_kv_heads", "n_heads", "n_kv_heads", "n_head")
_ALL_HEADS = ("all_head_size", "inner_dim", "attn_dim")
# What a module calls the size of dimension 0 and 1 of its weight.
_WIDTHS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("out_features", "in_features")),
    (nn.modules.conv._ConvNd, ("out_channels", "in_channels")),
    (nn.modules.batchnorm._BatchNorm, ("num_features",)),
)


def sliced_state(state: State, groups: Sequence[NeuronGroup], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state in which every group holds only the neurons ``keep[group.name]`` (sorted indices)."""
    stays: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        if group.name not in keep:
            continue
        gone = torch.ones(group.width, dtype=torch.bool)
        gone[keep[group.name].cpu()] = False
        for rows in group.rows:
            lost = (rows.neurons != NO_NEURON) & gone[rows.neurons.clamp_min(0)]
            stays[rows.key, rows.dim] = stays.get((rows.key, rows.dim), True) & ~lost
        for consumer in group.consumers:
            at = (consumer.layer.weight, 1)
            stays[at] = stays.get(at, True) & ~consumer.channels(gone)
    small = dict(state)
    for (key, dim), kept in stays.items():
        small[key] = small[key].index_select(dim, kept.nonzero().flatten().to(small[key].device))
    return small


def cut(model: _M, state: State, groups: Sequence[NeuronGroup], keep: Mapping[str, Tensor]) -> _M:
    """Return a smaller copy of ``model`` with the values of ``state``; ``model`` is not touched.

    Parameters
    ----------
    model : torch.nn.Module
    state : mapping
        Tensors of the original shapes, e.g. with refitted consumers.
    keep : mapping
        Group name -> sorted indices of the neurons to keep.
    """
    twin = clean_copy(model)
    install(twin, sliced_state(state, groups, keep))
    return twin


def install(model: nn.Module, state: State) -> None:
    """Write ``state`` into ``model``, replacing tensors whose shape differs and correcting width attributes.

    Tensors keep their class, ``requires_grad`` and dtype.
    """
    heads = {module: _rows_of_children(module) for module in model.modules() if _head_attributes(module)}
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for key, value in state.items():
        path, _, name = key.rpartition(".")
        module = model.get_submodule(path)
        old = getattr(module, name)
        if id(old) in made and torch.equal(made[id(old)][1], value.detach().to(old)):
            setattr(module, name, made[id(old)][1])  # weights that are shared stay so
            continue
        fresh = value.detach().to(device=old.device, dtype=old.dtype).clone()
        if isinstance(old, nn.Parameter):
            fresh = nn.Parameter(fresh, requires_grad=old.requires_grad)
        setattr(module, name, fresh)
        made[id(old)] = (old, fresh)  # the old tensor is kept, so that no other gets its id
    for module in model.modules():
        for attribute, size in width_attributes(module).items():
            setattr(module, attribute, size)
    for module, rows in heads.items():
        _correct_heads(module, rows)


def width_attributes(module: nn.Module) -> dict[str, int]:
    """Return the attributes that state the widths of ``module`` with the values its tensors imply."""
    for kind, names in _WIDTHS:
        tensor = getattr(module, "weight", None)
        if tensor is None:
            tensor = getattr(module, "running_mean", None)
        if isinstance(module, kind) and isinstance(tensor, Tensor) and not getattr(module, "transposed", False):
            if getattr(module, "groups", 1) > 1 and module.groups == module.in_channels == module.out_channels:
                return dict.fromkeys(("out_channels", "in_channels", "groups"), tensor.shape[0])
            factors = (1, getattr(module, "groups", 1))
            return {name: tensor.shape[dim] * factors[dim] for dim, name in enumerate(names)}
    return {}


def _head_attributes(module: nn.Module) -> list[str]:
    """Return the attributes in which a module states its number of heads, or of channels of all heads."""
    return [name for name in _HEADS + _ALL_HEADS if isinstance(getattr(module, name, None), int)]


def _rows_of_children(module: nn.Module) -> dict[str, int]:
    return {name: child.weight.shape[0] for name, child in module.named_children() if isinstance(child, nn.Linear)}


def _correct_heads(module: nn.Module, before: Mapping[str, int]) -> None:
    """Shrink the numbers of heads as the layers that make them have shrunk."""
    after = _rows_of_children(module)
    shares = {(after[name], rows) for name, rows in before.items() if after[name] != rows}
    ratios = {new / old for new, old in shares}
    if len(ratios) != 1 or isinstance(module, nn.MultiheadAttention):
        return
    (ratio,) = ratios
    for name in _head_attributes(module):
        value = getattr(module, name)
        if name in _HEADS or any(value == old for _, old in shares):
            setattr(module, name, round(value * ratio))
