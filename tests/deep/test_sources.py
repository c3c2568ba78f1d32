"""What a command line can name: only read, never executed, refused with a reason."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pathnorm.deep.images import ImageOptions, load_images
from pathnorm.deep.sources import load_data, load_factory, load_labels, load_model, load_weights
from pathnorm.errors import DataError

MODELS = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from neighbour import WIDTH

@dataclass
class Config:
    width: int = WIDTH

class Zoo:
    @staticmethod
    def small():
        return build()

def build():
    return nn.Sequential(nn.Linear(3, Config().width), nn.ReLU(), nn.Linear(Config().width, 2))

def needs_argument(width):
    return build()

def not_a_model():
    return 3

number = 7

def loader():
    data = torch.utils.data.TensorDataset(torch.arange(24.0).reshape(8, 3), torch.zeros(8))
    return torch.utils.data.DataLoader(data, batch_size=3)

def nothing():
    return None
"""


@pytest.fixture
def models(tmp_path):
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    path = tmp_path / "models.py"
    path.write_text(MODELS)
    yield path
    sys.modules.pop("neighbour", None)
    sys.modules.pop("models", None)


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class Payload:
    """Pickles into a call that makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


# ---------------------------------------------------------------- factories


def test_a_callable_in_a_file_is_found_with_its_neighbours(models):
    before = list(sys.path)
    assert isinstance(load_factory(f"{models}:build")(), nn.Sequential)
    assert isinstance(load_factory(f"{models}:Zoo.small")(), nn.Sequential)
    assert sys.path == before


def test_a_callable_in_a_module_of_the_working_folder_is_found(models, monkeypatch):
    monkeypatch.chdir(models.parent)
    before = list(sys.path)
    assert isinstance(load_factory("models:build")(), nn.Sequential)
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("models.py", "package.module:callable"),
        ("models.py:", "package.module:callable"),
        (":build", "package.module:callable"),
        ("{models}:absent", "'absent'.*is missing.*build"),
        ("{models}:number", "is a int"),
        ("nowhere.py:build", "does not exist"),
        ("no_such_module_here:build", "ModuleNotFoundError"),
    ],
)
def test_a_factory_that_is_not_there_is_refused(models, spec, words):
    with pytest.raises(ValueError, match=words):
        load_factory(spec.format(models=models))


def test_a_file_that_fails_to_import_says_why(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise RuntimeError('no such device')\n")
    with pytest.raises(ValueError, match="RuntimeError: no such device"):
        load_factory(f"{path}:build")


# ---------------------------------------------------------------- weights


def test_safetensors_and_state_dicts_give_the_same_weights(network, tmp_path):
    state = network.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "c.pt")
    for name in ("w.safetensors", "w.pt", "c.pt"):
        found = load_weights(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_with_a_payload_is_refused_and_not_run(tmp_path, suffix, how):
    trap = tmp_path / "trap"
    path = tmp_path / f"w.{suffix}"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"weight": Payload(trap)}))
    else:
        torch.save({"weight": Payload(trap)}, path)
    with pytest.raises(DataError):
        load_weights(path)
    assert not trap.exists()
    # The trap works: what was refused would have made the file.
    if how == "pickle":
        pickle.loads(path.read_bytes())["weight"].close()
        assert trap.exists()


def test_a_whole_pickled_model_is_refused_with_what_to_do(network, tmp_path):
    torch.save(network, tmp_path / "model.pt")
    with pytest.raises(DataError, match="state_dict"):
        load_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_corrupt_file_of_weights_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"Save"):
        load_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, torch.zeros(2)])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(DataError, match="state dict"):
        load_weights(tmp_path / "w.pt")


def test_a_missing_file_of_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_weights(tmp_path / "w.pt")
    with pytest.raises(ValueError, match="is a folder"):
        load_weights(tmp_path)


def test_the_model_gets_the_weights_and_is_in_evaluation_mode(models, network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    model = load_model(f"{models}:build", tmp_path / "w.pt")
    assert not model.training
    assert torch.equal(model[0].weight, network[0].weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("0.bias"), "missing 0.bias"),
        (lambda s: s.update({"9.bias": torch.zeros(2)}), "unexpected 9.bias"),
        (lambda s: s.update({"0.bias": torch.zeros(5)}), "size mismatch for 0.bias"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(models, network, tmp_path, change, words):
    state = network.state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError, match=words):
        load_model(f"{models}:build", tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("name", "words"), [("needs_argument", "without arguments.*TypeError"), ("not_a_model", "got int")]
)
def test_a_factory_that_builds_no_model_is_refused(models, network, tmp_path, name, words):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=words):
        load_model(f"{models}:{name}", tmp_path / "w.pt")


# ---------------------------------------------------------------- arrays


def test_arrays_are_read_in_single_precision(tmp_path):
    array = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "one.npz", anything=array)
    np.savez(tmp_path / "two.npz", X=array, y=np.arange(4))
    for spec in ("x.npy", "one.npz", "two.npz", "two.npz:X"):
        found = load_data(str(tmp_path / spec))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array)
    assert load_data(str(tmp_path / "x.npy"), limit=2).shape == (2, 3)
    np.testing.assert_array_equal(load_labels(str(tmp_path / "two.npz")), np.arange(4))


def test_a_wrong_or_unclear_key_is_refused_with_the_ones_there_are(tmp_path):
    np.savez(tmp_path / "a.npz", left=np.ones((2, 2)), right=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"'middle'.*left, right"):
        load_data(f"{tmp_path / 'a.npz'}:middle")
    with pytest.raises(ValueError, match=r"which array.*left, right.*:KEY"):
        load_data(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_arrays_of_objects_are_refused_and_not_unpickled(tmp_path, name):
    trap = tmp_path / "trap"
    array = np.array([Payload(trap)], dtype=object)
    if name.endswith("npy"):
        np.save(tmp_path / name, array, allow_pickle=True)
    else:
        np.savez(tmp_path / name, x=array)
    with pytest.raises(DataError, match="plain numeric"):
        load_data(str(tmp_path / name))
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage", pickle.dumps([1])])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_corrupt_array_is_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="plain numeric"):
        load_data(str(tmp_path / name))


def test_grey_values_as_integers_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"uint8.*normalise"):
        load_data(str(tmp_path / "x.npy"))


def test_labels_are_integers_one_per_sample(tmp_path):
    np.save(tmp_path / "y.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"shape \(N,\)"):
        load_labels(str(tmp_path / "y.npy"))
    with pytest.raises(ValueError, match=r"\.npy"):
        load_labels("labels.csv")


def test_data_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_data(str(tmp_path / "x.npy"))
    with pytest.raises(ValueError, match="none of these"):
        load_data("somewhere")


# ---------------------------------------------------------------- loaders


def test_a_loader_is_passed_on_or_cut(models):
    loader = load_data(f"{models}:loader")
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.dataset, TensorDataset)
    first = load_data(f"{models}:loader", limit=4)
    torch.testing.assert_close(first, torch.arange(12.0).reshape(4, 3))
    with pytest.raises(ValueError, match="got NoneType"):
        load_data(f"{models}:nothing")


# ---------------------------------------------------------------- images


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    for name, level in (("b/0.png", 255), ("a1.png", 51), ("a0.png", 0)):
        Image.new("RGB", (6, 4), (level, 0, level)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_images_are_sorted_scaled_and_normalised(folder):
    images = load_data(str(folder), images=ImageOptions(mean=(0.0, 0.5, 0.0), std=(1.0, 0.5, 2.0)))
    assert images.shape == (3, 3, 4, 6)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[:, 0, 0, 0], [0.0, 0.2, 1.0], atol=1e-6)
    np.testing.assert_allclose(images[:, 1], -1.0)
    np.testing.assert_allclose(images[:, 2, 3, 5], [0.0, 0.1, 0.5], atol=1e-6)


def test_images_can_be_grey_resized_and_fewer(folder):
    options = ImageOptions(size=(2, 5), mean=(0.0,), std=(1.0,))
    assert load_data(str(folder), images=options, limit=2).shape == (2, 1, 2, 5)


def test_images_of_two_sizes_need_a_size(folder):
    Image.new("RGB", (5, 5)).save(folder / "z.png")
    with pytest.raises(DataError, match=r"4x6.*z\.png.*5x5"):
        load_data(str(folder))
    assert load_data(str(folder), images=ImageOptions(size=(4, 4))).shape == (4, 3, 4, 4)


def test_a_broken_image_is_named(folder):
    (folder / "a5.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(DataError, match=r"a5\.png"):
        load_data(str(folder))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="must hold images"):
        load_data(str(tmp_path))


def test_images_that_do_not_fit_are_refused_before_they_are_read(folder, monkeypatch):
    monkeypatch.setattr("pathnorm.deep.images.MOST_BYTES", 100)
    with pytest.raises(DataError, match="Take fewer"):
        load_images(folder, options=ImageOptions())


def test_options_for_images_need_a_folder(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    with pytest.raises(ValueError, match="folder of images"):
        load_data(str(tmp_path / "x.npy"), images=ImageOptions())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": (0.0, 0.0)}, "one entry"),
        ({"std": (1.0,)}, "one entry"),
        ({"std": (1.0, 0.0, 1.0)}, "positive"),
        ({"size": (0, 3)}, "positive"),
    ],
)
def test_options_that_do_not_agree_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        ImageOptions(**changes)


def test_nothing_is_left_open(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 2)))
    load_data(str(tmp_path / "a.npz"))
    os.remove(tmp_path / "a.npz")
