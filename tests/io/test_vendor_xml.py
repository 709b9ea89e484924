"""ECG files in XML (MUSE, Sierra, aECG, CardioSoft): the exact samples back, in mV, under their own leads, and nothing else."""

from __future__ import annotations

import base64
import struct
import tracemalloc

import make_ecg_files as make
import numpy as np
import pytest
from make_ecg_files import EIGHT, TWELVE, counts_of

from ecgecho.io import read_ecg
from ecgecho.types import STANDARD_LEADS, EcgSource, ItemError

EIGHT_COUNTS, TWELVE_COUNTS = counts_of(), counts_of(TWELVE)
MEDIAN = {lead: np.full(60, 9999) for lead in EIGHT}


def written(tmp_path, data, name="ecg.xml"):
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
        expected = (values * mv_per_count).astype(np.float32)
        np.testing.assert_array_max_ulp(record.signal[record.leads.index(lead)], expected, 1)


def muse(counts=EIGHT_COUNTS, **options):
    return make.muse(make.muse_waveform("Median", MEDIAN), make.muse_waveform("Rhythm", counts, **options))


# --- MUSE ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("median_first", [True, False])
def test_muse_gives_the_rhythm_and_never_the_median(tmp_path, median_first):
    waveforms = [make.muse_waveform("Median", MEDIAN), make.muse_waveform("Rhythm", EIGHT_COUNTS)]
    record = read_ecg(written(tmp_path, make.muse(*(waveforms if median_first else waveforms[::-1]))))
    assert (record.fs_hz, record.unit, record.signal.shape, record.lead_valid.all()) == (500.0, "mv", (12, 300), True)
    same(record, EIGHT_COUNTS, 4.88e-3)


def test_four_limb_leads_are_made_of_the_two_that_are_stored(tmp_path):
    record = read_ecg(written(tmp_path, muse()))
    assert record.leads == STANDARD_LEADS
    for lead, counts in make.limb_of(EIGHT_COUNTS["I"], EIGHT_COUNTS["II"]).items():
        np.testing.assert_allclose(record.signal[record.leads.index(lead)], counts * 4.88e-3, atol=1e-6)


def test_a_file_without_the_eight_leads_gets_no_lead_made_up(tmp_path):
    seven = {lead: EIGHT_COUNTS[lead] for lead in EIGHT if lead != "II"}
    assert read_ecg(written(tmp_path, muse(seven))).leads == tuple(seven)


def test_leads_go_by_name_in_whatever_order(tmp_path):
    swapped = {lead: EIGHT_COUNTS[lead] for lead in ("V6", "II", "V1", "I", "V3", "V2", "V5", "V4")}
    same(read_ecg(written(tmp_path, muse(swapped))), EIGHT_COUNTS, 4.88e-3)


@pytest.mark.parametrize(
    ("options", "mv", "fs_hz"),
    [
        ({"per_bit": "4,88"}, 4.88e-3, 500),
        ({"per_bit": "0,00488", "units": "MILLIVOLTS"}, 4.88e-3, 500),
        ({"per_bit": "1000", "units": "NANOVOLTS"}, 1e-3, 500),
        ({"base": "25", "exponent": "1"}, 4.88e-3, 250),
        ({"base": "2500", "exponent": "-1"}, 4.88e-3, 250),
        ({"base": "1000,0"}, 4.88e-3, 1000),
    ],
)
def test_muse_units_and_rates_are_read_with_points_and_commas(tmp_path, options, mv, fs_hz):
    record = read_ecg(written(tmp_path, muse(**options)))
    assert record.fs_hz == fs_hz
    same(record, EIGHT_COUNTS, mv)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_the_encoding_plays_no_part(tmp_path, encoding):
    same(
        read_ecg(written(tmp_path, make.muse(make.muse_waveform("Rhythm", EIGHT_COUNTS), encoding=encoding))),
        EIGHT_COUNTS,
        4.88e-3,
    )


@pytest.mark.parametrize("declared", [b"UTF-8", b"UTF-16", b"x-none"])
def test_a_file_in_another_encoding_than_it_says_is_read(tmp_path, declared):
    data = muse().replace(b"ISO-8859-1", declared)
    same(read_ecg(written(tmp_path, data)), EIGHT_COUNTS, 4.88e-3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (make.muse(make.muse_waveform("Median", MEDIAN)), "no_rhythm"),
        (make.muse(), "no_rhythm"),
        (make.muse(make.muse_waveform("Rhythm", EIGHT_COUNTS), make.muse_waveform("Rhythm", EIGHT_COUNTS)), "unsupported_format"),
        (muse(units="COUNTS"), "unit_unknown"),
        (muse(units=""), "unit_unknown"),
        (muse(per_bit=""), "unit_unknown"),
        (muse(per_bit="-4.88"), "unit_unknown"),
        (muse(per_bit="nan"), "unit_unknown"),
        (muse(base="0"), "damaged_header"),
        (muse(base="Infinity"), "damaged_header"),
        (muse(base="500", exponent="9"), "damaged_header"),
        (muse(base="500", exponent="0.5"), "damaged_header"),
        (muse(base="500", exponent="-3"), "damaged_header"),
        (muse(count=301), "truncated"),
        (muse(count=299), "damaged_header"),
        (muse(size="4"), "unsupported_format"),
        (muse(payload=b"\1\2\3", count=1), "truncated"),
        (muse({**EIGHT_COUNTS, "v1 ": EIGHT_COUNTS["V2"]}), "lead_named_twice"),
        (muse({**EIGHT_COUNTS, "V7": EIGHT_COUNTS["V2"][:-1]}), "damaged_header"),
        (muse({}), "damaged_header"),
        (muse().replace(b"<WaveFormData>\n", b"<WaveFormData>\n!"), "undecodable"),
        (muse().replace(b"<LeadTimeOffset>0<", b"<LeadTimeOffset>2500<", 9), "unsupported_format"),
    ],
)
def test_muse_files_that_cannot_be_trusted_are_refused(tmp_path, data, code):
    assert code_of(written(tmp_path, data)) == code


def test_a_lead_that_does_not_fit_its_crc_is_refused_but_sums_of_another_rule_say_nothing(tmp_path):
    two = make.muse_waveform("Rhythm", {"I": EIGHT_COUNTS["I"], "V1": EIGHT_COUNTS["V1"]}, crc="{}")
    good, bad = two.format(*(zlib_of(lead) for lead in ("I", "V1"))), two.format(zlib_of("I"), zlib_of("V1") ^ 1)
    assert read_ecg(written(tmp_path, make.muse(good))).leads == ("I", "V1")
    assert code_of(written(tmp_path, make.muse(bad))) == "checksum_differs"
    assert read_ecg(written(tmp_path, make.muse(two.format(1, 2)))).leads == ("I", "V1")
    assert read_ecg(written(tmp_path, make.muse(two.format(0, 0)))).leads == ("I", "V1")


def zlib_of(lead):
    import zlib

    return zlib.crc32(EIGHT_COUNTS[lead].astype("<i2").tobytes())


def test_a_lead_whose_electrode_was_off_is_not_valid_nor_what_is_made_of_it(tmp_path):
    data = muse().replace(b"<LeadOff>FALSE", b"<LeadOff>TRUE", 10)  # 8 of the median, then I and II
    record = read_ecg(written(tmp_path, data))
    assert dict(zip(record.leads, record.lead_valid, strict=True)) == {lead: lead.startswith("V") for lead in STANDARD_LEADS}


def test_a_dataset_may_say_the_unit_that_a_file_does_not(tmp_path):
    path = written(tmp_path, muse(units="", per_bit="4.88"))
    same(read_ecg(path, EcgSource(unit="uv")), EIGHT_COUNTS, 4.88e-3)
    assert code_of(path, EcgSource(unit="zscore")) == "unit_unknown"
    assert read_ecg(written(tmp_path, muse()), EcgSource(unit="mv")).signal.max() < 10, "the file's own unit goes first"


# --- Sierra --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.03", "1.04", "1.04.01"])
@pytest.mark.parametrize("xli", [True, False])
def test_sierra_gives_the_rhythm_exactly(tmp_path, version, xli):
    record = read_ecg(written(tmp_path, make.sierra(TWELVE_COUNTS, version=version, xli=xli)))
    assert (record.leads, record.fs_hz, record.signal.shape) == (STANDARD_LEADS, 500.0, (12, 300))
    same(record, TWELVE_COUNTS, 5e-3)


@pytest.mark.parametrize("seed", range(6))
def test_any_signal_survives_xli(tmp_path, seed):
    """Noise fills the table of the LZW; a flat line makes its longest words; rounding goes down for odd sums."""
    rng = np.random.default_rng(seed)
    scale, size = ((2000, 0, 1, 2000, 300, 3)[seed], (700, 3000, 4, 3, 2001, 500)[seed])
    one, two = (rng.integers(-scale, scale + 1, size) for _ in range(2))
    counts = {lead: rng.integers(-scale, scale + 1, size) for lead in TWELVE} | {"I": one, "II": two}
    record = read_ecg(written(tmp_path, make.sierra(counts, fs=1000)))
    same(record, counts, 5e-3)


def test_sierra_residuals_are_known_in_the_standard_order_alone(tmp_path):
    cabrera = dict(zip(("aVL", "I", "aVR", "II", "aVF", "III", *TWELVE[6:]), TWELVE_COUNTS.values(), strict=True))
    assert code_of(written(tmp_path, make.sierra(cabrera, labels=" ".join(cabrera)))) == "unsupported_format"


def test_a_plain_sierra_file_whose_limb_leads_do_not_add_up_is_refused(tmp_path):
    data = make.sierra(make.residuals(TWELVE_COUNTS), xli=False)
    assert code_of(written(tmp_path, data)) == "unsupported_format"


@pytest.mark.parametrize("said", [b'compressmethod="XLI"', b'compression="XLI"', b""])
def test_what_is_compressed_is_xli_however_it_is_said(tmp_path, said):
    data = make.sierra(TWELVE_COUNTS).decode("utf-16").replace('compressmethod="XLI"', said.decode()).encode("utf-16")
    same(read_ecg(written(tmp_path, data)), TWELVE_COUNTS, 5e-3)
    other = make.sierra(TWELVE_COUNTS).decode("utf-16").replace('"XLI"', '"ZIP"').encode("utf-16")
    assert code_of(written(tmp_path, other)) == "unsupported_format"


def test_sierra_offset_is_subtracted(tmp_path):
    same(
        read_ecg(written(tmp_path, make.sierra(TWELVE_COUNTS, offset="100"))),
        {k: v - 100 for k, v in TWELVE_COUNTS.items()},
        5e-3,
    )


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (make.sierra(TWELVE_COUNTS, version="1.02"), "unsupported_format"),
        (make.sierra(TWELVE_COUNTS, resolution=""), "unit_unknown"),
        (make.sierra(TWELVE_COUNTS, resolution="0"), "unit_unknown"),
        (make.sierra(TWELVE_COUNTS, duration_ms=1200), "truncated"),
        (make.sierra(TWELVE_COUNTS, duration_ms=100), "undecodable"),
        (make.sierra(TWELVE_COUNTS, duration_ms=10**12), "damaged_header"),
        (make.sierra(TWELVE_COUNTS, duration_ms=-5), "damaged_header"),
        (make.sierra(TWELVE_COUNTS, fs=0, duration_ms=600), "damaged_header"),
        (make.sierra(TWELVE_COUNTS, labels=" ".join(TWELVE[:11]) + " V5"), "lead_named_twice"),
        (make.sierra(TWELVE_COUNTS, labels=" ".join(TWELVE) + " V7"), "truncated"),
        (make.sierra(TWELVE_COUNTS, data=b""), "truncated"),
        (make.sierra(TWELVE_COUNTS, data=struct.pack("<ihh", -1, 0, 0) * 12), "truncated"),
        (make.sierra(TWELVE_COUNTS, data=struct.pack("<ihh", 1 << 30, 0, 0) * 12), "truncated"),
        (make.sierra(TWELVE_COUNTS, data=(struct.pack("<ihh", 3, 0, 0) + b"\xfe\xfe\xfe") * 12), "undecodable"),
    ],
)
def test_sierra_files_that_cannot_be_trusted_are_refused(tmp_path, data, code):
    assert code_of(written(tmp_path, data)) == code


def test_a_sierra_lead_that_unpacks_to_gigabytes_is_refused_in_little_memory(tmp_path):
    """2 MiB of codes that each repeat the longest word: half a gigabyte, were it unpacked."""
    flat = make.lzw(b"\0" * 300_000)
    bomb = flat + b"\xff\xbf\xef\xfb\xfe" * 400_000
    path = written(tmp_path, make.sierra(TWELVE_COUNTS, data=struct.pack("<ihh", len(bomb), 0, 0) + bomb))
    tracemalloc.start()
    try:
        assert code_of(path) == "undecodable"
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


# --- aECG ----------------------------------------------------------------------------------------------------------------

BEAT = f"<derivation><derivedSeries>{make.aecg_series(MEDIAN, code='REPRESENTATIVE_BEAT')}</derivedSeries></derivation>"


@pytest.mark.parametrize(
    ("options", "mv", "fs_hz"),
    [
        ({}, 2.5e-3, 500),
        ({"scale": "0.005", "unit": "mV"}, 5e-3, 500),
        ({"scale": "2,5"}, 2.5e-3, 500),
        ({"step": "1", "step_unit": "ms"}, 2.5e-3, 1000),
        ({"step": "0.00333333"}, 2.5e-3, 300),
        ({"derived": BEAT}, 2.5e-3, 500),
    ],
)
def test_aecg_gives_the_rhythm_in_millivolts(tmp_path, options, mv, fs_hz):
    record = read_ecg(written(tmp_path, make.aecg(make.aecg_series(TWELVE_COUNTS, **options))))
    assert (record.leads, record.fs_hz) == (STANDARD_LEADS, fs_hz)
    same(record, TWELVE_COUNTS, mv)


def test_aecg_beats_are_passed_by_wherever_they_stand(tmp_path):
    beat = make.aecg_series(MEDIAN, code="REPRESENTATIVE_BEAT")
    same(read_ecg(written(tmp_path, make.aecg(beat, make.aecg_series(TWELVE_COUNTS)))), TWELVE_COUNTS, 2.5e-3)
    assert code_of(written(tmp_path, make.aecg(beat))) == "no_rhythm"


def test_aecg_leads_may_go_without_their_prefix(tmp_path):
    data = make.aecg(make.aecg_series(TWELVE_COUNTS)).replace(b'code="MDC_ECG_LEAD_', b'code="').replace(b'"AVR"', b'"avr"')
    same(read_ecg(written(tmp_path, data)), TWELVE_COUNTS, 2.5e-3)


def test_aecg_origin_is_added(tmp_path):
    record = read_ecg(written(tmp_path, make.aecg(make.aecg_series(TWELVE_COUNTS, origin="250"))))
    same(record, {lead: values + 100 for lead, values in TWELVE_COUNTS.items()}, 2.5e-3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (make.aecg(make.aecg_series(TWELVE_COUNTS, unit="mmHg")), "unit_unknown"),
        (make.aecg(make.aecg_series(TWELVE_COUNTS, unit="")), "unit_unknown"),
        (make.aecg(make.aecg_series(TWELVE_COUNTS, scale="")), "unit_unknown"),
        (make.aecg(make.aecg_series(TWELVE_COUNTS, step="0")), "damaged_header"),
        (make.aecg(make.aecg_series(TWELVE_COUNTS, step_unit="min")), "damaged_header"),
        (make.aecg(make.aecg_series(TWELVE_COUNTS), make.aecg_series(TWELVE_COUNTS)), "unsupported_format"),
        (make.aecg(make.aecg_series({**TWELVE_COUNTS, "V3": TWELVE_COUNTS["V3"][1:]})), "damaged_header"),
        (make.aecg(make.aecg_series({"I": ["1", make.MARK]})), "undecodable"),
        (make.aecg(make.aecg_series({"I": ["1", "9" * 400]})), "undecodable"),
        (make.aecg(make.aecg_series({"I": []})), "damaged_header"),
    ],
)
def test_aecg_files_that_cannot_be_trusted_are_refused(tmp_path, data, code):
    assert code_of(written(tmp_path, data)) == code


# --- CardioSoft ----------------------------------------------------------------------------------------------------------


EXERCISE = (
    make.cardiosoft(TWELVE_COUNTS)
    .replace(b"<WaveformData", b"<Strip><WaveformData")
    .replace(b"</WaveformData>", b"</WaveformData></Strip>")
)
"""The exercise test of UK Biobank (field 6025) has StripData/Strip/WaveformData."""


@pytest.mark.parametrize("options", [{}, {"wrap": True}, {"lower": True}, {"resolution": "5,0"}])
def test_cardiosoft_gives_the_strip_times_its_resolution(tmp_path, options):
    record = read_ecg(written(tmp_path, make.cardiosoft(TWELVE_COUNTS, **options), "1234567_20205_2_0.xml"))
    assert (record.leads, record.fs_hz, record.signal.shape) == (STANDARD_LEADS, 500.0, (12, 300))
    same(record, TWELVE_COUNTS, 5e-3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (make.cardiosoft(TWELVE_COUNTS, units="mVperLsb"), "unit_unknown"),
        (make.cardiosoft(TWELVE_COUNTS, units=""), "unit_unknown"),
        (make.cardiosoft(TWELVE_COUNTS, resolution=make.MARK), "unit_unknown"),
        (make.cardiosoft(TWELVE_COUNTS, fs="half"), "damaged_header"),
        (make.cardiosoft(TWELVE_COUNTS, fs="1"), "damaged_header"),
        (make.cardiosoft(TWELVE_COUNTS, number=8), "damaged_header"),
        (make.cardiosoft(TWELVE_COUNTS, total=5000), "truncated"),
        (make.cardiosoft(TWELVE_COUNTS, total=10), "damaged_header"),
        (make.cardiosoft({"I": ["1", make.MARK]}), "undecodable"),
        (make.cardiosoft({"I": ["1", "2.5"]}), "undecodable"),
        (make.cardiosoft({"I": ["1", ""]}, total=1).replace(b"1,<", b"<"), "truncated"),
        (EXERCISE, "no_rhythm"),
    ],
)
def test_cardiosoft_files_that_cannot_be_trusted_are_refused(tmp_path, data, code):
    assert code_of(written(tmp_path, data)) == code


# --- of all XML ----------------------------------------------------------------------------------------------------------

LAUGHS = '<!DOCTYPE RestingECG [<!ENTITY a "lol">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("doctype", "body"),
    [
        (LAUGHS + "]>", "&i;"),
        ('<!DOCTYPE RestingECG [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "&x;"),
        ('<!DOCTYPE RestingECG [<!ENTITY % x SYSTEM "http://127.0.0.1/x.dtd"> %x;]>', ""),
        ('<!DOCTYPE RestingECG [<!ATTLIST MuseVersion a CDATA "' + "x" * 1000 + '">]>', ""),
    ],
    ids=["billion-laughs", "external-file", "parameter", "default-attributes"],
)
def test_documents_that_declare_anything_are_refused(tmp_path, doctype, body):
    data = make.muse(make.muse_waveform("Rhythm", EIGHT_COUNTS), doctype=doctype).replace(b"9.0.9.18167", body.encode())
    assert code_of(written(tmp_path, data)) == "unsafe_xml"


def test_naming_a_dtd_reads_nothing(tmp_path):
    (tmp_path / "restecg.dtd").write_text('<!ENTITY x "no">')
    data = muse().replace(b"9.0.9.18167", b"&x;")
    assert code_of(written(tmp_path, data)) == "damaged_header"


@pytest.mark.parametrize(
    "body",
    [
        b"<a>" * 100_000,
        b"<a/>" * 1_000_000,
        b"<a " + b"".join(b'a%d="" ' % i for i in range(300_000)) + b"/>",
        b"<!--" + b"x" * 3_000_000,
    ],
    ids=["depth", "count", "attributes", "comment"],
)
def test_documents_of_absurd_shape_are_refused(tmp_path, body):
    assert code_of(written(tmp_path, b"<RestingECG>" + body)) == "too_large"


def test_large_documents_are_refused_unread(tmp_path):
    path = tmp_path / "ecg.xml"
    with path.open("wb") as file:
        file.write(b"<RestingECG>")
        file.truncate(1 << 30)
    assert code_of(path) == "too_large"


def test_a_lead_of_too_much_text_is_refused(tmp_path):
    digits = make.aecg(make.aecg_series({"I": ["1"]})).replace(b"<digits>1<", b"<digits>" + b"1 " * (5 << 20) + b"<")
    assert code_of(written(tmp_path, digits)) == "too_large"


def test_other_xml_is_no_ecg(tmp_path):
    assert code_of(written(tmp_path, b"<html><body>RestingECG</body></html>")) == "not_ecg"
    assert code_of(written(tmp_path, b"<?xml version='1.0'?><RestingECGs/>")) == "not_ecg"
    assert code_of(written(tmp_path, b"<RestingECG>")) == "damaged_header"


ALL = {"muse": (muse(), EIGHT_COUNTS, 4.88e-3), "sierra": (make.sierra(TWELVE_COUNTS), TWELVE_COUNTS, 5e-3),
       "aecg": (make.aecg(make.aecg_series(TWELVE_COUNTS)), TWELVE_COUNTS, 2.5e-3),
       "cardiosoft": (make.cardiosoft(TWELVE_COUNTS), TWELVE_COUNTS, 5e-3)}  # fmt: skip


@pytest.mark.parametrize("kind", ALL)
def test_an_excerpt_is_that_part_of_the_whole(tmp_path, kind):
    data, counts, mv = ALL[kind]
    path = written(tmp_path, data)
    part = read_ecg(path, EcgSource(start_s=0.1, duration_s=0.25))
    same(part, {lead: values[50:175] for lead, values in counts.items()}, mv)
    assert part.signal.shape == (12, 125)
    assert read_ecg(path, EcgSource(start_s=0.5, duration_s=1.0)).defects == ("excerpt_short",)
    assert code_of(path, EcgSource(start_s=0.6)) == "excerpt_outside"


@pytest.mark.parametrize("kind", ALL)
def test_one_recording_has_no_rows_and_one_rate(tmp_path, kind):
    path = written(tmp_path, ALL[kind][0])
    assert code_of(path, EcgSource(row=0)) == "row_outside"
    assert code_of(path, EcgSource(fs_hz=250.0)) == "rate_disagrees"
    assert read_ecg(path, EcgSource(fs_hz=500.0)).fs_hz == 500.0


@pytest.mark.parametrize("kind", ALL)
def test_the_name_of_a_file_plays_no_part(tmp_path, kind):
    assert read_ecg(written(tmp_path, ALL[kind][0], "ecg.bin")).fs_hz == 500.0


def test_words_that_are_no_lead_are_not_kept(tmp_path):
    record = read_ecg(written(tmp_path, muse({"I": EIGHT_COUNTS["I"], make.MARK: EIGHT_COUNTS["II"], "V4R": EIGHT_COUNTS["V1"]})))
    assert record.leads == ("I", "channel 2", "V4R")


def test_leads_that_a_file_does_not_name_are_those_of_its_dataset(tmp_path):
    path = written(tmp_path, muse({"1": EIGHT_COUNTS["I"], "2": EIGHT_COUNTS["II"]}))
    assert read_ecg(path).leads == ("channel 1", "channel 2")
    assert read_ecg(path, EcgSource(leads=("V1", "avf"))).leads == ("V1", "aVF")
    assert code_of(path, EcgSource(leads=("V1",))) == "damaged_header"
    named = written(tmp_path, muse({"I": EIGHT_COUNTS["I"], "II": EIGHT_COUNTS["II"]}))
    assert read_ecg(named, EcgSource(leads=("V1", "aVF"))).leads == ("I", "II"), "the file's own names go first"


def test_base64_may_be_broken_into_lines_of_any_length(tmp_path):
    payload = base64.b64encode(EIGHT_COUNTS["V1"].astype("<i2").tobytes())
    one_line = muse({"V1": EIGHT_COUNTS["V1"]})
    broken = one_line[: one_line.index(b"<WaveFormData>", one_line.index(b"Rhythm")) + 14] + b"\r\n ".join(
        payload[i : i + 7] for i in range(0, len(payload), 7)
    )
    data = broken + one_line[one_line.rindex(b"</WaveFormData>") :]
    same(read_ecg(written(tmp_path, data)), {"V1": EIGHT_COUNTS["V1"]}, 4.88e-3)
