"""Torch-Pruning 1.6.1 as a peer: every score it ships that sees data, and weight magnitude.

Scores are used as its documentation shows. Three of them do not work as shipped on networks
such as these; the subclasses here repair them, in the peer's favour:

- Hessian keeps the last sample only (it looks tensors up by name), here the sum is taken;
- Activation gives one score per input of a linear layer behind a flattened convolution, so
  that nothing is pruned there, here one score per channel;
- OBDC finds no layers outside attention, cannot score a linear layer with a bias, and removes
  the wrong columns of its Fisher matrix as it goes, here all groups are scored first.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

__all__ = ["PEERS", "Peer", "prune"]

Score = Callable[[nn.Module, Tensor, Tensor], Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """A score, filled from a model, images and labels, and whether it reads the labels."""

    score: Score
    reads_labels: bool


def prune(
    model: nn.Module, peer: Peer, *, kept: float, free: Collection[str], images: Tensor, labels: Tensor
) -> nn.Module:
    """Return a copy with the same share kept of every layer named in ``free``, and of no other."""
    model = copy.deepcopy(model).eval()
    importance = peer.score(model, images, labels)
    pruner = tp.pruner.MetaPruner(
        model,
        images[:2],
        importance=importance,
        global_pruning=False,
        pruning_ratio=1 - kept,
        ignored_layers=[
            layer
            for name, layer in model.named_modules()
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and name not in free
        ],
    )
    if isinstance(importance, _OBDC):
        importance.fill(model, pruner, images)
        groups = list(pruner.step(interactive=True))
        for group in groups:
            group.prune()
    else:
        pruner.step()
    model.zero_grad(set_to_none=True)
    return model


def _magnitude(model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    return tp.importance.MagnitudeImportance(p=2)


def _taylor(model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    F.cross_entropy(model(images), labels).backward()
    return tp.importance.TaylorImportance()


class _Hessian(tp.importance.HessianImportance):
    def accumulate_grad(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            squared = parameter.grad.detach().square()
            self._accu_grad[parameter] = self._accu_grad.get(parameter, 0.0) + squared
            self._counter[parameter] = self._counter.get(parameter, 0) + 1


def _hessian(model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    scores = _Hessian()
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        model.zero_grad()
        F.cross_entropy(model(image), label).backward()
        scores.accumulate_grad(model)
    return scores


class _Activation(tp.importance.ActivationImportance):
    def __call__(self, group: Any) -> Any:
        scores = super().__call__(group)
        return None if scores is None else scores[: len(group[0].idxs)]


def _activation(model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    scores = _Activation()
    with torch.no_grad(), scores.compute_importance(model):
        model(images)  # one batch: a second call would overwrite the first
    return scores


class _OBDC(tp.importance.OBDCImportance):
    def fill(self, model: nn.Module, pruner: Any, images: Tensor) -> None:
        """Sum the Fisher information over batches, with labels drawn from the model's own outputs."""
        pruner._downstream_node_as_root_if_attention = lambda group: group
        self._prepare_model(model, pruner)
        del pruner._downstream_node_as_root_if_attention
        generator = torch.Generator().manual_seed(0)
        for batch in images.split(64):
            model.zero_grad()
            logits = model(batch)
            drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator).squeeze(1)
            F.cross_entropy(logits, drawn).backward()
            self.step()
        self._rm_hooks(model)
        without_bias = {layer: fisher[:, : layer.weight[0].numel()] for layer, fisher in self.Fisher.items()}
        self.Fisher = defaultdict(float, without_bias)  # layers not to be pruned are looked up, not used

    def adjust_fisher(self, group: Any, idxs: Any) -> None:
        """Do nothing: no weight has been removed yet."""


def _obdc(model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    return _OBDC(num_classes=10)


PEERS: dict[str, Peer] = {
    "tp-magnitude": Peer(_magnitude, reads_labels=False),
    "tp-activation": Peer(_activation, reads_labels=False),
    "tp-obdc": Peer(_obdc, reads_labels=False),
    "tp-taylor": Peer(_taylor, reads_labels=True),
    "tp-hessian": Peer(_hessian, reads_labels=True),
}
