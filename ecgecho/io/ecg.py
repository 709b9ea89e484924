"""An ECG file of any kind -> EcgRecord in mV, leads by name. The kind is told by the first bytes, then by the name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ecgecho.io.files import read_bytes
from ecgecho.io.leads import canonical_lead
from ecgecho.types import EcgRecord, EcgSource, ItemError

XML_ROOTS = ("restingecg", "restingecgdata", "annotatedecg", "cardiologyxml")
"""GE MUSE, Philips Sierra, HL7 aECG, GE CardioSoft, in small letters."""
ARRAYS = ("mat", "arrays", "hdf5")
"""Kinds of which one file may hold many recordings, so that a row is asked for."""
MOST_BYTES = 1 << 40
"""Of an array of which a row is read; every reader has a bound of its own."""
RATE_TOLERANCE = 1e-3
_HEAD_BYTES = 256
_MAGIC = (
    (b"ISHNE1.0", "ishne"),
    (b"0       ", "edf"),
    (b"\xffBIOSEMI", "edf"),
    (b"MATLAB ", "mat"),
    (b"\x93NUMPY", "arrays"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
)
_SUFFIXES = {".hea": "wfdb", ".dat": "wfdb", ".mat": "mat", ".npy": "arrays", ".csv": "arrays", ".h5": "hdf5", ".hdf5": "hdf5"}


def read_ecg(path: Path | str, source: EcgSource | None = None) -> EcgRecord:
    """The recording, or the row and excerpt of it that `source` means; NaN only on leads that are not valid."""
    path, source = Path(path), source or EcgSource()
    kind = kind_of(path)
    if kind in ARRAYS:
        return _read(path, kind, source)
    if source.row is not None:
        raise ItemError("row_outside", f"{path.name} holds one recording; it has no row {source.row}")
    record = _read(path, kind, source)
    if source.fs_hz is not None and abs(source.fs_hz - record.fs_hz) > RATE_TOLERANCE * record.fs_hz:
        raise ItemError("rate_disagrees", f"{path.name} is at {record.fs_hz:g} Hz, its dataset says {source.fs_hz:g}")
    return _named(record, source, path)


def kind_of(path: Path) -> str:
    """ "wfdb", "dicom", "xml", "scp", "edf", "ishne", "mat", "arrays" or "hdf5"; ItemError("not_ecg") for anything else."""
    from ecgecho.io import scp, xml

    suffix = "".join(path.suffixes[-2:]).lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    by_name = _SUFFIXES.get(suffix.removesuffix(".gz"))
    # A .mat that has a header is a WFDB signal file, whose gain and leads stand in the header.
    if by_name == "wfdb" or (by_name == "mat" and path.with_suffix(".hea").exists()):
        return "wfdb"
    if not path.exists() or path.is_dir():
        return by_name or "wfdb"
    head = read_bytes(path, size=_HEAD_BYTES, most=MOST_BYTES)
    if head[128:132] == b"DICM":
        return "dicom"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if xml.looks_like_xml(head):
        return "xml"
    if scp.looks_like_scp(head):
        return "scp"
    if by_name is not None:
        return by_name
    if path.with_name(path.name + ".hea").exists():
        return "wfdb"
    raise ItemError("not_ecg", f"{path.name} is no ECG file of a kind that is read")


def _read(path: Path, kind: str, source: EcgSource) -> EcgRecord:
    """Each reader takes what it needs of `source`, the excerpt included."""
    if kind == "xml":
        return _cut(_read_xml(path, source), source, path)
    if kind == "wfdb":
        from ecgecho.io import wfdb

        return wfdb.read(path, source)
    if kind == "dicom":
        from ecgecho.io import waveform

        return waveform.read(path, source)
    if kind == "scp":
        from ecgecho.io import scp

        return _cut(scp.read(path, source), source, path)
    if kind == "edf":
        from ecgecho.io import edf

        return edf.read(path, source)
    if kind == "ishne":
        from ecgecho.io import ishne

        return ishne.read(path, source)
    if kind == "mat":
        from ecgecho.io import mat

        return mat.read(path, source)
    if kind == "arrays":
        from ecgecho.io import arrays

        return arrays.read(path, source)
    from ecgecho.io import hdf5

    return hdf5.read(path, source)


def _read_xml(path: Path, source: EcgSource) -> EcgRecord:
    from ecgecho.io import aecg, cardiosoft, muse, sierra, xml

    root = xml.parse(path, XML_ROOTS)
    readers = dict(zip(XML_ROOTS, (muse.read, sierra.read, aecg.read, cardiosoft.read), strict=True))
    return readers[root.tag.lower()](path, root, source)


def _cut(record: EcgRecord, source: EcgSource, path: Path) -> EcgRecord:
    """The excerpt of a recording without gaps: whether a lead is usable does not depend on the part."""
    from ecgecho.io.excerpt import samples_of

    first, last, defects = samples_of(source, record.fs_hz, record.signal.shape[1], path.name)
    if last - first == record.signal.shape[1] and not defects:
        return record
    return replace(record, signal=record.signal[:, first:last].copy(), defects=(*record.defects, *defects))


def _named(record: EcgRecord, source: EcgSource, path: Path) -> EcgRecord:
    """Names that the dataset gives to the leads of a file which names none."""
    if not source.leads or not all(lead.startswith(("channel ", "signal ")) for lead in record.leads):
        return record
    leads = tuple(canonical_lead(lead) for lead in source.leads)
    if len(leads) != len(record.leads) or len(set(leads)) != len(leads):
        raise ItemError("damaged_header", f"{path.name} has {len(record.leads)} leads without names, {len(leads)} are given")
    return replace(record, leads=leads)
