"""Shallow networks out of torch modules, and back. torch is imported when it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathnorm.errors import MissingExtraError

if TYPE_CHECKING:
    from torch.nn import Linear, Module

__all__ = ["arrays_of", "linear", "module_of"]

Matrix = NDArray[np.float64]


def arrays_of(module: Module) -> dict[str, Matrix]:
    """W, b, V, A, c of a module."""
    nn = _torch().nn
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"from_torch needs a torch module. Got an object of type {type(module).__name__}. "
            "Give nn.Sequential(nn.Linear, nn.ReLU, nn.Linear)."
        )
    layers = list(_layers(module, "the module", nn))
    # A module of another class may say which layers it is: see pathnorm.deep.shallow.
    if len(layers) == 1 and hasattr(layers[0][1], "shallow_layers"):
        hidden, output, skip = layers[0][1].shallow_layers()
        return _arrays(hidden, output, skip)
    for name, layer in layers:
        _require_plain(name, layer, nn)
    kinds = [nn.ReLU if isinstance(layer, nn.ReLU) else nn.Linear for _, layer in layers]
    if kinds == [nn.Linear]:
        weight, bias = _weights(layers[0][1])
        outputs, inputs = weight.shape
        return _named(np.zeros((0, inputs)), np.zeros(0), np.zeros((0, outputs)), weight.T, bias)
    if kinds != [nn.Linear, nn.ReLU, nn.Linear]:
        found = ", ".join(f"{type(layer).__name__} ({name})" for name, layer in layers) or "no layer"
        raise ValueError(
            f"A shallow network must be Linear, ReLU, Linear. Got {found}. "
            "Cut a deeper model into blocks of three, or make it smaller with pathnorm.compress."
        )
    return _arrays(layers[0][1], layers[2][1], None)


def module_of(W: Matrix, b: Matrix, V: Matrix, A: Matrix, c: Matrix) -> Module:
    """The plainest float64 module that computes the function."""
    nn = _torch().nn
    if W.shape[0] == 0:
        return linear(A.T, c)
    hidden, output = linear(W, -b), linear(V.T, c)
    if not A.any():
        sequential: Module = nn.Sequential(hidden, nn.ReLU(), output)
        return sequential
    # By name: modules live above the spaces, which know no torch.
    module: Module = importlib.import_module("pathnorm.deep.shallow").ShallowModule(hidden, output, linear(A.T, None))
    return module


def linear(weight: Matrix, bias: Matrix | None) -> Linear:
    """A float64 layer with these weights (out, in) and bias (out,)."""
    torch = _torch()
    # On the meta device nothing is drawn, so the caller's random state stays as it is.
    layer: Linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = torch.nn.Parameter(torch.tensor(weight.copy(), dtype=torch.float64))
    if bias is not None:
        layer.bias = torch.nn.Parameter(torch.tensor(bias.copy(), dtype=torch.float64))
    return layer


def _layers(module: Any, name: str, nn: Any) -> Iterator[tuple[str, Any]]:
    """The layers in the order they are computed, without those that change nothing."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for child_name, child in module.named_children():
            yield from _layers(child, f"layer {child_name}" if name == "the module" else f"{name}.{child_name}", nn)
    elif isinstance(module, nn.Flatten):
        if (module.start_dim, module.end_dim) != (1, -1):
            raise ValueError(
                f"Flatten must keep the first dimension and join all others. Got {module} ({name}). Use nn.Flatten()."
            )
    elif isinstance(module, nn.Dropout | nn.AlphaDropout):
        if module.training and module.p > 0.0:
            raise ValueError(
                f"A network must give one value for one input. Got {module} in training mode ({name}), which draws at "
                "random. Call eval() on the module first."
            )
    elif not isinstance(module, nn.Identity):
        yield name, module


def _require_plain(name: str, layer: Any, nn: Any) -> None:
    for kind in (nn.Linear, nn.ReLU):
        # A subclass with a forward of its own is another function than its weights say.
        if isinstance(layer, kind) and type(layer).forward is kind.forward:
            return
    raise ValueError(
        f"A shallow network must be made of Linear, ReLU, Linear; Flatten, Identity and Dropout are passed over. "
        f"Got {type(layer).__name__} ({name}). Fold or unwrap it first, or give the block of three alone."
    )


def _arrays(hidden: Any, output: Any, skip: Any) -> dict[str, Matrix]:
    W, bias = _weights(hidden)
    V, c = _weights(output)
    if V.shape[1] != W.shape[0]:
        raise ValueError(
            f"The second Linear must read what the first gives. Got {W.shape[0]} outputs and {V.shape[1]} inputs. "
            "Give layers that fit."
        )
    A = np.zeros((W.shape[1], V.shape[0])) if skip is None else _weights(skip)[0].T
    return _named(W, -bias, V.T, A, c)


def _named(W: Matrix, b: Matrix, V: Matrix, A: Matrix, c: Matrix) -> dict[str, Matrix]:
    return {"W": W, "b": b, "V": V, "A": A, "c": c}


def _weights(layer: Any) -> tuple[Matrix, Matrix]:
    weight = layer.weight.detach().cpu().double().numpy()
    bias = np.zeros(weight.shape[0]) if layer.bias is None else layer.bias.detach().cpu().double().numpy()
    return weight, bias


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch modules need the package torch. Run: pip install 'pathnorm[torch]'.") from error
