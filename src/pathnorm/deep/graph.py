"""A network as a graph of ATen operations that can be run with any state.

:func:`trace` turns a module into a :class:`ModelGraph` through ``torch.export``. The
graph keeps the names of the module's parameters, so the same graph runs the original
network and any other weights of the same shapes: a compressed network is the original
graph with zero columns until the final surgery.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from pathnorm.deep.mixing import kept_key, run_kept
from pathnorm.deep.outputs_first import put_outputs_first, turned_state
from pathnorm.errors import TraceError, UnsupportedModelError

__all__ = ["ModelGraph", "State", "clean_copy", "computed_tensors", "op_name", "state_of", "trace"]

State = Mapping[str, Tensor]
_M = TypeVar("_M", bound=nn.Module)

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """The operations of a network in forward order.

    Attributes
    ----------
    nodes : tuple of torch.fx.Node
        Placeholders, calls and the output node, topologically sorted.
    state_keys : dict
        Placeholder name -> key in the module's ``state_dict``.
    constants : dict
        Placeholder name -> tensor, for tensors that are no part of the state.
    input_name : str
        Placeholder of the network's input.
    batch_size : int or None
        The only batch size the graph accepts, or None for any.
    last_use : tuple of int
        For every node, the index of the last node that reads it.
    turned : frozenset of str
        State keys whose first two dimensions the graph expects swapped, see :mod:`pathnorm.deep.outputs_first`.
    aliases : dict
        State key -> the other names of the same tensor.
    """

    nodes: tuple[fx.Node, ...]
    state_keys: dict[str, str]
    constants: dict[str, Tensor]
    input_name: str
    batch_size: int | None
    last_use: tuple[int, ...]
    turned: frozenset[str] = frozenset()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def index(self, node: fx.Node) -> int:
        """Return the position of ``node`` in forward order."""
        return int(node.meta["pathnorm_index"])

    def state_key(self, node: Any) -> str | None:
        """Return the ``state_dict`` key that ``node`` holds, or None."""
        return self.state_keys.get(node.name) if isinstance(node, fx.Node) else None

    def state_of(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the state of ``model`` as the graph reads it."""
        return turned_state(state_of(model), self.turned)

    def start(self, batch: Tensor) -> dict[fx.Node, Any]:
        """Return the values known before the first operation."""
        return {node: batch for node in self.nodes if node.name == self.input_name}

    def run(
        self,
        state: State,
        values: Mapping[fx.Node, Any],
        *,
        span: tuple[int, int],
        keep: Iterable[fx.Node] = (),
    ) -> dict[fx.Node, Any]:
        """Run the nodes ``span[0] <= i < span[1]`` and return what is still alive.

        Parameters
        ----------
        state : mapping
            ``state_dict`` key -> tensor.
        values : mapping
            Values alive before node ``span[0]``; not written to.
        keep : iterable of torch.fx.Node
            Nodes to return even if no later node reads them.
        """
        first, stop = span
        kept = set(keep)
        env = dict(values)

        def read(node: fx.Node) -> Any:
            if node.name in self.state_keys:
                return state[self.state_keys[node.name]]
            if node.name in self.constants:
                return self.constants[node.name]
            return env[node]

        for position in range(first, stop):
            node = self.nodes[position]
            if node.op == "call_function":
                args = fx.map_arg(node.args, read)
                kwargs = fx.map_arg(node.kwargs, read)
                left = state.get(kept_key(node))
                if left is None:
                    env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
                else:
                    schema = node.target._schema.arguments  # type: ignore[union-attr]
                    named = {argument.name: value for argument, value in zip(schema, args, strict=False)}
                    env[node] = run_kept(op_name(node), {**named, **kwargs}, left)
                for source in node.all_input_nodes:
                    if source in env and self.last_use[self.index(source)] <= position and source not in kept:
                        del env[source]
        return {node: value for node, value in env.items() if node in kept or self.last_use[self.index(node)] >= stop}

    @property
    def output_node(self) -> fx.Node:
        """The node whose value is the network's output."""
        (result,) = self.nodes[-1].all_input_nodes
        return result

    def outputs(self, state: State, batch: Tensor) -> Tensor:
        """Return the network's output for one batch."""
        node = self.output_node
        values = self.run(state, self.start(batch), span=(0, len(self.nodes)), keep=(node,))
        return values[node]  # type: ignore[no-any-return]


def op_name(node: fx.Node) -> str:
    """Return the operation's name without overload, e.g. ``conv2d``."""
    if node.target is operator.getitem:
        return "getitem"
    packet = getattr(node.target, "overloadpacket", None)
    return getattr(packet, "__name__", str(node.target)) if packet is not None else str(node.target)


def clean_copy(model: _M) -> _M:
    """Return a deep copy in evaluation mode, without hooks and gradients.

    Raises
    ------
    UnsupportedModelError
        If the model holds tensors that are computed from others, which have no copy of their own.
    """
    if computed := sorted({name for name, _ in computed_tensors(model)}):
        more = f" and {len(computed) - 3} more" if len(computed) > 3 else ""
        raise UnsupportedModelError(
            f"Every tensor of the model must be its own. Computed from others: {', '.join(computed[:3])}{more}. "
            "Masks are made permanent by torch.nn.utils.prune.remove(module, name), weight norm by "
            "torch.nn.utils.remove_weight_norm(module); what is kept from a forward needs torch.no_grad() there."
        )
    twin = copy.deepcopy(model)
    for module in twin.modules():
        for name in _HOOKS:
            hooks = getattr(module, name, None)
            if hooks:
                hooks.clear()
    for parameter in twin.parameters():
        parameter.grad = None
    return twin.eval()


def computed_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the tensors that modules hold as results of operations on others: masked weights, kept values."""
    found = []
    for path, module in model.named_modules():
        held = {**vars(module), **module._buffers}
        for name in held.keys() - {"_parameters", "_buffers", "_modules"}:
            value = list(held[name].values()) if isinstance(held[name], dict) else held[name]
            values = value if isinstance(value, (list, tuple)) else [value]
            parts = [part for part in values if isinstance(part, Tensor) and not part.is_leaf]
            found += [(f"{path}.{name}" if path else name, part) for part in parts]
    return found


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the state, detached: parameters and buffers, non-persistent ones included."""
    state = {name: tensor.detach() for name, tensor in model.named_parameters(remove_duplicate=False)}
    state.update({name: tensor.detach() for name, tensor in model.named_buffers(remove_duplicate=False)})
    return state


def trace(model: nn.Module, example: Tensor, *, outputs_first: bool = False) -> ModelGraph:
    """Return the graph of ``model`` in evaluation mode; the model itself is not touched.

    Parameters
    ----------
    model : torch.nn.Module
        Takes one tensor whose first dimension is the batch and returns one tensor.
    example : torch.Tensor, shape (n, ...)
        With n >= 2, so that the batch size can stay free.
    outputs_first : bool
        Whether to bring weights that are kept the other way round into one form; ``graph.state_of`` then gives
        the state that the graph expects.

    Raises
    ------
    TraceError
        If ``torch.export`` fails, if the model does not map one tensor to one tensor, or if
        the graph does not reproduce the model on ``example``.
    """
    twin = clean_copy(model)
    # Strides of a slice would become guards, which the decomposition below cannot read.
    example = example.contiguous()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = twin(example)
        except Exception as error:
            raise TraceError(
                f"The model must run on a batch of the given data. It failed on an input of shape "
                f"{tuple(example.shape)}, {example.dtype}: {_first_lines(error)}. Check the data's shape and dtype."
            ) from error
        if not isinstance(expected, Tensor):
            raise TraceError(
                f"The model must return one tensor, got {type(expected).__name__}. "
                "Wrap it in a module that returns the tensor to be preserved."
            )
        try:
            program = torch.export.export(twin, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
            program = program.run_decompositions({})
        except Exception as error:
            raise TraceError(
                f"torch.export must be able to trace the model. It stopped with {type(error).__name__}: "
                f"{_first_lines(error)}. Remove data-dependent control flow there, or compress the "
                "traceable submodule on its own."
            ) from error
    graph = _model_graph(program, _aliases(twin), outputs_first=outputs_first)
    with torch.no_grad():
        got = graph.outputs(graph.state_of(twin), example)
    scale = float(expected.abs().max()) or 1.0
    if got.shape != expected.shape or float((got - expected).abs().max()) > 1e-4 * scale:
        raise TraceError(
            "The traced graph must reproduce the model. Their outputs differ on the example batch: "
            "the model depends on something torch.export cannot see (hooks, global state, random numbers)."
        )
    return graph


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return, for tensors with several names, each name with the others."""
    names: dict[int, list[str]] = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        names.setdefault(id(tensor), []).append(name)
    shared = [found for found in names.values() if len(found) > 1]
    return {name: tuple(other for other in found if other != name) for found in shared for name in found}


def _model_graph(
    program: torch.export.ExportedProgram, aliases: Mapping[str, tuple[str, ...]], *, outputs_first: bool
) -> ModelGraph:
    signature = program.graph_signature
    state_keys = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {
        name: program.constants[target] for name, target in signature.inputs_to_lifted_tensor_constants.items()
    }
    inputs = list(signature.user_inputs)
    if signature.buffers_to_mutate or len(inputs) != 1 or len(signature.user_outputs) != 1:
        raise TraceError(
            "The model must map one tensor to one tensor and leave its buffers alone. It has "
            f"{len(inputs)} inputs, {len(signature.user_outputs)} outputs and writes to "
            f"{sorted(signature.buffers_to_mutate.values()) or 'no buffer'}. Wrap it accordingly."
        )
    for node in list(program.graph.nodes):
        if op_name(node) == "_assert_tensor_metadata":  # what ``.to(dtype)`` leaves behind; nothing is computed
            program.graph.erase_node(node)
    turned = put_outputs_first(program.graph, state_keys) if outputs_first else frozenset()
    turned |= {other for key in turned for other in aliases.get(key, ())}
    nodes = tuple(program.graph.nodes)
    for position, node in enumerate(nodes):
        node.meta["pathnorm_index"] = position
    last_use = tuple(
        max((user.meta["pathnorm_index"] for user in node.users), default=position)
        for position, node in enumerate(nodes)
    )
    entry = next(node for node in nodes if node.name == inputs[0])
    size = entry.meta["val"].shape[0]
    return ModelGraph(
        nodes=nodes,
        state_keys=state_keys,
        constants=constants,
        input_name=str(inputs[0]),
        batch_size=size if isinstance(size, int) else None,
        last_use=last_use,
        turned=turned,
        aliases=aliases,
    )


def _first_lines(error: Exception) -> str:
    """Return the telling part of an error: its first lines and the user's line, if torch names it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = [line for line in lines if line.startswith("File ") and "site-packages" not in line]
    return " | ".join([*lines[:2], *where[-1:]])[:600] or type(error).__name__
