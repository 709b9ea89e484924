"""ECGs that are a row of an array or an excerpt of a recording: what is read, stored, and computed anew; units; X, Y and Z."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from decoders import die_of_row_one

import embed_cache
from ecgecho import cache, catalog, config
from ecgecho.data.tables import check_contract
from ecgecho.decode import EcgTask, decode_ecg, ecg_files, ecg_fingerprint, look_at_ecg
from ecgecho.ecg.contract import LIMB
from ecgecho.ecg.quantise import from_int16
from ecgecho.ecg.vcg import DOWER, INVERSE_KORS
from ecgecho.encoders.echoing_ecg import CONTRACT
from ecgecho.io import read_ecg
from ecgecho.job import CacheReport
from ecgecho.types import STANDARD_LEADS, EcgSource, ItemError, UserError

LEADS = ",".join(STANDARD_LEADS)
ROWS = 6
ECHONEXT = {"fs_hz": 250.0, "leads": LEADS, "unit": "zscore"}


def hearts(num: int, num_samples: int, seed: int = 0) -> np.ndarray:
    """(num, L, 12), limb leads by Einthoven and Goldberger."""
    two = np.random.default_rng(seed).normal(size=(num, num_samples, 8))
    return np.concatenate([two[..., :2] @ np.array(list(LIMB.values())).T, two[..., 2:]], axis=-1)


def listed(folder: Path, rows: list[dict]) -> Path:
    """A catalog of these rows of `ecgs`, one subject each."""
    ids = [f"e{k}" for k in range(len(rows))]
    subjects = [f"s{k}" for k in range(len(rows))]
    names = sorted({name for row in rows for name in row})
    columns = {name: [row.get(name) for row in rows] for name in names}
    catalog.write(
        folder / "catalog",
        root=folder,
        dataset="test",
        family="test",
        tables={
            "subjects": pa.table({"subject_id": subjects, "split": ["train"] * len(rows)}),
            "ecgs": pa.table({"ecg_id": ids, "subject_id": subjects, **columns}),
        },
    )
    return folder / "catalog"


def run(path: Path, out: Path, contract=None, **options) -> CacheReport:
    return cache.ecg_job(catalog.read(path), contract, out, workers=0, **options).run()


def signal_of(store: Path, item: str) -> np.ndarray:
    """(12, L) as stored."""
    opened = embed_cache.open(store)
    row = int(opened.rows([item])[0])
    ragged = opened.columns["signal"].ragged
    stored = opened.read_ragged("signal", row).T if ragged else opened.read("signal", np.array([row]))[0]
    return from_int16(stored, opened.read("scale", np.array([row]))[0])


def index_of(store: Path) -> dict[str, tuple[str, str]]:
    """Item -> status and reason."""
    index = embed_cache.open(store).index
    index = index.filter(index["live"]).to_pydict()
    return {item: (status, reason) for item, status, reason in zip(index["id"], index["status"], index["reason"], strict=True)}


@pytest.fixture
def echonext(tmp_path) -> tuple[Path, np.ndarray]:
    """A catalog of the rows of one array in EchoNext's layout, listed backwards."""
    values = hearts(ROWS, 2500)[:, None]
    np.save(tmp_path / "EchoNext_val_waveforms.npy", values)
    rows = [{"path": "EchoNext_val_waveforms.npy", "row": ROWS - 1 - k, **ECHONEXT} for k in range(ROWS)]
    return listed(tmp_path, rows), values


@pytest.fixture
def no_whole_file(monkeypatch):
    """Fails a test that hashes a file as a whole."""

    def refuse(*paths):
        raise AssertionError(f"{paths} were read whole")

    monkeypatch.setattr("ecgecho.decode.fingerprint", refuse)
    monkeypatch.setattr("ecgecho.job.fingerprint", refuse)


def test_rows_of_an_array_become_rows_of_a_store_in_z_scores(echonext, tmp_path, no_whole_file):
    path, values = echonext
    assert run(path, tmp_path / "raw.zarr").exit_status == 0
    identity = embed_cache.open(tmp_path / "raw.zarr").manifest.identity
    assert identity == {"contract": None, "unit": "zscore"}
    for k in range(ROWS):
        np.testing.assert_allclose(signal_of(tmp_path / "raw.zarr", f"e{k}"), values[ROWS - 1 - k, 0].T, atol=1.3e-4)


def test_a_younger_array_is_read_by_row_and_nothing_is_computed_anew(echonext, tmp_path, no_whole_file):
    path, _ = echonext
    run(path, tmp_path / "raw.zarr")
    os.utime(tmp_path / "EchoNext_val_waveforms.npy", (time.time() + 60,) * 2)
    assert run(path, tmp_path / "raw.zarr").already_done


def test_the_one_row_that_changed_is_computed_anew(echonext, tmp_path, no_whole_file):
    path, values = echonext
    run(path, tmp_path / "raw.zarr")
    values[4, 0, 100, 6] += 1
    np.save(tmp_path / "EchoNext_val_waveforms.npy", values)
    again = run(path, tmp_path / "raw.zarr")
    assert (again.num_computed, again.exit_status) == (1, 0)
    np.testing.assert_allclose(signal_of(tmp_path / "raw.zarr", "e1"), values[4, 0].T, atol=1.3e-4)
    assert run(path, tmp_path / "raw.zarr").already_done


def test_what_the_catalog_says_of_a_file_is_part_of_what_was_read(echonext, tmp_path, no_whole_file):
    """Another rate, unit, row or name of a lead is seen although the file is as it was."""
    path, _ = echonext
    run(path, tmp_path / "raw.zarr")
    array = "EchoNext_val_waveforms.npy"
    rows = [{"path": array, "row": ROWS - 1 - k, **ECHONEXT, "fs_hz": 500.0 if k == 2 else 250.0} for k in range(ROWS)]
    listed(tmp_path, rows)
    assert run(path, tmp_path / "raw.zarr").num_computed == 1
    rows[3]["row"] = 0
    listed(tmp_path, rows)
    assert run(path, tmp_path / "raw.zarr").num_computed == 1


def test_a_dry_run_counts_a_shared_file_once(echonext, tmp_path):
    path, _ = echonext
    preview = cache.ecg_job(catalog.read(path), None, tmp_path / "raw.zarr", workers=0).preview()
    assert preview.bytes_to_read == (tmp_path / "EchoNext_val_waveforms.npy").stat().st_size


def test_z_scores_are_refused_by_a_contract_in_millivolts_before_any_work(echonext, tmp_path):
    path, _ = echonext
    with pytest.raises(UserError, match="millivolts"):
        run(path, tmp_path / "ecg.zarr", CONTRACT)
    run(path, tmp_path / "raw.zarr")
    with pytest.raises(UserError, match="millivolts"):
        cache.contract_job(tmp_path / "raw.zarr", CONTRACT, tmp_path / "ecg.zarr")


def test_a_contract_in_z_scores_standardises_every_lead_whatever_the_unit(echonext, tmp_path):
    path, values = echonext
    wanted = replace(CONTRACT, unit="zscore")
    run(path, tmp_path / "raw.zarr")
    run(path, tmp_path / "direct.zarr", wanted)
    cache.contract_job(tmp_path / "raw.zarr", wanted, tmp_path / "by_raw.zarr").run()
    np.save(tmp_path / "mv.npy", values * 0.2)  # the same hearts in mV
    listed(tmp_path, [{"path": "mv.npy", "row": ROWS - 1 - k, **ECHONEXT, "unit": "mv"} for k in range(ROWS)])
    run(path, tmp_path / "mv.zarr", wanted)
    for name in ("direct", "by_raw", "mv"):
        assert embed_cache.open(tmp_path / f"{name}.zarr").manifest.identity["unit"] == "zscore"
    signal = signal_of(tmp_path / "direct.zarr", "e0")
    np.testing.assert_allclose(signal.mean(axis=1), 0, atol=1e-3)
    np.testing.assert_allclose(signal.std(axis=1), 1, atol=1e-3)
    np.testing.assert_array_equal(signal_of(tmp_path / "by_raw.zarr", "e0"), signal)
    np.testing.assert_allclose(signal_of(tmp_path / "mv.zarr", "e0"), signal, atol=2e-3)


def test_the_plug_in_of_the_guide_takes_z_scores(echonext, tmp_path):
    path, _ = echonext
    guide = (Path(__file__).parents[2] / "docs/ecg_signals.md").read_text(encoding="utf-8")
    (tmp_path / "standardised.py").write_text(guide.split("```python\n")[1].split("```")[0])
    wanted = cache.find_contract(str(tmp_path / "standardised.py"))
    assert (wanted.name, wanted.unit, wanted.num_samples) == ("standardised", "zscore", 1000)
    assert run(path, tmp_path / "z.zarr", wanted).exit_status == 0


def test_no_encoder_in_millivolts_is_fed_from_a_store_in_z_scores(echonext, tmp_path):
    path, _ = echonext
    run(path, tmp_path / "z.zarr", replace(CONTRACT, unit="zscore"))
    run(path, tmp_path / "raw.zarr")
    with pytest.raises(UserError, match="its unit is 'zscore', not 'mv'"):
        check_contract(embed_cache.open(tmp_path / "z.zarr"), "z.zarr", CONTRACT)
    with pytest.raises(UserError, match="as recorded"):
        check_contract(embed_cache.open(tmp_path / "raw.zarr"), "raw.zarr", CONTRACT)
    check_contract(embed_cache.open(tmp_path / "z.zarr"), "z.zarr", replace(CONTRACT, unit="zscore"))


def test_a_row_that_failed_is_not_tried_again_until_its_file_is_another(echonext, tmp_path, no_whole_file):
    path, values = echonext
    rows = [{"path": "EchoNext_val_waveforms.npy", "row": row, **ECHONEXT} for row in (0, ROWS, ROWS + 1)]
    listed(tmp_path, [*rows, {"path": "gone.npy", "row": 0, **ECHONEXT}])
    assert run(path, tmp_path / "raw.zarr").exit_status == 3
    assert [reason for _, reason in sorted(index_of(tmp_path / "raw.zarr").values())][:3] == [
        "missing_file",
        *["row_outside"] * 2,
    ]
    assert run(path, tmp_path / "raw.zarr").already_done
    np.save(tmp_path / "EchoNext_val_waveforms.npy", np.concatenate([values, values[:1]]))
    again = run(path, tmp_path / "raw.zarr")
    assert (again.by_status["ok"], again.by_status["failed"]) == (2, 2)
    assert run(path, tmp_path / "raw.zarr").already_done


def test_no_row_is_opened_by_the_job_itself(echonext, tmp_path, no_whole_file, monkeypatch):
    """Neither after it killed its worker, nor to see whether a younger file still holds it."""

    def refuse(path, source=None):
        raise AssertionError(f"{source} was read outside a worker")

    monkeypatch.setattr("ecgecho.decode.read_ecg", refuse)
    path, values = echonext
    array, out = tmp_path / "EchoNext_val_waveforms.npy", tmp_path / "raw.zarr"
    listed(tmp_path, [{"path": array.name, "row": row, **ECHONEXT} for row in (0, 1, 2, ROWS)])

    def run_with_workers(decode=decode_ecg) -> CacheReport:
        job = cache.ecg_job(catalog.read(path), None, out, workers=1)
        job.decode = decode
        return job.run()

    assert run_with_workers(die_of_row_one).exit_status == 3
    found = index_of(out)
    assert (found["e1"], found["e3"]) == (("failed", "decoder_died"), ("failed", "row_outside"))
    os.utime(array, (time.time() + 60,) * 2)
    again = run_with_workers()
    assert (again.num_computed, again.by_status) == (1, {"ok": 3, "failed": 1})
    assert run_with_workers().already_done
    values[2, 0, 100, 6] += 1
    np.save(array, values)
    assert run_with_workers().num_computed == 1


def test_a_store_holds_one_unit_and_a_recording_in_the_other_fails(echonext, tmp_path):
    path, values = echonext
    np.save(tmp_path / "mv.npy", values)
    rows = [{"path": name, "row": 0, **ECHONEXT, "unit": unit} for name, unit in (("mv.npy", "mv"), ("mv.npy", "zscore"))]
    listed(tmp_path, rows)
    assert run(path, tmp_path / "raw.zarr").exit_status == 3
    assert index_of(tmp_path / "raw.zarr") == {"e0": ("ok", ""), "e1": ("failed", "unit_differs")}
    assert run(path, tmp_path / "ecg.zarr", CONTRACT).exit_status == 3
    assert index_of(tmp_path / "ecg.zarr")["e1"] == ("failed", "unit_not_mv")


def test_the_unit_of_a_contract_changes_no_digest_that_stores_have():
    old = {"name": "echoing_ecg", "fs_hz": 100, "num_samples": 1000, "leads": list(STANDARD_LEADS)}
    old |= {"band_hz": [0.5, 40.0], "short": "zero_pad"}
    assert config.to_json(CONTRACT) == old
    assert config.digest(CONTRACT) == config.digest(old)
    assert config.digest(replace(CONTRACT, unit="zscore")) != config.digest(CONTRACT)
    assert config.from_json(type(CONTRACT), old) == CONTRACT


# Excerpts, and recordings of X, Y and Z


def holter(folder: Path, name: str, leads=("X", "Y", "Z"), seconds: int = 40, seed: int = 0) -> np.ndarray:
    """A Holter record as MUSIC's, 200 Hz, and its raw values (L, C)."""
    raw = np.random.default_rng(seed).integers(-500, 500, (seconds * 200, len(leads))).astype("<i2")
    lines = [f"{name} {len(leads)} 200 {len(raw)}", *(f"{name}.dat 16 200/mV 16 0 0 0 0 {lead}" for lead in leads)]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    raw.tofile(folder / f"{name}.dat")
    return raw


def test_excerpts_of_a_holter_become_twelve_leads_and_say_so(tmp_path):
    raw = holter(tmp_path, "P0001") / 200
    holter(tmp_path, "P0070", ("X", "Y"))
    rows = [{"path": "P0001", "start_s": 10.0 * k, "duration_s": 10.0} for k in range(4)]
    path = listed(tmp_path, [*rows, {"path": "P0070", "start_s": 0.0, "duration_s": 10.0}])
    assert run(path, tmp_path / "raw.zarr").exit_status == 3
    index = index_of(tmp_path / "raw.zarr")
    assert index["e4"] == ("failed", "lead_missing")
    assert all(index[f"e{k}"][1].split(";")[0] == "derived_from_xyz" for k in range(4))
    found = signal_of(tmp_path / "raw.zarr", "e2")
    np.testing.assert_allclose(found[6:], (raw[4000:6000] @ DOWER.T).T[2:], atol=1e-3)
    np.testing.assert_allclose(found[2], found[1] - found[0], atol=1e-3)
    assert embed_cache.open(tmp_path / "raw.zarr").manifest.identity == {"contract": None, "unit": "mv"}
    counts = cache.defect_counts(tmp_path / "raw.zarr")
    assert (counts["derived_from_xyz"], counts["lead_missing"]) == (4, 1)


def test_how_x_y_and_z_became_twelve_leads_is_part_of_a_store(tmp_path):
    raw = holter(tmp_path, "P0001") / 200
    path = listed(tmp_path, [{"path": "P0001", "start_s": 0.0, "duration_s": 10.0}])
    run(path, tmp_path / "kors.zarr", vcg="kors", flip_z=True)
    found = embed_cache.open(tmp_path / "kors.zarr")
    assert found.manifest.identity == {"contract": None, "unit": "mv", "vcg": "kors", "flip_z": True}
    assert index_of(tmp_path / "kors.zarr")["e0"][1].split(";")[:3] == ["derived_from_xyz", "by_pinv_kors", "z_flipped"]
    expected = (raw[:2000] * [1, 1, -1]) @ INVERSE_KORS.T
    np.testing.assert_allclose(signal_of(tmp_path / "kors.zarr", "e0")[6:], expected.T[2:], atol=1e-3)
    with pytest.raises(embed_cache.StaleStore):
        run(path, tmp_path / "kors.zarr")
    cache.contract_job(tmp_path / "kors.zarr", CONTRACT, tmp_path / "by_raw.zarr").run()
    run(path, tmp_path / "direct.zarr", CONTRACT, vcg="kors", flip_z=True)
    made, direct = (embed_cache.open(tmp_path / f"{name}.zarr").manifest.identity for name in ("by_raw", "direct"))
    assert made == direct
    np.testing.assert_array_equal(signal_of(tmp_path / "by_raw.zarr", "e0"), signal_of(tmp_path / "direct.zarr", "e0"))


def test_a_changed_sample_makes_only_its_excerpt_anew(tmp_path, no_whole_file):
    raw = holter(tmp_path, "P0001")
    path = listed(tmp_path, [{"path": "P0001", "start_s": 10.0 * k, "duration_s": 10.0} for k in range(4)])
    run(path, tmp_path / "raw.zarr")
    raw[4500, 1] += 1
    raw.tofile(tmp_path / "P0001.dat")
    assert run(path, tmp_path / "raw.zarr").num_computed == 1
    assert run(path, tmp_path / "raw.zarr").already_done


def test_a_recording_with_limb_leads_keeps_what_was_recorded(tmp_path):
    """PTB holds 12 leads and X, Y, Z: nothing is derived."""
    raw = holter(tmp_path, "s0010", (*STANDARD_LEADS, "X", "Y", "Z"))
    raw[:] = np.concatenate([hearts(1, len(raw))[0], np.zeros((len(raw), 3))], axis=1) * 200
    raw.tofile(tmp_path / "s0010.dat")
    made = decode_ecg(EcgTask(path=str(tmp_path / "s0010"), contract=None))
    assert "derived_from_xyz" not in made.defects
    np.testing.assert_array_equal(made.columns["signal"][:, 6], np.round(raw[:, 6] / 200 / made.columns["scale"][6]))


def test_a_whole_holter_is_no_row_of_a_store(tmp_path):
    np.save(tmp_path / "long.npy", np.zeros(((1 << 22) + 1, 3), np.float16))
    source = EcgSource(fs_hz=200.0, unit="mv", leads=("X", "Y", "Z"))
    with pytest.raises(ItemError) as caught:
        decode_ecg(EcgTask(path=str(tmp_path / "long.npy"), contract=None, source=source))
    assert caught.value.code == "too_long"


# Fingerprints, files and reasons


def test_a_fingerprint_follows_the_values_of_its_row_and_the_size_of_its_file(echonext, tmp_path):
    _, values = echonext
    array = str(tmp_path / "EchoNext_val_waveforms.npy")
    sources = [EcgSource(row=k, fs_hz=250.0, leads=STANDARD_LEADS, unit="zscore") for k in range(ROWS)]
    marks = [ecg_fingerprint(array, source) for source in sources]
    assert len(set(marks)) == ROWS
    assert {mark.split(":")[0] for mark in marks} == {str(os.path.getsize(array))}
    assert ecg_fingerprint(array, sources[0], read_ecg(array, sources[0])) == marks[0]
    assert ecg_fingerprint(array, replace(sources[0], fs_hz=500.0)).split(":")[1] != marks[0].split(":")[1]
    assert max(map(len, marks)) < 120


def test_a_catalog_that_says_something_of_one_ecg_leaves_the_others_as_they_were(tmp_path):
    holter(tmp_path, "a", seconds=10)
    holter(tmp_path, "b", seconds=10)
    path = listed(tmp_path, [{"path": "a"}, {"path": "b"}])
    assert run(path, tmp_path / "raw.zarr").exit_status == 0
    listed(tmp_path, [{"path": "a"}, {"path": "b", "duration_s": 5.0}])
    assert run(path, tmp_path / "raw.zarr").num_computed == 1
    assert signal_of(tmp_path / "raw.zarr", "e1").shape == (12, 1000)
    listed(tmp_path, [{"path": "a"}, {"path": "b"}])
    assert run(path, tmp_path / "raw.zarr").num_computed == 1
    assert signal_of(tmp_path / "raw.zarr", "e1").shape == (12, 2000)


def test_the_files_of_an_ecg(tmp_path):
    for name in (
        "a.hea",
        "a.dat",
        "b.hea",
        "b.mat",
        "c.npy",
        "c.json",
        "d.csv.gz",
        "d.json",
        "e.xml",
        "e.json",
        "f.mat",
        "f.json",
        "g.h5",
    ):
        (tmp_path / name).touch()
    expected = {
        "a": "a.hea a.dat", "a.hea": "a.hea a.dat", "a.dat": "a.hea a.dat", "b": "b.hea b.mat", "b.mat": "b.hea b.mat",
        "c.npy": "c.json c.npy", "d.csv.gz": "d.json d.csv.gz", "e.xml": "e.xml", "f.mat": "f.json f.mat", "g.h5": "g.h5",
        "not_there": "not_there",
    }  # fmt: skip
    found = {name: " ".join(Path(file).name for file in ecg_files(str(tmp_path / name))) for name in expected}
    assert found == expected


def test_a_changed_file_beside_an_array_is_noticed(tmp_path):
    np.save(tmp_path / "a.npy", hearts(1, 500)[0])
    said = {"fs_hz": 500, "unit": "mv", "leads": LEADS}
    (tmp_path / "a.json").write_text(json.dumps(said))
    path = listed(tmp_path, [{"path": "a.npy"}])
    assert run(path, tmp_path / "raw.zarr").exit_status == 0
    assert run(path, tmp_path / "raw.zarr").already_done
    (tmp_path / "a.json").write_text(json.dumps(said | {"fs_hz": 250}))
    assert run(path, tmp_path / "raw.zarr").num_computed == 1


def test_defects_of_signals_stand_in_the_rows_and_are_what_a_look_finds(tmp_path):
    values = hearts(1, 500)[0]
    values[:, 7] = 0.0
    values[:, [4, 5]] = values[:, [5, 4]]  # MIMIC's order under the usual names
    values[10, 9] = np.nan
    np.save(tmp_path / "a.npy", values)
    path = listed(tmp_path, [{"path": "a.npy", "fs_hz": 500.0, "unit": "mv", "leads": LEADS}])
    run(path, tmp_path / "raw.zarr")
    source = EcgSource(fs_hz=500.0, unit="mv", leads=STANDARD_LEADS)
    seen = look_at_ecg(EcgTask(path=str(tmp_path / "a.npy"), contract=None, source=source))
    assert index_of(tmp_path / "raw.zarr")["e0"] == ("ok", ";".join(seen))
    expected = {"invalid_lead_V4", "nan_samples", "goldberger_disagrees", "lead_order_suspect_aVL_aVF", "flat_lead_V2"}
    assert set(seen) == expected
    assert cache.defect_counts(tmp_path / "raw.zarr") == dict.fromkeys(sorted(expected), 1)


@pytest.mark.parametrize("contract", [None, CONTRACT])
def test_a_recording_without_any_voltage_fails(tmp_path, contract):
    np.save(tmp_path / "a.npy", np.zeros((500, 12)))
    source = EcgSource(fs_hz=500.0, unit="mv", leads=STANDARD_LEADS)
    with pytest.raises(ItemError) as caught:
        decode_ecg(EcgTask(path=str(tmp_path / "a.npy"), contract=contract, source=source))
    assert caught.value.code == "all_flat"
