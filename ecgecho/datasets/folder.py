"""Any folder with echo cines (DICOM, AVI, MP4) and ECGs (WFDB): private files without public ids.

Every id is an HMAC-SHA256 under a key that lies beside the catalog (mode 600) or is given; no PatientID, UID or file name
is ever an id. The subject is the DICOM's PatientID, or the first folder below ROOT when asked; where neither says who it is,
the subject is unknown and its split is `none`, which `train` refuses. The study is the DICOM's StudyInstanceUID, else the
folder that the file lies in. Ids agree between two catalogs only when made with the same key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa

from ecgecho import catalog, keys
from ecgecho.catalog import SCHEMAS, Catalog, Progress
from ecgecho.datasets import _headers
from ecgecho.io.scan import File
from ecgecho.pairs import SPLIT_VERSION, WINDOW_DAYS, assign_splits, check_window, make_pairs, private_family
from ecgecho.types import Json, UserError

DATASET = "folder"
INDEX_VERSION = 1  # raised when the same files would make another catalog

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
VIDEO_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov")
NO_PATIENT = frozenset(
    {"", "0", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "na", "n/a", "test", "patient", "xxx"}
)
"""What de-identification leaves in PatientID: the same word for everyone is no subject."""
DICOMDIR = "1.2.840.10008.1.3.10"
ECG_WAVEFORM = "1.2.840.10008.5.1.4.1.1.9."
MAX_WFDB_HEADER_BYTES = 1 << 20
_WFDB_LINE = re.compile(r"^[^\s/]+(/\d+)?\s+\d+(\s|$)")
_WFDB_TIME = re.compile(r"\s(\d{1,2}:\d{2}:\d{2})(?:\.\d+)?\s+(\d{1,2}/\d{1,2}/\d{4})\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index folder`."""

    key: str = ""
    """File with the key of the ids; empty makes one beside the catalog, `<catalog>.key`, or uses the one there."""
    subject: Literal["patient_id", "top_folder"] = "patient_id"
    """Who a file belongs to: the DICOM's PatientID, or the first folder below ROOT (also for ECGs and videos)."""
    window_days: float = WINDOW_DAYS
    """An ECG is paired with the nearest echo study at most this many days away."""
    workers: int = 2
    """Processes that read headers."""

    def __post_init__(self) -> None:
        check_window(self.window_days)


def build(config: Config) -> Folder:
    """The dataset."""
    return Folder(config=config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The files below a root that may be echo or ECG."""

    echo: tuple[File, ...]
    ecg: tuple[File, ...]
    others: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """See `catalog.Dataset`."""

    config: Config

    def inspect(self, root: Path, out: Path, options: catalog.IndexOptions = catalog.IndexOptions()) -> Json:
        """The files found; writes nothing, not even a key."""
        walk = _walk(Path(root), (Path(out), _key_file(self.config, Path(out))))
        return {
            "dataset": DATASET,
            "parts": {"echo files": len(walk.echo), "ECG headers": len(walk.ecg)},
            "missing": _missing(walk),
            "bytes": sum(file.size for file in (*walk.echo, *walk.ecg)),
            "unchanged": _key_file(self.config, Path(out)).is_file() and self._made(Path(root), Path(out), walk) is not None,
        }

    def index(
        self, root: Path, out: Path, progress: Progress | None = None, options: catalog.IndexOptions = catalog.IndexOptions()
    ) -> Catalog:
        """Write the catalog; when no file was added, changed or removed it is returned as it is."""
        root, out = Path(root), Path(out)
        catalog.check_place(out)
        walk = _walk(root, (out, _key_file(self.config, out)))
        if not walk.echo and not walk.ecg:
            raise UserError(f"{root} holds no DICOM, AVI, MP4 or WFDB (.hea) file; give the folder that holds them.")
        ids = self._ids(out, make=True)
        if (made := self._made(root, out, walk)) is not None:
            return made
        memory = [out / "headers.jsonl", out.with_name(f".{out.name}.{ids.key_id}.headers.jsonl")]
        scan = _headers.scan_headers(
            root, walk.echo, memory=memory, remember=ids.remember, workers=self.config.workers, progress=progress
        )
        headers = scan.headers
        defects: Counter[tuple[str, str, str]] = Counter()
        for item, code, detail, count in _headers.defects_of(list(headers.values())):
            defects[item, code, detail] += count
        defects["files", "not_indexed", "neither DICOM, AVI, MP4 nor .hea"] += walk.others
        clips, clip_known = _clips(walk, headers, ids, self.config.subject, defects)
        ecgs, ecg_known = _ecgs(root, walk, ids, self.config.subject, defects)
        subjects = _subjects({**clip_known, **ecg_known}, ids.family)
        defects["subjects", "subject_unknown", "in no split; train refuses them"] += subjects["split"].to_pylist().count("none")
        result = catalog.write(
            out,
            root=root,
            dataset=DATASET,
            family=ids.family,
            key_id=ids.key_id,
            tables={
                "subjects": subjects,
                "clips": clips,
                "ecgs": ecgs,
                "pairs": make_pairs(
                    ecgs,
                    clips,
                    SCHEMAS["texts"].empty_table(),
                    subjects,
                    _window(self.config.window_days),
                ),
                "defects": _defects(defects),
            },
            meta={
                "split_version": SPLIT_VERSION,
                "parts": {"echo": f"{clips.num_rows} files", "ecg": f"{ecgs.num_rows} files"},
                "missing": _missing(walk),
                "inputs": None if scan.retry else self._inputs(root, out, walk, ids.key_id),  # None: the next index tries again
            },
            keep={"headers.jsonl": scan.lines},
        )
        memory[-1].unlink(missing_ok=True)
        return result

    def _made(self, root: Path, out: Path, walk: Walk) -> Catalog | None:
        return catalog.unchanged(out, self._inputs(root, out, walk, self._ids(out, make=False).key_id))

    def _inputs(self, root: Path, out: Path, walk: Walk, key_id: str) -> Json:
        settings = dataclasses.asdict(self.config)
        for name in ("workers", "key"):  # the key's id stands for its file
            del settings[name]
        listing = hashlib.sha256()
        for file in (*walk.echo, *walk.ecg):
            listing.update(f"{file.path}\0{file.size}\0{file.mtime_ns}\n".encode(errors="surrogateescape"))
        where = catalog.relative(root, out)
        return {
            "dataset": DATASET,
            "index_version": INDEX_VERSION,
            "root": where,
            "key_id": key_id,
            "settings": settings,
            "split_version": SPLIT_VERSION,
            "files": len(walk.echo) + len(walk.ecg),
            "listing_sha256": listing.hexdigest(),
        }

    def _ids(self, out: Path, *, make: bool) -> Ids:
        file = _key_file(self.config, out)
        if not file.exists():
            if self.config.key:
                raise UserError(
                    f"there is no key {file}. Give the key file of another catalog (`<catalog>.key`), or leave --key out."
                )
            if (out / "catalog.json").is_file():
                raise UserError(
                    f"{file}, the key of the ids in {out}, is gone; another key would give everyone other ids. "
                    f"Put it back, give it with --key FILE, or index into another folder."
                )
            if make:
                keys.make(file)
        return Ids(key=keys.read(file).key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids(keys.Key):
    """Keyed hashes of what a folder holds."""

    @property
    def family(self) -> str:
        return private_family(self.key_id)

    def remember(self, header: Json) -> Json:
        """What may be kept of a header: hashes in the place of identifiers."""
        patient = header["patient"].casefold()
        return {
            **{name: header[name] for name in ("kind", "num_frames", "code", "defects", "time")},
            "subject": "" if patient in NO_PATIENT else self.of("subject", header["patient"]),
            "study": self.of("study", header["study"]) if header["study"] else "",
            "sop": header.get("sop_class", "") if header.get("sop_class", "").startswith((DICOMDIR, ECG_WAVEFORM)) else "",
        }


def _walk(root: Path, own: tuple[Path, ...]) -> Walk:
    """All files below `root` in the order of their paths, but hidden ones, stores, catalogs and what is `own`."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that holds the files.")
    echo, ecg, others, ours = [], [], 0, {path.absolute() for path in own}
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not _skipped(Path(folder) / name, ours))
        for name in sorted(names):
            path = Path(folder) / name
            if name.startswith(".") or path.absolute() in ours:
                continue
            try:
                stat = path.stat()
            except OSError:
                others += 1
                continue
            file = File(path=path.relative_to(root).as_posix(), size=stat.st_size, mtime_ns=stat.st_mtime_ns)
            suffix = path.suffix.lower()
            if suffix == ".hea":
                ecg.append(file)
            elif suffix in (*DICOM_SUFFIXES, *VIDEO_SUFFIXES) or _has_magic(path, suffix):
                echo.append(file)
            elif suffix != ".dat":
                others += 1
    return Walk(echo=tuple(echo), ecg=tuple(ecg), others=others)


def _skipped(folder: Path, ours: set[Path]) -> bool:
    return (
        folder.name.startswith(".")
        or folder.name.endswith(".zarr")
        or folder.absolute() in ours
        or (folder / "catalog.json").is_file()
        or (folder / "zarr.json").is_file()
    )


def _has_magic(path: Path, suffix: str) -> bool:
    """A DICOM under any name: exports call them IM_0001 or by their UID. DICOMDIR is an index of others."""
    if path.name.upper() == "DICOMDIR" or suffix in (".csv", ".txt", ".json", ".xml", ".zip", ".gz", ".parquet", ".png", ".jpg"):
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _clips(
    walk: Walk, headers: dict[str, Json], ids: Ids, subject_from: str, defects: Counter[tuple[str, str, str]]
) -> tuple[pa.Table, dict[str, bool]]:
    """The table of clips, and whether each subject is known."""
    rows: list[Json] = []
    known: dict[str, bool] = {}
    owners: dict[str, set[str]] = {}
    for file in walk.echo:
        header = headers[file.path]
        if header["sop"]:
            what = "ecg_waveform_not_read" if header["sop"].startswith(ECG_WAVEFORM) else "dicomdir"
            defects["files", what, "DICOM that is no echo"] += 1
            continue
        visit = header["study"] or ids.of("folder", file.path.rpartition("/")[0])
        named = _top(file, ids) if subject_from == "top_folder" else header["subject"]
        subject = named or ids.of("unknown subject", visit)
        known[subject] = bool(named)
        owners.setdefault(visit, set()).add(subject)
        rows.append(
            {
                "clip_id": ids.of("clip", file.path),
                "study_id": ids.of("study", f"{visit} {subject}"),  # two subjects under one UID or in one folder: two studies
                "subject_id": subject,
                "path": file.path,
                "time": _dicom_time(header["time"]),
                "kind": header["kind"],
                "num_frames": 0 if header["code"] else header["num_frames"],
            }
        )
    defects["clips", "study_of_two_subjects", "made one study each"] += sum(len(subjects) > 1 for subjects in owners.values())
    return pa.Table.from_pylist(rows, SCHEMAS["clips"]), known


def _ecgs(
    root: Path, walk: Walk, ids: Ids, subject_from: str, defects: Counter[tuple[str, str, str]]
) -> tuple[pa.Table, dict[str, bool]]:
    rows: list[Json] = []
    known: dict[str, bool] = {}
    for file in walk.ecg:
        first = _wfdb_line(root / file.path)
        if not _WFDB_LINE.match(first):
            defects["ecgs", "not_wfdb", "first line is no record line"] += 1
            continue
        subject = _top(file, ids) if subject_from == "top_folder" else ""
        known_here = bool(subject)
        subject = subject or ids.of("unknown subject", file.path)
        known[subject] = known_here
        rows.append(
            {
                "ecg_id": ids.of("ecg", file.path),
                "subject_id": subject,
                "path": file.path.removesuffix(".hea"),
                "time": _wfdb_time(first),
            }
        )
    return pa.Table.from_pylist(rows, SCHEMAS["ecgs"]), known


def _subjects(known: dict[str, bool], family: str) -> pa.Table:
    names = sorted(known)
    official = {name: "none" for name in names if not known[name]}
    return catalog.conform(
        "subjects",
        pa.table(
            {"subject_id": pa.array(names, pa.string()), "split": pa.array(assign_splits(family, names, official), pa.string())}
        ),
        "subjects",
    )


def _defects(defects: Counter[tuple[str, str, str]]) -> pa.Table:
    rows = [
        {"item": item, "code": code, "detail": detail, "count": count}
        for (item, code, detail), count in sorted(defects.items())
        if count
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["defects"])


def _missing(walk: Walk) -> list[str]:
    return [
        what for files, what in ((walk.echo, "echo: no DICOM, AVI or MP4"), (walk.ecg, "ecg: no WFDB header (.hea)")) if not files
    ]


def _top(file: File, ids: Ids) -> str:
    """The subject named by the first folder; empty for a file that lies in the root itself."""
    folder, below, _ = file.path.partition("/")
    return ids.of("subject", folder) if below else ""


def _wfdb_line(path: Path) -> str:
    """The first line of a WFDB header that is no comment."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_WFDB_HEADER_BYTES).decode("latin-1")
    except OSError:
        return ""
    return next((line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")), "")


def _wfdb_time(line: str) -> datetime | None:
    found = _WFDB_TIME.search(line)
    try:
        return datetime.strptime(f"{found[2]} {found[1]}", "%d/%m/%Y %H:%M:%S") if found else None
    except ValueError:
        return None


def _dicom_time(digits: str) -> datetime | None:
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S" if len(digits) > 8 else "%Y%m%d") if digits else None
    except ValueError:
        return None


def _key_file(config: Config, out: Path) -> Path:
    return Path(config.key) if config.key else keys.beside(out)


def _window(days: float) -> catalog.IndexOptions:
    return catalog.IndexOptions(window_days=(-days, days))
