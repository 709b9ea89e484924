"""WFDB records as datasets ship them: samples in MATLAB files, lost line breaks, lengths that disagree, excerpts."""

from __future__ import annotations

import builtins
import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import wfdb as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgecho.io import read_ecg
from ecgecho.types import STANDARD_LEADS, EcgSource, ItemError

MIMIC_ORDER = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")


def raw_of(num_samples=5000, num_leads=12, seed=3) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3000, 3000, (num_samples, num_leads)).astype("<i2")


def dat_record(folder: Path, raw: np.ndarray, leads=STANDARD_LEADS, *, fs="500", declared: int | None = None, name="r") -> Path:
    """A format-16 record; `declared` is the length that the header says."""
    num_samples = len(raw) if declared is None else declared
    lines = [f"{name} {raw.shape[1]} {fs} {num_samples}"]
    lines += [f"{name}.dat 16 200.0(0)/mV 16 0 {raw[0, k]} 0 0 {lead}" for k, lead in enumerate(leads)]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    raw.tofile(folder / f"{name}.dat")
    return folder / name


def chapman(folder: Path, raw: np.ndarray, name="JS00001", *, eol="\n") -> Path:
    """A record as Chapman-Shaoxing-Ningbo 1.0.0 ships it: MATLAB level 4 `val` int16 (12, L), header with byte offset 24."""
    scipy.io.savemat(folder / f"{name}.mat", {"val": raw.T.astype(np.int16)}, format="4")
    lines = [f"{name} 12 500 {len(raw)}"]
    for k, lead in enumerate(STANDARD_LEADS):
        total = int(raw[:, k].astype(np.int64).sum())
        checksum = (total + 32768) % 65536 - 32768
        lines.append(f"{name}.mat 16+24 1000/mV 16 0 {raw[0, k]} {checksum} 0 {lead}")
    lines += ["#Age: 85", "#Sex: Male", "#Dx: 164889003,59118001,164934002", "#Rx: Unknown", "#Hx: Unknown", "#Sx: Unknown"]
    (folder / f"{name}.hea").write_text(eol.join(lines) + eol, newline="")
    return folder / name


def code_of(path, source=None) -> str:
    with pytest.raises(ItemError) as caught:
        read_ecg(path, source)
    return caught.value.code


@pytest.mark.parametrize("suffix", ["", ".hea", ".mat"])
@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_chapman_and_georgia_records_are_exact(tmp_path, suffix, eol):
    raw = raw_of()
    path = chapman(tmp_path, raw, eol=eol)
    assert path.with_suffix(".mat").read_bytes()[24:] == raw.tobytes()
    ours = read_ecg(Path(str(path) + suffix))
    np.testing.assert_array_equal(ours.signal, (raw.T / 1000).astype(np.float32))
    assert (ours.leads, ours.fs_hz, ours.unit, ours.defects) == (STANDARD_LEADS, 500.0, "mv", ())
    np.testing.assert_array_equal(ours.signal, reference.rdrecord(str(path)).p_signal.T.astype(np.float32))


def test_a_record_line_of_the_challenges_is_read(tmp_path):
    """CinC 2020 and 2021 write the date before the time, with hyphens, and sometimes the name with .mat."""
    path = chapman(tmp_path, raw_of(), "E07835")
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("E07835 12 500 5000", "E07835.mat 12 500 5000 05-May-2020 09:49:17", 1))
    assert read_ecg(path).signal.shape == (12, 5000)


def test_a_matrix_of_another_shape_or_kind_than_its_header_is_refused(tmp_path):
    path = chapman(tmp_path, raw_of(100))
    samples = path.with_suffix(".mat")
    scipy.io.savemat(samples, {"val": raw_of(100).astype(np.int16)}, format="4")
    assert code_of(path) == "length_disagrees"  # turned by 90 degrees: the same bytes would be other leads
    scipy.io.savemat(samples, {"val": raw_of(100).T.astype(np.int32)}, format="4")
    assert code_of(path) == "length_disagrees"
    scipy.io.savemat(samples, {"longer_name": raw_of(100).T.astype(np.int16)}, format="4")
    assert code_of(path) == "length_disagrees"
    scipy.io.savemat(samples, {"val": raw_of(100).T.astype(np.int16)}, format="5")
    assert code_of(path) == "length_disagrees"
    scipy.io.savemat(samples, {"val": raw_of(80).T.astype(np.int16)}, format="4")
    assert code_of(path) == "truncated"


def test_the_header_of_js23074_is_read_and_said(tmp_path):
    """Its first signal line stands on the record line, which names the record S23074."""
    raw = raw_of(200)
    path = chapman(tmp_path, raw, "JS23074")
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("JS23074 12 500 200\nJS23074.mat", "S23074 12 500 200 JS23074.mat", 1))
    assert header.read_text().startswith("S23074 12 500 200 JS23074.mat 16+24 1000/mV 16 0 ")
    ours = read_ecg(path)
    np.testing.assert_array_equal(ours.signal, (raw.T / 1000).astype(np.float32))
    assert (ours.leads, ours.defects) == (STANDARD_LEADS, ("header_line_fused",))


def test_no_other_header_that_lost_a_line_break_is_mended(tmp_path):
    path = chapman(tmp_path, raw_of(5000), "JS01052")
    header = path.with_suffix(".hea")
    whole = header.read_text()
    # JS01052.hea of Chapman-Shaoxing-Ningbo 1.0.0: the file's name and half of the length went with the line break
    first = whole.splitlines()[1].split("1000/mV", 1)[1]
    header.write_text(whole.replace("\n".join(whole.splitlines()[:2]), f"JS01052 12 500 500000/mV{first}"))
    assert code_of(path) == "damaged_header"
    lines = whole.splitlines()
    header.write_text("\n".join([f"{lines[0]} other.mat 16+24 1000/mV 16 0 1 2 0 I", *lines[2:]]))
    assert code_of(path) == "damaged_header"
    header.write_text("\n".join([f"{lines[0]} {lines[1]}", *lines[3:]]))
    assert code_of(path) == "damaged_header"


def test_a_file_that_is_longer_by_a_simple_ratio_is_refused(tmp_path):
    """MUSIC's 20 high-resolution records: 797,333 samples of 3 leads are said, 1,196,000 are there."""
    raw = np.zeros((1_196_000, 3), "<i2")
    assert code_of(dat_record(tmp_path, raw, ("X", "Y", "Z"), fs="1000", declared=797_333)) == "length_disagrees"


@pytest.mark.parametrize(("written", "said"), [(3, 2), (12, 8), (15, 12), (2, 1), (12, 3), (12, 9)])
@pytest.mark.parametrize("num_samples", [101, 1000, 9999])
def test_a_header_with_too_few_signals_is_refused(tmp_path, written, said, num_samples):
    path = dat_record(tmp_path, np.zeros((num_samples, written), "<i2"), [f"L{k}" for k in range(written)])
    lines = path.with_suffix(".hea").read_text().splitlines()
    lines[0] = lines[0].replace(f"r {written} ", f"r {said} ", 1)
    path.with_suffix(".hea").write_text("\n".join(lines[: said + 1]))
    assert code_of(path) == "length_disagrees"


def test_trailing_bytes_are_noted_and_left_out(tmp_path):
    raw = raw_of(1000, 3)
    path = dat_record(tmp_path, raw, ("X", "Y", "Z"))
    with path.with_suffix(".dat").open("ab") as file:
        file.write(bytes(50))
    ours = read_ecg(path)
    assert ours.defects == ("trailing_bytes",)
    np.testing.assert_array_equal(ours.signal, (raw.T / 200).astype(np.float32))


@settings(max_examples=80, deadline=None)
@given(start_s=st.floats(0, 12), duration_s=st.none() | st.floats(0.001, 12), form=st.sampled_from(["16", "16+24", "212"]))
def test_an_excerpt_is_a_slice_of_the_whole(records, start_s, duration_s, form):
    path = records[form]
    source = EcgSource(start_s=start_s, duration_s=duration_s)
    whole = read_ecg(path).signal
    first = round(start_s * 500)
    last = 5000 if duration_s is None else round((start_s + duration_s) * 500)
    if first >= 5000 or last <= first:
        assert code_of(path, source) == "excerpt_outside"
        return
    part = read_ecg(path, source)
    np.testing.assert_array_equal(part.signal, whole[:, first:last])
    assert part.defects == (("excerpt_short",) if last > 5000 else ())


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> dict[str, Path]:
    """The same kind of record in three formats, 10 s at 500 Hz."""
    folders = {form: tmp_path_factory.mktemp(f"form{k}") for k, form in enumerate(("16", "16+24", "212"))}
    values = np.random.default_rng(1).integers(-400, 400, (5000, 2)) / 200.0
    reference.wrsamp("o", fs=500, units=["mV"] * 2, sig_name=["I", "V1"], p_signal=values, fmt=["212"] * 2,
                     adc_gain=[200.0] * 2, baseline=[0] * 2, write_dir=str(folders["212"]))  # fmt: skip
    return {
        "16": dat_record(folders["16"], raw_of()),
        "16+24": chapman(folders["16+24"], raw_of()),
        "212": folders["212"] / "o",
    }


def test_excerpts_that_meet_neither_overlap_nor_leave_a_sample_out(tmp_path):
    path = dat_record(tmp_path, raw_of(1000, 3), ("X", "Y", "Z"), fs="257")
    parts = [read_ecg(path, EcgSource(start_s=k * 0.7, duration_s=0.7)).signal for k in range(5)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), read_ecg(path).signal[:, : round(3.5 * 257)])


def test_of_a_holter_only_the_bytes_of_the_excerpt_are_read(tmp_path, monkeypatch):
    raw = raw_of(3600 * 200, 3)
    path = dat_record(tmp_path, raw, ("X", "Y", "Z"), fs="200")
    count, real_open = [0], io.open

    class Counting(io.FileIO):
        def read(self, size=-1):
            found = super().read(size)
            count[0] += len(found)
            return found

        readall = read

    def counted(file, mode="r", *rest, **options):
        return Counting(file) if mode == "rb" else real_open(file, mode, *rest, **options)

    monkeypatch.setattr(io, "open", counted)
    monkeypatch.setattr(builtins, "open", counted)
    part = read_ecg(path, EcgSource(start_s=1800, duration_s=10))
    np.testing.assert_array_equal(part.signal, (raw[360_000:362_000].T / 200).astype(np.float32))
    assert 12_000 <= count[0] < 20_000


def test_an_excerpt_needs_no_checksum_and_a_whole_record_keeps_it(tmp_path):
    path = chapman(tmp_path, raw_of(1000))
    data = path.with_suffix(".mat")
    damaged = bytearray(data.read_bytes())
    damaged[-1] ^= 1
    data.write_bytes(damaged)
    assert code_of(path) == "checksum_differs"
    assert read_ecg(path, EcgSource(duration_s=1.0)).signal.shape == (12, 500)


def test_a_rate_or_a_row_that_the_record_does_not_have_is_refused(tmp_path):
    path = dat_record(tmp_path, raw_of(100))
    assert read_ecg(path, EcgSource(fs_hz=500.0)).fs_hz == 500.0
    assert code_of(path, EcgSource(fs_hz=400.0)) == "rate_disagrees"
    assert code_of(path, EcgSource(row=0)) == "row_outside"


def test_a_unit_that_is_no_voltage_is_taken_from_the_dataset_or_refused(tmp_path):
    raw = raw_of(100, 2)
    path = dat_record(tmp_path, raw, ("II", "RESP"))
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("/mV", "/NU"))
    assert code_of(path) == "unit_unknown"
    assert code_of(path, EcgSource(unit="zscore")) == "unit_unknown"
    found = read_ecg(path, EcgSource(unit="uv"))
    assert found.leads == ("II",)
    np.testing.assert_allclose(found.signal[0], raw[:, 0] / 200 / 1000, rtol=1e-6)


def test_leads_without_names_are_named_by_the_dataset(tmp_path):
    raw = raw_of(100, 3)
    path = dat_record(tmp_path, raw, ("", "", ""))
    found = read_ecg(path, EcgSource(leads=("vx", "vy", "vz")))
    assert found.leads == ("X", "Y", "Z")
    np.testing.assert_array_equal(found.signal, (raw.T / 200).astype(np.float32))


@pytest.mark.parametrize(
    ("written", "said", "code"),
    [
        (("I", "II"), ("V1", "V2"), "leads_disagree"),
        (("I", "II"), ("II", "I"), "leads_disagree"),
        (("I", "II"), ("I",), "leads_disagree"),
        (("I", "RESP"), ("I", "II"), "leads_disagree"),
        (MIMIC_ORDER, STANDARD_LEADS, "leads_disagree"),
        (("I", "II"), ("I", "ii"), None),
        (("I", "RESP", "II"), ("I", "II"), None),
        (("I", "RESP"), ("I", "RESP"), None),
    ],
)
def test_leads_that_the_header_does_not_name_are_refused(tmp_path, written, said, code):
    path = dat_record(tmp_path, raw_of(100, len(written)), written)
    if code is None:
        assert read_ecg(path, EcgSource(leads=said)).leads == read_ecg(path).leads
    else:
        assert code_of(path, EcgSource(leads=said)) == code


@pytest.mark.parametrize(("written", "said"), [("mV", "uv"), ("mV", "zscore"), ("uV", "mv"), ("V", "mv")])
def test_a_unit_that_the_header_does_not_say_is_refused(tmp_path, written, said):
    path = dat_record(tmp_path, raw_of(100, 2), ("II", "V1"))
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("/mV", f"/{written}"))
    assert code_of(path, EcgSource(unit=said)) == "unit_disagrees"
    right = EcgSource(unit={"mV": "mv", "uV": "uv"}.get(written))
    np.testing.assert_array_equal(read_ecg(path, right).signal, read_ecg(path).signal)


def test_the_unit_of_a_signal_that_is_no_lead_is_its_own_affair(tmp_path):
    path = dat_record(tmp_path, raw_of(100, 2), ("II", "RESP"))
    header = path.with_suffix(".hea")
    header.write_text("/V".join(header.read_text().rsplit("/mV", 1)))
    assert read_ecg(path, EcgSource(unit="mv")).leads == ("II", "channel 2")


def test_words_of_a_header_that_name_nothing_known_get_nowhere(tmp_path):
    path = dat_record(tmp_path, raw_of(100, 4), ("JOHN_SMITH_1948", "I", "MLII", "JOHN_SMITH_1948"))
    assert read_ecg(path).leads == ("channel 1", "I", "MLII", "channel 4")
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("/mV", "/JOHN_SMITH"))
    for source in (None, EcgSource(leads=("V1",))):
        with pytest.raises(ItemError) as caught:
            read_ecg(path, source)
        assert "SMITH" not in str(caught.value)


def test_leads_are_told_by_their_names_where_avf_comes_before_avl(tmp_path):
    """The order of MIMIC-IV-ECG."""
    raw = raw_of(100)
    found = read_ecg(dat_record(tmp_path, raw, MIMIC_ORDER))
    lead = dict(zip(found.leads, found.signal, strict=True))
    np.testing.assert_array_equal(lead["aVF"], (raw[:, 4] / 200).astype(np.float32))
    np.testing.assert_array_equal(lead["aVL"], (raw[:, 5] / 200).astype(np.float32))


@pytest.mark.parametrize("word", ["9" * 400, "-" + "9" * 400, "1e400", "nan", "9" * 5000])
@pytest.mark.parametrize("place", [2, 4, 6])
def test_numbers_that_cannot_be_are_an_item_error_or_a_record(tmp_path, word, place):
    path = dat_record(tmp_path, raw_of(20, 1), ("I",))
    header = path.with_suffix(".hea")
    first, signal = header.read_text().splitlines()
    words = signal.split()
    words[place] = word if place != 2 else f"{word}({word})/mV"
    header.write_text(f"{first}\n{' '.join(words)}\n")
    try:
        found = read_ecg(path)
    except ItemError as error:
        found = error
    if isinstance(found, ItemError):
        assert "9999" not in str(found)
    else:
        assert found.signal.shape == (1, 20)
