"""The path norm of a deep network as a penalty that can be differentiated."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.neuron_norms import Coordinates, neuron_norms, neurons_of, plain_module

__all__ = ["PathNormRegularizer", "live_state"]


class PathNormRegularizer:
    """``sum_g lam_g sum_k ||w_k|| ||v_k||`` over the neuron groups g of a network and the neurons k of each.

    ``w_k`` are the input weights of a neuron (a row of the producing layer), ``v_k`` its output weights, stacked over
    all layers that read it. Add the value to a loss::

        penalty = PathNormRegularizer(model, images)
        loss = cross_entropy(model(x), y) + penalty()

    Weight decay minimises the same norm: ``1/2 (||w||^2 + ||v||^2) >= ||w|| ||v||`` with equality at balance, and the
    function does not change when a neuron is rescaled. :func:`pathnorm.deep.lam_from_weight_decay` gives the ``lam``
    that belongs to a weight decay. Of the subgradients at a neuron whose weights are zero, zero is taken; to make
    neurons exactly zero use :class:`pathnorm.deep.PathProx`.

    Parameters
    ----------
    model : torch.nn.Module
        One tensor in, one tensor out; it may be wrapped in ``DistributedDataParallel`` or ``torch.compile``. Parameters
        are looked up at every call, frozen ones are constants.
    example_inputs : torch.Tensor, shape (n, ...)
        Only to trace the graph.
    lam : float or mapping
        One value, or one per group name; groups not named are left out.
    biases : bool
        Whether the bias is part of the input weight.
    batch_norm : {"folded", "gain"}
        What the input weight of a neuron behind a BatchNorm is: see :mod:`pathnorm.deep.neuron_norms`.
    skip : sequence of str
        Module paths of layers whose neurons are left out.

    Attributes
    ----------
    groups : tuple of NeuronGroup
        What is penalised, in forward order.
    skipped : dict
        Layers whose neurons are not penalised -> why.

    Raises
    ------
    TraceError, UnsupportedModelError
        If the model cannot be traced, or has no neuron group.

    References
    ----------
    Neyshabur, Tomioka, Srebro (2015); Parhi, Nowak (2021); Shenouda, Parhi, Lee, Nowak (2024).
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Tensor,
        *,
        lam: float | Mapping[str, float] = 1.0,
        biases: bool = False,
        batch_norm: Coordinates = "folded",
        skip: tuple[str, ...] = (),
    ) -> None:
        neurons = neurons_of(model, example_inputs, skip=tuple(skip))
        self.groups = neurons.require_groups()
        self.skipped = {item.name: item.reason for item in neurons.skipped}
        self.lam = lams_of(self.groups, lam)
        self.biases, self.batch_norm = biases, batch_norm
        self._model = model
        self.per_group()  # an argument that cannot work is refused here

    def per_group(self) -> dict[str, Tensor]:
        """``sum_k ||w_k|| ||v_k||`` of every group, without ``lam``."""
        state = live_state(self._model)
        return {
            group.name: neuron_norms(group, state, biases=self.biases, batch_norm=self.batch_norm).masses.sum()
            for group in self.groups
            if group.name in self.lam
        }

    def __call__(self) -> Tensor:
        """Value of the penalty, a scalar with gradient."""
        return torch.stack([self.lam[name] * value for name, value in self.per_group().items()]).sum()


def live_state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers themselves, not copies, by name."""
    module = plain_module(model)
    state: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    state.update(module.named_buffers(remove_duplicate=False))
    return state


def lams_of(groups: tuple[NeuronGroup, ...], lam: float | Mapping[str, float]) -> dict[str, float]:
    """One lambda per group; refuses unknown names and negative values."""
    names = [group.name for group in groups]
    lams = dict(lam) if isinstance(lam, Mapping) else dict.fromkeys(names, float(lam))
    unknown = sorted(set(lams) - set(names))
    if unknown:
        raise ValueError(
            f"lam must name neuron groups of the model. Unknown: {', '.join(unknown)}. "
            f"The model has: {', '.join(names)}."
        )
    wrong = {name: value for name, value in lams.items() if not 0.0 <= value < float("inf")}
    if wrong or not lams:
        raise ValueError(f"lam must be a number from 0, or one per group. Got {lam!r}.")
    return {name: float(lams[name]) for name in names if name in lams}
