"""What a command line can name: a factory, weights, data and labels.

Importing a factory runs the user's own code, as the user asked. Files of weights and
arrays are only read: nothing in them is executed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pathnorm.deep.images import ImageOptions, load_images
from pathnorm.errors import DataError

__all__ = ["load_data", "load_factory", "load_labels", "load_model", "load_weights"]

DATA_KEYS = ("x", "X", "images", "data")
LABEL_KEYS = ("y", "Y", "labels", "targets")

# Names under which training scripts keep the state dict in a checkpoint.
WRAPPERS = ("state_dict", "model_state_dict", "model")


def load_factory(spec: str) -> Callable[..., Any]:
    """Return the callable that ``package.module:callable`` or ``file.py:callable`` names.

    Raises
    ------
    ValueError
        If the module cannot be imported, or has no such callable.
    """
    source, colon, name = spec.rpartition(":")
    if not (source and colon and name):
        raise ValueError(
            f"A callable must be given as 'package.module:callable' or 'file.py:callable', got {spec!r}. "
            "Write the name of the function after a colon."
        )
    module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        offered = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        state = "is missing" if found is None else f"is a {type(found).__name__}"
        raise ValueError(
            f"{source} must have a callable {name!r}, but it {state}. "
            f"Use one that is there: {', '.join(offered[:10]) or 'none is'}."
        )
    return found  # type: ignore[no-any-return]


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a safetensors file, or in a file of ``torch.save`` read without code.

    A state dict inside a checkpoint (``{"state_dict": ...}``) is taken out, and a ``module.`` prefix
    that wrappers for several devices leave on every name is removed.
    """
    path = _existing_file(path, what="Weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise DataError(
                f"{path} must be a safetensors file, but reading it failed: {error}. Save it again."
            ) from error
    try:
        with warnings.catch_warnings():
            # Of no use to a reader: the file is then either read in full or refused.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} must hold tensors only; it is not a file of torch.save, or it needs code to be run, and "
            "that is "
            "refused. Save the weights alone: torch.save(model.state_dict(), path)."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} must be a safetensors file or a state dict of torch.save, but reading it failed: "
            f"{_first_line(error)}. Save the weights again."
        ) from error
    return _state_dict(content, path)


def load_model(factory: str, weights: str | Path) -> nn.Module:
    """Return the model that the factory builds, with the weights, in evaluation mode."""
    build = load_factory(factory)
    try:
        model = build()
    except Exception as error:
        raise ValueError(
            f"{factory} must build the model when called without arguments; it raised "
            f"{type(error).__name__}: "
            f"{_first_line(error)}. Give a function that needs none."
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{factory} must return a torch.nn.Module, got {type(model).__name__}. Return the model itself."
        )
    state = load_weights(weights)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
        problems = [f"missing {name}" for name in missing] + [f"unexpected {name}" for name in unexpected]
    except RuntimeError as error:  # a tensor of another shape
        problems = [line.strip() for line in str(error).splitlines()[1:]] or [_first_line(error)]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(
            f"The weights in {weights} must fit the model of {factory}, but: "
            f"{'; '.join(problems[:3])}{more}. "
            "Give the factory that these weights were trained with."
        )
    return model.eval()


def load_data(
    spec: str, *, images: ImageOptions | None = None, limit: int | None = None
) -> np.ndarray | Tensor | DataLoader[Any]:
    """Return the inputs that ``spec`` names.

    Parameters
    ----------
    spec : str
        A ``.npy`` file, a ``.npz`` file (with ``:key`` if it holds several arrays), a folder of images,
        or ``package.module:callable`` returning a DataLoader, an array or a tensor.
    images : ImageOptions or None
        How images become arrays; only for a folder.
    limit : int or None
        Use the first ``limit`` samples only.
    """
    if Path(spec).is_dir():
        return load_images(Path(spec), options=images or ImageOptions(), limit=limit)
    if images is not None:
        raise ValueError(
            f"Options for images go with a folder of images, got data {spec!r}. Leave them out, or give a folder."
        )
    if _is_array_file(spec):
        array = _floating(_load_array(spec, keys=DATA_KEYS), spec)
        return array[:limit]
    if ":" not in spec:
        raise ValueError(
            f"Data must be a .npy or .npz file, a folder of images, or 'package.module:callable'; {spec!r} "
            "is none of "
            "these, or does not exist. Check the path."
        )
    data = load_factory(spec)()
    if isinstance(data, DataLoader):
        return data if limit is None else _first_samples(data, limit)
    if isinstance(data, (np.ndarray, Tensor)):
        return data[:limit]
    raise ValueError(
        f"{spec} must return a DataLoader, an array or a tensor, got {type(data).__name__}. Return one of these."
    )


def load_labels(spec: str, *, limit: int | None = None) -> np.ndarray:
    """Return integer labels (N,) from a ``.npy`` or ``.npz`` file."""
    if not _is_array_file(spec):
        raise ValueError(f"Labels must be a .npy or .npz file, got {spec!r}. Save them with numpy.save.")
    labels = _load_array(spec, keys=LABEL_KEYS)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"Labels must be integers of shape (N,), got {labels.dtype} of shape {labels.shape} in {spec}. "
            "Give the index of the right class for each sample."
        )
    return labels[:limit].astype(np.int64)


# ------------------------------------------------------------------------------ modules


@contextmanager
def _search_path(folder: Path) -> Iterator[None]:
    """Let a module import its neighbours, as it could if it were run as a script."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _import_file(path: Path) -> ModuleType:
    path = _existing_file(path, what="The file of the callable")
    # One name per file, so that two files called model.py do not meet.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"_pathnorm_source_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} must be a Python file that can be imported. Check its name.")
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: dataclasses look their own module up.
    sys.modules[name] = module
    try:
        with _search_path(path.parent):
            spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise _import_failed(str(path), error) from error
    return module


def _import_module(name: str) -> ModuleType:
    try:
        with _search_path(Path.cwd()):
            return importlib.import_module(name)
    except Exception as error:
        raise _import_failed(name, error) from error


def _import_failed(source: str, error: Exception) -> ValueError:
    return ValueError(
        f"{source} must be importable, but importing it raised {type(error).__name__}: {_first_line(error)}. "
        "Run from the folder that holds it, or give 'file.py:callable'."
    )


# ------------------------------------------------------------------------------ files


def _existing_file(path: str | Path, *, what: str) -> Path:
    path = Path(path)
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"{what} must be a file; {path} {state}. Check the path.")
    return path


def _is_array_file(spec: str) -> bool:
    return spec.endswith((".npy", ".npz")) or spec.rpartition(":")[0].endswith(".npz")


def _load_array(spec: str, *, keys: tuple[str, ...]) -> np.ndarray:
    source, _, key = spec.rpartition(":") if not spec.endswith((".npy", ".npz")) else (spec, "", "")
    path = _existing_file(source, what="An array")
    # Opened here, because numpy leaves a broken archive open.
    with path.open("rb") as stream:
        try:
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise _unreadable(path, error) from error
        with content as archive:
            name = _choose_key(list(archive.files), key, keys=keys, path=path)
            try:
                array: np.ndarray = archive[name]
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise _unreadable(path, error) from error
    return array


def _choose_key(there: list[str], key: str, *, keys: tuple[str, ...], path: Path) -> str:
    if key:
        if key not in there:
            raise ValueError(f"{path} must hold an array {key!r}; it holds {', '.join(there)}. Name one of those.")
        return key
    if len(there) == 1:
        return there[0]
    usual = [name for name in keys if name in there]
    if len(usual) != 1:
        raise ValueError(
            f"It must be clear which array of {path} is meant; it holds {', '.join(there) or 'none'}. "
            f"Name one: {path}:KEY."
        )
    return usual[0]


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} must hold a plain numeric array, but reading it failed: {_first_line(error)}. "
        "Arrays of Python objects are refused; save numbers with numpy.save."
    )


def _floating(array: np.ndarray, spec: str) -> np.ndarray:
    """Return floats in single precision, the precision of the usual network; refuse grey values."""
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"Data must be floating point, scaled as the network was trained, got {array.dtype} in {spec}. "
            "Convert and normalise it first."
        )
    return np.asarray(array, dtype=np.float32)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
        state = {key: value for key, value in inner.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if state and len(state) == len(inner):
            prefix = "module."
            if all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
            return state
    raise DataError(
        f"{path} must hold a state dict, names and tensors, got {type(content).__name__} with other content. "
        "Save the weights alone: torch.save(model.state_dict(), path)."
    )


def _first_samples(loader: DataLoader[Any], limit: int) -> Tensor:
    parts: list[Tensor] = []
    for batch in loader:
        inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
        parts.append(inputs)
        if sum(len(part) for part in parts) >= limit:
            break
    if not parts:
        raise DataError("The DataLoader must give at least one batch, it gave none. Check its dataset.")
    return torch.cat(parts)[:limit]


def _first_line(error: BaseException) -> str:
    """Return what an error says, without the pages that some libraries add, and no full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
