"""Which path-norm penalty a weight decay is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from pathnorm.deep.neuron_group import NeuronGroup
from pathnorm.deep.neuron_norms import neurons_of

__all__ = ["PathNormSchedule", "lam_from_weight_decay"]

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, slots=True)
class PathNormSchedule:
    """The same penalty, written with path norms.

    Attributes
    ----------
    lam : dict
        Group name -> lambda in ``loss + sum_g lam_g sum_k ||w_k|| ||v_k||``; goes into
        :class:`pathnorm.deep.PathNormRegularizer` and :class:`pathnorm.deep.PathProx` as it is.
    decay : dict
        Parameter name -> weight decay that remains beside the path norms; parameters without any are absent.
    """

    lam: dict[str, float]
    decay: dict[str, float]

    def param_groups(self, model: nn.Module) -> list[dict[str, object]]:
        """Parameter groups for a torch optimiser with the weight decay that remains."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            groups.setdefault(self.decay.get(name, 0.0), []).append(parameter)
        return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]


def lam_from_weight_decay(
    model: nn.Module,
    example_inputs: Tensor,
    weight_decay: float,
    *,
    loss: Reduction = "mean",
    n_samples: int | None = None,
    biases: bool = True,
    skip: tuple[str, ...] = (),
) -> PathNormSchedule:
    """The path-norm lambdas that belong to the ``weight_decay`` of a torch optimiser.

    Parameters
    ----------
    weight_decay : float
        Of ``torch.optim.SGD`` or ``AdamW``, on all parameters.
    loss : {"mean", "sum"}
        Whether the objective that gets the lambdas is a mean over samples, as in torch, or a sum over ``n_samples``, as
        in :class:`pathnorm.ReLURegressor`.
    n_samples : int
        Samples of the training set, N; for ``loss="sum"`` only.
    biases : bool
        Whether biases (and beta, behind a BatchNorm) are part of the input weights. Weight decay in torch decays them,
        so that they are by default; else their decay remains.

    Notes
    -----
    ``SGD(weight_decay=mu)`` adds ``mu theta`` to the gradient of the mean loss, that is, it minimises
    ``mean loss + mu/2 ||theta||^2``. (AdamW shrinks by ``lr mu theta``, the same proximal step in the Euclidean metric;
    its fixed points are those of this objective in the metric of Adam.)

    *One group.* Scaling neuron k by ``(w_k, v_k) -> (s w_k, v_k / s)`` does not change the loss, and the least of
    ``mu/2 (s^2 ||w_k||^2 + ||v_k||^2 / s^2)`` over s is ``mu ||w_k|| ||v_k||``, where ``s^2 = ||v_k|| / ||w_k||``: the
    penalty is ``lam = mu`` times the path norm.

    *Groups that share weights.* In a chain the matrix between two groups is output weight of one and input weight of
    the next. Write ``mu/2 ||theta||^2 = sum_g lam_g/2 (||w_g||^2 + ||v_g||^2) + sum_W r_W/2 ||W||^2``; that holds if
    ``sum_{g has W} lam_g + r_W = mu`` for each parameter W. With ``lam_g = mu / (most groups that any weight of g is
    in)`` all ``r_W >= 0``: in a chain ``lam = mu/2``, and ``mu/2`` remains on its first and last layer. At a minimiser
    of weight decay all neurons are balanced, so that the penalty with path norms has the same value there, and it is
    never larger elsewhere: the two objectives have the same minimum.

    *Sums and means.* ``mean loss + mu R`` is ``(sum loss + N mu R) / N``: for a sum over samples ``lam = N mu``. For
    the squared loss mind the factor: torch's ``mse_loss`` is ``(y - f)^2``, ours ``(y - f)^2 / 2``.

    Raises
    ------
    ValueError
        If ``weight_decay`` is negative, or ``loss="sum"`` comes without ``n_samples``.
    """
    if not 0.0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be a number from 0. Got {weight_decay!r}.")
    if loss not in ("mean", "sum"):
        raise ValueError(f"loss must be 'mean' or 'sum'. Got {loss!r}.")
    if loss == "sum" and (n_samples is None or n_samples < 1):
        raise ValueError(f"loss='sum' needs n_samples, the number of samples of the training set. Got {n_samples!r}.")
    total = weight_decay * (n_samples if loss == "sum" and n_samples is not None else 1)
    neurons = neurons_of(model, example_inputs, skip=skip)
    groups = neurons.require_groups()
    keys = {group.name: _parameters_of(group, biases=biases) for group in groups}
    uses: dict[str, int] = {}
    for names in keys.values():
        for name in names:
            uses[name] = uses.get(name, 0) + 1
    lam = {group: total / max(uses[name] for name in names) for group, names in keys.items()}
    decay = {}
    for name, _ in model.named_parameters():
        rest = total - sum(lam[group] for group, names in keys.items() if name in names)
        if rest > 1e-12 * total:
            decay[name] = rest
    return PathNormSchedule(lam, decay)


def _parameters_of(group: NeuronGroup, *, biases: bool) -> frozenset[str]:
    """Parameters that the path norm of a group is made of, in the coordinates in which weight decay acts."""
    front = [group.producer.weight, group.producer.bias]
    if group.norm is not None:
        front = [group.norm.weight or "", group.norm.bias]
    found = [key for key in front[: 2 if biases else 1] if key]
    return frozenset([*found, *(consumer.layer.weight for consumer in group.consumers)])
