"""The layers of a network that another tool has pruned, each with its counterpart in the original."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pathnorm.deep.graph import ModelGraph, State, clean_copy, computed_tensors, trace
from pathnorm.deep.groups import find_neurons
from pathnorm.deep.labels import layer_of
from pathnorm.deep.neuron_group import Consumer, Neurons
from pathnorm.deep.slices import surviving_rows
from pathnorm.errors import UnsupportedModelError
from pathnorm.report.records import SkippedGroup

__all__ = ["LayerPair", "Network", "bare_copy", "masked_again", "pair_layers", "unpaired"]


@dataclass(frozen=True, slots=True)
class Network:
    """A network as a graph, its state without masks, and its layers by module path, in forward order."""

    graph: ModelGraph
    state: dict[str, Tensor]
    layers: dict[str, Consumer]

    @classmethod
    def of(cls, model: nn.Module, example: Tensor) -> Network:
        """Trace ``model``."""
        graph = trace(model, example, outputs_first=True)
        state = graph.state_of(model)
        found = find_neurons(graph, state, example, coupling="interior")
        ordered = sorted(_consumers(found), key=lambda consumer: graph.index(consumer.layer.node))
        return cls(graph, state, {consumer.layer.name: consumer for consumer in ordered})


@dataclass(frozen=True, slots=True)
class LayerPair:
    """A layer of the pruned network and the one it was made from.

    Attributes
    ----------
    new, old : Consumer
    kept : torch.Tensor of int, shape (d,)
        The output channels of the original that are left.
    support : torch.Tensor of bool, shape (d, P)
        The weights that may change.
    free : torch.Tensor of bool, shape (d,)
        The outputs whose constant may change.
    """

    new: Consumer
    old: Consumer
    kept: Tensor
    support: Tensor
    free: Tensor


def bare_copy(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a copy in evaluation mode, masks of ``torch.nn.utils.prune`` made zeros, and the masks by state key."""
    # A masked tensor is computed from two others, and such tensors are not copied by deepcopy.
    twin = copy.deepcopy(model, {id(value): value.detach().clone() for _, value in computed_tensors(model)})
    masks: dict[str, Tensor] = {}
    for path, module in twin.named_modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                name = hook._tensor_name
                masks[f"{path}.{name}" if path else name] = getattr(module, f"{name}_mask").detach().clone()
                prune.remove(module, name)
    return clean_copy(twin), masks


def masked_again(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Put ``masks`` on ``model``, in place, as ``torch.nn.utils.prune`` does; return it."""
    for key, mask in masks.items():
        path, _, name = key.rpartition(".")
        prune.custom_from_mask(model.get_submodule(path), name, mask)
    return model


def pair_layers(
    original: Network, pruned: Network, masks: Mapping[str, Tensor], kept: Mapping[str, Any]
) -> list[LayerPair]:
    """Return the layers of both networks, in the forward order of the pruned one.

    Parameters
    ----------
    masks : mapping
        State key -> mask of the same shape.
    kept : mapping
        Module path -> surviving output channels, for layers whose weights do not show it.

    Raises
    ------
    ValueError
        If ``kept`` names no layer, or holds indices that do not fit it.
    UnsupportedModelError
        If the networks do not have the same layers, or surviving channels cannot be found; names the layers.
    """
    _require_same_layers(original, pruned)
    unknown = sorted(set(kept) - set(pruned.layers))
    if unknown:
        raise ValueError(
            f"kept must map layers to surviving output channels. Unknown: {', '.join(unknown)}. "
            f"The layers are: {', '.join(pruned.layers)}."
        )
    pairs, lost = [], []
    for name, new in pruned.layers.items():
        old = original.layers[name]
        rows = _given(name, kept[name], new, old) if name in kept else _found(original, pruned, new, old)
        if rows is None:
            lost.append(name)
        else:
            pairs.append(LayerPair(new, old, rows, *_pattern(new, pruned.state, masks)))
    if lost:
        example = ", ".join(f"{name!r}: indices" for name in lost[:2])
        raise UnsupportedModelError(
            "Surviving channels are found where the weights of a narrower layer are exact slices of the original's. "
            f"They are not in: {', '.join(lost)} (changed by the tool, fine-tuned, or made from another network). "
            f"Refit before fine-tuning, or say which output channels are left: kept={{{example}}}."
        )
    return pairs


def unpaired(pruned: Network) -> tuple[SkippedGroup, ...]:
    """Return the layers of the pruned network that cannot be refitted, each with its reason."""
    skipped = []
    for node in pruned.graph.nodes:
        reason = layer_of(pruned.graph, node, pruned.state)
        if isinstance(reason, str):
            keys = [key for key in map(pruned.graph.state_key, node.all_input_nodes) if key is not None]
            name = (keys[0].rpartition(".")[0] or keys[0]) if keys else node.name
            skipped.append(SkippedGroup(name=name, width=int(node.meta["val"].shape[1]), reason=reason))
    return tuple(skipped)


def _consumers(found: Neurons) -> Iterator[Consumer]:
    """Go through all layers with weights of their own, each once."""
    seen = set()
    for consumer in (*(consumer for group in found.groups for consumer in group.consumers), *found.readers):
        if consumer.layer.node not in seen:
            seen.add(consumer.layer.node)
            yield consumer


def _require_same_layers(original: Network, pruned: Network) -> None:
    """Refuse networks of which one is not the other with fewer channels."""
    extra, missing = (
        [name for name in one.layers if name not in other.layers]
        for one, other in ((pruned, original), (original, pruned))
    )
    if extra or missing:
        raise UnsupportedModelError(
            "The pruned network must have the layers of the original, with fewer channels or with zeros. Only in the "
            f"pruned one: {', '.join(extra) or 'none'}; only in the original: {', '.join(missing) or 'none'}. "
            "Give the network that was pruned as the original."
        )
    for name, new in pruned.layers.items():
        old = original.layers[name]
        small, large = pruned.state[new.layer.weight].shape, original.state[old.layer.weight].shape
        if len(small) != len(large) or small[2:] != large[2:] or small[0] > large[0] or small[1] > large[1]:
            raise UnsupportedModelError(
                f"A pruned weight must not be larger than the original's. {name} has shape {tuple(small)}, "
                f"{tuple(large)} in the original. Give the network that was pruned as the original."
            )
        if _place(new) != _place(old):
            raise UnsupportedModelError(
                f"The same operations must follow a layer in both networks. {name} is followed by {_place(new)}, by "
                f"{_place(old)} in the original. Give the network that was pruned as the original."
            )


def _place(consumer: Consumer) -> str:
    """Say where the output of a layer is compared."""
    norm = consumer.site.norm
    return f"{consumer.site.node.name}{f' behind {norm.name}' if norm else ''}, geometry {consumer.layer.geometry}"


def _given(name: str, indices: Any, new: Consumer, old: Consumer) -> Tensor:
    """Return the channels that the caller says are left."""
    rows = torch.as_tensor(np.asarray(indices)).flatten()
    fits = not rows.is_floating_point() and rows.dtype != torch.bool and rows.numel() == new.layer.width
    if (
        not fits
        or rows.unique().numel() != rows.numel()
        or not 0 <= int(rows.min()) <= int(rows.max()) < old.layer.width
    ):
        raise ValueError(
            f"kept[{name!r}] must hold {new.layer.width} different channels of the original's {old.layer.width}, one "
            f"per channel of the pruned layer, as integers. Got {rows.numel()} entries of {rows.dtype}: "
            f"{rows.tolist()[:8]}{' ...' if rows.numel() > 8 else ''}."
        )
    return rows.long()


def _found(original: Network, pruned: Network, new: Consumer, old: Consumer) -> Tensor | None:
    """Return the channels that are left: all of them, or those whose weights are the same; None if unknown."""
    if new.layer.width == old.layer.width:
        return torch.arange(new.layer.width)
    keys = [(new.layer.bias, old.layer.bias)]
    if new.site.norm is not None and old.site.norm is not None:
        keys += list(zip(new.site.norm.keys, old.site.norm.keys, strict=True))
    rows = surviving_rows(
        pruned.state[new.layer.weight],
        original.state[old.layer.weight],
        [(pruned.state[one], original.state[other]) for one, other in keys if one is not None and other is not None],
    )
    return None if rows is None else torch.from_numpy(rows)


def _pattern(new: Consumer, state: State, masks: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return which weights and which constants may change.

    Zeros stay where no mask says otherwise. An output without weights keeps a bias of zero: it was removed.
    """
    layer, norm = new.layer, new.site.norm
    weight = state[layer.weight]
    support = masks.get(layer.weight, weight).flatten(1) != 0
    free = torch.full((layer.width,), new.has_intercept, device=weight.device)
    if layer.bias is not None:
        free = masks[layer.bias] != 0 if layer.bias in masks else support.any(1) | (state[layer.bias] != 0)
    if norm is not None:
        gain = norm.gain(state).abs()
        live = gain > 1e-12 * gain.max()
        support, free = support & live[:, None], free & live
    return support, free
