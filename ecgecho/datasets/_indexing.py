"""The engine of the dataset modules: finds the parts of a dataset, lets the module read them, and writes the catalog.

A module says what its dataset is (`Spec`) and turns what lies there into tables (`read`, from a `Reading` to `Tables`).
Everything that every dataset needs is here: refusing a root that is something else, splits, pairs, pseudonyms, defects,
remembering what was read, and finding a catalog already made.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgecho import catalog, keys, plugins
from ecgecho.catalog import SCHEMAS, Catalog, IndexOptions, Progress
from ecgecho.datasets import _tables
from ecgecho.datasets._pseudonyms import Pseudonyms
from ecgecho.io.scan import Scan, files_at, scan
from ecgecho.pairs import SPLIT_VERSION, assign_splits, check_window, family_of, make_pairs, private_family
from ecgecho.types import Json, UsageError, UserError

SAMPLED_FILES = 256
NAMED_FILES = 3
"""Of those that cannot be read, for each reason."""
SCAN_TIMEOUT_S = 60.0
Texts: TypeAlias = "pa.Table | Callable[[pa.Array], Iterable[pa.Table]]"
"""A table, or what makes it block by block when it is given the ids of all subjects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What a module makes of its dataset: tables with the columns of `catalog.SCHEMAS`; nullable ones may be left out."""

    ecgs: pa.Table | None = None
    clips: pa.Table | None = None
    texts: Texts | None = None
    more_texts: Callable[[pa.Array], Iterable[pa.Table]] | None = None
    """Written after `texts`, block by block; as all texts that come in blocks they are no ECG's own text in `pairs`."""
    labels: Sequence[pa.Table] = ()
    more_labels: Iterable[pa.Table] = ()
    """Made while they are written, after `labels`; their subjects have something in another table."""
    people: pa.Table | None = None
    """subject_id, sex, birth_year; subjects who have nothing else are left out."""
    official: pa.Table | None = None
    """subject_id, split: the dataset's own; may repeat a row, not contradict itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a dataset is."""

    name: str
    version: int
    """Raised when the same files would make another catalog."""
    parts: Mapping[str, Sequence[str]]
    """Part -> names of its table (case, separators, .csv and .gz play no part; "A4C/FileList.csv" where the folder decides), of
    another file, of a folder ("videos/"), or a pattern with * (the part is then the folder that holds such files; of those of
    several folders where it begins with **/)."""
    needs: Sequence[str]
    """Parts without which a root is refused."""
    read: Callable[[Reading], Tables]
    meaning: Mapping[str, str] = field(default_factory=dict)
    """What is lost without an optional part."""
    any_of: bool = False
    """One of `needs` is enough."""
    file_settings: Sequence[str] = ()
    """Settings that name a file (a relative path begins at ROOT): the catalog keeps what it holds, not where it lies."""
    listed: Callable[[Reading], Iterable[str]] | None = None
    """Files besides the tables whose change makes another catalog: paths below the root."""


@dataclass(slots=True, kw_only=True)
class Reading:
    """A dataset while it is read: where its parts are, what was asked for, and the defects met so far."""

    spec: Spec
    root: Path
    out: Path
    config: Any
    options: IndexOptions
    parts: Mapping[str, Path]
    progress: Progress
    defects: list[tuple[str, str, str, int]] = field(default_factory=list)
    scans: dict[str, Scan] = field(default_factory=dict)
    about: Json = field(default_factory=dict)
    """What the catalog says of itself besides: `headers`, for one."""

    def defect(self, item: str, code: str, detail: str, count: int) -> None:
        """A row of the table of defects; none where the count is 0. Never an id of a person in its words."""
        if count:
            self.defects.append((item, code, detail, int(count)))

    def refuse(self, what: str) -> UserError:
        """An error that names the dataset's root."""
        return UserError(f"{self.root}: {what}")

    def table(
        self,
        part: str,
        required: Sequence[str],
        optional: Sequence[str] = (),
        *,
        words: Sequence[str] = (),
        delimiter: str = ",",
        encoding: str = "utf-8",
    ) -> pa.Table:
        """The named columns of a part's table as trimmed strings; empty is null, an optional one that is absent all null.

        Those of `words` as dictionaries, for few distinct values in many rows.
        """
        path = self.parts[part]
        return _tables.read_table(path, required, optional, words=words, delimiter=delimiter, encoding=encoding)

    def once(self, part: str, rows: pa.Table, key: str) -> pa.Table:
        """`rows` without repeats of the same row; one `key` for two different rows is refused."""
        path = self.parts[part]
        rows, repeats = _tables.once(_tables.require(rows, (key,), path), key, path)
        self.defect(part, "row_twice", f"same {key}; kept once", repeats)
        return rows

    def times(self, part: str, column: str, text: pa.ChunkedArray) -> pa.ChunkedArray:
        """Timestamps; what is none, or missing, becomes null and a defect."""
        made = _tables.times(text)
        self.defect(part, "time_unreadable", f"{column} left out", made.null_count - text.null_count)
        self.defect(part, "time_missing", f"{column} is empty", text.null_count)
        return made

    def numbers(self, part: str, column: str, text: pa.ChunkedArray, *, decimal: str = ".") -> pa.ChunkedArray:
        """Doubles; what is no plain number becomes null and a defect."""
        made = _tables.numbers(text if decimal == "." else pc.replace_substring(text, decimal, "."))
        self.defect(part, "not_a_number", f"{column} left out", made.null_count - text.null_count)
        return made

    def within(
        self, part: str, column: str, values: pa.ChunkedArray, low: float, high: float, *, sentinels: Sequence[float] = ()
    ) -> pa.ChunkedArray:
        """Values from `low` to `high`; others, and sentinels, become null and a defect."""
        if sentinels:
            means_none = pc.fill_null(pc.is_in(values, value_set=pa.array(list(sentinels), pa.float64())), False)
            self.defect(part, "sentinel", f"{column}: means not measured", pc.sum(means_none).as_py() or 0)
            values = pc.if_else(means_none, pa.scalar(None, pa.float64()), values)
        good = pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))  # a NaN is neither
        wrong = pc.invert(pc.fill_null(good, True))
        self.defect(part, "out_of_range", f"{column}: not from {low:g} to {high:g}; left out", pc.sum(wrong).as_py() or 0)
        return pc.if_else(wrong, pa.scalar(None, pa.float64()), values)

    def below(self, part: str, paths: pa.ChunkedArray) -> pa.ChunkedArray:
        """Paths beside a part's table (or inside its folder) -> paths below the root; one that leaves it is refused."""
        return _tables.below(self.root, self.parts[part], paths)

    def walk(self, part: str, suffixes: Sequence[str]) -> list[str]:
        """Files of a part's folder, or of the folder of its table, as sorted paths below the root."""
        place = self.parts[part]
        closed: list[OSError] = []
        found = list(_files(self.root, place if place.is_dir() else place.parent, tuple(suffixes), closed))
        self.defect(part, "unreadable_folder", "what lies in it is left out", len(closed))
        return found

    def scan(
        self,
        item: str,
        paths: Sequence[str],
        look: Callable[[str], Json],
        remember: Callable[[Json], Json] | None = None,
        *,
        memory: str = "",
    ) -> dict[str, Json]:
        """What `look` (a function of a module, given an absolute path) says of each file, in workers, resumable.

        A file that is missing, or that `look` refuses with an ItemError, is a defect and absent from the answer. No
        identifier of a person may be in what `look` gives, or in what `remember` makes of it: it is kept beside the catalog,
        under the name `memory` where that of the item does not tell apart what is remembered.
        """
        files, missing = files_at(self.root, paths)
        found = scan(
            self.root,
            files,
            look,
            memory=self._memory(memory or item),
            remember=remember,
            workers=self.options.workers,
            timeout_s=SCAN_TIMEOUT_S,
            progress=lambda done, total: self.progress(item, done, total),
        )
        self.scans[memory or item] = dataclasses.replace(found, missing=missing)
        self.defect(item, "missing_file", "listed, not there", missing)
        for path, code in sorted({**found.failed, **found.retry}.items()):
            unread: dict[str, list[str]] = self.about.setdefault("unread", {})
            if len(shown := unread.setdefault(code, [])) < NAMED_FILES:
                shown.append(path)
        for code, count in sorted(found.failures().items()):
            self.defect(item, code, "cannot be read; left out", count)
        return found.seen

    def sample(self, item: str, paths: pa.ChunkedArray | Sequence[str], suffix: str = "") -> None:
        """Look for a few of the listed files: tables alone, or half a download, are worth knowing before a long job."""
        total = len(paths)
        if not total:
            return
        rows = np.unique(np.linspace(0, total - 1, min(SAMPLED_FILES, total)).astype(np.int64))
        chosen = paths.take(pa.array(rows)).to_pylist() if isinstance(paths, pa.ChunkedArray) else [paths[row] for row in rows]
        missing = sum(not os.path.isfile(self.root / (path + suffix)) for path in chosen)
        self.defect(item, "missing_file", f"of {len(chosen)} looked for", missing)

    @property
    def whole(self) -> bool:
        """Whether a later index of the same files would find no more."""
        return not any(found.retry or found.missing for found in self.scans.values())

    def _memory(self, item: str) -> list[Path]:
        # What a later version of the module asks of a file, an earlier one may not have looked for.
        name = f"scan-{re.sub(r'[^a-z0-9]+', '-', item.lower())}-{self.spec.version}.jsonl"
        return [self.out / name, self.out.with_name(f".{self.out.name}.{name}")]

    def finish(self) -> dict[str, bytes]:
        """What the catalog keeps of the scans, by file name; nothing beside pseudonyms: files hold dates and ids as they are."""
        if self.options.pseudonymise:
            return {}
        return {self._memory(item)[0].name: found.lines for item, found in self.scans.items()}

    def forget(self) -> None:
        """Remove what was kept for an index that might be stopped."""
        for item in self.scans:
            self._memory(item)[-1].unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What `build` of a module gives; see `catalog.Dataset`."""

    spec: Spec
    config: Any

    def inspect(self, root: Path, out: Path, options: IndexOptions = IndexOptions()) -> Json:
        """The parts found and missing; writes nothing."""
        root, out = Path(root), Path(out)
        check_window(options.window_days)
        parts = self._parts(root)
        reading = self._reading(root, out, parts, options)
        return {
            "dataset": self.spec.name,
            "parts": {name: str(path) for name, path in parts.items()},
            "missing": self._missing(parts),
            "bytes": sum(path.stat().st_size for path in parts.values() if path.is_file()),
            "unchanged": catalog.unchanged(out, self._inputs(reading)) is not None,
        }

    def index(self, root: Path, out: Path, progress: Progress | None = None, options: IndexOptions = IndexOptions()) -> Catalog:
        """Write the catalog; when it was made from the same files and settings it is returned as it is."""
        root, out = Path(root), Path(out)
        catalog.check_place(out)
        check_window(options.window_days)
        parts = self._parts(root)
        reading = self._reading(root, out, parts, options, progress)
        inputs = self._inputs(reading)
        if (made := catalog.unchanged(out, inputs)) is not None:
            return made
        if not hasattr(self.config, "key"):  # who has one of its own says so when it writes
            _refuse_other_key(out, option_inputs(options)["pseudonymise"] or None)
        tell = reading.progress
        tell("tables", 0, 3)
        tables = self.spec.read(reading)
        tell("subjects and pairs", 1, 3)
        result = write(
            reading,
            tables,
            dataset=self.spec.name,
            family=family_of(self.spec.name),
            meta={
                "parts": {name: path.relative_to(root).as_posix() for name, path in parts.items()},
                "missing": self._missing(parts),
                "inputs": inputs if reading.whole else None,  # None: the next index tries again
            },
        )
        tell("done", 3, 3)
        return result

    def _reading(
        self, root: Path, out: Path, parts: Mapping[str, Path], options: IndexOptions, progress: Progress | None = None
    ) -> Reading:
        return Reading(
            spec=self.spec,
            root=root,
            out=out,
            config=self.config,
            options=options,
            parts=parts,
            progress=progress or (lambda what, done, total: None),
        )

    def _parts(self, root: Path) -> dict[str, Path]:
        try:
            parts = _tables.find_parts(root, self.spec.parts)
        except UserError as error:
            raise UserError(f"{error}{_looks_like(root, self.spec.name, otherwise='')}") from error
        lacks = [name for name in self.spec.needs if name not in parts]
        if lacks and not (self.spec.any_of and len(lacks) < len(self.spec.needs)):
            wanted = ", ".join(" or ".join(word.removeprefix("**/") for word in self.spec.parts[name]) for name in lacks)
            raise UserError(
                f"{root} is not {self.spec.name}: there is no {wanted} in it or up to {_tables.MAX_DEPTH} folders below."
                f"{_looks_like(root, self.spec.name)}"
            )
        return parts

    def _settings(self, root: Path) -> Json:
        found = dataclasses.asdict(self.config)
        for name in self.spec.file_settings:
            if found[name]:
                if not (root / found[name]).is_file():
                    raise UsageError(f"{name} is {found[name]!r}; there is no such file.")
                found[name] = _tables.fingerprint(root / found[name])
        return found

    def _missing(self, parts: Mapping[str, Path]) -> list[str]:
        return [f"{name}: {self.spec.meaning.get(name, 'not found')}" for name in self.spec.parts if name not in parts]

    def _inputs(self, reading: Reading) -> Json:
        found: Json = {
            "dataset": self.spec.name,
            "index_version": self.spec.version,
            "root": catalog.relative(reading.root, reading.out),
            "settings": self._settings(reading.root),
            "options": option_inputs(reading.options),
            "split_version": SPLIT_VERSION,
            "tables": {
                name: {"path": path.relative_to(reading.root).as_posix(), **_tables.fingerprint(path)}
                for name, path in reading.parts.items()
            },
        }
        if self.spec.listed is not None:
            found["files"] = _tables.listing(reading.root, self.spec.listed(reading))
        return found


def write(
    reading: Reading, tables: Tables, *, dataset: str, family: str, meta: Mapping[str, object], key: keys.Key | None = None
) -> Catalog:
    """Subjects, splits, pairs and pseudonyms for what a module read, and the catalog of it all.

    `key` made the ids already, where they are private from the start; `family` is then that of the key.
    """
    options = reading.options
    made = {name: _conformed(name, table) for name, table in (("ecgs", tables.ecgs), ("clips", tables.clips))}
    labels = [_conformed("labels", table) for table in tables.labels]
    streams = tables.texts is not None and not isinstance(tables.texts, pa.Table)
    texts = _conformed("texts", None if streams else tables.texts)
    subjects = _subjects(reading, [*made.values(), *labels, texts], tables, family)
    if options.same_admission and any(t.num_rows and t["admission_id"].null_count == t.num_rows for t in made.values()):
        raise reading.refuse("its ECGs or echo studies name no admission, so --same-admission would pair none. Leave it out.")
    pairs = make_pairs(made["ecgs"], made["clips"], texts, subjects, options)
    pseudonyms = _pseudonyms(options, family, key)
    known = subjects["subject_id"].combine_chunks()

    def private(name: str, table: pa.Table) -> pa.Table:
        return table if pseudonyms is None else pseudonyms.table(name, table)

    def all_labels() -> Iterator[pa.Table]:
        for table in labels:
            yield private("labels", table)
        for table in tables.more_labels:
            yield private("labels", _conformed("labels", table))

    def all_texts() -> Iterator[pa.Table]:
        if streams:
            for block in tables.texts(known):  # type: ignore[misc]
                yield private("texts", _conformed("texts", block))
        else:
            yield private("texts", texts)
        for block in () if tables.more_texts is None else tables.more_texts(known):
            yield private("texts", _conformed("texts", block))

    about: Json = {"dates": "shifted by subject"} if pseudonyms is not None else {}
    if pseudonyms is not None and pseudonyms.hash_ids:
        about["origin"] = family  # the same people under other ids
        key, family = pseudonyms.key, private_family(pseudonyms.key.key_id)
    _refuse_other_key(reading.out, None if key is None else key.key_id)
    result = catalog.write(
        reading.out,
        root=reading.root,
        dataset=dataset,
        family=family,
        key_id=None if key is None else key.key_id,
        tables={
            "subjects": private("subjects", subjects),
            "clips": private("clips", made["clips"]),
            "ecgs": private("ecgs", made["ecgs"]),
            "texts": all_texts(),
            "labels": all_labels(),
            "pairs": private("pairs", pairs),
            "defects": _Defects(reading.defects),  # texts that stream add to them while they are written
        },
        meta={
            "split_version": SPLIT_VERSION,
            "pairing": _pairing(options),
            **meta,
            **reading.about,
            **about,
        },
        keep=reading.finish(),
    )
    reading.forget()
    return result


def _pairing(options: IndexOptions) -> Json:
    """How ECGs and studies were brought together."""
    return {"window_days": list(options.window_days), "match": options.match, "same_admission": options.same_admission}


def _refuse_other_key(out: Path, key_id: str | None) -> None:
    """Pseudonyms are not replaced by real ids, or by those of another key, because a flag was forgotten."""
    before = catalog.told(out).get("key_id")
    if before not in (None, key_id):
        what = "the dataset's own ids" if key_id is None else f"ids of another key ({key_id})"
        raise UserError(
            f"{out} holds pseudonyms of the key {before}; this command would put {what} in their place. Give the key file that "
            "they were made with, or choose another --out."
        )


def option_inputs(options: IndexOptions) -> Json:
    """Of the options those that decide what the catalog holds."""
    found = dataclasses.asdict(options)
    del found["workers"]
    found["pseudonymise"] = keys.read(Path(options.pseudonymise)).key_id if options.pseudonymise else ""
    return found


@dataclass(frozen=True, slots=True)
class _Defects:
    """The defects table, made when it is written, after all other tables."""

    rows: list[tuple[str, str, str, int]]

    def __iter__(self) -> Iterator[pa.Table]:
        number: dict[tuple[str, str, str], int] = {}
        for item, code, detail, count in self.rows:
            number[item, code, detail] = number.get((item, code, detail), 0) + count
        columns = list(zip(*((*what, count) for what, count in number.items()), strict=True)) or [(), (), (), ()]
        yield pa.table(
            [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMAS["defects"], strict=True)],
            SCHEMAS["defects"].names,
        )


def _conformed(name: str, table: pa.Table | None) -> pa.Table:
    return SCHEMAS[name].empty_table() if table is None else catalog.conform(name, table, f"table {name}").combine_chunks()


def _subjects(reading: Reading, tables: Sequence[pa.Table], found: Tables, family: str) -> pa.Table:
    ids = pc.unique(pa.chunked_array([chunk for table in tables for chunk in table["subject_id"].chunks], pa.string()))
    ids = ids.take(pc.sort_indices(ids))
    official: list[tuple[str, str]] = []
    if found.official is not None:
        rows = found.official.select(["subject_id", "split"]).group_by(["subject_id", "split"]).aggregate([])
        official = list(zip(rows["subject_id"].to_pylist(), rows["split"].to_pylist(), strict=True))
    try:
        splits = assign_splits(family, ids.to_pylist(), official)
    except UserError as error:
        raise reading.refuse(str(error)) from error
    columns = {"subject_id": ids, "split": pa.array(splits, pa.string())}
    if found.people is not None:
        people = found.people.combine_chunks()
        place = pc.index_in(ids, value_set=_flat(people["subject_id"]))
        reading.defect("subjects", "subject_unknown", "not in the table of people", place.null_count)
        for name in ("sex", "birth_year"):
            if name in people.column_names:
                columns[name] = _flat(people[name]).take(place)
    return catalog.conform("subjects", pa.table(columns), "table subjects")


def _pseudonyms(options: IndexOptions, family: str, key: keys.Key | None) -> Pseudonyms | None:
    if not options.pseudonymise:
        return None
    if key is not None:
        return Pseudonyms(key=key, family=family, hash_ids=False)
    return Pseudonyms(key=keys.read(Path(options.pseudonymise)), family=family)


def _looks_like(root: Path, asked: str, otherwise: str = " Give the folder that the dataset was unpacked into.") -> str:
    """' It looks like X: ...' where the root is another module's dataset."""
    for name in plugins.names("datasets"):
        spec = getattr(plugins.load("datasets", name), "SPEC", None)
        if not isinstance(spec, Spec) or name == asked:
            continue
        try:
            parts = _tables.find_parts(root, spec.parts)
        except UserError:
            continue
        there = [part in parts for part in spec.needs]
        if any(there) if spec.any_of else all(there):
            return f" It looks like {name}: `ecgecho index {name} {root} ...`."
    return otherwise


def _files(root: Path, folder: Path, suffixes: tuple[str, ...], closed: list[OSError]) -> Iterator[str]:
    seen: set[tuple[int, int]] = set()  # videos often lie on another disk behind a link, and a link may lead into itself
    for place, below, names in os.walk(folder, onerror=closed.append, followlinks=True):
        stat = os.stat(place)
        if (stat.st_dev, stat.st_ino) in seen:
            below[:] = []
            continue
        seen.add((stat.st_dev, stat.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        relative = Path(place).relative_to(root).as_posix()
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield name if relative == "." else f"{relative}/{name}"


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
