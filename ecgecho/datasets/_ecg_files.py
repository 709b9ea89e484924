"""Who an ECG file is of and when it was recorded, as the file says: for private ids to be made of, never kept.

Where a format puts these is from its public descriptions (MUSE's and Sierra's elements as open-source readers name them, the
HL7 aECG implementation guide, EN 1064 section 1, EDF+, ISHNE 1998); no hospital's file was at hand. What is not found where
it should be is unknown.
"""

from __future__ import annotations

import re
import struct
from datetime import datetime
from pathlib import Path
from xml.etree.ElementTree import Element  # noqa: S405  # a type

from ecgecho.datasets import _headers
from ecgecho.io import ecg, sidecar, xml
from ecgecho.io.files import MAX_BYTES, read_bytes
from ecgecho.types import ItemError, Json

SUFFIXES = (".hea", ".xml", ".scp", ".ecg", ".edf", ".mat", ".npy", ".csv", ".csv.gz", ".h5", ".hdf5")
NUMBERS = ("mat", "arrays", "hdf5")
"""Kinds that do not say what they hold; a JSON file beside them does (`io.sidecar`)."""
MAX_WFDB_HEADER_BYTES = 1 << 20
MAX_SCP_BYTES = 1 << 22
MAX_WORD = 128
_WFDB_LINE = re.compile(r"^[^\s/]+(/\d+)?\s+\d+(\s|$)")
_WFDB_TIME = re.compile(r"\s(\d{1,2}:\d{2}:\d{2})(?:\.\d+)?\s+(\d{1,2}/\d{1,2}/\d{4})\s*$")
_PATIENT = {  # ways to the patient's id; the part after @ is an attribute
    "restingecg": "PatientDemographics/PatientID",
    "restingecgdata": "patient/generalpatientdata/patientid",
    "annotatedecg": ("componentOf/timepointEvent/componentOf/subjectAssignment/subject/trialSubject/id@extension"),
    "cardiologyxml": "PatientInfo/PID",
}


def kind_of(path: Path) -> str:
    """The kind of ECG file this may be by its name and first bytes, "" where it is none. DICOM files are "dicom"."""
    if path.suffix.lower() == ".hea":
        return "wfdb"
    try:
        kind = ecg.kind_of(path)
    except ItemError:
        return ""
    return "" if kind == "wfdb" or (kind in NUMBERS and not sidecar.sidecar_of(path).is_file()) else kind


def identify(path: Path, kind: str) -> Json:
    """Patient and time (as `_headers.moment`) as an ECG file of a kind says them, "" where it does not; no DICOM."""
    found = {"wfdb": _wfdb, "xml": _xml, "scp": _scp, "edf": _edf, "ishne": _ishne}.get(kind)
    patient, time = ("", "") if found is None else found(path)
    return {"patient": patient.strip()[:MAX_WORD], "time": time}


def _wfdb(path: Path) -> tuple[str, str]:
    text = read_bytes(path, size=MAX_WFDB_HEADER_BYTES).decode("latin-1")
    first = next((line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    if not _WFDB_LINE.match(first):
        raise ItemError("not_ecg", f"{path.name}: its first line is no record line of a WFDB header")
    found = _WFDB_TIME.search(first)
    return "", _time(f"{found[2]} {found[1]}", "%d/%m/%Y %H:%M:%S") if found else ""


def _xml(path: Path) -> tuple[str, str]:
    root = xml.parse(path, ecg.XML_ROOTS)
    kind = root.tag.lower()
    if kind == "restingecg":
        test = xml.child(root, "TestDemographics")
        time = _time(f"{xml.text(test, 'AcquisitionDate')} {xml.text(test, 'AcquisitionTime')}", "%m-%d-%Y %H:%M:%S")
    elif kind == "restingecgdata":
        taken = xml.child(root, "dataacquisition")
        time = _time(f"{taken.get('date', '')} {taken.get('time', '')}", "%Y-%m-%d %H:%M:%S") if taken is not None else ""
    elif kind == "annotatedecg":
        low = xml.child(root, "effectiveTime/low")
        low = xml.child(root, "effectiveTime/center") if low is None else low
        time = _headers.moment(low.get("value", "")) if low is not None else ""
    else:
        observed = xml.child(root, "ObservationDateTime")
        words = [xml.text(observed, name).zfill(2) for name in ("Year", "Month", "Day", "Hour", "Minute", "Second")]
        time = _time("".join(words), "%Y%m%d%H%M%S")
    way, _, attribute = _PATIENT[kind].partition("@")
    return _word(xml.child(root, way), attribute), time


def _word(element: Element | None, attribute: str) -> str:
    if element is None:
        return ""
    return element.get(attribute, "") if attribute else (element.text or "")


def _scp(path: Path) -> tuple[str, str]:
    """Section 1: tags of a byte, a length of two, the value; 2 is the patient's id, 25 the date, 26 the time of acquisition."""
    data = read_bytes(path, size=MAX_SCP_BYTES)
    section = b""
    for offset in range(22, min(22 + 10 * 12, len(data) - 10), 10):
        number, size, index = struct.unpack_from("<HII", data, offset)
        if number == 1 and index >= 1:
            section = data[index - 1 + 16 : index - 1 + size]
            break
    patient, day, clock, at = "", "", "000000", 0
    while at + 3 <= len(section):
        tag, size = struct.unpack_from("<BH", section, at)
        value = section[at + 3 : at + 3 + size]
        at += 3 + size
        if tag == 255:
            break
        if tag == 2:
            patient = value.partition(b"\0")[0].decode("latin-1")
        elif tag == 25 and len(value) >= 4:
            day = "{:04d}{:02d}{:02d}".format(*struct.unpack_from("<HBB", value))
        elif tag == 26 and len(value) >= 3:
            clock = "{:02d}{:02d}{:02d}".format(*value[:3])
    return patient, _time(day + clock, "%Y%m%d%H%M%S")


def _edf(path: Path) -> tuple[str, str]:
    """In EDF+ the first word of the patient's field is the code; in plain EDF the field may be a name, and is not used."""
    head = read_bytes(path, size=256, most=MAX_BYTES).decode("latin-1")
    patient = head[8:88].partition(" ")[0] if head[192:196] == "EDF+" else ""
    year = int(head[174:176]) if head[174:176].isdigit() else -1
    century = "19" if year >= 85 else "20"  # EDF+ specification: 1985 to 2084
    return patient, _time(f"{head[168:174]}{century}{head[174:176]} {head[176:184]}", "%d.%m.%Y %H.%M.%S")


def _ishne(path: Path) -> tuple[str, str]:
    """Behind 10 bytes of magic and CRC: four lengths, a version, two names of 40, the id of 20; dates as day, month, year."""
    head = read_bytes(path, size=156, most=MAX_BYTES)
    if len(head) < 156:
        raise ItemError("truncated", f"{path.name}: the header of a Holter is cut off")
    patient = head[108:128].partition(b"\0")[0].decode("latin-1")
    day, month, year = struct.unpack_from("<3h", head, 138)
    hour, minute, second = struct.unpack_from("<3h", head, 150)
    if min(day, month, year, hour, minute, second) < 0:
        return patient, ""
    return patient, _time(f"{year:04d}{month:02d}{day:02d}{hour:02d}{minute:02d}{second:02d}", "%Y%m%d%H%M%S")


def _time(words: str, form: str) -> str:
    try:
        found = datetime.strptime(words.strip(), form)
    except ValueError:
        return ""
    return found.strftime("%Y%m%d%H%M%S") if found.year >= _headers.FIRST_YEAR else ""
