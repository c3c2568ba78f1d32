"""Cut neurons out of a module: slice its tensors, then correct the attributes that state widths."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pathnorm.deep.configs import correct_configs
from pathnorm.deep.coupling import NO_NEURON
from pathnorm.deep.graph import State, clean_copy
from pathnorm.deep.mixing import is_kept_key
from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.outputs_first import turned_state

__all__ = ["changed_heads", "cut", "install", "sliced_state", "width_attributes"]

_M = TypeVar("_M", bound=nn.Module)

_HEADS = ("num_heads", "num_attention_heads", "num_key_value_heads", "num_kv_heads", "n_heads", "n_kv_heads", "n_head")
_ALL_HEADS = ("all_head_size", "inner_dim", "attn_dim", "split_size")
_FUSED = 3  # query, key and value made by one layer
# What a module calls the size of dimension 0 and 1 of its weight.
_WIDTHS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("out_features", "in_features")),
    (nn.modules.conv._ConvNd, ("out_channels", "in_channels")),
    (nn.modules.batchnorm._NormBase, ("num_features",)),
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
    small = {key: value for key, value in state.items() if not is_kept_key(key)}
    for (key, dim), kept in stays.items():
        small[key] = small[key].index_select(dim, kept.nonzero().flatten().to(small[key].device))
    return small


def cut(
    model: _M,
    state: State,
    groups: Sequence[NeuronGroup],
    keep: Mapping[str, Tensor],
    *,
    turned: Collection[str] = (),
) -> _M:
    """Return a smaller copy of ``model`` with the values of ``state``; ``model`` is not touched.

    Parameters
    ----------
    model : torch.nn.Module
    state : mapping
        Tensors of the original shapes, e.g. with refitted consumers.
    keep : mapping
        Group name -> sorted indices of the neurons to keep.
    turned : collection of str
        State keys that the module keeps with the first two dimensions swapped.
    """
    twin = clean_copy(model)
    heads = _heads_left(model, groups, keep)
    install(twin, turned_state(sliced_state(state, groups, keep), turned), heads)
    return twin


def install(model: nn.Module, state: State, heads: Mapping[str, Mapping[str, int]] | None = None) -> None:
    """Write ``state`` into ``model``, replacing tensors whose shape differs and correcting width attributes.

    Tensors keep their class, ``requires_grad`` and dtype.

    Parameters
    ----------
    heads : mapping, optional
        Module path -> name of an attribute -> number of heads, or of channels of all heads, that it states.

    Raises
    ------
    ValueError
        If ``heads`` names an attribute that does not state a number of heads.
    AttributeError
        If it names a module that is not there.
    """
    before = _outputs(model)
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
    for path, counts in (heads or {}).items():
        module = model.get_submodule(path)
        if unknown := sorted(set(counts) - set(_head_attributes(module))):
            raise ValueError(f"{path or 'The model'} states no number of heads by the name {unknown[0]}")
        for attribute, count in counts.items():
            setattr(module, attribute, count)
    correct_configs(model, before, _outputs(model))


def width_attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes that state the widths of ``module`` with the values its tensors imply."""
    tensor = getattr(module, "weight", None)
    if tensor is None:
        tensor = getattr(module, "running_mean", None)
    if not isinstance(tensor, Tensor):
        return {}
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1 and not module.transposed:
        groups = tensor.shape[0] * module.groups // module.out_channels  # those that are left, of the same size
        return {"out_channels": tensor.shape[0], "in_channels": tensor.shape[1] * groups, "groups": groups}
    if isinstance(module, nn.GroupNorm):
        groups = tensor.shape[0] * module.num_groups // module.num_channels
        return {"num_channels": tensor.shape[0], "num_groups": groups}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": tuple(tensor.shape)}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": tensor.shape[1]}
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # of transformers, a linear layer
        return {name: tensor.shape[dim] for dim, name in enumerate(("nx", "nf")) if hasattr(module, name)}
    inputs_first = isinstance(module, nn.modules.conv._ConvNd) and module.transposed
    for kind, names in _WIDTHS:
        if isinstance(module, kind):
            return {name: tensor.shape[1 - dim if inputs_first else dim] for dim, name in enumerate(names)}
    return {}


def changed_heads(original: nn.Module, small: nn.Module) -> dict[str, dict[str, int]]:
    """Return, by module path and attribute, the numbers of heads that differ from those of ``original``."""
    found: dict[str, dict[str, int]] = {}
    for path, module in small.named_modules():
        before = original.get_submodule(path)
        for name in _head_attributes(module):
            if (count := getattr(module, name)) != getattr(before, name):
                found.setdefault(path, {})[name] = count
    return found


def _heads_left(
    model: nn.Module, groups: Sequence[NeuronGroup], keep: Mapping[str, Tensor]
) -> dict[str, dict[str, int]]:
    """Return what the attributes of attentions have to state once only the heads ``keep`` are there."""
    counts: dict[str, tuple[int, int]] = {}
    widths: dict[str, set[int]] = {}
    for group in groups:
        path = _attention(model, group) if group.heads else None
        if path is not None:
            before, left = counts.get(path, (0, 0))  # of all blocks
            after = keep[group.name].numel() if group.name in keep else group.width
            counts[path] = before + group.width, left + after
            widths.setdefault(path, set()).update(producer.layer.width for producer in group.producers)
    found: dict[str, dict[str, int]] = {}
    for path, (before, left) in counts.items():
        module = model.get_submodule(path)
        for name in _head_attributes(module):
            value = getattr(module, name)
            stated = name in _HEADS or not widths[path].isdisjoint((value, _FUSED * value))
            if left < before and stated and value * left % before == 0:
                found.setdefault(path, {})[name] = value * left // before
    return found


def _attention(model: nn.Module, group: NeuronGroup) -> str | None:
    """Return the path of the module that holds the layers of a group of heads and states their number."""
    parts = [producer.layer.weight.split(".")[:-1] for producer in group.producers]
    shared = [names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))]
    while True:
        module = model.get_submodule(".".join(shared))
        if _head_attributes(module):
            return ".".join(shared)
        plain = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) or not any(module.children())
        if not shared or not plain:
            return None
        shared.pop()


def _head_attributes(module: nn.Module) -> list[str]:
    """Return the attributes in which a module states its number of heads, or of channels of all heads."""
    if isinstance(module, nn.MultiheadAttention):
        return []
    return [name for name in _HEADS + _ALL_HEADS if isinstance(getattr(module, name, None), int)]


def _outputs(model: nn.Module) -> dict[str, int]:
    """Return the number of outputs of every linear layer, by module path."""
    widths = {name: width_attributes(module) for name, module in model.named_modules()}
    found = {name: width.get("out_features", width.get("nf")) for name, width in widths.items()}
    return {name: rows for name, rows in found.items() if rows is not None}
