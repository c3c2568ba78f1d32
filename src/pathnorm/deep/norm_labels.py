"""Labels behind normalisations: which of them tie their parameters to channels, and which mix channels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, fx

from pathnorm.deep.coupling import NO_NEURON, Tied
from pathnorm.deep.graph import ModelGraph, op_name
from pathnorm.deep.label_map import LabelMap, constant_over, labels_along
from pathnorm.deep.layers import arguments_of
from pathnorm.deep.mixing import kept_key

__all__ = ["NORMS"]


def _behind_batch_norm(graph: ModelGraph, node: fx.Node, found: LabelMap, labels: Tensor) -> Tensor | str:
    """Labels behind a BatchNorm, whose parameters are tied to its channels."""
    if constant_over(labels, range(2, labels.ndim)) is None:
        return "BatchNorm over mixed channels"
    if found.coupling != "none":
        keys = [key for key in map(graph.state_key, node.args[1:5]) if key is not None]
        if not found.tie([(key, 0) for key in keys], labels, 1):
            return "BatchNorm over mixed channels"
    return labels


def _behind_group_norm(graph: ModelGraph, node: fx.Node, found: LabelMap, labels: Tensor) -> Tensor | str:
    """Labels behind a GroupNorm: its groups do not see each other, so the channels of one stay or go together."""
    if found.coupling == "none":
        return f"operation {op_name(node)} is not understood"
    arguments = arguments_of(node)
    groups = arguments.get("num_groups", labels.shape[1])
    constant = constant_over(labels, [0, *range(2, labels.ndim)])
    named = [arguments.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    keys = [graph.state_key(part) for part in named if part is not None]
    if constant is None or None in keys or not found.unions.join_along(constant.reshape(groups, -1), 1):
        return f"{op_name(node)} over mixed channels"
    if not found.tie([(str(key), 0) for key in keys], labels, 1):
        return f"{op_name(node)} over mixed channels"
    return labels


def _behind_layer_norm(graph: ModelGraph, node: fx.Node, found: LabelMap, labels: Tensor) -> Tensor | str:
    """Labels behind a LayerNorm or RMSNorm over the channels: it is run over those that are left."""
    name, arguments = op_name(node), arguments_of(node)
    if found.coupling == "none":
        return f"operation {name} is not understood"
    channels = labels_along(labels, -1)
    given = [part for part in (arguments.get("weight"), arguments.get("bias")) if part is not None]
    keys = [graph.state_key(part) for part in given]
    if channels is None or None in keys or len(arguments["normalized_shape"]) > 1:
        return f"{name} over mixed channels"
    if bool((channels == NO_NEURON).any()):
        return f"{name} over channels and other entries"
    found.tie([(str(key), 0) for key in keys], labels, -1)
    found.mixed.append(Tied(kept_key(node), 0, channels))
    return labels


NORMS: dict[str, Callable[[ModelGraph, fx.Node, LabelMap, Tensor], Tensor | str]] = {
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _behind_batch_norm),
    **dict.fromkeys(("group_norm", "instance_norm"), _behind_group_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), _behind_layer_norm),
}
