"""Damaged hospital files give a record or an ItemError, quickly, and no word of a patient gets out of any of them."""

from __future__ import annotations

import io
import logging
import traceback
import warnings

import make_ecg_files as make
import numpy as np
import pytest
from make_ecg_files import EIGHT, TWELVE, counts_of

from ecgecho.io import read_ecg
from ecgecho.types import EcgSource, ItemError

EIGHT_COUNTS, TWELVE_COUNTS = counts_of(num_samples=200), counts_of(TWELVE, num_samples=200)
MEDIAN = {lead: np.full(60, 9999) for lead in EIGHT}
BEAT = {lead: values[:40] for lead, values in counts_of(seed=5).items()}
MUTANTS = 300


def _dicom() -> bytes:
    buffer = io.BytesIO()
    make.dicom(buffer, make.dicom_group(TWELVE_COUNTS))
    return buffer.getvalue()


def _edf(counts) -> bytes:
    notes = np.frombuffer((f"+0\x14\x14{make.MARK}\x14\0".ljust(40, "\0") * 2).encode(), "<i2")
    rows = [(lead, "uV", "-16384", "16383.5", 100, values) for lead, values in counts.items()]
    return make.edf([*rows, ("EDF Annotations", "", "-1", "1", 20, notes)], reserved="EDF+C")


FILES = {
    "muse": make.muse(make.muse_waveform("Median", MEDIAN), make.muse_waveform("Rhythm", EIGHT_COUNTS)),
    "sierra": make.sierra(TWELVE_COUNTS),
    "aecg": make.aecg(make.aecg_series(TWELVE_COUNTS)),
    "cardiosoft": make.cardiosoft(TWELVE_COUNTS),
    "scp": make.scp(EIGHT_COUNTS, beat=(15, 5000, BEAT), qrs=[(0, 30, 50, 70)]),
    "scp_without_crc": make.scp(EIGHT_COUNTS, beat=(15, 5000, BEAT), qrs=[(0, 30, 50, 70)], crc=0),
    "edf": _edf(EIGHT_COUNTS),
    "ishne": make.ishne({lead: TWELVE_COUNTS[lead] for lead in ("V1", "V5")}, free=f"{make.MARK} notes".encode()),
    "ishne_without_crc": make.ishne({lead: TWELVE_COUNTS[lead] for lead in ("V1", "V5")}, crc=0),
    "dicom": _dicom(),
}


def mutants(data: bytes, seed: int):
    """Cuts, flips, extreme words, gaps, swaps and lines that were doubled; half of them in the header."""
    rng = np.random.default_rng(seed)
    for number in range(MUTANTS):
        damaged = bytearray(data)
        span = min(len(data), 800) if rng.random() < 0.5 else len(data)
        place, other = int(rng.integers(span)), int(rng.integers(len(data)))
        match number % 6:
            case 0:
                del damaged[max(1, other) :]
            case 1:
                for _ in range(int(rng.integers(1, 8))):
                    damaged[rng.integers(span)] ^= 1 << int(rng.integers(8))
            case 2:
                damaged[place : place + 4] = bytes(rng.choice([0, 255, 127, 128], 4).astype(np.uint8))
            case 3:
                del damaged[place : place + int(rng.integers(1, 200))]
            case 4:
                damaged[place : place + 16], damaged[other : other + 16] = (
                    damaged[other : other + 16],
                    damaged[place : place + 16],
                )
            case 5:
                damaged[place:place] = damaged[other : other + 40]
        yield bytes(damaged)


def outcome(path, source=None) -> str:
    """What a record, or an ItemError with all that is behind it, shows."""
    try:
        record = read_ecg(path, source)
    except ItemError as err:
        return "".join(traceback.format_exception(err))
    return f"{record!r} {record.leads} {record.defects}"


@pytest.mark.timeout(60)  # a few ms a file; a reader that hangs is stopped here
@pytest.mark.parametrize("kind", FILES)
def test_damaged_bytes_give_a_record_or_an_item_error(tmp_path, kind):
    path = tmp_path / "ecg.bin"
    for damaged in mutants(FILES[kind], seed=sum(map(ord, kind))):
        path.write_bytes(damaged)
        assert make.MARK not in outcome(path)


@pytest.mark.parametrize("kind", FILES)
def test_no_word_of_a_patient_gets_out(tmp_path, kind, caplog):
    """Every identifying field of these files holds MARK; no record, warning, log line or traceback of an error does."""
    caplog.set_level(logging.DEBUG)
    data = FILES[kind]
    assert make.MARK.encode() in data.replace(b"\0", b"")
    path = tmp_path / "ecg.bin"
    told = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number, part in enumerate((data, data, data[: 2 * len(data) // 3])):
            path.write_bytes(part)
            told.append(outcome(path, EcgSource(row=0) if number == 1 else None))
    told += [str(one.message) for one in caught] + [line.getMessage() for line in caplog.records]
    assert not [text for text in told if make.MARK in text]


@pytest.mark.parametrize("kind", ["muse", "sierra", "aecg", "cardiosoft", "edf", "dicom"])
def test_a_mark_in_place_of_a_name_of_a_lead_or_unit_is_not_quoted(tmp_path, kind):
    """As when a header is shifted, and a patient's field is taken for a unit or a lead."""
    path = tmp_path / "ecg.bin"
    for old in ("MICROVOLTS", "uVperLsb", "500", "1.04", "2.5", "5.6.3-9-62", "Lead aVF", "V1", "2025", "-16384 "):
        coding = "utf-16-le" if kind == "sierra" else "ascii"
        new = (make.MARK * 2)[: len(old)]
        path.write_bytes(FILES[kind].replace(old.encode(coding), new.encode(coding)))
        told = outcome(path)
        assert len(new) < 3 or new not in told, told


@pytest.mark.parametrize("kind", FILES)
def test_damage_is_not_worse_with_an_excerpt(tmp_path, kind):
    path = tmp_path / "ecg.bin"
    for damaged in list(mutants(FILES[kind], seed=9))[:40]:
        path.write_bytes(damaged)
        try:
            record = read_ecg(path, EcgSource(start_s=0.1, duration_s=0.2))
        except ItemError:
            continue
        assert record.signal.shape[1] <= 0.2 * record.fs_hz + 1
