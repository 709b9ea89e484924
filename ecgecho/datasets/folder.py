"""Any folder with echo cines (DICOM, AVI, MP4, NIfTI) and ECG files of the kinds that are read: private, without public ids.

Every id is an HMAC-SHA256 under a key that lies beside the catalog (mode 600) or is given; no PatientID, UID or file name is
ever an id. The subject is who the file itself names (PatientID of a DICOM, the patient's id in MUSE, Sierra, aECG and
CardioSoft XML, SCP-ECG, EDF+ and ISHNE), or the first folder below ROOT when asked; where neither says who it is (WFDB, arrays,
videos), the subject is unknown and its split is `none`, which `train` refuses. What the files say is hashed at once and never
kept. The study is the DICOM's StudyInstanceUID, else the folder that the file lies in. Ids agree between two catalogs, also of
the module `tables`, only when made with the same key.

Arrays (.npy, .csv, .h5, a .mat without .hea) need a JSON file beside them that says rate, unit and leads (docs/ecg_files.md).

There are no labels and no official splits: the hash of the subject decides. A table of views (path, view) is optional.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from ecgecho import catalog, keys
from ecgecho.catalog import SCHEMAS, Catalog, IndexOptions, Progress
from ecgecho.datasets import _ecg_files, _headers, _indexing, _private, _tables
from ecgecho.datasets._indexing import Reading, Spec, Tables
from ecgecho.pairs import SPLIT_VERSION, private_family
from ecgecho.types import Json, UserError

DATASET = "folder"
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
VIDEO_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov")
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mhd")
SIDE_SUFFIXES = (".dat", ".raw", ".zraw")
"""Samples of a file that is listed beside them."""
NO_MAGIC = (".txt", ".json", ".zip", ".gz", ".parquet", ".png", ".jpg", ".jpeg", ".pdf", ".csv", ".tsv", ".xlsx")
"""Not looked into for a DICOM under a strange name."""
DICOMDIR = "1.2.840.10008.1.3.10"
ECG_WAVEFORM = "1.2.840.10008.5.1.4.1.1.9."
NOTHING = "holds no DICOM, AVI, MP4 or WFDB (.hea) file, nor another cine or ECG that is read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of `ecgecho index folder`."""

    key: str = ""
    """File with the key of the ids; empty makes one beside the catalog, `<catalog>.key`, or uses the one there."""
    subject: Literal["patient_id", "top_folder"] = "patient_id"
    """Who a file belongs to: whom the file names, or the first folder below ROOT."""
    views: str = ""
    """A table with the columns path (below ROOT) and view; a relative path begins at ROOT."""


def build(config: Config) -> Folder:
    """The dataset."""
    return Folder(config=config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The files below a root that may be echo or ECG, by path."""

    echo: tuple[str, ...]
    """DICOM files may turn out to be ECGs."""
    ecg: tuple[str, ...]
    others: int
    unreadable: int
    """Folders that may not be read; what lies in them is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """See `catalog.Dataset`."""

    config: Config

    def inspect(self, root: Path, out: Path, options: IndexOptions = IndexOptions()) -> Json:
        """The files found; writes nothing, not even a key."""
        root, out = Path(root), Path(out)
        reading, walk = self._reading(root, out, options), self._walk(root, out, options)
        has_key = _private.key_file(self.config.key, options, out).is_file()
        return {
            "dataset": DATASET,
            "parts": {"echo files": len(walk.echo), "ECG files": len(walk.ecg)},
            "missing": _missing(walk),
            "bytes": sum(os.stat(root / path).st_size for path in (*walk.echo, *walk.ecg)),
            "unchanged": has_key and self._made(reading, walk) is not None,
        }

    def index(self, root: Path, out: Path, progress: Progress | None = None, options: IndexOptions = IndexOptions()) -> Catalog:
        """Write the catalog; when no file was added, changed or removed it is returned as it is."""
        root, out = Path(root), Path(out)
        catalog.check_place(out)
        walk = self._walk(root, out, options)
        if not walk.echo and not walk.ecg:
            closed = f" {walk.unreadable} of its folders may not be read." if walk.unreadable else ""
            raise UserError(f"{root} {NOTHING}; give the folder that holds them.{closed}")
        key = _private.key_of(self.config.key, options, out, make=True)
        reading = self._reading(root, out, options, progress)
        if (made := self._made(reading, walk)) is not None:
            return made
        ids = Ids(key=key.key)
        seen = reading.scan("files", (*walk.echo, *walk.ecg), look, ids.remember, memory=f"files {_SPEC.version} {key.key_id}")
        reading.defect("files", "not_indexed", "neither a cine nor an ECG that is read", walk.others)
        reading.defect("files", "unreadable_folder", "may not be read; nothing of it is here", walk.unreadable)
        tables = _read(reading, seen, ids)
        assert tables.clips is not None
        assert tables.ecgs is not None
        if options.pseudonymise:  # what is kept of the scan has the dates as they are
            reading.scans = {name: dataclasses.replace(found, lines=b"") for name, found in reading.scans.items()}
        return _indexing.write(
            reading,
            tables,
            dataset=DATASET,
            family=private_family(key.key_id),
            key=key,
            meta={
                "parts": {
                    name: f"{0 if t is None else t.num_rows} files" for name, t in (("echo", tables.clips), ("ecg", tables.ecgs))
                },
                "missing": _missing(walk),
                "inputs": self._inputs(reading, walk, key.key_id) if reading.whole else None,  # None: the next index tries again
            },
        )

    def _walk(self, root: Path, out: Path, options: IndexOptions) -> Walk:
        own = [out, _private.key_file(self.config.key, options, out)]
        return _walk(root, (*own, root / self.config.views) if self.config.views else tuple(own))

    def _reading(self, root: Path, out: Path, options: IndexOptions, progress: Progress | None = None) -> Reading:
        return Reading(
            spec=_SPEC,
            root=root,
            out=out,
            config=self.config,
            options=options,
            parts={"views": root / self.config.views} if self.config.views else {},
            progress=progress or (lambda what, done, total: None),
        )

    def _made(self, reading: Reading, walk: Walk) -> Catalog | None:
        key = _private.key_of(self.config.key, reading.options, reading.out, make=False)
        return catalog.unchanged(reading.out, self._inputs(reading, walk, key.key_id))

    def _inputs(self, reading: Reading, walk: Walk, key_id: str) -> Json:
        views = reading.parts.get("views")
        return {
            "dataset": DATASET,
            "index_version": _SPEC.version,
            "root": catalog.relative(reading.root, reading.out),
            "key_id": key_id,
            "settings": {"subject": self.config.subject},  # the key's id stands for its file
            "options": _indexing.option_inputs(reading.options),
            "split_version": SPLIT_VERSION,
            "views": {} if views is None else _tables.fingerprint(views) if views.is_file() else None,
            "files": _tables.listing(reading.root, (*walk.echo, *walk.ecg)),
            **({"unreadable": walk.unreadable} if walk.unreadable else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids(keys.Key):
    """Keyed hashes of what a folder holds."""

    def remember(self, found: Json) -> Json:
        """What may be kept of a look: hashes in the place of identifiers."""
        return {
            **{name: found[name] for name in (*_headers.EMPTY, "what", "time")},
            "subject": _private.subject_of(self, found["patient"]),
            "written": self.of("subject as written", found["patient"].strip()),
            "study": self.of("study", found["study"]) if found["study"] else "",
        }


def look(path: str) -> Json:
    """What a file is (echo, ecg, dicomdir), its header, and as it stands there: patient, study, time."""
    nothing = {**_headers.EMPTY, "patient": "", "study": "", "time": ""}
    place = Path(path)
    kind = "" if place.name.lower().endswith((*VIDEO_SUFFIXES, *VOLUME_SUFFIXES)) else _ecg_files.kind_of(place)
    if kind and kind != "dicom":
        return {**nothing, "what": "ecg", **_ecg_files.identify(place, kind)}
    found = _headers.read_identified(path)
    sop = found.pop("sop_class", "")
    if sop.startswith(ECG_WAVEFORM):
        return {**nothing, "what": "ecg", **{name: found[name] for name in ("patient", "study", "time")}}
    return {**found, "what": "dicomdir" if sop.startswith(DICOMDIR) else "echo"}


def _read(reading: Reading, seen: dict[str, Json], ids: Ids) -> Tables:
    known: dict[str, bool] = {}
    writings: dict[str, set[str]] = {}
    owners: dict[str, set[str]] = {}
    clips: list[Json] = []
    ecgs: list[Json] = []
    views = _views(reading, seen)
    for path in sorted(seen):
        found = seen[path]
        named, as_written = _top(path, ids) if reading.config.subject == "top_folder" else (found["subject"], found["written"])
        if named:
            writings.setdefault(named, set()).add(as_written)
        if found["what"] == "ecg":
            subject = named or ids.of("unknown subject", path)
            known[subject] = bool(named)
            record = path[:-4] if path.lower().endswith(".hea") else path
            ecgs.append({"ecg_id": ids.of("ecg", path), "subject_id": subject, "path": record, "time": _moment(found["time"])})
        elif found["what"] == "echo":
            visit = found["study"] or ids.of("folder", path.rpartition("/")[0])
            subject = named or ids.of("unknown subject", visit)
            known[subject] = bool(named)
            owners.setdefault(visit, set()).add(subject)
            clips.append(
                {
                    "clip_id": ids.of("clip", path),
                    "study_id": ids.of("study", f"{visit} {subject}"),  # two subjects under one UID or in one folder: two studies
                    "subject_id": subject,
                    "path": path,
                    "time": _moment(found["time"]),
                    "kind": found["kind"],
                    "num_frames": 0 if found["code"] else found["num_frames"],
                    "view": views.get(path),
                }
            )
    _headers.note(reading, [found for found in seen.values() if found["what"] == "echo"])
    reading.defect("files", "dicomdir", "an index of others", sum(found["what"] == "dicomdir" for found in seen.values()))
    reading.defect(
        "clips", "study_of_two_subjects", "made one study each", sum(len(subjects) > 1 for subjects in owners.values())
    )
    unknown = sorted(subject for subject, is_known in known.items() if not is_known)
    reading.defect("subjects", "subject_unknown", "in no split; train refuses them", len(unknown))
    reading.defect("subjects", "leading_zeros", _private.LEADING_ZEROS, sum(len(words) > 1 for words in writings.values()))
    tables = {
        "clips": pa.Table.from_pylist(clips, SCHEMAS["clips"]),
        "ecgs": pa.Table.from_pylist(ecgs, SCHEMAS["ecgs"]),
    }
    _note_times(reading, seen)
    _private.note_crowds(reading, **tables)
    return Tables(
        **tables,
        official=pa.table(
            {"subject_id": pa.array(unknown, pa.string()), "split": pa.array(["none"] * len(unknown), pa.string())}
        ),
    )


def _note_times(reading: Reading, seen: dict[str, Json]) -> None:
    """What the files' times lack: an ECG and a study without one never meet, and one without a time of day may be a day off."""
    for what, item in (("echo", "clips"), ("ecg", "ecgs")):
        times = [found["time"] for found in seen.values() if found["what"] == what]
        reading.defect(item, "time_missing", "the file says none that is found", times.count(""))
        reading.defect(item, "time_unreadable", "left out", times.count(_headers.NO_TIME))
        reading.defect(item, "time_of_day_missing", "a day alone; taken as midnight", sum(len(time) == 8 for time in times))


def _views(reading: Reading, seen: dict[str, Json]) -> dict[str, str]:
    if "views" not in reading.parts:
        return {}
    rows = _tables.read_table(reading.parts["views"], ("path", "view"), own=True)
    reading.defect("views", "no_rows", "a header and no rows: no views", int(not rows.num_rows))
    rows = _private.views(reading, rows.filter(pc.and_(pc.is_valid(rows["path"]), pc.is_valid(rows["view"]))))
    views = dict(zip(rows["path"].to_pylist(), rows["view"].to_pylist(), strict=True))
    reading.defect("views", "not_there", "a path that is no cine here", len(set(views) - set(seen)))
    return views


def _walk(root: Path, own: tuple[Path, ...]) -> Walk:
    """All files below `root` in the order of their paths, but hidden ones, stores, catalogs and what is `own`.

    Folders behind links are read last, and each folder once: a link beside the folder that it leads to renames nothing, and
    one that leads into itself ends. A folder that may not be read is counted, and the others go on.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that holds the files.")
    echo: list[str] = []
    ecg: list[str] = []
    others, ours = 0, {place for path in own for place in (path.absolute(), path.resolve())}
    seen: set[tuple[int, int]] = set()
    starts = [root]
    closed: set[str] = set()

    def refused(error: OSError) -> None:
        closed.add(str(error.filename))

    for start in starts:  # grows
        for folder, below, names in os.walk(start, onerror=refused):
            stat, here = os.stat(folder), Path(folder)
            real = here.resolve()
            if (stat.st_dev, stat.st_ino) in seen or (seen and real in ours):
                below[:] = []
                continue
            seen.add((stat.st_dev, stat.st_ino))
            below[:] = sorted(name for name in below if not _skipped(here / name, ours))
            closed |= {str(here / name) for name in below if not os.access(here / name, os.R_OK | os.X_OK)}
            below[:] = [name for name in below if str(here / name) not in closed]
            starts += [here / name for name in below if (here / name).is_symlink()]
            for name in sorted(names):
                path = here / name
                if name.startswith(".") or path.absolute() in ours or real / name in ours:
                    continue
                kind = _kind(path)
                relative = path.relative_to(root).as_posix()
                if kind == "echo":
                    echo.append(relative)
                elif kind == "ecg":
                    ecg.append(relative)
                elif kind == "other":
                    others += 1
    return Walk(echo=tuple(sorted(echo)), ecg=tuple(sorted(ecg)), others=others, unreadable=len(closed))


def _kind(path: Path) -> str:
    """echo, ecg, side (samples of another file) or other, by name and first bytes."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if suffix in SIDE_SUFFIXES or (suffix == ".mat" and path.with_suffix(".hea").exists()):
        return "side"
    if not path.is_file():  # a link to nowhere, a pipe
        return "other"
    if name.endswith(VOLUME_SUFFIXES):
        return "other" if name.split(".")[0].endswith("_gt") else "echo"  # CAMUS's masks
    if suffix in (*DICOM_SUFFIXES, *VIDEO_SUFFIXES):
        return "echo"
    if name.endswith(_ecg_files.SUFFIXES) and (kind := _ecg_files.kind_of(path)):
        return "echo" if kind == "dicom" else "ecg"
    if suffix == ".json":
        return "side" if any(path.with_suffix(other).is_file() for other in _ecg_files.SUFFIXES) else "other"
    # A DICOM under any name: exports call them IM_0001 or by their UID. DICOMDIR is an index of others.
    return "other" if name == "dicomdir" or suffix in NO_MAGIC or not _has_magic(path) else "echo"


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _skipped(folder: Path, ours: set[Path]) -> bool:
    return (
        folder.name.startswith(".")
        or folder.name.endswith(".zarr")
        or folder.absolute() in ours
        or os.path.isfile(folder / "catalog.json")
        or os.path.isfile(folder / "zarr.json")
    )


def _missing(walk: Walk) -> list[str]:
    return [
        what for files, what in ((walk.echo, "echo: no DICOM, AVI, MP4 or NIfTI"), (walk.ecg, "ecg: no ECG file")) if not files
    ]


def _top(path: str, ids: Ids) -> tuple[str, str]:
    """The subject named by the first folder, and how; empty for a file that lies in the root itself."""
    folder, below, _ = path.partition("/")
    return (ids.of("subject", _private.written(folder)), folder) if below else ("", "")


def _moment(digits: str) -> datetime | None:
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S" if len(digits) > 8 else "%Y%m%d") if digits else None
    except ValueError:
        return None


def _nothing(reading: Reading) -> Tables:
    raise AssertionError("a folder is read by Folder")


_SPEC = Spec(name=DATASET, version=3, parts={}, needs=(), read=_nothing)
