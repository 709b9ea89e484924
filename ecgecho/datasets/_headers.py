"""Headers of echo files, read once: killable workers read them, a file of lines beside the catalog remembers what was read.

A file that is unchanged (size and time) is not opened again, also after a stop in the middle. What is remembered is what the
caller makes of a header, so a raw identifier is never written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from ecgecho.catalog import Progress
from ecgecho.io import ItemError, scan_echo
from ecgecho.io.workers import Done, run_bounded
from ecgecho.types import Json

TIMEOUT_S = 60.0
MEMORY_BYTES = 1 << 30
FLUSH_EVERY = 64
_TAGS = [
    "PatientID",
    "StudyInstanceUID",
    "AcquisitionDateTime",
    "StudyDate",
    "StudyTime",
    "SOPClassUID",
    "MediaStorageSOPClassUID",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file to be scanned, as it lies on disk now."""

    path: str
    """Relative to the root."""
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What came of a scan."""

    headers: dict[str, Json]
    """By path."""
    retry: frozenset[str]
    """Files that could not be read this time, for want of time or memory."""

    def lines(self, files: Sequence[File]) -> bytes:
        """What later scans need not read again."""
        return "".join(_line(file, self.headers[file.path]) for file in files if file.path not in self.retry).encode()


def read_header(path: str) -> Json:
    """Kind, frame count and defects of one echo file; from a DICOM also who, which study and when, as they stand there."""
    found: Json = {"kind": None, "num_frames": None, "code": "", "defects": [], "patient": "", "study": "", "time": ""}
    if _is_dicom(path):
        found.update(_identity(path))
    try:
        header = scan_echo(path)
    except ItemError as error:
        if not error.permanent:
            raise
        found["code"] = error.code
        return found
    found.update(kind=header.kind, num_frames=header.num_frames, defects=list(header.defects))
    return found


def scan(
    root: Path,
    files: Sequence[File],
    *,
    memory: Sequence[Path],
    remember: Callable[[Json], Json],
    workers: int,
    progress: Progress | None = None,
) -> Scan:
    """What `remember` made of the header of every file.

    `memory` are files of lines from earlier scans; new lines are added to the last of them.
    """
    known = recall(memory)
    have: dict[str, Json] = {}
    retry = set()
    for file in files:
        line = known.get(file.path)
        if line is not None and line["size"] == file.size and line["mtime_ns"] == file.mtime_ns:
            have[file.path] = line["header"]
    todo = [file for file in files if file.path not in have]
    if not todo:
        return Scan(headers=have, retry=frozenset())
    memory[-1].parent.mkdir(parents=True, exist_ok=True)
    with memory[-1].open("a", encoding="utf-8") as lines:
        results = run_bounded(
            read_header, (str(root / file.path) for file in todo), workers=workers, timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES
        )
        for done, (index, result) in enumerate(results, start=1):
            file = todo[index]
            if isinstance(result, Done):
                have[file.path] = remember(result.value)
                lines.write(_line(file, have[file.path]))
            else:  # time, memory or the disk: not remembered, the next index tries again
                retry.add(file.path)
                empty: Json = {"kind": None, "num_frames": None, "defects": [], "patient": "", "study": "", "time": ""}
                have[file.path] = remember({**empty, "code": result.code})
            if done % FLUSH_EVERY == 0:
                lines.flush()
            if progress is not None:
                progress("headers", done, len(todo))
    return Scan(headers=have, retry=frozenset(retry))


def recall(memory: Sequence[Path]) -> dict[str, Json]:
    """The remembered lines by path; a line cut off by a stop is skipped."""
    known: dict[str, Json] = {}
    for path in memory:
        if not path.is_file():
            continue
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
                known[line["path"]] = {"size": line["size"], "mtime_ns": line["mtime_ns"], "header": dict(line["header"])}
            except (ValueError, KeyError, TypeError):
                continue
    return known


def defects_of(headers: Sequence[Json]) -> list[tuple[str, str, str, int]]:
    """Rows (item, code, detail, count) of what the headers say, one per code."""
    number: dict[tuple[str, str], int] = {}
    for header in headers:
        for code in (*([header["code"]] if header["code"] else []), *header["defects"]):
            number[code, "header"] = number.get((code, "header"), 0) + 1
        if header["kind"] not in (None, "b_mode"):
            number[str(header["kind"]), "no B-mode cine"] = number.get((str(header["kind"]), "no B-mode cine"), 0) + 1
    return [("clips", code, detail, count) for (code, detail), count in sorted(number.items())]


def _line(file: File, header: Json) -> str:
    return json.dumps({"path": file.path, "size": file.size, "mtime_ns": file.mtime_ns, "header": header}) + "\n"


def _is_dicom(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _identity(path: str) -> Json:
    try:
        found: Any = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS, defer_size=4096)
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
    """YYYYMMDDHHMMSS, or the date alone."""
    whole = _word(found, "AcquisitionDateTime") or _word(found, "StudyDate") + _word(found, "StudyTime")
    digits = whole.partition(".")[0].partition("+")[0].replace(":", "").replace("-", "")
    return (
        digits if digits.isdigit() and len(digits) in (8, 14) else digits[:8] if digits[:8].isdigit() and len(digits) >= 8 else ""
    )
