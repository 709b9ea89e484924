"""Headers of echo files, read once: the defects that they make, and what they are like altogether."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom

from ecgecho.io import ItemError, scan_echo
from ecgecho.io.files import Clipped
from ecgecho.types import Json

if TYPE_CHECKING:
    from ecgecho.datasets._indexing import Reading

EMPTY: Json = {
    "kind": None,
    "num_frames": None,
    "code": "",
    "defects": [],
    "transfer_syntax": "",
    "photometric": "",
    "frame_time_source": "",
}
FACTS = ("kind", "transfer_syntax", "photometric", "frame_time_source")
"""What is counted over all headers; no value of these says anything of a person."""
PHOTOMETRIC = frozenset(
    {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"}
)
NO_TIME = "?"
FIRST_YEAR = 1900
_TAGS = [
    "PatientID",
    "StudyInstanceUID",
    "AcquisitionDateTime",
    "StudyDate",
    "StudyTime",
    "SOPClassUID",
    "MediaStorageSOPClassUID",
]


def read_header(path: str) -> Json:
    """Kind, frame count, coding and defects of one echo file; nothing of a person."""
    found = dict(EMPTY)
    try:
        header = scan_echo(path)
    except ItemError as error:
        if not error.permanent:
            raise
        found["code"] = error.code
        return found
    found.update(
        kind=header.kind,
        num_frames=header.num_frames,
        defects=list(header.defects),
        transfer_syntax=_syntax(header.transfer_syntax),
        photometric=header.photometric if header.photometric in (*PHOTOMETRIC, "") else "other",
        frame_time_source=header.frame_time_source,
    )
    return found


def read_identified(path: str) -> Json:
    """`read_header`, and of a DICOM who, which study and when, as they stand there: for private ids to be made of, never kept."""
    return {"patient": "", "study": "", "time": "", **(_identity(path) if _is_dicom(path) else {}), **read_header(path)}


def moment(words: str) -> str:
    """A time of DICOM or HL7 as YYYYMMDDHHMMSS, a day without a time of day as YYYYMMDD, NO_TIME for what is none, "" for "".

    What may be left out at the end of a time (seconds, minutes) is 0. The clock is the one on the wall: the offset from UTC,
    which few files give, plays no part.
    """
    digits = re.sub(r"[+-]\d{4}$", "", words.strip()).partition(".")[0].replace(":", "").replace("-", "").strip()
    if not digits:
        return NO_TIME if words.strip() else ""
    whole = digits.ljust(14, "0") if len(digits) in (10, 12, 14) else digits[:8] if len(digits) >= 8 else ""
    for text, form in ((whole, "%Y%m%d%H%M%S"), (whole[:8], "%Y%m%d")):
        if text.isascii() and text.isdigit() and len(text) == (14 if "H" in form else 8):  # strptime guesses where digits lack
            with contextlib.suppress(ValueError):
                if datetime.strptime(text, form).year >= FIRST_YEAR:
                    return text
    return NO_TIME


def scan_clips(reading: Reading, paths: Sequence[str]) -> dict[str, Json]:
    """The headers of a dataset's clips by path; their defects, and what they are like, join the catalog."""
    found = reading.scan("clips", paths, read_header)
    note(reading, list(found.values()))
    return found


def note(reading: Reading, headers: Sequence[Json]) -> None:
    """Put the defects of headers, and what they are like, into the catalog that is being made."""
    for row in defects_of(headers):
        reading.defect(*row)
    reading.about["headers"] = facts_of(headers)


def defects_of(headers: Sequence[Json]) -> list[tuple[str, str, str, int]]:
    """Rows (item, code, detail, count) of what the headers say, one per code."""
    number: dict[tuple[str, str], int] = {}
    for header in headers:
        for code in (*([header["code"]] if header["code"] else []), *header["defects"]):
            number[code, "header"] = number.get((code, "header"), 0) + 1
        if header["kind"] not in (None, "b_mode"):
            number[str(header["kind"]), "no B-mode cine"] = number.get((str(header["kind"]), "no B-mode cine"), 0) + 1
    return [("clips", code, detail, count) for (code, detail), count in sorted(number.items())]


def facts_of(headers: Sequence[Json]) -> Json:
    """How often each kind, transfer syntax, colour tag and source of frame times occurs, most frequent first."""
    found: Json = {}
    for name in FACTS:
        values = Counter(str(header.get(name) or "") or "-" for header in headers if not header["code"])
        found[name] = dict(sorted(values.items(), key=lambda entry: (-entry[1], entry[0])))
    return found


def _syntax(word: str) -> str:
    """A transfer syntax with its name, or a container's word; what the standard does not know is "other": it may say anything."""
    if not word[:1].isdigit():
        return word if word.isalpha() and len(word) <= 8 else "other"
    uid = pydicom.uid.UID(word)
    return f"{word} {uid.name}" if uid.is_valid and uid.name != word else "other"


def _is_dicom(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _identity(path: str) -> Json:
    try:
        with Clipped(Path(path)) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote what stands in damaged elements: a person's name, it may be
            found: Any = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS)
            meta = getattr(found, "file_meta", {})
            return {
                "patient": _word(found, "PatientID"),
                "study": _word(found, "StudyInstanceUID"),
                "time": _time(found),
                "sop_class": _word(found, "SOPClassUID") or str(meta.get("MediaStorageSOPClassUID", "")),
            }
    except Exception:  # untrusted bytes: pydicom raises nearly anything; scan_echo gives the file its reason code
        return {}


def _word(found: Any, name: str) -> str:
    return str(found.get(name, "") or "").strip()


def _time(found: Any) -> str:
    whole = _word(found, "AcquisitionDateTime")
    return moment(whole or _word(found, "StudyDate").replace(".", "") + _word(found, "StudyTime"))
