"""A proximal step for the path norm behind any torch optimiser: neurons become exactly zero while a network trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.neuron_norms import neurons_of, widened
from pathnorm.deep.prox import prox_norm, prox_product
from pathnorm.deep.regularize import lams_of, live_state
from pathnorm.errors import UnsupportedModelError

__all__ = ["PathProx", "proximal_step"]

Form = Literal["product", "constrained"]
_FORMS = ("product", "constrained")


class PathProx(Optimizer):
    """Wrap an optimiser: after each of its steps comes the proximal operator of ``step lam sum_k ||w_k|| ||v_k||``.

    Gradient step on the loss, proximal step on the norm: with stochastic gradient descent this is proximal gradient
    descent on ``loss + lam sum_g sum_k ||w_k|| ||v_k||``, and neurons become exactly zero. The step is the learning
    rate over ``1 - momentum`` (times ``1 - dampening``): so much does a gradient move the weights in all, and so the
    fixed points are those of the objective whatever the momentum is. Behind an adaptive optimiser the proximal step is
    the Euclidean one with the learning rate as its step, as decoupled weight decay is.

    The wrapper is an ``Optimizer`` with the parameter groups and the state of the wrapped one: schedulers, gradient
    clipping and ``torch.amp.GradScaler`` take it in its place (a step that the scaler leaves out leaves out the
    proximal step). Every rank of ``DistributedDataParallel`` computes the same step from the same weights. Leave weight
    decay of the wrapped optimiser at zero for the weights that are in neuron groups: it is the same penalty once more.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Holds the parameters of ``model``; may have several parameter groups with learning rates of their own.
    model : torch.nn.Module
        One tensor in, one tensor out; may be wrapped in ``DistributedDataParallel`` or ``torch.compile``.
    example_inputs : torch.Tensor, shape (n, ...)
        Only to trace the graph.
    lam : float or mapping
        One value, or one per group name; groups not named are left alone. See
        :func:`pathnorm.deep.lam_from_weight_decay`.
    biases : bool
        Whether the bias is part of the input weight (and beta, behind a BatchNorm). If it is not, a neuron whose input
        weights vanish stays as a constant.
    form : {"product", "constrained"}
        ``"product"`` moves both sides, see :func:`pathnorm.deep.prox.prox_product`. ``"constrained"`` is the multitask
        lasso: neurons are rescaled to ``||w_k|| = 1``, which does not change the function, and ``v_k`` is
        soft-thresholded as a group. It needs positively homogeneous activations.
    skip : sequence of str
        Module paths of layers whose neurons are left alone.

    Attributes
    ----------
    groups : tuple of NeuronGroup
        What is penalised, in forward order.
    skipped : dict
        Layers whose neurons are left alone -> why.

    Notes
    -----
    Behind a BatchNorm the input weight of a neuron is ``(gamma_k, beta_k)``: the kernel has no scale. In a plain chain
    a weight matrix holds the output weights of one group and the input weights of the next; the operators of the groups
    are then applied one after the other, each exact for its group. A side of which a part is not trained (frozen, or
    not in the optimiser) keeps its length, and the operator of the other side alone is applied. If the parts of one
    side have different learning rates, their geometric mean is the step of that side.

    Raises
    ------
    UnsupportedModelError
        If no neuron group can be treated, parameters are sharded, or an activation is not homogeneous in the
        constrained form.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        example_inputs: Tensor,
        lam: float | Mapping[str, float],
        *,
        biases: bool = True,
        form: Form = "product",
        skip: tuple[str, ...] = (),
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer. Got {type(optimizer).__name__}.")
        if form not in _FORMS:
            raise ValueError(f"form must be one of {', '.join(_FORMS)}. Got {form!r}.")
        _refuse_sharded(model)
        neurons = neurons_of(model, example_inputs, skip=tuple(skip))
        self.skipped = {item.name: item.reason for item in neurons.skipped}
        found = neurons.require_groups()
        self.lam = lams_of(found, lam)
        self.groups = tuple(group for group in found if group.name in self.lam)
        if form == "constrained":
            _require_homogeneous(self.groups)
        self.optimizer, self.biases, self.form = optimizer, biases, form
        self._model = model
        # The groups themselves are handed on, not copies: a scheduler that sets a rate here sets it there.
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step of the wrapped optimiser, then the proximal step; returns the loss of ``closure``."""
        self._share()
        if closure is None:
            loss = self.optimizer.step()
        else:
            with torch.enable_grad():
                loss = self.optimizer.step(closure)
        self.prox()
        return loss

    @torch.no_grad()
    def prox(self) -> None:
        """Apply the proximal step alone, in place."""
        state = live_state(self._model)
        rates = {
            id(parameter): _step_of(group)
            for group in self.optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        }
        for group in self.groups:
            proximal_step(group, state, self.lam[group.name], rates=rates, biases=self.biases, form=self.form)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Hand a group of parameters to the wrapped optimiser."""
        if any(param_group is group for group in self.optimizer.param_groups):
            super().add_param_group(param_group)  # our own constructor, with groups that exist
        else:
            self.optimizer.add_param_group(param_group)
            self._share()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """State of the wrapped optimiser, with ``lam``, ``biases`` and ``form`` under ``"path_prox"``."""
        state = self.optimizer.state_dict()
        return {**state, "path_prox": {"lam": dict(self.lam), "biases": self.biases, "form": self.form}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave; a state of the wrapped optimiser alone is taken too.

        Raises
        ------
        ValueError
            If the state names neuron groups that the model does not have.
        """
        rest = {key: value for key, value in state_dict.items() if key != "path_prox"}
        own = state_dict.get("path_prox")
        if own is not None:
            lam = lams_of(self.groups, own["lam"])
            if own["form"] not in _FORMS:
                raise ValueError(f"The state's form must be one of {', '.join(_FORMS)}. It is {own['form']!r}.")
            self.lam, self.biases, self.form = lam, bool(own["biases"]), own["form"]
        self.optimizer.load_state_dict(rest)
        self._share()

    def __repr__(self) -> str:
        groups = ", ".join(f"{name}: {value:g}" for name, value in self.lam.items())
        return f"PathProx({self.optimizer!r}, form={self.form!r}, lam={{{groups}}})"


@torch.no_grad()
def proximal_step(
    group: NeuronGroup,
    state: Mapping[str, Tensor],
    lam: float,
    *,
    rates: Mapping[int, float],
    biases: bool = True,
    form: Form = "product",
) -> None:
    """Apply the operator of ``lam sum_k ||w_k|| ||v_k||`` to the tensors of one group, in place.

    Parameters
    ----------
    state : mapping
        Name -> tensor, written to.
    rates : mapping
        ``id`` of a tensor -> its step size. Tensors that are not named are constants.
    """
    front, behind = _input_parts(group, state, biases=biases), _output_parts(group, state)
    q = _length([_columns(part, neurons, group.width) for part, neurons in behind])
    # A BatchNorm without gain: the neurons have one size, and it never changes.
    p = _length([_rows(part) for part in front]) if front else torch.ones_like(q)
    s = _step_size(front, rates)
    t = _step_size([part for part, _ in behind], rates)
    if s == 0.0 and t == 0.0:
        return
    if form == "constrained" and s > 0.0 and t > 0.0:
        moved = _unit_scale(group, state, front, behind, p)
        p, q = torch.where(moved, torch.ones_like(p), p), torch.where(moved, q * p, q)
        s = 0.0
    a, b = (p, prox_norm(q, lam * t * p)) if s == 0.0 else prox_product(p, q, lam, steps=(s, t))
    if s > 0.0:
        factor = _quotient(a, p)
        for part in front:
            part.mul_(_along(factor, part, 0).to(part.dtype))
    if t > 0.0:
        factor = _quotient(b, q)
        for part, neurons in behind:
            part.mul_(_along(factor[neurons], part, 1).to(part.dtype))


def _unit_scale(
    group: NeuronGroup,
    state: Mapping[str, Tensor],
    front: list[Tensor],
    behind: list[tuple[Tensor, Tensor]],
    p: Tensor,
) -> Tensor:
    """Rescale every neuron with input weights to ``||w_k|| = 1``, its outputs by the inverse; return which."""
    moved = p > 0.0
    factor = torch.where(moved, 1.0 / torch.where(moved, p, 1.0), torch.ones_like(p))
    scaled = list(front)
    shift = group.norm.bias if group.norm is not None else group.producer.bias
    if shift is not None and all(state[shift] is not part for part in front):
        scaled.append(state[shift])  # not part of the norm, but of the neuron
    for part in scaled:
        part.mul_(_along(factor, part, 0).to(part.dtype))
    for part, neurons in behind:
        part.mul_(_along((1.0 / factor)[neurons], part, 1).to(part.dtype))
    return moved


def _input_parts(group: NeuronGroup, state: Mapping[str, Tensor], *, biases: bool) -> list[Tensor]:
    keys: list[str | None] = [group.producer.weight, group.producer.bias]
    if group.norm is not None:
        keys = [group.norm.weight, group.norm.bias]
    return [state[key] for key in keys[: 2 if biases else 1] if key is not None]


def _output_parts(group: NeuronGroup, state: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    found = []
    for consumer in group.consumers:
        weight = state[consumer.layer.weight]
        found.append((weight, consumer.neurons.to(weight.device)))
    return found


def _rows(part: Tensor) -> Tensor:
    return widened(part).reshape(part.shape[0], -1).square().sum(1)


def _columns(part: Tensor, neurons: Tensor, width: int) -> Tensor:
    squares = widened(part).transpose(0, 1).reshape(part.shape[1], -1).square().sum(1)
    return squares.new_zeros(width).index_add_(0, neurons, squares)


def _length(squares: list[Tensor]) -> Tensor:
    """Norm of a side, from its parts."""
    return torch.stack([part.to(squares[0]) for part in squares]).sum(0).sqrt()


def _step_of(group: Mapping[str, Any]) -> float:
    """How far a gradient moves the parameters of a group in all, momentum counted."""
    momentum, dampening = float(group.get("momentum", 0.0)), float(group.get("dampening", 0.0))
    return float(group["lr"]) * ((1.0 - dampening) / (1.0 - momentum) if momentum else 1.0)


def _step_size(parts: list[Tensor], rates: Mapping[int, float]) -> float:
    """Step of a side: zero if a part of it is not trained; the geometric mean if its parts have different rates."""
    found = [rates.get(id(part), 0.0) for part in parts]
    if not found or min(found) == 0.0:
        return 0.0
    return found[0] if len(set(found)) == 1 else float(torch.tensor(found, dtype=torch.float64).log().mean().exp())


def _quotient(new: Tensor, old: Tensor) -> Tensor:
    return torch.where(old > 0.0, new / torch.where(old > 0.0, old, 1.0), torch.zeros_like(old))


def _along(factor: Tensor, tensor: Tensor, dim: int) -> Tensor:
    shape = [1] * tensor.ndim
    shape[dim] = -1
    return factor.to(tensor.device).view(shape)


def _require_homogeneous(groups: tuple[NeuronGroup, ...]) -> None:
    for group in groups:
        odd = group.not_homogeneous
        if odd:
            raise UnsupportedModelError(
                f"The constrained form rescales neurons: only positively homogeneous operations may act on them. "
                f"On those of {group.name} acts {', '.join(odd)}. Use form='product', or skip=[{group.name!r}]."
            )


def _refuse_sharded(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if type(parameter.data).__name__ == "DTensor":
            raise UnsupportedModelError(
                f"Norms of neurons need whole parameters. {name} is sharded over processes. "
                "Use DistributedDataParallel, or apply the step where the parameters are gathered."
            )
