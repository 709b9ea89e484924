"""Two processes are one: of a loss over all rows, of a run, of Ctrl-C and of a refusal."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import two_ranks
from safetensors.torch import load_file

import ecgecho
from ecgecho import dist
from ecgecho.train import train


@pytest.fixture(scope="module")
def both(world, tmp_path_factory):
    work = tmp_path_factory.mktemp("two")
    (work / "paths.json").write_text(json.dumps({kind: [str(p) for p in found] for kind, found in world.paths().items()}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = Path(__file__).parent
    given = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])]), "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, str(here / "two_ranks.py"), str(work)], env={**given, "RANK": str(r), "LOCAL_RANK": str(r)}
        )
        for r in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return work, [json.loads((work / f"rank{r}.json").read_text()) for r in range(2)]


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    return out, train(two_ranks.recipe(), **world.paths(), out=out, progress=False)


@pytest.mark.parametrize("case", list(two_ranks.COUNTS))
def test_gradients_behind_gathered_rows_are_those_of_one_process_with_all_rows(case, both):
    x, weight = two_ranks.rows(case, None)
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    loss = two_ranks.loss_of(x, weight, temperature)
    loss.backward()
    for found in (ranks := [rank[case] for rank in both[1]]):
        assert found["loss"] == pytest.approx(loss.item(), rel=1e-12)
        np.testing.assert_array_equal(found["rows"], x.detach())
        assert found["flags"] == (x.detach()[:, 0] > 0).tolist()
        np.testing.assert_allclose(found["weight"], weight.grad, rtol=1e-10)
        assert found["temperature"] == pytest.approx(temperature.grad.item(), rel=1e-10)
        assert found["silent"]
        assert found["one_sided"] == [0.5, 0.5]
    together = [row for found in ranks for row in found["x"]]
    np.testing.assert_allclose(np.array(together) / 2, x.grad, rtol=1e-10)


def test_what_all_ask_all_are_answered(both):
    for number, rank in enumerate(both[1]):
        assert rank["alone"] == [1, 5 + number]
        assert rank["any"] == [True, False]
        assert rank["from first"] == {"rank": 0}


def test_a_process_by_itself_is_the_whole(tmp_path):
    x = torch.randn(3, 2)
    assert dist.gather(x) is x
    assert (dist.rank(), dist.world(), dist.any_rank(True), dist.from_first(lambda: 3)) == (0, 1, True, 3)


def close(one, two):
    one, two = (load_file(run / "model.safetensors") for run in (one, two))
    assert set(one) == set(two)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-5, msg=name)


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(line["kind"], line["step"]): line["loss"] for line in lines}


def test_three_steps_of_two_processes_are_those_of_one(both, alone):
    close(both[0] / "two", alone[0])
    assert losses(both[0] / "two") == pytest.approx(losses(alone[0]), abs=1e-5)
    first, second = (rank["result"] for rank in both[1])
    assert first.items() <= second.items()
    assert second["helper"]
    assert first["val_loss"] == pytest.approx(alone[1]["val_loss"], abs=1e-5)
    assert json.loads((both[0] / "two" / "run.json").read_text())["ranks"] == 2


@pytest.mark.parametrize("method", two_ranks.OTHERS)
def test_the_other_methods_gather_too(method, both, world, tmp_path):
    train(two_ranks.recipe_of(method), **world.paths(), out=tmp_path / "run", progress=False)
    first, second = (load_file(run / "model.safetensors") for run in (both[0] / method, tmp_path / "run"))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-5, atol=1e-5, msg=f"{method}: {name}")


def test_one_process_speaks_and_says_how_many_there_are(both):
    first, second = (rank["said"] for rank in both[1])
    assert second == []
    assert any("2 processes, each with its slice of every batch of 16; the loss is over all of it" in line for line in first)


def test_rank_0_alone_writes_and_in_the_run_alone(both):
    names = {path.name for path in (both[0] / "two").iterdir()}
    assert names == {"run.json", "metrics.jsonl", "model.safetensors"}
    elsewhere = [path for path in both[1][1]["wrote"] if Path(path).parent != Path(tempfile.gettempdir())]  # a library's trial
    assert elsewhere == []
    assert Path(os.devnull).is_char_device()


def test_ctrl_c_for_one_stops_both_after_the_step_and_one_process_goes_on(both, alone, world):
    run = both[0] / "stopped"
    assert [rank["interrupted"] for rank in both[1]] == ["interrupted", "exit 130"]
    assert json.loads((run / "checkpoint" / "state.json").read_text())["step"] == 2
    train(two_ranks.recipe(), **world.paths(), out=run, progress=False)
    close(run, alone[0])
    assert ecgecho.load(run).path == run


def test_a_loss_that_is_not_finite_for_one_stops_both(both):
    first, second = (rank["not finite"] for rank in both[1])
    assert "not finite at step 1" in first
    assert second == "exit 1"
    assert len(json.loads((both[0] / "not_finite" / "not_finite.json").read_text())["ecg_ids"]) == 16


def test_what_rank_0_refuses_it_says_alone(both):
    assert "holds something that is no run" in both[1][0]["refused"]
    assert both[1][1]["refused"] == "exit 1"


SAID = {
    "sources": "absent",
    "init": "there is no such file of weights",
    "tables": "otis",
    "build": "crop_samples is 100000",
}


@pytest.mark.parametrize("fault", list(SAID))
def test_a_fault_that_all_find_before_training_is_told_once(fault, both):
    first, second = (rank["refusals"][fault] for rank in both[1])
    assert SAID[fault] in first
    assert second == "exit 1"


def test_a_fault_of_one_rank_ends_all_and_that_one_tells_it(both):
    first, second = (rank["refusals"] for rank in both[1])
    for fault in ("sources", "init", "build"):
        assert SAID[fault] in second[f"one rank's {fault}"]
        assert first[f"one rank's {fault}"] == "exit 1"
    assert SAID["build"] in first["rank 0's build"]
    assert second["rank 0's build"] == "exit 1"
