"""SCP-ECG, DICOM waveforms, EDF and ISHNE: the exact samples back, in mV, under their own leads, and only what is asked for."""

from __future__ import annotations

import struct
import tracemalloc

import make_ecg_files as make
import numpy as np
import pytest
from make_ecg_files import EIGHT, TWELVE, counts_of
from pydicom.data import get_testdata_file

from ecgecho.io import read_ecg
from ecgecho.types import STANDARD_LEADS, EcgSource, ItemError

EIGHT_COUNTS, TWELVE_COUNTS = counts_of(), counts_of(TWELVE)
BEAT = {lead: values[:40] for lead, values in counts_of(seed=5).items()}
FIRST_MV = np.array([80, 90, 10, -85, 35, 50, 40, 15, -10, -20, -55, -40]) * 1.25e-3
MIDDLE_MV = np.array([43, 55, 12, -49, 15, 33, 55, 25, 10, -40, -70, -25]) * 1.25e-3
QRS = [(0, 30, 50, 70), (1, 100, 120, 140), (0, 200, 215, 250), (0, 290, 295, 400)]


def written(tmp_path, data, name):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def code_of(path, source=None):
    with pytest.raises(ItemError) as caught:
        read_ecg(path, source)
    assert make.MARK not in str(caught.value)
    return caught.value.code


def same(record, counts, mv_per_count):
    """Every stored lead is there, exactly."""
    for lead, values in counts.items():
        expected = (np.asarray(values) * mv_per_count).astype(np.float32)
        np.testing.assert_array_max_ulp(record.signal[record.leads.index(lead)], expected, 1)


# --- SCP-ECG -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [0, 1, 2])
@pytest.mark.parametrize("coded", [True, False])
def test_scp_gives_the_rhythm_exactly(tmp_path, times, coded):
    record = read_ecg(written(tmp_path, make.scp(EIGHT_COUNTS, times=times, coded=coded), "ecg.scp"))
    assert (record.leads, record.fs_hz, record.signal.shape) == (STANDARD_LEADS, 500.0, (12, 300))
    same(record, EIGHT_COUNTS, 5e-3)


@pytest.mark.parametrize(("interval_us", "fs_hz"), [(1000, 1000), (4000, 250), (3333, 300), (2500, 400)])
def test_scp_rate_and_amplitude_are_what_section_6_says(tmp_path, interval_us, fs_hz):
    record = read_ecg(written(tmp_path, make.scp(TWELVE_COUNTS, avm_nv=1250, interval_us=interval_us), "ecg.scp"))
    assert record.fs_hz == fs_hz
    same(record, TWELVE_COUNTS, 1.25e-3)


@pytest.mark.parametrize("times", [0, 2])
def test_the_reference_beat_is_added_where_it_was_subtracted_and_nowhere_else(tmp_path, times):
    data = make.scp(EIGHT_COUNTS, times=times, beat=(15, 10000, BEAT), qrs=QRS)
    record = read_ecg(written(tmp_path, data, "ecg.scp"))
    same(record, EIGHT_COUNTS, 5e-3)
    assert record.defects == ("reference_beat_added",)


def test_full_scale_samples_survive_second_differences_in_16_bits(tmp_path):
    counts = {"I": np.array([-32768, 32767, -32768, 32767, 0, 1] * 20), "V1": np.arange(120) - 60}
    same(read_ecg(written(tmp_path, make.scp(counts), "ecg.scp")), counts, 5e-3)


def test_scp_tables_of_its_own_may_switch(tmp_path):
    data, counts = make.scp_of_own_tables()
    same(read_ecg(written(tmp_path, data, "ecg.scp")), counts, 5e-3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (
            make.scp(EIGHT_COUNTS, avm_nv=5000, extra={6: struct.pack("<HHBB", 0, 2000, 2, 0) + b"\0" * 99}.items()),
            "unit_unknown",
        ),
        (make.scp(EIGHT_COUNTS, extra={6: struct.pack("<HHBB", 5000, 0, 2, 0) + b"\0" * 99}.items()), "damaged_header"),
        (make.scp(EIGHT_COUNTS, extra={6: struct.pack("<HHBB", 5000, 2000, 3, 0) + b"\0" * 99}.items()), "damaged_header"),
        (make.scp(EIGHT_COUNTS, extra={6: struct.pack("<HHBB", 5000, 2000, 2, 0) + b"\xff" * 99}.items()), "truncated"),
        (make.scp(EIGHT_COUNTS, bimodal=1), "unsupported_format"),
        (make.scp(EIGHT_COUNTS, spans={"V6": (2, 301)}), "unsupported_format"),
        (make.scp(EIGHT_COUNTS, spans={"I": (5, 4)}), "damaged_header"),
        (make.scp(EIGHT_COUNTS, spans=dict.fromkeys(EIGHT, (1, 2**32 - 1))), "truncated"),
        (make.scp(EIGHT_COUNTS, spans=dict.fromkeys(EIGHT, (1, 2000))), "truncated"),
        (make.scp(EIGHT_COUNTS, tables=struct.pack("<H", 0)), "damaged_header"),
        (make.scp(EIGHT_COUNTS, tables=struct.pack("<H", 60000)), "damaged_header"),
        (make.scp(EIGHT_COUNTS, tables=struct.pack("<HH", 1, 65535)), "damaged_header"),
        (make.scp(EIGHT_COUNTS, tables=struct.pack("<HHBBBhI", 1, 1, 40, 40, 1, 0, 0)), "damaged_header"),
        (make.scp(EIGHT_COUNTS, tables=struct.pack("<HHBBBhI", 1, 1, 1, 1, 0, 9, 0)), "undecodable"),
        (make.scp(EIGHT_COUNTS, extra={6: b""}.items()), "truncated"),
        (make.scp(EIGHT_COUNTS, extra={3: b"\0\0"}.items()), "damaged_header"),
        (make.scp(EIGHT_COUNTS, crc=1), "checksum_differs"),
    ],
)
def test_scp_files_that_cannot_be_trusted_are_refused(tmp_path, data, code):
    assert code_of(written(tmp_path, data, "ecg.scp")) == code


def test_scp_and_sierra_files_of_too_many_samples_are_refused(tmp_path):
    """A bit a sample: 4 MiB that would be 64 leads of half a million samples."""
    chunk = b"\0" * 65534
    counts = {f"{row}": np.zeros(1) for row in range(64)}
    section = struct.pack("<HHBB", 5000, 2000, 2, 0) + struct.pack("<64H", *[len(chunk)] * 64) + chunk * 64
    data = make.scp(counts, spans=dict.fromkeys(counts, (1, 500_000)), extra={6: section}.items())
    assert code_of(written(tmp_path, data, "ecg.scp")) == "too_large"
    long = make.sierra(counts_of(TWELVE, 300), duration_ms=10**6, fs=1000)
    assert code_of(written(tmp_path, long, "ecg.xml")) == "damaged_header"


def test_a_flipped_bit_of_an_scp_section_that_is_read_is_found(tmp_path):
    data = make.scp(EIGHT_COUNTS)
    rhythm = data.rindex(struct.pack("<HHB", 5000, 2000, 2))
    flipped = data[: rhythm + 60] + bytes((data[rhythm + 60] ^ 4,)) + data[rhythm + 61 :]
    assert code_of(written(tmp_path, flipped, "ecg.scp")) == "checksum_differs"
    assert read_ecg(written(tmp_path, make.scp(EIGHT_COUNTS, crc=0), "ecg.scp")).fs_hz == 500.0, "0 is no CRC"


# --- DICOM ---------------------------------------------------------------------------------------------------------------


def test_the_real_dicom_recording_has_these_values():
    """pydicom's waveform_ecg.dcm: 1.25 uV a count, 10 s at 1 kHz; its second group is a median beat."""
    record = read_ecg(get_testdata_file("waveform_ecg.dcm", download=False))
    assert (record.leads, record.fs_hz, record.signal.shape, record.defects) == (STANDARD_LEADS, 1000.0, (12, 10000), ())
    np.testing.assert_allclose(record.signal[:, 0], FIRST_MV, atol=1e-6)
    np.testing.assert_allclose(record.signal[:, 5000], MIDDLE_MV, atol=1e-6)
    part = read_ecg(get_testdata_file("waveform_ecg.dcm", download=False), EcgSource(start_s=5.0, duration_s=2.0))
    np.testing.assert_array_equal(part.signal, record.signal[:, 5000:7000])


@pytest.mark.parametrize(
    ("options", "mv", "zero"),
    [
        ({}, 2.5e-3, 0.0),
        ({"unit": "mV", "sensitivity": "0.0025"}, 2.5e-3, 0.0),
        ({"unit": "V", "sensitivity": "0.0000025"}, 2.5e-3, 0.0),
        ({"unit": "nV", "sensitivity": "2500"}, 2.5e-3, 0.0),
        ({"correction": "2"}, 5e-3, 0.0),
        ({"baseline": "100"}, 2.5e-3, 0.1),
        ({"form": "SL", "dtype": "<i4"}, 2.5e-3, 0.0),
        ({"meanings": False}, 2.5e-3, 0.0),
        ({"codes": None}, 2.5e-3, 0.0),
        ({"codes": {lead: f"2:{make.SCP_CODE[lead]}" for lead in TWELVE}, "meanings": False}, 2.5e-3, 0.0),
        ({"codes": {lead: f"MDC_ECG_LEAD_{lead.upper()}" for lead in TWELVE}, "meanings": False}, 2.5e-3, 0.0),
    ],
)
def test_dicom_units_and_lead_codes_of_every_kind(tmp_path, options, mv, zero):
    record = read_ecg(make.dicom(tmp_path / "ecg.dcm", make.dicom_group(TWELVE_COUNTS, **options)))
    assert (record.leads, record.fs_hz, record.unit) == (STANDARD_LEADS, 500.0, "mv")
    for lead, values in TWELVE_COUNTS.items():
        np.testing.assert_allclose(record.signal[record.leads.index(lead)], values * mv + zero, atol=1e-6)


def test_dicom_big_endian(tmp_path):
    path = make.dicom(tmp_path / "ecg.dcm", make.dicom_group(TWELVE_COUNTS, dtype=">i2"), big_endian=True)
    same(read_ecg(path), TWELVE_COUNTS, 2.5e-3)


def test_dicom_padding_is_a_sample_that_is_not_there(tmp_path):
    counts = {lead: values.copy() for lead, values in TWELVE_COUNTS.items()}
    counts["V3"][7] = -32768
    path = make.dicom(tmp_path / "ecg.dcm", make.dicom_group(counts, padding=-32768))
    record = read_ecg(path)
    assert np.argwhere(np.isnan(record.signal)).tolist() == [[8, 7]]
    np.testing.assert_array_equal(record.lead_valid, np.arange(12) != 8)
    assert read_ecg(path, EcgSource(start_s=0.1)).lead_valid.all(), "the gap is before the excerpt"


def test_dicom_median_beats_are_never_read_however_long(tmp_path):
    beat = make.dicom_group({lead: np.full(900, 9999) for lead in TWELVE}, originality="DERIVED")
    rhythm = make.dicom_group(TWELVE_COUNTS)
    same(read_ecg(make.dicom(tmp_path / "a.dcm", beat, rhythm)), TWELVE_COUNTS, 2.5e-3)
    assert code_of(make.dicom(tmp_path / "b.dcm", beat)) == "no_rhythm"
    several = read_ecg(make.dicom(tmp_path / "c.dcm", make.dicom_group(counts_of(TWELVE, 100)), rhythm))
    assert (several.signal.shape[1], several.defects) == (300, ("other_groups_left",))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"sensitivity": None}, "unit_unknown"),
        ({"unit": "mm[Hg]"}, "unit_unknown"),
        ({"sensitivity": "0"}, "unit_unknown"),
        ({"fs": 0.5}, "damaged_header"),
        ({"form": "MB", "dtype": "u1"}, "unsupported_format"),
        ({"codes": dict.fromkeys(TWELVE, "5.6.3-9-1")}, "damaged_header"),
        ({"codes": dict.fromkeys(TWELVE, "5.6.3-9-1"), "meanings": False}, "lead_named_twice"),
    ],
)
def test_dicom_files_that_cannot_be_trusted_are_refused(tmp_path, options, code):
    assert code_of(make.dicom(tmp_path / "ecg.dcm", make.dicom_group(TWELVE_COUNTS, **options))) == code


def test_dicom_waveforms_that_are_short_or_skewed_are_refused(tmp_path):
    group = make.dicom_group(TWELVE_COUNTS)
    group.NumberOfWaveformSamples = 301
    assert code_of(make.dicom(tmp_path / "a.dcm", group)) == "truncated"
    group = make.dicom_group(TWELVE_COUNTS)
    group.ChannelDefinitionSequence[4].ChannelSampleSkew = "1250"
    assert code_of(make.dicom(tmp_path / "b.dcm", group)) == "unsupported_format"


# --- EDF -----------------------------------------------------------------------------------------------------------------


def edf_rows(counts, each=100, unit="uV", low="-16384", high="16383.5", label="{}"):
    return [(label.format(lead), unit, low, high, each, values) for lead, values in counts.items()]


NOTES = (
    "EDF Annotations",
    "",
    "-1",
    "1",
    20,
    np.frombuffer((f"+0\x14\x14{make.MARK}\x14\0".ljust(40, "\0") * 3).encode(), "<i2"),
)


@pytest.mark.parametrize("label", ["{}", "ECG {}", "EKG {}", "Lead {}"])
def test_edf_gives_the_ecg_among_other_signals(tmp_path, label):
    eeg = ("EEG Fpz-Cz", "uV", "-100", "100", 50, np.arange(150))
    breath = ("Resp", "Ohm", "-1", "1", 10, np.arange(30))
    rows = [eeg, *edf_rows(EIGHT_COUNTS, label=label), breath, NOTES]
    record = read_ecg(written(tmp_path, make.edf(rows, reserved="EDF+C"), "ecg.edf"))
    assert (record.leads, record.fs_hz, record.signal.shape) == (STANDARD_LEADS, 100.0, (12, 300))
    same(record, EIGHT_COUNTS, 0.5e-3)


@pytest.mark.parametrize(
    ("low", "high", "unit", "mv", "zero"),
    [
        ("-32.768", "32.767", "mV", 1e-3, 0.0),
        ("-32,768", "32,767", "mV", 1e-3, 0.0),
        ("32767", "-32768", "uV", -1e-3, -1e-3),
        ("0", "65535", "uV", 1e-3, 32.768),
        ("-32768.0", "32767.0", "\u00b5V", 1e-3, 0.0),
    ],
)
def test_edf_ranges_give_millivolts(tmp_path, low, high, unit, mv, zero):
    data = make.edf(edf_rows(EIGHT_COUNTS, unit=unit, low=low, high=high))
    record = read_ecg(written(tmp_path, data, "ecg.edf"))
    for lead, values in EIGHT_COUNTS.items():
        np.testing.assert_allclose(record.signal[record.leads.index(lead)], values * mv + zero, atol=1e-5)


@pytest.mark.parametrize(("start_s", "duration_s"), [(0.0, 0.5), (0.37, 2.0), (1.0, 1.0), (2.5, 0.5), (0.99, 0.02)])
def test_an_excerpt_of_edf_and_of_a_holter_is_that_part_of_the_whole(tmp_path, start_s, duration_s):
    source, part = (
        EcgSource(start_s=start_s, duration_s=duration_s),
        slice(round(100 * start_s), round(100 * (start_s + duration_s))),
    )
    edf = read_ecg(written(tmp_path, make.edf(edf_rows(EIGHT_COUNTS)), "ecg.edf"), source)
    same(edf, {lead: values[part] for lead, values in EIGHT_COUNTS.items()}, 0.5e-3)
    holter = read_ecg(written(tmp_path, make.ishne(EIGHT_COUNTS, fs=100), "ecg.ecg"), source)
    same(holter, {lead: values[part] for lead, values in EIGHT_COUNTS.items()}, 2.5e-3)
    assert edf.signal.shape[1] == holter.signal.shape[1] == part.stop - part.start


def test_an_excerpt_of_a_long_file_takes_the_memory_of_the_excerpt(tmp_path):
    long = np.zeros(3_000_000, np.int16)
    long[2_000_000:2_001_000] = np.arange(1000)
    files = [written(tmp_path, make.edf(edf_rows({"V1": long, "V5": long}, each=1000), record_s="10"), "ecg.edf"),
             written(tmp_path, make.ishne({"V1": long, "V5": long}, fs=100), "ecg.ecg")]  # fmt: skip
    for path in files:
        tracemalloc.start()
        try:
            record = read_ecg(path, EcgSource(start_s=20_000.0, duration_s=10.0))
            assert tracemalloc.get_traced_memory()[1] < 2 << 20
        finally:
            tracemalloc.stop()
        assert (np.diff(record.signal[0]) > 0).all()
        assert record.signal.shape == (2, 1000)


def test_edf_of_channels_without_names_needs_the_names(tmp_path):
    path = written(tmp_path, make.edf([*edf_rows({"Ch1": EIGHT_COUNTS["V1"], "Ch2": EIGHT_COUNTS["V5"]}), NOTES]), "ecg.edf")
    assert code_of(path) == "not_ecg"
    same(read_ecg(path, EcgSource(leads=("V1", "V5"))), {lead: EIGHT_COUNTS[lead] for lead in ("V1", "V5")}, 0.5e-3)
    assert code_of(path, EcgSource(leads=("V1", "V5", "V6"))) == "not_ecg"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (make.edf(edf_rows(EIGHT_COUNTS), records=4), "truncated"),
        (make.edf(edf_rows(EIGHT_COUNTS), records=0), "truncated"),
        (make.edf(edf_rows(EIGHT_COUNTS), records=make.MARK), "damaged_header"),
        (make.edf(edf_rows(EIGHT_COUNTS), reserved="EDF+D"), "unsupported_format"),
        (make.edf(edf_rows(EIGHT_COUNTS), record_s="0"), "damaged_header"),
        (make.edf(edf_rows(EIGHT_COUNTS), record_s="nan"), "damaged_header"),
        (make.edf(edf_rows(EIGHT_COUNTS), record_s="1e99"), "damaged_header"),
        (make.edf(edf_rows(EIGHT_COUNTS, unit="mmHg")), "unit_unknown"),
        (make.edf(edf_rows(EIGHT_COUNTS, unit="")), "unit_unknown"),
        (make.edf(edf_rows(EIGHT_COUNTS, low="5", high="5")), "damaged_header"),
        (make.edf(edf_rows(EIGHT_COUNTS), digital=("100", "100")), "damaged_header"),
        (
            make.edf(edf_rows({"I": EIGHT_COUNTS["I"]}) + edf_rows({"V1": EIGHT_COUNTS["V1"][:150]}, each=50)),
            "unsupported_format",
        ),
        (make.edf(edf_rows({"I": EIGHT_COUNTS["I"], "i": EIGHT_COUNTS["II"]})), "lead_named_twice"),
        (make.edf(edf_rows({"EEG": EIGHT_COUNTS["I"]})), "not_ecg"),
        (b"\xffBIOSEMI" + make.edf(edf_rows(EIGHT_COUNTS))[8:], "unsupported_format"),
        (make.edf(edf_rows(EIGHT_COUNTS))[:200], "truncated"),
        (make.edf(edf_rows(EIGHT_COUNTS))[:900], "truncated"),
        (make.edf(edf_rows(EIGHT_COUNTS)).replace(b"100     ", b"99999999"), "damaged_header"),
    ],
)
def test_edf_files_that_cannot_be_trusted_are_refused(tmp_path, data, code):
    assert code_of(written(tmp_path, data, "ecg.edf")) == code


def test_edf_that_was_not_closed_is_as_long_as_it_is(tmp_path):
    assert read_ecg(written(tmp_path, make.edf(edf_rows(EIGHT_COUNTS), records=-1), "ecg.edf")).signal.shape[1] == 300


# --- ISHNE ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leads", [("X", "Y", "Z"), ("V1", "V5", "aVF"), TWELVE])
@pytest.mark.parametrize("free", [b"", f"{make.MARK} notes".encode()])
def test_a_holter_gives_its_leads_exactly(tmp_path, leads, free):
    counts = counts_of(leads)
    record = read_ecg(written(tmp_path, make.ishne(counts, free=free), "ecg.ecg"))
    assert (record.leads, record.fs_hz, record.signal.shape) == (leads, 200.0, (len(leads), 300))
    same(record, counts, 2.5e-3)


def test_both_ways_to_count_the_samples_of_a_holter_are_read(tmp_path):
    counts = counts_of(("V1", "V5"))
    for total in (600, 300):
        same(read_ecg(written(tmp_path, make.ishne(counts, total=total), "ecg.ecg")), counts, 2.5e-3)
    assert code_of(written(tmp_path, make.ishne(counts, total=602), "ecg.ecg")) == "truncated"
    assert code_of(written(tmp_path, make.ishne(counts, total=200), "ecg.ecg")) == "damaged_header"


def test_holter_leads_of_no_known_place_are_channels(tmp_path):
    path = written(tmp_path, make.ishne(counts_of(("a", "b", "c")), codes=[0, 1, 17]), "ecg.ecg")
    assert read_ecg(path).leads == ("channel 1", "channel 2", "ES")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (make.ishne(counts_of(("V1", "V5")), crc=7), "checksum_differs"),
        (make.ishne(counts_of(("V1", "V5")), nv=0), "unit_unknown"),
        (make.ishne(counts_of(("V1", "V5")), fs=0), "damaged_header"),
        (make.ishne(counts_of(("V1", "V5")), fs=-9), "damaged_header"),
        (make.ishne(counts_of(("V1", "V5")), total=-2), "damaged_header"),
        (make.ishne(counts_of(("V1", "V5")), codes=[11, 11]), "lead_named_twice"),
        (make.ishne(counts_of(("V1", "V5")))[:-400], "truncated"),
        (make.ishne(counts_of(("V1", "V5")))[:300], "truncated"),
    ],
)
def test_holters_that_cannot_be_trusted_are_refused(tmp_path, data, code):
    assert code_of(written(tmp_path, data, "ecg.ecg")) == code


# --- of all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [make.scp(EIGHT_COUNTS), make.edf(edf_rows(EIGHT_COUNTS)), make.ishne(EIGHT_COUNTS)])
def test_the_name_of_a_file_plays_no_part_and_it_has_no_rows(tmp_path, data):
    path = written(tmp_path, data, "ecg.bin")
    assert set(EIGHT) <= set(read_ecg(path).leads)
    assert code_of(path, EcgSource(row=3)) == "row_outside"
