"""A run that was stopped and started again is the run that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_world import quick_recipe

from ecgecho import plugins, state
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
    real = state.step_seed

    def ctrl_c(seed, step, purpose):
        if step == 5:
            signal.raise_signal(signal.SIGINT)
        return real(seed, step, purpose)

    monkeypatch.setattr(state, "step_seed", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, **world.paths(), out=tmp_path / "stopped")
    monkeypatch.setattr(state, "step_seed", real)
    assert json.loads((tmp_path / "stopped" / "checkpoint" / "state.json").read_text())["step"] == 6
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["done"] is False

    train(recipe, **world.paths(), out=tmp_path / "stopped")
    train(recipe, **world.paths(), out=tmp_path / "whole")
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


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
