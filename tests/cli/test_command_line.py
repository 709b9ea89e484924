"""A command run inside the tests' process tells what it tells in its own, ends as it ends there, and leaves nothing behind."""

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ecgecho, ecgecho_process, must

from ecgecho import cli, plugins
from ecgecho.train import make_recipe

# Exit status, and words: done, done with nothing to do, a refusal, wrong usage, help.
CASES = {
    "a list": (0, "list methods --json"),
    "a help": (0, "train --help"),
    "a version": (0, "--version"),
    "nothing": (2, ""),
    "a whole store": (0, "store verify {echo}"),
    "a done catalog": (0, "index mimic-iv {root} --out {catalog}"),
    "some files junk": (3, "cache-echo {junk} --out {tmp}/e.zarr --workers 1"),
    "a refusal": (1, "store verify {tmp}/nowhere"),
    "a wrong option": (2, "cache-echo {catalog} --out {tmp}/e.zarr --prat-rows 4"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_command_run_here_tells_and_ends_as_in_a_process_of_its_own(name, cohort, tmp_path):
    status, words = CASES[name]
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk/a.dcm").write_text("this is no DICOM file\n" * 20)
    shutil.copy(cohort.cines[0], tmp_path / "junk/c.dcm")
    places = {"tmp": tmp_path, "junk": tmp_path / "junk", "catalog": cohort.catalog, "echo": cohort.echo, "root": cohort.root}
    here, there = (run(*words.format(**places).split()) for run in (ecgecho, lambda *w: again(tmp_path, *w)))
    assert here.returncode == there.returncode == status, here.stderr + there.stderr
    assert without_figures(here.stdout) == without_figures(there.stdout)
    assert without_figures(here.stderr) == without_figures(there.stderr)


def again(tmp: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The same from the start."""
    for left in tmp.glob("e.zarr*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return ecgecho_process(*words)


def without_figures(text: str) -> list[str]:
    """Seconds, rates, busy shares and memory differ from run to run."""
    figures = ("peak memory", "per second", "slowest stage")
    return [line for line in text.splitlines() if not any(word in line for word in figures)]


def test_the_installed_command_is_what_the_tests_run():
    (installed,) = entry_points(group="console_scripts", name="ecgecho")
    assert installed.load() is cli.main


@pytest.mark.parametrize("name", ["echoing_ecg", "otis"])
def test_what_a_command_says_is_next_takes_the_stores_that_it_names(name, cohort, tmp_path):
    words = cli._train_with(name, cohort.catalog, tmp_path / "ecg.zarr", cohort.echo).split()
    assert words[:2] == ["ecgecho", "train"]
    recipe = make_recipe(words[2], words[words.index("--recipe") + 1])
    assert plugins.load("encoders", recipe.encoder_name).CONTRACT.name == name
    assert words[words.index("--catalog") + 1] == str(cohort.catalog)


def test_a_store_of_ecgs_is_asked_for_its_contract(cohort, tmp_path):
    assert [cli._contract_of(store) for store in (cohort.ecg, cohort.raw, tmp_path / "none")] == ["echoing_ecg", "", ""]


def process_state() -> dict:
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "words": (sys.argv, list(sys.path)),
        "streams": (sys.stdout, sys.stderr),
        "python's seed": random.getstate(),
        "numpy's seed": np.random.get_state()[1].tobytes(),  # noqa: NPY002
        "torch's seed": torch.get_rng_state().numpy().tobytes(),
        "threads": torch.get_num_threads(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "warnings": list(warnings.filters),
    }


def test_a_command_run_here_leaves_nothing_behind(cohort, tmp_path):
    before = process_state()
    stores = ("--catalog", cohort.catalog, "--echo", cohort.echo, "--ecg", cohort.ecg)
    must("train", "echoing_ecg", "--recipe", "small", *stores, "--out", "run", "--set", "optim.steps=1", cwd=tmp_path)
    assert ecgecho("cache-echo", cohort.catalog, "--out", tmp_path / "run/model.safetensors/e.zarr").returncode == 1
    assert process_state() == before
    assert (tmp_path / "run/model.safetensors").is_file()
