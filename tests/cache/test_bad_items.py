"""One bad input is a row with a reason: ECGs with a broken or missing lead, a repaired file, other weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import ecgecho, must
from jobs import ecg_job, echo_job

import embed_cache
from ecgecho.decode import EcgTask, decode_ecg
from ecgecho.encoders.echoing_ecg import CONTRACT
from ecgecho.types import STANDARD_LEADS, ItemError

SAMPLES = 5000


def write_wfdb(folder: Path, name: str, leads: tuple[str, ...], signal: np.ndarray) -> Path:
    """A format-16 record, gain 200 /mV."""
    lines = [f"{name} {len(leads)} 500 {signal.shape[1]}"]
    lines += [f"{name}.dat 16 200.0(0)/mV 16 0 0 0 0 {lead}" for lead in leads]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    signal.T.astype("<i2").tofile(folder / f"{name}.dat")
    return folder / name


@pytest.fixture
def signal() -> np.ndarray:
    raw = np.random.default_rng(0).integers(-300, 300, (12, SAMPLES)).astype(np.int16)
    i, ii = raw[:2]
    raw[2:6] = ii - i, -(i + ii) // 2, i - ii // 2, ii - i // 2  # Einthoven and Goldberger, to a step
    return raw


def test_a_lead_with_invalid_samples_is_masked_and_named(tmp_path, signal):
    signal[7, 100:200] = -32768
    made = decode_ecg(EcgTask(path=str(write_wfdb(tmp_path, "a", STANDARD_LEADS, signal)), contract=CONTRACT))
    assert made.defects == ("invalid_lead_V2", "nan_samples")
    assert made.columns["lead_valid"].tolist() == [1] * 7 + [0] + [1] * 4
    assert not made.columns["signal"][7].any()
    assert made.columns["signal"][6].any()


def test_missing_chest_leads_are_masked_and_missing_limb_leads_derived(tmp_path, signal):
    kept = [0, 1, *range(6, 11)]
    leads = tuple(STANDARD_LEADS[i] for i in kept)
    made = decode_ecg(EcgTask(path=str(write_wfdb(tmp_path, "a", leads, signal[kept])), contract=CONTRACT))
    assert made.columns["lead_valid"].tolist() == [1] * 11 + [0]
    values = made.columns["signal"].astype(np.float64) * made.columns["scale"][:, None]
    np.testing.assert_allclose(values[2], values[1] - values[0], atol=2e-3)  # III = II - I


def test_leads_are_found_by_name_whatever_their_order(tmp_path, signal):
    order = np.random.default_rng(1).permutation(12)
    shuffled = write_wfdb(tmp_path, "b", tuple(STANDARD_LEADS[i].upper() for i in order), signal[order])
    plain = write_wfdb(tmp_path, "a", STANDARD_LEADS, signal)
    first, second = (decode_ecg(EcgTask(path=str(path), contract=CONTRACT)).columns for path in (plain, shuffled))
    np.testing.assert_array_equal(first["signal"], second["signal"])


def test_a_record_without_a_usable_lead_fails_with_its_reason(tmp_path, signal):
    signal[:, 5] = -32768
    with pytest.raises(ItemError) as caught:
        decode_ecg(EcgTask(path=str(write_wfdb(tmp_path, "a", STANDARD_LEADS, signal)), contract=CONTRACT))
    assert caught.value.code == "no_valid_lead"


def test_one_bad_ecg_is_a_row_and_the_others_are_kept(cohort, tmp_path):
    from ecgecho import catalog as tables

    shutil.copytree(cohort.root / "mimic-iv-ecg", tmp_path / "data/mimic-iv-ecg")
    must("index", "mimic-iv", tmp_path / "data", "--out", tmp_path / "catalog")
    listed = tables.read(tmp_path / "catalog")
    broken, short = listed.ecgs["path"].to_pylist()[:2]
    (listed.root / f"{broken}.dat").unlink()
    whole = (listed.root / f"{short}.dat").read_bytes()
    (listed.root / f"{short}.dat").write_bytes(whole[:1000])
    first = ecg_job(tmp_path / "catalog", tmp_path / "ecg.zarr")
    assert first.exit_status == 3
    index = embed_cache.open(tmp_path / "ecg.zarr").index.to_pydict()
    assert index["status"].count("failed") == 2
    assert index["status"].count("ok") == len(listed.ecgs) - 2
    reasons = {reason for status, reason in zip(index["status"], index["reason"]) if status == "failed"}
    assert reasons == {"missing_file", "truncated"}
    (listed.root / f"{short}.dat").write_bytes(whole)
    healed = ecgecho("cache-ecg", tmp_path / "catalog", "--contract", "echoing_ecg", "--out", tmp_path / "ecg.zarr")
    assert healed.returncode == 3, healed.stdout + healed.stderr
    assert "computed now 1," in healed.stdout
    assert broken in healed.stdout
    assert short not in healed.stdout


def test_other_weights_never_yield_the_old_rows(cohort, tmp_path):
    guide = (Path(__file__).parents[2] / "docs/plugins.md").read_text()
    code = next(part.split("```")[0] for part in guide.split("```python\n") if "class MeanColour" in part)
    (tmp_path / "teacher.py").write_text(code)
    echo_job(cohort.catalog, tmp_path / "e.zarr", teacher=tmp_path / "teacher.py")
    before = embed_cache.open(tmp_path / "e.zarr").content_hash()
    (tmp_path / "teacher.py").write_text(code.replace('"0" * 64', '"1" * 64'))
    with pytest.raises(embed_cache.StaleStore, match="weights_sha256"):
        echo_job(cohort.catalog, tmp_path / "e.zarr", teacher=tmp_path / "teacher.py")
    assert embed_cache.open(tmp_path / "e.zarr").content_hash() == before
