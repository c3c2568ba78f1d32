from __future__ import annotations

import errno
import json
import os

import pytest
import torch

from pathnorm.deep import compress, load, recipe
from pathnorm.errors import OutputFolderError, RecipeError


@pytest.fixture
def saved(build, sample, tmp_path):
    made = compress(build("chain"), sample("chain", 300), params=0.6, batch_size=64)
    return made, made.save(tmp_path / "out")


def test_a_saved_network_comes_back_exactly(saved, build, sample):
    made, folder = saved
    again = load(lambda: build("chain", seed=7), folder)
    batch = sample("chain", 9)
    with torch.no_grad():
        assert torch.equal(again(batch), made.model(batch))
    assert again.conv1.out_channels == again.conv1.weight.shape[0] == again.bn1.num_features == again.conv2.in_channels
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.safetensors",
        "recipe.json",
        "record.json",
    ]
    assert json.loads((folder / "record.json").read_text())["params_after"] == made.record.params_after


def test_an_existing_folder_is_kept_unless_forced(saved):
    made, folder = saved
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(OutputFolderError, match="must be new or empty"):
        made.save(folder)
    assert (folder / "mine.txt").read_text() == "keep"
    before = (folder / "record.json").stat().st_ino
    made.save(folder, force=True)
    assert (folder / "mine.txt").read_text() == "keep"  # never delete what is not ours
    assert (folder / "record.json").stat().st_ino != before


def test_a_full_disk_leaves_nothing_behind(saved, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recipe, "save_file", full)
    with pytest.raises(OutputFolderError, match="No space left"):
        saved[0].save(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_interruption_leaves_nothing_behind(saved, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        saved[0].save(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def damage_json(folder):
    (folder / "recipe.json").write_text("{")


def damage_format(folder):
    (folder / "recipe.json").write_text(json.dumps({"format": 99}))


def damage_weights(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))


def truncate_weights(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:50])


def damage_shape(folder):
    content = json.loads((folder / "recipe.json").read_text())
    content["tensors"]["conv1.weight"]["to"] = [1, 2, 3, 3]
    (folder / "recipe.json").write_text(json.dumps(content))


def with_heads(heads):
    def damage(folder):
        content = json.loads((folder / "recipe.json").read_text())
        (folder / "recipe.json").write_text(json.dumps(content | {"heads": heads}))

    return damage


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage_json, "must be a JSON recipe"),
        (damage_format, "must have format 2. Got 99"),
        (damage_weights, "SHA-256 differs"),
        (truncate_weights, "safetensors|SHA-256"),
        (with_heads(None), "must list the numbers of heads"),
        (with_heads({"conv1": {"num_heads": "two"}}), "must list the numbers of heads"),
        (with_heads({"conv1": {"forward": 2}}), "conv1 states no number of heads by the name forward"),
        (with_heads({"nowhere": {"num_heads": 2}}), "must name numbers of heads"),
        (damage_shape, r"must hold conv1\.weight as \[1, 2, 3, 3\]"),
    ],
)
def test_damage_is_found_and_named(harm, message, saved, build):
    harm(saved[1])
    with pytest.raises(RecipeError, match=message):
        load(lambda: build("chain"), saved[1])


def test_another_factory_is_refused(saved, build, tmp_path):
    with pytest.raises(RecipeError, match="must build the network that was compressed"):
        load(lambda: build("mlp"), saved[1])
    with pytest.raises(RecipeError, match=r"must return a torch\.nn\.Module"):
        load(lambda: 3, saved[1])
    with pytest.raises(RecipeError, match=r"must hold recipe\.json"):
        load(lambda: build("chain"), tmp_path / "nowhere")
