"""The cache jobs, end to end on small files: kills, repairs, refusals, and equal rows whatever the way."""

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import ecgecho, must
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import commits, echo_job, start

import embed_cache
from ecgecho.echo.moments import moments
from ecgecho.types import ItemError


def index_of(store: Path) -> dict:
    return embed_cache.open(store).index.to_pydict()


def test_killed_at_any_part_and_run_again_equals_no_kill(listed, teachers, tmp_path):
    words = ("cache-echo", listed, "--teacher", teachers / "slow.py", "--part-rows", 1, "--workers", 1)
    echo_job(listed, tmp_path / "calm.zarr", teacher=teachers / "slow.py", part_rows=1)
    killed = tmp_path / "killed.zarr"
    for wanted in (1, 6):
        job = start(*words, "--out", killed)
        deadline = time.monotonic() + 60
        while commits(killed) < wanted and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(job.pid, signal.SIGKILL)
        job.communicate()
        with pytest.raises(embed_cache.StoreError):
            embed_cache.open(killed)
    must(*words, "--out", killed)
    assert embed_cache.open(killed).content_hash() == embed_cache.open(tmp_path / "calm.zarr").content_hash()


def test_ctrl_c_ends_soon_with_130_and_the_command_that_resumes(listed, teachers, tmp_path):
    words = (
        "cache-echo",
        listed,
        "--teacher",
        teachers / "slow.py",
        "--part-rows",
        1,
        "--workers",
        1,
        "--out",
        tmp_path / "e.zarr",
    )
    job = start(*words)
    while commits(tmp_path / "e.zarr") < 2 and job.poll() is None:
        time.sleep(0.01)
    job.send_signal(signal.SIGINT)
    _, told = job.communicate(timeout=30)
    assert job.returncode == 130, told
    assert "ecgecho cache-echo" in told
    must(*words)
    assert "is done" in must(*words)


def test_a_hanging_decoder_costs_its_clip_only(cines, teachers, tmp_path):
    import pydicom

    folder = tmp_path / "with_seven"
    shutil.copytree(cines, folder)
    victim = next(folder.rglob("3.dcm"))
    cine = pydicom.dcmread(victim)
    fragments = [bytes(f) for f in pydicom.encaps.generate_frames(cine.PixelData, number_of_frames=int(cine.NumberOfFrames))]
    cine.PixelData = pydicom.encaps.encapsulate(fragments[:7])
    cine.NumberOfFrames = 7
    cine.save_as(victim)
    done = ecgecho("cache-echo", folder, "--teacher", teachers / "hanging.py", "--timeout-s", 2, "--out", tmp_path / "e.zarr")
    assert done.returncode == 3, done.stderr
    found = index_of(tmp_path / "e.zarr")
    failed = [
        (reason, permanent) for s, reason, permanent in zip(found["status"], found["reason"], found["permanent"]) if s == "failed"
    ]
    assert failed == [("timeout", False)]
    assert found["status"].count("ok") == 11


def test_a_repaired_file_heals_its_row_and_no_other(cines, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(cines, folder)
    victim = next(folder.rglob("5.dcm"))
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    words = ("cache-echo", folder, "--out", tmp_path / "e.zarr")
    first = ecgecho(*words)
    assert first.returncode == 3, first.stdout + first.stderr
    before = embed_cache.open(tmp_path / "e.zarr")
    rows_before = {
        i: before.read("moments", np.array([r]))[0]
        for r, (i, s) in enumerate(zip(*[before.index.to_pydict()[k] for k in ("id", "status")]))
        if s == "ok"
    }
    victim.write_bytes(whole)
    second = ecgecho(*words)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "computed now 1," in second.stdout
    after = embed_cache.open(tmp_path / "e.zarr")
    assert len(after.rows(list(rows_before))) == 11
    for item, values in rows_before.items():
        np.testing.assert_array_equal(after.read("moments", after.rows([item]))[0], values)
    assert "is done" in must(*words)


def test_workers_and_parts_do_not_change_what_a_row_says(listed, tmp_path):
    echo_job(listed, tmp_path / "none.zarr")
    echo_job(listed, tmp_path / "two.zarr", workers=2)
    echo_job(listed, tmp_path / "parts.zarr", part_rows=2)
    none, two, parts = (embed_cache.open(tmp_path / f"{name}.zarr") for name in ("none", "two", "parts"))
    assert none.content_hash() == two.content_hash()
    ids = none.index["id"].to_pylist()
    np.testing.assert_allclose(
        none.read("moments", none.rows(ids)).astype(float), parts.read("moments", parts.rows(ids)).astype(float), atol=2e-3
    )


def test_raw_store_and_files_give_equal_contract_rows(cohort, tmp_path):
    must("cache-ecg", cohort.raw, "--contract", "echoing_ecg", "--out", tmp_path / "from_raw.zarr")
    made, direct = embed_cache.open(tmp_path / "from_raw.zarr"), embed_cache.open(cohort.ecg)
    ids = direct.index["id"].to_pylist()
    for column in ("signal", "scale", "lead_valid"):
        np.testing.assert_array_equal(made.read(column, made.rows(ids)), direct.read(column, direct.rows(ids)))


def test_an_ecg_store_keeps_millivolts(cohort):
    """Against the files read by another library, at the recording's own rate."""
    import wfdb

    from ecgecho import catalog as tables

    listed = tables.read(cohort.catalog)
    raw = embed_cache.open(cohort.raw)
    ecg = listed.ecgs.slice(0, 1).to_pylist()[0]
    theirs = wfdb.rdrecord(str(listed.root / ecg["path"]))
    row = int(raw.rows([ecg["ecg_id"]])[0])
    ours = raw.read_ragged("signal", row) * raw.read("scale", np.array([row]))[0]
    order = [theirs.sig_name.index(name) for name in ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")]
    np.testing.assert_allclose(ours, theirs.p_signal[:, order], atol=1.3e-4)  # half a step of int16 at 8 mV


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_told_and_the_work_is_kept(listed, tmp_path, monkeypatch, trouble):
    """From the third commit on, no fsync succeeds."""
    real = os.fsync

    def full(handle):
        if commits(tmp_path) >= 3:
            raise OSError(trouble, os.strerror(trouble))
        return real(handle)

    words = ("cache-echo", listed, "--part-rows", 1, "--workers", 1, "--out", tmp_path / "e.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done = ecgecho(*words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert os.strerror(trouble) in done.stderr
    assert "kept" in done.stderr
    kept = commits(tmp_path / "e.zarr")
    assert kept >= 3
    assert f"computed now {12 - kept}," in must(*words)


def test_a_store_that_vanishes_ends_the_job_with_its_name(listed, tmp_path, monkeypatch):
    real = embed_cache.Writer.commit

    def vanish(writer, *args):
        if commits(tmp_path) == 3:
            (tmp_path / "e.zarr").rename(tmp_path / "gone")
        return real(writer, *args)

    words = ("cache-echo", listed, "--part-rows", 1, "--workers", 1, "--out", tmp_path / "e.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(embed_cache.Writer, "commit", vanish)
        done = ecgecho(*words)
    assert done.returncode == 1
    assert "vanished" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4
    shutil.rmtree(tmp_path / "e.zarr", ignore_errors=True)
    (tmp_path / "gone").rename(tmp_path / "e.zarr")
    assert "computed now 9," in must(*words)


def test_reports_hold_no_path(cohort):
    report = json.loads(cohort.echo.with_name("echo.zarr.report.json").read_text())
    assert report["report_version"] == 1
    for path in [*cohort.root.glob("*.report.*"), *cohort.echo.rglob("*.json"), *cohort.run.rglob("*.json*")]:
        text = path.read_text()
        assert "files/p" not in text, path
        assert ".dcm" not in text, path


@given(
    st.integers(1, 40), st.integers(2, 64), st.floats(0.0, 3.0), st.integers(0, 2**31)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_stored_log_variance_is_within_two_thousandths(num_frames, dim, spread, seed):
    """Log-variance (eps 1e-8 as in the reference) from fp16 deviations, against float64, for unit frame vectors."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(1, dim)) + spread * rng.normal(size=(num_frames, dim))
    exact = moments(vectors, "l2")
    stored = exact.astype(np.float16).astype(np.float64)
    error = np.abs(np.log(stored[1] ** 2 + 1e-8) - np.log(exact[1] ** 2 + 1e-8))
    assert (error < 2e-3).all()


def test_moments_of_unit_frames_obey_the_resultant_identity():
    vectors = np.random.default_rng(0).normal(size=(17, 32))
    mean, std = moments(vectors, "l2")
    np.testing.assert_allclose(np.square(std).sum(), 1 - np.square(mean).sum(), atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_fails_its_clip(bad):
    vectors = np.ones((3, 4))
    vectors[1, 2] = bad
    with pytest.raises(ItemError) as caught:
        moments(vectors, "l2")
    assert caught.value.code == "teacher_not_finite"
