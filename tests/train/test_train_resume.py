"""A run that was stopped and started again is the run that was never stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_world import make_world, quick_recipe

from ecgecho import plugins, state
from ecgecho.data import sampler
from ecgecho.train import train
from ecgecho.types import UserError

WORDS = ("optim.steps=24", "optim.checkpoint_minutes=0.003", "data.ratio=0.5")

SCRIPT = """
import json, sys, torch
from pathlib import Path
from tiny_world import quick_recipe
from ecgecho.train import train
torch.set_num_threads(1)
words, paths, out = json.loads(sys.argv[1])
train(quick_recipe("echoing_ecg", *words), **{k: [Path(p) for p in v] for k, v in paths.items()}, out=Path(out))
"""


def numbers(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_killed_inside_an_epoch_with_echo_pairs_and_resumed_equals_no_stop(world, tmp_path):
    paths = {name: [str(p) for p in found] for name, found in world.paths().items()}
    search = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps([WORDS, paths, str(tmp_path / "killed")])],
        env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
    )
    head = tmp_path / "killed" / "checkpoint" / "state.json"
    while process.poll() is None and not (head.exists() and json.loads(head.read_text())["step"] >= 3):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped_at = json.loads(head.read_text())["step"]
    epoch = json.loads((tmp_path / "killed" / "run.json").read_text())["steps_per_epoch"]
    assert 3 <= stopped_at < 24
    assert stopped_at % epoch != 0

    recipe = quick_recipe("echoing_ecg", *WORDS)
    train(recipe, **world.paths(), out=tmp_path / "killed")
    train(recipe, **world.paths(), out=tmp_path / "whole")
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    assert not (tmp_path / "whole" / "checkpoint").exists()


@pytest.mark.parametrize("method", plugins.names("methods"))
def test_interrupted_saves_and_resumed_equals_no_stop(method, world, tmp_path, monkeypatch):
    recipe = quick_recipe(method)
    interrupt_at(5, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, **world.paths(), out=tmp_path / "stopped")
    monkeypatch.undo()
    assert json.loads((tmp_path / "stopped" / "checkpoint" / "state.json").read_text())["step"] == 6
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["done"] is False

    train(recipe, **world.paths(), out=tmp_path / "stopped")
    train(recipe, **world.paths(), out=tmp_path / "whole")
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("place", ["device", "pinned", "mapped", "auto"])
def test_the_place_of_a_table_changes_no_byte_and_can_change_within_a_run(place, world, tmp_path, monkeypatch):
    recipe = quick_recipe("echoing_ecg")
    train(recipe, **world.paths(), out=tmp_path / "one")
    interrupt_at(5, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(quick_recipe("echoing_ecg", f"data.place={place}"), **world.paths(), out=tmp_path / "two")
    monkeypatch.undo()
    train(quick_recipe("echoing_ecg", "data.place=blocks"), **world.paths(), out=tmp_path / "two")
    assert json.loads((tmp_path / "two" / "run.json").read_text())["blocks"] is None
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (tmp_path / "two" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["echoing_ecg", "supervised"])
def test_a_run_by_blocks_resumed_from_another_place_equals_no_stop(method, world, tmp_path, monkeypatch):
    monkeypatch.setattr(sampler.BlockOrder, "__init__", small_blocks)
    blocks = quick_recipe(method, "data.place=blocks")
    train(blocks, **world.paths(), out=tmp_path / "whole")
    interrupt_at(5, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(blocks, **world.paths(), out=tmp_path / "stopped")
    monkeypatch.undo()
    train(quick_recipe(method, "data.place=mapped"), **world.paths(), out=tmp_path / "stopped")
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["blocks"] == {"block_bytes": 100_000, "pool": 3}
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    train(quick_recipe(method), **world.paths(), out=tmp_path / "rows")
    assert (tmp_path / "rows" / "model.safetensors").read_bytes() != (tmp_path / "whole" / "model.safetensors").read_bytes()


def small_blocks(self, block_bytes=100_000, pool=3):
    object.__setattr__(self, "block_bytes", block_bytes)
    object.__setattr__(self, "pool", pool)


def interrupt_at(wanted, monkeypatch):
    real = state.step_seed

    def ctrl_c(seed, step, purpose):
        if step == wanted:
            signal.raise_signal(signal.SIGINT)
        return real(seed, step, purpose)

    monkeypatch.setattr(state, "step_seed", ctrl_c)


@pytest.mark.parametrize("field", ["seed", "global_batch", "stores_sha256"])
def test_a_sampler_that_would_meet_other_rows_is_refused_by_the_field_that_differs(field, tmp_path):
    here = {"seed": 1, "epoch": 0, "step": 10, "global_batch": 16, "stores_sha256": "ab"}
    saved = made_state(1.0, 10)
    state.save(tmp_path, dataclasses.replace(saved, sampler=here), "run")
    assert state.restore(tmp_path, made_state(1.0, 0), "run", lambda step: {**here, "step": step}).sampler == here
    with pytest.raises(UserError, match=f"{field} was .* and is 99"):
        state.restore(tmp_path, made_state(1.0, 0), "run", lambda step: {**here, field: 99})


def test_a_checkpoint_holds_the_samplers_state_and_another_batch_or_store_is_refused_by_name(world, tmp_path, monkeypatch):
    interrupt_at(5, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(quick_recipe("supervised"), **world.paths(), out=tmp_path / "run")
    monkeypatch.undo()
    found = json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())["sampler"]
    assert (found["step"], found["global_batch"], found["seed"], len(found["stores_sha256"])) == (6, 16, 0, 64)
    with pytest.raises(UserError, match=r"data\.batch_size was 16 and is 8"):
        train(quick_recipe("supervised", "data.batch_size=8"), **world.paths(), out=tmp_path / "run")
    other = make_world(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="ecgs was"):
        train(quick_recipe("supervised"), catalogs=[world.catalog], ecgs=[other.ecg], out=tmp_path / "run")


def made_state(value: float, step: int) -> state.TrainState:
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, value)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return state.TrainState(step=step, model=model, optimizer=optimizer)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_writer_that_dies_at_any_file_leaves_the_former_checkpoint(failing, tmp_path, monkeypatch):
    former = made_state(1.0, 10)
    state.save(tmp_path, former, "run")
    calls, real = [], state.write_atomic

    def dying(path, data):
        calls.append(path)
        if len(calls) > failing:
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(state, "write_atomic", dying)
    with pytest.raises(KeyboardInterrupt):
        state.save(tmp_path, made_state(2.0, 20), "run")
    restored = state.restore(tmp_path, made_state(3.0, 0), "run")
    assert restored.step == 10
    assert torch.equal(restored.model.weight, former.model.weight)
    before, after = (s.optimizer.state[s.model.weight] for s in (former, restored))
    assert all(torch.equal(before[key], after[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_a_damaged_checkpoint_and_one_of_another_run_are_refused(tmp_path):
    state.save(tmp_path, made_state(1.0, 10), "run")
    with pytest.raises(UserError, match="another run"):
        state.restore(tmp_path, made_state(1.0, 0), "other")
    file = next(tmp_path.glob("model-*"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="damaged"):
        state.restore(tmp_path, made_state(1.0, 0), "run")
