"""Save a compressed network as weights and a recipe, and replay it on the original factory.

Nothing is pickled: weights are safetensors, the recipe and the record are JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pathnorm.deep.surgery import changed_heads, install
from pathnorm.errors import RecipeError
from pathnorm.report.folder import new_folder
from pathnorm.report.records import CompressionRecord

__all__ = ["load", "make_recipe", "save_compression"]

_FORMAT = 2
_WEIGHTS, _RECIPE, _RECORD = "model.safetensors", "recipe.json", "record.json"


def make_recipe(original: nn.Module, small: nn.Module) -> dict[str, Any]:
    """Return the shapes that change and those that must match, by state key, and numbers of heads that change."""
    old, new = original.state_dict(), small.state_dict()
    return {
        "format": _FORMAT,
        "class": f"{type(original).__module__}.{type(original).__qualname__}",
        "tensors": {
            key: {"from": list(old[key].shape), "to": list(new[key].shape), "dtype": str(new[key].dtype)} for key in new
        },
        "heads": changed_heads(original, small),
    }


def save_compression(
    model: nn.Module, recipe: dict[str, Any], record: CompressionRecord, folder: Path, *, force: bool = False
) -> Path:
    """Write the weights, the recipe and the record into ``folder``; all or nothing.

    Raises
    ------
    OutputFolderError
        If ``folder`` has files and ``force`` is false, or cannot be written.
    """
    with new_folder(folder, force=force) as draft:
        weights = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
        try:
            save_file(weights, draft / _WEIGHTS)
        except SafetensorError as error:  # how safetensors reports what the disk says
            raise OSError(str(error)) from error
        (draft / _WEIGHTS).chmod(0o644)
        full = {**recipe, "sha256": _digest(draft / _WEIGHTS)}
        (draft / _RECIPE).write_text(json.dumps(full, indent=1), encoding="utf-8")
        (draft / _RECORD).write_text(record.to_json(), encoding="utf-8")
    return folder


def load(factory: Callable[[], nn.Module], folder: str | Path) -> nn.Module:
    """Return the saved network, built by replaying the recipe on ``factory()``.

    Raises
    ------
    RecipeError
        If a file is missing or corrupt, or the factory's model does not have the recorded shapes.
    """
    folder = Path(folder)
    recipe = _read_recipe(folder)
    model = factory()
    if not isinstance(model, nn.Module):
        raise RecipeError(f"The factory must return a torch.nn.Module. It returned {type(model).__name__}.")
    state = model.state_dict()
    planned = recipe["tensors"]
    missing, extra = sorted(set(planned) - set(state)), sorted(set(state) - set(planned))
    if missing or extra:
        raise RecipeError(
            f"The factory must build the network that was compressed ({recipe['class']}). Missing there: "
            f"{missing[:3] or 'none'}; not in the recipe: {extra[:3] or 'none'}. Use the original factory."
        )
    for key, plan in planned.items():
        if list(state[key].shape) != plan["from"]:
            raise RecipeError(
                f"The factory must build the network that was compressed. {key} should have shape {plan['from']}, "
                f"it has {list(state[key].shape)}. Use the original factory and arguments."
            )
    weights = _read_weights(folder, recipe)
    try:
        install(model, weights, recipe["heads"])
    except (AttributeError, ValueError) as error:
        raise RecipeError(f"The recipe must name numbers of heads that the factory's model has. {error}.") from error
    return model.eval()


def _read_recipe(folder: Path) -> dict[str, Any]:
    try:
        recipe = json.loads((folder / _RECIPE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(
            f"The folder must hold {_RECIPE}. {folder} does not. Give a folder written by save."
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecipeError(f"{folder / _RECIPE} must be a JSON recipe. It cannot be read: {error}.") from error
    if not isinstance(recipe, dict) or recipe.get("format") != _FORMAT:
        found = recipe.get("format") if isinstance(recipe, dict) else type(recipe).__name__
        raise RecipeError(f"The recipe must have format {_FORMAT}. Got {found!r}. Save it again with this version.")
    tensors = recipe.get("tensors")
    if not isinstance(tensors, dict) or not all(
        isinstance(plan, dict) and {"from", "to", "dtype"} <= set(plan) for plan in tensors.values()
    ):
        raise RecipeError("The recipe must list every tensor with its shapes. It does not: the file is damaged.")
    heads = recipe.get("heads")
    if not isinstance(heads, dict) or not all(
        isinstance(counts, dict) and all(type(count) is int for count in counts.values()) for counts in heads.values()
    ):
        raise RecipeError("The recipe must list the numbers of heads that change. It does not: the file is damaged.")
    return recipe


def _read_weights(folder: Path, recipe: dict[str, Any]) -> dict[str, torch.Tensor]:
    path = folder / _WEIGHTS
    try:
        digest = _digest(path)
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{path} must be a safetensors file. It cannot be read: {error}.") from error
    if digest != recipe.get("sha256"):
        raise RecipeError(f"{path} must be the file the recipe was saved with. Its SHA-256 differs: it was changed.")
    for key, plan in recipe["tensors"].items():
        tensor = weights.get(key)
        if tensor is None or list(tensor.shape) != plan["to"] or str(tensor.dtype) != plan["dtype"]:
            got = "nothing" if tensor is None else f"{list(tensor.shape)} {tensor.dtype}"
            raise RecipeError(f"{path} must hold {key} as {plan['to']} {plan['dtype']}. It holds {got}.")
    return {key: weights[key] for key in recipe["tensors"]}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
