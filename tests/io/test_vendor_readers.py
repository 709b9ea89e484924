"""Our readers against others, on the same files, and on files that others wrote. What is not installed is skipped."""

from __future__ import annotations

import warnings
from pathlib import Path

import make_ecg_files as make
import numpy as np
import pytest
from make_ecg_files import EIGHT, TWELVE, counts_of
from pydicom.data import get_testdata_file

from ecgecho.io import read_ecg
from ecgecho.io.leads import canonical_lead
from ecgecho.types import EcgSource

EXCERPT = Path(__file__).parents[1] / "data" / "ptb_excerpt"
EIGHT_COUNTS, TWELVE_COUNTS = counts_of(), counts_of(TWELVE)
BEAT = {lead: values[:40] for lead, values in counts_of(seed=5).items()}
QRS = [(0, 30, 50, 70), (1, 100, 120, 140), (0, 200, 215, 250)]
MEDIAN = {lead: np.full(60, 9999) for lead in EIGHT}
_MV = {"uV": 1e-3, "mV": 1.0, "V": 1e3}

FILES = {
    "muse": make.muse(make.muse_waveform("Median", MEDIAN), make.muse_waveform("Rhythm", EIGHT_COUNTS)),
    "sierra_1.03": make.sierra(TWELVE_COUNTS, version="1.03"),
    "sierra_1.04": make.sierra(TWELVE_COUNTS),
    "sierra_1.04.01": make.sierra(TWELVE_COUNTS, version="1.04.01", offset="7"),
    "sierra_plain": make.sierra(TWELVE_COUNTS, xli=False),
    "aecg": make.aecg(make.aecg_series(TWELVE_COUNTS, origin="100")),
    **{
        f"scp_{times}_{coded}": make.scp(EIGHT_COUNTS, times=times, coded=coded) for times in (0, 1, 2) for coded in (True, False)
    },
    "scp_beat": make.scp(EIGHT_COUNTS, beat=(15, 10000, BEAT), qrs=QRS),
    "scp_own_tables": make.scp_of_own_tables()[0],
    "edf": make.edf([(lead, "uV", "-16384", "16383.5", 100, values) for lead, values in EIGHT_COUNTS.items()]),
    "ishne": make.ishne(counts_of(("V1", "V5", "aVF"))),
}

LEADS = {"ishne": 3, "scp_own_tables": 1}


def written(tmp_path, data, name="ecg.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", FILES)
def test_ecgdatakit_reads_the_same(tmp_path, kind):
    agrees_with_ecgdatakit(written(tmp_path, FILES[kind]), num_leads=LEADS.get(kind, 8))


def test_ecgdatakit_reads_the_same_of_a_real_dicom_file():
    agrees_with_ecgdatakit(get_testdata_file("waveform_ecg.dcm", download=False), num_leads=12)


def agrees_with_ecgdatakit(path, *, num_leads):
    kit = pytest.importorskip("ecgdatakit.parsing.parser")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = kit.FileParser.parse(path)
    ours = read_ecg(path)
    assert len(theirs.leads) >= num_leads
    for lead in theirs.leads:
        raw = lead.samples * lead.resolution + lead.offset if lead.is_raw else lead.samples
        expected = raw * _MV[lead.resolution_unit if lead.is_raw else lead.units]
        assert lead.sampling_rate == ours.fs_hz
        np.testing.assert_allclose(ours.signal[ours.leads.index(lead.label)], expected, atol=2e-6)


@pytest.mark.parametrize("version", ["1.03", "1.04", "1.04.01", "1.04.02"])
def test_sierraecg_reads_the_same(tmp_path, version):
    sierraecg = pytest.importorskip("sierraecg")
    path = written(tmp_path, make.sierra(counts_of(TWELVE, 5500), version=version))
    ours, theirs = read_ecg(path), sierraecg.read_file(str(path))
    for row, lead in enumerate(theirs.leads):
        assert (lead.label, lead.sampling_freq) == (ours.leads[row], ours.fs_hz)
        np.testing.assert_allclose(ours.signal[row], lead.samples * 5e-3, atol=1e-6)


def test_ishneholterlib_reads_the_same(tmp_path):
    library = pytest.importorskip("ishneholterlib")
    path = written(tmp_path, make.ishne(counts_of(("X", "Y", "Z"))))
    theirs = library.Holter(str(path), check_valid=False)
    theirs.load_data()
    ours = read_ecg(path)
    assert ours.fs_hz == theirs.sr
    for row, lead in enumerate(theirs.lead):
        assert str(lead).split()[0].strip("'\"") == ours.leads[row]
        np.testing.assert_allclose(ours.signal[row], lead.data, atol=1e-6)


def real_record():
    """The real excerpt of PTB, 15 leads at 1 kHz, as another reader has it."""
    import wfdb

    found = wfdb.rdrecord(str(EXCERPT))
    return found.p_signal, found.sig_name


def test_a_real_record_written_by_edfio_comes_back(tmp_path):
    edfio = pytest.importorskip("edfio")
    signal_mv, names = real_record()
    signal_mv = signal_mv[: len(signal_mv) // 1000 * 1000]
    signals = [
        edfio.EdfSignal(row, 1000, label=name, physical_dimension="mV") for row, name in zip(signal_mv.T, names, strict=True)
    ]
    path = tmp_path / "real.edf"
    edfio.Edf(signals).write(path)
    equals_the_real_record(path, signal_mv, names, [signal.data for signal in edfio.read_edf(path).signals])


def test_a_real_record_written_by_pyedflib_comes_back(tmp_path):
    pyedflib = pytest.importorskip("pyedflib")
    signal_mv, names = real_record()
    signal_mv = signal_mv[: len(signal_mv) // 1000 * 1000]
    path = tmp_path / "real.edf"
    with pyedflib.EdfWriter(str(path), len(names), file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        for row, name in enumerate(names):
            low, high = float(np.floor(signal_mv[:, row].min())), float(np.ceil(signal_mv[:, row].max()))
            digital = {"digital_min": -32768, "digital_max": 32767, "physical_min": low, "physical_max": high}
            words = {"label": name, "dimension": "mV", "transducer": make.MARK, "prefilter": ""}
            file.setSignalHeader(row, {**words, **digital, "sample_frequency": 1000})
        file.setPatientName(make.MARK)
        file.writeSamples([np.ascontiguousarray(row) for row in signal_mv.T])
    with pyedflib.EdfReader(str(path)) as file:
        theirs = [file.readSignal(row) for row in range(len(names))]
    equals_the_real_record(path, signal_mv, names, theirs)


def equals_the_real_record(path, signal_mv, names, theirs):
    ours = read_ecg(path)
    assert ours.fs_hz == 1000.0
    for row, name in enumerate(names):
        found = ours.signal[ours.leads.index(canonical_lead(name))]
        np.testing.assert_allclose(found, theirs[row], atol=1e-6)
        np.testing.assert_allclose(found, signal_mv[:, row], atol=np.ptp(signal_mv[:, row]) / 30_000 + 1e-4)


def test_the_file_of_edflibs_own_generator_is_read_as_pyedflib_does():
    pyedflib = pytest.importorskip("pyedflib")
    path = Path(pyedflib.__file__).parent / "data" / "test_generator.edf"
    with pyedflib.EdfReader(str(path)) as file:
        rows = [row for row, label in enumerate(file.getSignalLabels()) if not label.startswith("pulse")]
        theirs = [file.readSignal(row) for row in rows]
    ours = read_ecg(path, EcgSource(leads=TWELVE[: len(rows)]))
    assert ours.leads == TWELVE[: len(rows)]
    for row, values in enumerate(theirs):
        np.testing.assert_allclose(ours.signal[row], values * 1e-3, atol=1e-4)


def test_pydicom_scales_a_waveform_the_same(tmp_path):
    import pydicom

    path = make.dicom(tmp_path / "ecg.dcm", make.dicom_group(TWELVE_COUNTS, correction="1.7", baseline="-40", sensitivity="3.25"))
    theirs = pydicom.dcmread(path).waveform_array(0).T / 1000
    np.testing.assert_allclose(read_ecg(path).signal, theirs, atol=1e-6)
