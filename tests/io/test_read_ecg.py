"""WFDB and DICOM waveforms: leads by name, mV, samples that are not there, hostile headers; which reader takes which file."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from scipy.io import savemat

from ecgecho.io import read_ecg
from ecgecho.io.ecg import kind_of
from ecgecho.io.leads import canonical_lead, is_ecg_lead, lead_or_channel
from ecgecho.types import STANDARD_LEADS, ItemError

EXCERPT = Path(__file__).parents[1] / "data" / "ptb_excerpt"
MIMIC_ORDER = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")


def record(folder: Path, raw: np.ndarray, names, *, gain="200.0(0)/mV", name="r", fs=500, file=None, checksum=True, form="16"):
    """A format-16 record of raw (L, C)."""
    raw = raw.astype("<i2")
    lines = [f"{name} {raw.shape[1]} {fs} {raw.shape[0]} 12:04:00 22/09/2182"]
    for column, lead in zip(raw.T, names, strict=True):
        total = int(column.astype(np.int64).sum()) % 65536 if checksum else 0
        lines.append(f"{file or name + '.dat'} {form} {gain} 16 0 {column[0]} {total} 0 {lead}")
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n# <subject_id>: 1\n")
    (folder / f"{name}.dat").write_bytes(raw.tobytes())
    return folder / name


def raw_of(num_samples=50, num_leads=12):
    return np.random.default_rng(3).integers(-3000, 3000, (num_samples, num_leads)).astype(np.int16)


def code_of(path):
    with pytest.raises(ItemError) as caught:
        read_ecg(path)
    return caught.value.code


def test_a_real_record_equals_the_wfdb_library():
    ours, theirs = read_ecg(EXCERPT), wfdb.rdrecord(str(EXCERPT))
    np.testing.assert_allclose(ours.signal, theirs.p_signal.T, atol=1e-6)
    assert ours.leads == (*STANDARD_LEADS, "X", "Y", "Z")
    assert (ours.fs_hz, ours.unit, ours.lead_valid.all()) == (1000.0, "mv", True)
    # Einthoven's law holds in a real record, so the leads carry their own names.
    lead = dict(zip(ours.leads, ours.signal, strict=True))
    assert np.abs(lead["I"] + lead["III"] - lead["II"]).max() < 0.01
    assert np.abs(lead["aVR"] + lead["aVL"] + lead["aVF"]).max() < 0.01


def test_leads_go_by_their_names_in_the_order_of_the_file(tmp_path):
    raw = raw_of()
    ours = read_ecg(record(tmp_path, raw, MIMIC_ORDER))
    assert ours.leads == MIMIC_ORDER
    np.testing.assert_allclose(ours.signal, raw.T / 200.0, atol=1e-6)


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_a_record_is_found_by_any_of_its_names(tmp_path, suffix):
    path = record(tmp_path, raw_of(), MIMIC_ORDER)
    assert read_ecg(path.with_name(path.name + suffix)).signal.shape == (12, 50)
    assert read_ecg(str(path) + suffix).fs_hz == 500


@pytest.mark.parametrize(
    ("gain", "factor", "offset"),
    [("1000/mV", 1e-3, 0), ("2.5(-100)/uV", 0.4e-3, 0.04), ("0/mV", 1 / 200, 0), ("200000/V", 5e-3, 0), ("200", 1 / 200, 0)],
)
def test_gain_baseline_and_unit_give_millivolts(tmp_path, gain, factor, offset):
    raw = raw_of(num_leads=1)
    ours = read_ecg(record(tmp_path, raw, ["II"], gain=gain))
    np.testing.assert_allclose(ours.signal[0], raw[:, 0] * factor + offset, atol=1e-5)


def test_a_sample_that_is_not_there_is_nan_and_its_lead_invalid(tmp_path):
    raw = raw_of()
    raw[7, 2] = -32768
    ours = read_ecg(record(tmp_path, raw, MIMIC_ORDER))
    assert np.isnan(ours.signal[2, 7])
    assert np.isnan(ours.signal).sum() == 1
    np.testing.assert_array_equal(ours.lead_valid, np.arange(12) != 2)


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        *[
            ("avr", "aVR"),
            ("AVL", "aVL"),
            ("v1", "V1"),
            (" ii ", "II"),
            ("Lead I (Einthoven)", "I"),
            ("vx", "X"),
            ("MLII", "MLII"),
        ],
        *[
            ("MDC_ECG_LEAD_AVF", "aVF"),
            ("ECG V3", "V3"),
            ("ekg_iii", "III"),
            ("ECG Lead V6", "V6"),
            ("DII", "II"),
            ("diii", "III"),
        ],
        *[
            ("aVR, augmented voltage, right", "aVR"),
            ("aVR (inverted)", "aVR (inverted)"),
            ("-aVR", "-aVR"),
            ("aVR (-)", "aVR (-)"),
        ],
        *[("V1, neg.", "V1, neg."), ("V1R", "V1R"), ("I II", "I II"), ("", ""), ("VV1", "VV1"), ("iv", "iv")],
    ],
)
def test_lead_names_become_canonical(spelt, name):
    assert canonical_lead(spelt) == name
    assert lead_or_channel(spelt, 3) == (name if is_ecg_lead(name) or name == "MLII" else "channel 3")


def test_a_channel_that_is_no_voltage_is_left_out_but_a_lead_of_unknown_unit_is_refused(tmp_path):
    path = record(tmp_path, raw_of(num_leads=2), ["II", "RESP"])
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("200.0(0)/mV 16 0", "200.0(0)/Ohm 16 0", 2).replace("/Ohm", "/mV", 1))
    assert read_ecg(path).leads == ("II",)
    header.write_text(header.read_text().replace("/mV", "/NU"))
    assert code_of(path) == "unit_unknown"


def test_signals_may_lie_in_several_files_and_behind_an_offset(tmp_path):
    a, b = raw_of(num_leads=2), raw_of(num_leads=1) + 1
    (tmp_path / "a.dat").write_bytes(b"head" + a.tobytes())
    (tmp_path / "b.dat").write_bytes(b.tobytes())
    (tmp_path / "r.hea").write_text(
        "r 3 500 50\na.dat 16+4 200 16 0 0 0 0 I\nb.dat 16 200 16 0 0 0 0 V1\na.dat 16+4 200 16 0 0 0 0 II\n"
    )
    ours = read_ecg(tmp_path / "r")
    np.testing.assert_allclose(ours.signal, np.stack([a[:, 0], b[:, 0], a[:, 1]]) / 200.0, atol=1e-6)


@pytest.mark.parametrize("form", ["212", "80"])
def test_other_formats_are_read_through_the_library(tmp_path, form):
    values = np.random.default_rng(0).integers(-100, 100, (40, 2)) / 200.0
    wfdb.wrsamp("o", fs=250, units=["mV"] * 2, sig_name=["I", "V1"], p_signal=values, fmt=[form] * 2,
                adc_gain=[200.0] * 2, baseline=[0] * 2, write_dir=str(tmp_path))  # fmt: skip
    ours = read_ecg(tmp_path / "o")
    np.testing.assert_allclose(ours.signal, values.T, atol=1e-6)
    assert (ours.leads, ours.fs_hz) == (("I", "V1"), 250.0)


def test_short_long_and_altered_data_are_told_apart(tmp_path):
    path = record(tmp_path, raw_of(), MIMIC_ORDER)
    data = path.with_suffix(".dat")
    whole = data.read_bytes()
    data.write_bytes(whole + b"padding")
    assert read_ecg(path).signal.shape == (12, 50)
    data.write_bytes(whole[:-2])
    assert code_of(path) == "truncated"
    data.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert code_of(path) == "checksum_differs"
    data.unlink()
    assert code_of(path) == "missing_file"


def test_zeros_in_place_of_checksums_are_no_checksums(tmp_path):
    assert read_ecg(record(tmp_path, raw_of(), MIMIC_ORDER, checksum=False)).signal.shape == (12, 50)


@pytest.mark.parametrize("file", ["../r.dat", "/etc/passwd", "a/../r.dat", "..", "..\\r.dat", "sub/r.dat"])
@pytest.mark.parametrize("form", ["16", "212"])
def test_a_header_may_name_only_files_beside_it(tmp_path, file, form):
    assert code_of(record(tmp_path, raw_of(), MIMIC_ORDER, file=file, form=form)) == "unsafe_file_name"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("r 12 500 4000000000", "too_large"),
        ("r 100000 500 10", "damaged_header"),
        ("r twelve 500 10", "damaged_header"),
        ("r 12 0 10", "damaged_header"),
        ("r 12 nan 10", "damaged_header"),
        ("r/3 12 500 10", "unsupported_format"),
        ("r", "damaged_header"),
    ],
)
def test_a_record_line_that_cannot_be_is_refused(tmp_path, line, code):
    path = record(tmp_path, raw_of(), MIMIC_ORDER)
    header = path.with_suffix(".hea")
    header.write_text("\n".join([line, *header.read_text().splitlines()[1:]]))
    assert code_of(path) == code


def test_what_is_no_ecg_is_said(tmp_path):
    assert code_of(tmp_path / "nothing") == "missing_file"
    (tmp_path / "empty.hea").touch()
    assert code_of(tmp_path / "empty.hea") == "empty"
    (tmp_path / "notes.txt").write_text("notes")
    assert code_of(tmp_path / "notes.txt") == "not_ecg"
    assert code_of(get_testdata_file("CT_small.dcm", download=False)) == "not_ecg"
    assert code_of(record(tmp_path, raw_of(num_leads=2), ["II", "ii"])) == "lead_named_twice"


def test_a_dicom_waveform_is_read_in_millivolts():
    path = get_testdata_file("waveform_ecg.dcm", download=False)
    ours = read_ecg(path)
    assert (ours.leads, ours.fs_hz, ours.signal.shape) == (STANDARD_LEADS, 1000.0, (12, 10000))
    np.testing.assert_allclose(ours.signal, pydicom.dcmread(path).waveform_array(0).T / 1000.0, atol=1e-6)
    lead = dict(zip(ours.leads, ours.signal, strict=True))
    assert np.abs(lead["I"] + lead["III"] - lead["II"]).max() < 0.02


@pytest.fixture(scope="module")
def small_record(tmp_path_factory):
    return record(tmp_path_factory.mktemp("ecg"), raw_of(20, 3), ["I", "II", "V1"])


@settings(max_examples=300, deadline=2000)
@given(
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=10),
    in_header=st.booleans(),
)
def test_damaged_bytes_give_a_record_or_an_item_error(small_record, cut, flips, in_header):
    source = small_record.with_suffix(".hea" if in_header else ".dat").read_bytes()
    data = bytearray(source)
    for position, value in flips:
        data[position % len(data)] = value
    folder = small_record.with_name("damaged")
    folder.mkdir(exist_ok=True)
    for suffix in (".hea", ".dat"):
        (folder / f"r{suffix}").write_bytes(small_record.with_suffix(suffix).read_bytes())
    (folder / ("r.hea" if in_header else "r.dat")).write_bytes(data[: max(1, round(len(data) * min(1.0, cut + 0.4)))])
    with contextlib.suppress(ItemError):
        read_ecg(folder / "r")


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("a.hea", b"", "wfdb"),
        ("nothing", None, "wfdb"),
        ("a.dat", b"\x89HDF\r\n\x1a\n", "wfdb"),
        ("a.csv", b"I,II\n1,2\n", "arrays"),
        ("a.csv.gz", b"\x1f\x8b", "arrays"),
        ("a.npy", b"\x93NUMPY", "arrays"),
        ("a.bin", b"\x93NUMPY", "arrays"),
        ("a.mat", b"\0\0\0\0", "mat"),
        ("a.bin", b"MATLAB 5.0 MAT-file", "mat"),
        ("a.h5", b"damaged", "hdf5"),
        ("a.bin", b"\x89HDF\r\n\x1a\n", "hdf5"),
        ("a.bin", b"ISHNE1.0", "ishne"),
        ("a.bin", b"0       ", "edf"),
        ("a.csv", b"<?xml version='1.0'?>", "xml"),
        ("a.bin", b"\xef\xbb\xbf\r\n<a>", "xml"),
        ("a.bin", "<a>".encode("utf-16"), "xml"),
        ("a.bin", "<a>".encode("utf-16-be"), "xml"),
        ("a.npy", bytes(128) + b"DICM", "dicom"),
    ],
)
def test_the_first_bytes_tell_the_kind_and_then_the_name(tmp_path, name, head, kind):
    if head is not None:
        (tmp_path / name).write_bytes(head or b"r")
    assert kind_of(tmp_path / name) == kind


def test_a_mat_file_with_a_header_is_a_wfdb_record(tmp_path):
    """As in the CinC challenges: 24 bytes of a level 4 MATLAB header, then the samples."""
    header = record(tmp_path, raw_of(), MIMIC_ORDER, name="A0001").with_suffix(".hea")
    header.write_text(header.read_text().replace("A0001.dat 16 ", "A0001.mat 16+24 "))
    header.with_suffix(".dat").unlink()
    savemat(header.with_suffix(".mat"), {"val": raw_of().T}, format="4")
    assert kind_of(header.with_suffix(".mat")) == "wfdb"
    np.testing.assert_allclose(read_ecg(header.with_suffix(".mat")).signal, raw_of().T / 200.0, atol=1e-6)
