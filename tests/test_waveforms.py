"""Looking at the signals of a catalog: every ECG once, again only where its file changed; what was found joins the defects."""

import shutil

import numpy as np
import pytest
from command_line import must

from ecgecho import catalog, waveforms


@pytest.fixture
def listed(cohort, tmp_path):
    """A catalog of a copy of the cohort's ECGs."""
    shutil.copytree(cohort.root, tmp_path / "root", ignore=shutil.ignore_patterns("*.dcm"))
    must("index", "mimic-iv", tmp_path / "root", "--out", tmp_path / "cat")
    return catalog.read(tmp_path / "cat")


def samples_of(found, row):
    return found.file(found.ecgs["path"].to_pylist()[row] + ".dat")


def spoil(path, lead, value):
    """All samples of one of 12 leads; headers of the simulator carry checksums, which must go."""
    samples = np.fromfile(path, "<i2").reshape(-1, 12)
    samples[:, lead] = value
    samples.tofile(path)
    header = path.with_suffix(".hea")
    lines = [" ".join(line.split()[:3]) + " 16 0 0 0 0 " + line.split()[-1] if ".dat" in line else line for line in
             header.read_text().splitlines()]  # fmt: skip
    header.write_text("\n".join(lines) + "\n")


def codes(found):
    return {row["code"]: row["count"] for row in found.defects.to_pylist() if row["item"] == waveforms.ITEM}


def test_a_lead_that_is_flat_or_lost_is_told_and_the_rest_of_the_catalog_stays(listed):
    before = codes(waveforms.look(listed, workers=0))
    spoil(samples_of(listed, 0), 7, 0)
    spoil(samples_of(listed, 1), 8, -32768)
    samples_of(listed, 2).unlink()
    found = waveforms.look(catalog.read(listed.path), workers=0)
    told = codes(found)
    assert sum(count for code, count in told.items() if "flat" in code) == 1 + sum(n for c, n in before.items() if "flat" in c)
    assert any("nan" in code or "invalid" in code for code in set(told) - set(before))
    assert found.meta["waveforms"]["read"] == found.ecgs.num_rows - 1
    for name in ("subjects", "ecgs", "clips", "labels", "pairs"):
        assert found.table(name).equals(listed.table(name))


def test_a_second_look_reads_only_what_changed(listed, monkeypatch):
    waveforms.look(listed, workers=0)
    looked = []
    real = waveforms.look_at_ecg
    monkeypatch.setattr(waveforms, "look_at_ecg", lambda task: looked.append(task.path) or real(task))
    waveforms.look(catalog.read(listed.path), workers=0)
    assert not looked
    spoil(samples_of(listed, 3), 0, 0)
    waveforms.look(catalog.read(listed.path), workers=0)
    assert len(looked) == 1


def test_a_mended_header_is_looked_at_again(listed):
    header = samples_of(listed, 0).with_suffix(".hea")
    sound = header.read_text()
    header.write_text(sound.replace(" 16 200", " 16 2"))  # a hundred times the voltage
    assert codes(waveforms.look(listed, workers=0)).get("beyond_10_mv") == 1
    header.write_text(sound)
    assert "beyond_10_mv" not in codes(waveforms.look(catalog.read(listed.path), workers=0))


def test_what_a_cache_job_met_joins_unless_all_signals_were_looked_at(listed):
    noted = waveforms.note(listed, {"nan_samples": 3})
    assert codes(noted) == {"nan_samples": 3}
    looked = waveforms.look(noted, workers=0)
    assert codes(waveforms.note(looked, {"nan_samples": 99})) == codes(looked)


def test_what_was_remembered_of_public_ids_goes_when_they_become_pseudonyms(listed, tmp_path):
    waveforms.look(listed, workers=0)
    must("index", "mimic-iv", tmp_path / "root", "--out", tmp_path / "cat", "--window-days", 60)
    assert (tmp_path / "cat" / catalog.WAVEFORMS).is_file()
    assert codes(waveforms.note(catalog.read(listed.path), {"nan_samples": 3})) == {"nan_samples": 3}
    must("index", "mimic-iv", tmp_path / "root", "--out", tmp_path / "cat", "--pseudonymise", tmp_path / "key")
    assert not (tmp_path / "cat" / catalog.WAVEFORMS).exists()


def test_no_identifier_stands_in_what_a_look_remembers_but_ids_and_paths_of_the_catalog(listed):
    waveforms.look(listed, workers=0)
    lines = (listed.path / catalog.WAVEFORMS).read_text()
    assert len(lines.splitlines()) == listed.ecgs.num_rows
    assert str(listed.root) not in lines
