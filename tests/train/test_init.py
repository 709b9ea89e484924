"""Runs that begin with given weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_world import quick_recipe

import ecgecho
import embed_cache
from ecgecho import weights
from ecgecho.encoders import resnet_small
from ecgecho.methods import ecg_clip
from ecgecho.train import train
from ecgecho.types import UsageError, UserError

NO_STEP = ("optim.steps=0", "optim.epochs=0", "method.on=text")


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("init") / "private-name"
    train(quick_recipe("ecg_clip", "optim.steps=2", "method.on=text"), **world.paths(), out=out, progress=False)
    return out


@pytest.fixture
def given(trained, tmp_path):
    """The same weights elsewhere, under a name that must be nowhere in a run."""
    path = tmp_path / "secret-place" / "w.safetensors"
    path.parent.mkdir()
    path.write_bytes((trained / "model.safetensors").read_bytes())
    return path


def test_no_step_from_given_weights_is_a_finished_run_of_them(world, trained, given, tmp_path):
    said: list[str] = []
    result = train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), init=given, out=tmp_path / "run", say=said.append)
    assert result["steps"] == 0
    assert any("tensors of a run's model" in line for line in said)
    store, rows = embed_cache.open(world.ecg), np.arange(5)
    one, two = (ecgecho.load(run).embed_rows(store, rows)[0] for run in (trained, tmp_path / "run"))
    np.testing.assert_array_equal(one, two)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["identity"]["init_sha256"] == weights.sha256(given)
    assert "secret-place" not in (tmp_path / "run" / "run.json").read_text()


def test_a_run_that_was_given_no_weights_has_no_word_of_them(trained):
    assert "init_sha256" not in json.loads((trained / "run.json").read_text())["identity"]


def test_a_run_goes_on_from_the_weights_it_began_with_and_from_no_others(world, given, tmp_path):
    recipe, run = quick_recipe("ecg_clip", *NO_STEP), tmp_path / "run"
    train(recipe, **world.paths(), init=given, out=run, progress=False)
    assert train(recipe, **world.paths(), init=given, out=run, progress=False)["already_done"]
    other = tmp_path / "other.safetensors"
    save_file({name: value + 1 for name, value in load_file(given).items()}, other)
    with pytest.raises(UserError, match="is another run: it was begun with another --init file"):
        train(recipe, **world.paths(), init=other, out=run, progress=False)
    with pytest.raises(UserError, match="it was begun with --init; "):
        train(quick_recipe("ecg_clip", "optim.steps=2", "method.on=text"), **world.paths(), out=run, progress=False)


def test_a_run_that_began_without_weights_is_not_gone_on_with_with_them(world, trained, given):
    with pytest.raises(UserError, match="is another run: it was begun without --init; "):
        train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), init=given, out=trained, progress=False)


def test_training_begins_with_the_weights(world, given, tmp_path):
    words = ("optim.steps=1", "optim.learning_rate=1e-30", "optim.weight_decay=0", "method.on=text")
    train(quick_recipe("ecg_clip", *words), **world.paths(), init=given, out=tmp_path / "run", progress=False)
    before, after = load_file(given), load_file(tmp_path / "run" / "model.safetensors")
    still = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in still)


@pytest.mark.parametrize(("by_method", "told"), [(["all of it"], "all of it"), ([], "the encoder's")])
def test_the_method_is_asked_first_and_then_the_encoder(by_method, told, world, tmp_path, monkeypatch):
    asked = []

    def method(model, path):
        asked.append(type(model).__name__)
        return by_method

    def encoder(model, path):
        asked.append(type(model).__name__)
        return ["the encoder's"]

    monkeypatch.setattr(ecg_clip, "import_weights", method, raising=False)
    monkeypatch.setattr(resnet_small, "import_weights", encoder, raising=False)
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "part.ckpt").write_bytes(b"1")
    said: list[str] = []
    train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), init=folder, out=tmp_path / "run", say=said.append)
    assert told in said
    assert asked == (["EcgClip"] if by_method else ["EcgClip", "ResnetSmall"])
    (folder / "part.ckpt").write_bytes(b"2")
    with pytest.raises(UserError, match="it was begun with another --init file"):
        train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), init=folder, out=tmp_path / "run", say=said.append)


def test_weights_that_know_other_words_are_refused(world, given, trained, tmp_path):
    kept = json.loads((trained / "vocabulary.json").read_text())
    beside = given.with_name("vocabulary.json")
    beside.write_text(json.dumps(kept))
    train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), init=given, out=tmp_path / "run", progress=False)
    beside.write_text(json.dumps({**kept, "tokens": kept["tokens"][::-1]}))
    with pytest.raises(UserError, match="another vocabulary"):
        train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), init=given, out=tmp_path / "other", progress=False)


def test_weights_that_nobody_knows_and_no_weights_are_refused(world, trained, tmp_path):
    (tmp_path / "w").mkdir()
    save_file({"blocks.0.weight": torch.zeros(2)}, tmp_path / "w" / "w.safetensors")
    with pytest.raises(UserError, match="neither ecg_clip nor resnet_small knows these weights"):
        train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), init=tmp_path / "w" / "w.safetensors", out=tmp_path / "run")
    with pytest.raises(UsageError, match="is the folder of a run; give .*private-name/model.safetensors"):
        train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), init=trained, out=tmp_path / "run")
    with pytest.raises(UsageError, match="no such file"):
        train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), init=tmp_path / "nothing", out=tmp_path / "run")
    with pytest.raises(UsageError, match="add --init FILE"):
        train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["two less", "one more", "another shape"])
def test_weights_of_a_run_that_do_not_fit_are_told_name_by_name(change, world, given, tmp_path):
    state = load_file(given)
    last = sorted(state)[-2:]
    if change == "two less":
        named = ["missing ", *last]
        state = {name: value for name, value in state.items() if name not in last}
    elif change == "one more":
        named, state = ["unexpected of.another"], {**state, "of.another": torch.zeros(2)}
    else:
        named, state = [f"{last[0]} is (3, 2), not "], {**state, last[0]: torch.zeros(3, 2)}
    save_file(state, given)
    with pytest.raises(UserError, match="does not fit EcgClip") as refused:
        train(quick_recipe("ecg_clip", *NO_STEP), **world.paths(), init=given, out=tmp_path / "run")
    for words in named:
        assert words in str(refused.value)
