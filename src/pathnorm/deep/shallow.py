"""A shallow ReLU network with a linear part, as a torch module."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ShallowModule"]


class ShallowModule(nn.Module):
    """``output(relu(hidden(x))) + skip(x)``.

    Parameters
    ----------
    hidden, output : nn.Linear
        Neurons, with their biases as torch has them: ``hidden.bias`` is ``-b``.
    skip : nn.Linear
        The linear part, without bias; it carries no penalty.
    """

    def __init__(self, hidden: nn.Linear, output: nn.Linear, skip: nn.Linear) -> None:
        super().__init__()
        self.hidden, self.activation, self.output, self.skip = hidden, nn.ReLU(), output, skip

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, D) at x (N, d)."""
        values: Tensor = self.output(self.activation(self.hidden(x))) + self.skip(x)
        return values

    def shallow_layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """What ``ShallowNet.from_torch`` reads."""
        return self.hidden, self.output, self.skip
