"""The doctor: what would fail after hours is told before, each fault with what mends it; it starts where torch is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command_line import ecgecho, must

from ecgecho import doctor


def told(*words):
    done = ecgecho("doctor", *words, "--json")
    return done.returncode, json.loads(done.stdout)


def of(findings, what):
    return [finding for finding in findings if finding["what"] == what]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Torch is imported in a process of its own, which takes seconds: once is enough."""
    monkeypatch.setattr(doctor, "_torch", lambda: iter([doctor.Finding(what="torch", state="ok", told="here")]))


def test_this_machine_is_healthy_and_every_fault_has_a_mend(tmp_path):
    status, findings = told("--out", tmp_path / "new" / "e.zarr")
    assert status == 0
    assert {"python", "packages", "video", "dicom", "disk"} <= {finding["what"] for finding in findings}
    assert all(finding["mend"] for finding in findings if finding["state"] in ("warn", "fail"))
    assert not list(tmp_path.iterdir())


def test_it_starts_where_torch_cannot_be_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "ecgecho", "doctor", "--json"], capture_output=True, text=True, env=env)
    (torch,) = of(json.loads(done.stdout), "torch")
    assert done.returncode == 1
    assert (torch["state"], "nms does not exist" in torch["told"]) == ("fail", True)
    assert torch["mend"].startswith("pip install")


def test_a_pair_that_does_not_fit_is_mended_by_the_torchvision_of_that_torch():
    assert doctor._pair_of("2.12.1+cpu") == "pip install torch==2.12.1 'torchvision==0.27.*'"
    assert doctor._pair_of("2.6.0") == "pip install torch==2.6.0 'torchvision==0.21.*'"


def test_a_catalog_s_files_are_tried_and_their_faults_told_by_code(cohort, tmp_path):
    must("index", "mimic-iv", cohort.root, "--out", tmp_path / "cat")
    status, findings = told(tmp_path / "cat")
    (ecgs,), (clips,) = of(findings, "ECGs"), of(findings, "clips")
    assert (status, ecgs["state"], clips["state"]) == (0, "ok", "ok")


def test_a_folder_of_damaged_files_is_no_dataset_to_begin_with(tmp_path):
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(400))
    status, findings = told(tmp_path)
    (clips,) = of(findings, "clips")
    assert (status, clips["state"]) == (1, "fail")
    assert "not_dicom 2" in clips["told"]


def test_a_root_that_is_not_there_and_weights_that_do_not_load_fail(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"no weights")
    status, findings = told(tmp_path / "none", "--teacher", "echoclip", "--weights", tmp_path / "w.pt")
    assert status == 1
    assert [finding["state"] for finding in of(findings, "weights")] == ["fail"]
    assert of(findings, "licence")
    assert [finding["state"] for finding in of(findings, "dataset")] == ["fail"]


def test_a_place_that_cannot_be_written_to_fails():
    (disk,) = of(told("--out", "/proc/e.zarr")[1], "disk")
    assert (disk["state"], disk["mend"]) == ("fail", "choose another --out")
