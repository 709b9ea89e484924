"""Embeddings that somebody else computed, or an export of ours, into a store.

The files are .npy, .npz, .pt, .h5 or .safetensors. Shape letters: T frames, D embedding.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import embed_cache
from ecgecho.exchange import EXPORT_VERSION, Arrays, about_of, arrays_of, object_of
from ecgecho.foreign import Item, VectorImport, form_of, list_items
from ecgecho.io.vectors import READERS
from ecgecho.job import Walk
from ecgecho.types import Json, UsageError, UserError
from embed_cache import Column, Row, Writer

PLAN_SEED = 20_240_229  # as cache-echo: the same studies stand in the same order

Progress = Callable[[int, int], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did."""

    num_rows: int
    by_status: Mapping[str, int]
    by_reason: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]]
    """Up to three ids of each reason."""
    num_computed: int
    already_done: bool

    @property
    def exit_status(self) -> int:
        """0 nothing failed, 3 some failed, 1 nothing usable."""
        if not self.by_status.get("ok"):
            return 1
        return 3 if self.by_status.get("failed") else 0


def import_embeddings(
    source: Path,
    out: str | os.PathLike[str],
    *,
    teacher_name: str = "",
    frame_norm: Literal["l2", "none"] = "none",
    weights_sha256: str = "",
    licence: str = "",
    items: Sequence[Item] | None = None,
    key: str = "",
    part_rows: int | None = None,
    workers: int = 0,
    skip: Collection[str] = (),
    erased: Collection[str] | None = None,
    repair: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """A folder of embeddings, or an export of ours, -> a store. The same call again resumes, adds, and tries failures again.

    Files of frame vectors (T, D) become the columns of cache-echo: `moments` (2, D) and `pooled` (D,), with `num_frames`;
    files of one vector (D,) become `pooled` alone. Most of the files decide which of both, and D. A file that cannot be used
    becomes a failed row with its reason. The identity says that the rows were imported, and what the user states of them.
    `workers=0` reads in this process, without bounds of time and memory. Ids in `skip` are left out, chosen by
    the erasures named in `erased`: where the store knows others by then, planning is refused. With `repair`, all of the
    store is verified first, and what is damaged is made again from the source.
    """
    about = about_of(source)
    if about is not None:
        return _import_export(source, about, out, part_rows=part_rows, repair=repair, progress=progress)
    if not teacher_name:
        raise UsageError("say with --teacher-name which model made these embeddings; the store keeps it as your statement.")
    found = [item for item in (list_items(source) if items is None else items) if item.id not in skip]
    if not found:
        raise UserError(f"{source} holds none of {', '.join(READERS)}. Check the folder.")
    num_axes, size = form_of(found, key, workers)
    job = VectorImport(
        items={item.id: item for item in found},
        key=key,
        form="frames" if num_axes == 2 else "vectors",
        dim=size,
        frame_norm=frame_norm,
        workers=workers,
    )
    identity: Json = {
        "origin": "imported",
        "teacher": {"name": teacher_name, "dim": size, "frame_norm": frame_norm, "licence": licence},
        "weights_sha256": weights_sha256,
        "form": job.form,
    }
    pooled = Column("pooled", (size,), "float16")
    frames = job.form == "frames"
    return _fill(
        out,
        kind="echo",
        identity=identity,
        columns=(Column("moments", (2, size), "float16"), pooled) if frames else (pooled,),
        counts=("num_frames",) if frames else (),
        ids=[item.id for item in found],
        groups=[item.study for item in found],
        source=job,
        seed=PLAN_SEED,
        part_rows=part_rows,
        repair=repair,
        erased=erased if erased is not None else _none_erased(out),
        progress=progress,
    )


def _none_erased(out: str | os.PathLike[str]) -> Collection[str]:
    """No erasures; refused where there are some and nobody said whose items were left out."""
    if embed_cache.erasures(out):
        raise UserError(
            f"subjects were erased from {out}, and nothing here tells which items are theirs. "
            "Give a catalog (`--catalog`), or choose another --out."
        )
    return ()


# ---- an export of ours


def _import_export(
    source: Path, about: Json, out: str | os.PathLike[str], *, part_rows: int | None, repair: bool, progress: Progress | None
) -> ImportReport:
    """An export of ours -> a store with equal rows. Its identity says that they were imported."""
    try:
        if about["version"] != EXPORT_VERSION:
            raise UserError(f"{source} is an export of version {about['version']}; this ecgecho reads {EXPORT_VERSION}.")
        columns = [Column(c["name"], tuple(c["shape"]), c["dtype"], bool(c["ragged"])) for c in about["columns"]]
        files = [source]
        if source.is_dir():
            files = [source / _plain_name(name) for name in about["studies"].values()]
        job = _ExportImport(columns, [str(name) for name in about["counts"]], files)
        job.index()
        ids = sorted(job.places, key=lambda item: (job.order[item], item))
        segments = about["segments"]
        single: Json = segments[0] if len(segments) == 1 else {"part_rows": None, "seed": PLAN_SEED}
        report = _fill(
            out,
            kind=str(about["kind"]),
            identity={**object_of(about["identity"]), "origin": "imported"},
            columns=columns,
            counts=job.counts,
            ids=ids,
            groups=[job.groups[item] for item in ids],
            source=job,
            seed=int(single["seed"]),
            part_rows=part_rows or single["part_rows"],
            repair=repair,
            erased=_none_erased(out),
            progress=progress,
        )
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError, UnicodeDecodeError) as error:
        raise UserError(f"{source} is an export that was changed or cut short ({error}). Export the store again.") from error
    return report


@dataclass(slots=True)
class _ExportImport:
    """Rows from an export of ours."""

    columns: Sequence[Column]
    counts: Sequence[str]
    files: Sequence[Path]
    places: dict[str, tuple[int, str, int]] = field(default_factory=dict)
    """Id -> file, "" or "others/", position."""
    groups: dict[str, str] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    """Id -> row in the store that was exported."""
    _open: tuple[int, Arrays] | None = None

    def arrays(self, number: int) -> Arrays:
        if self._open is None or self._open[0] != number:
            self._open = (number, arrays_of(self.files[number]))
        return self._open[1]

    def index(self) -> None:
        for number in range(len(self.files)):
            arrays = self.arrays(number)
            for section in ("", "others/"):
                ids, groups = arrays.texts(f"{section}id"), arrays.texts(f"{section}group")
                rows = [int(row) for row in arrays.values(f"{section}row", 0, len(ids))]
                for place, (item, group, row) in enumerate(zip(ids, groups, rows, strict=True)):
                    if item in self.places:
                        raise UserError(f"{self.files[number].name} lists {item!r} for a second time; export the store again.")
                    self.places[item] = (number, section, place)
                    self.groups[item] = group
                    self.order[item] = row

    def rows(self, ids: Iterable[str]) -> Generator[Row, None, None]:
        for item in ids:
            number, section, place = self.places[item]
            arrays = self.arrays(number)
            reason, mark = (arrays.text(f"{section}{name}", place) for name in ("reason", "fingerprint"))
            counts = {name: int(arrays.value(f"{section}counts/{name}", place)) for name in self.counts}
            if section:
                status: Any = arrays.text("others/status", place)
                permanent = bool(arrays.value("others/permanent", place))
                yield Row(status, reason, permanent=permanent, fingerprint=mark, counts=counts)
                continue
            values = {}
            for column in self.columns:
                name = f"columns/{column.name}"
                if column.ragged:
                    start, count = (int(arrays.value(f"{name}/{what}", place)) for what in ("start", "count"))
                    values[column.name] = arrays.values(f"{name}/values", start, start + count)
                else:
                    values[column.name] = arrays.value(name, place)
            yield Row("ok", reason, fingerprint=mark, values=values, counts=counts)

    def stale(self, item: str, status: str, mark: str, since: float) -> bool:
        return False


def _plain_name(name: str) -> str:
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise KeyError(f"{name!r} is no file name")
    return name


# ---- into a store


class Source(Protocol):
    """Where the rows of an import come from."""

    def rows(self, ids: Iterable[str]) -> Generator[Row, None, None]:
        """The row of each id, in order."""

    def stale(self, item: str, status: str, mark: str, since: float) -> bool:
        """Whether what was read for a row is no longer what there is."""


def _fill(
    out: str | os.PathLike[str],
    *,
    kind: str,
    identity: Json,
    columns: Sequence[Column],
    counts: Sequence[str],
    ids: Sequence[str],
    groups: Sequence[str],
    source: Source,
    seed: int,
    part_rows: int | None,
    repair: bool,
    erased: Collection[str] | None,
    progress: Progress | None,
) -> ImportReport:
    """Plan, commit and seal what is missing: the first segment, one that was left unfinished, or one that adds and heals."""
    _check_place(out, columns, len(ids))
    computed = rounds = 0
    while repair and (damaged := Writer.repair(out, identity=identity)) is not None:
        computed += _commit(damaged, source, progress)
    while True:
        writer = Writer.resume(out, identity=identity)
        left_over = writer is not None
        if writer is None and (store := _sealed(out)) is None:
            plan = embed_cache.make_plan(ids, groups, seed=seed, part_rows=part_rows)
            writer = Writer.create_or_resume(
                out, kind=kind, identity=identity, columns=columns, counts=counts, plan=plan, erased=erased
            )
        elif writer is None and store is not None:
            store.require(kind=kind, identity=identity, columns=columns, counts=counts)
            stale = _stale(store, ids, source)
            if not stale or rounds == 2:
                return _import_report(store, computed, already_done=computed == rounds == 0)
            studies = {group for item, group in zip(ids, groups, strict=True) if item in stale}
            chosen = [(item, group) for item, group in zip(ids, groups, strict=True) if group in studies]
            writer = Writer.extend(
                out, identity=identity, ids=[i for i, _ in chosen], groups=[g for _, g in chosen], recompute=stale,
                part_rows=part_rows, seed=seed, erased=erased,
            )  # fmt: skip
        assert writer is not None
        computed += _commit(writer, source, progress)
        rounds += 1
        if not left_over:
            return _import_report(embed_cache.open(out), computed, already_done=False)


def _commit(writer: Writer, source: Source, progress: Progress | None) -> int:
    """Every part that nobody has committed, and the seal; gives the number of rows made here.

    Several imports may fill one store: each walks on from a random part and looks at what the others have done.
    """
    walk = Walk(writer, None)
    begun: deque[tuple[int, list[str]]] = deque()
    elsewhere = False

    def ids() -> Iterator[str]:
        nonlocal elsewhere
        while (chosen := walk.next(elsewhere)) is not None:
            part, items = chosen
            elsewhere = False
            if items:
                begun.append(chosen)
                yield from items
            else:  # all of its rows are copied
                elsewhere = not writer.commit(part, {}, _versions())

    done = 0
    made: dict[str, Row] = {}
    with closing(source.rows(ids())) as rows:
        for row in rows:
            part, items = begun[0]
            made[items[len(made)]] = row
            done += 1
            if progress is not None:
                progress(min(done + walk.by_others, walk.total), walk.total)
            if len(made) == len(items):
                begun.popleft()
                elsewhere |= not writer.commit(part, made, _versions())
                made = {}
    writer.seal(_versions())
    return done


def _stale(store: embed_cache.EmbeddingStore, ids: Sequence[str], source: Source) -> set[str]:
    """Ids that are new, failed for a passing reason, or whose file is another one now."""
    index = store.index.filter(store.index["live"])
    begun = [store.begun(number) for number in range(len(store.manifest.segments))]
    names = ("id", "status", "permanent", "fingerprint", "segment")
    old = {line[0]: line[1:] for line in zip(*(index[name].to_pylist() for name in names), strict=True)}
    stale = set()
    for item in ids:
        if item not in old:
            stale.add(item)
            continue
        status, permanent, mark, segment = old[item]
        if (status == "failed" and not permanent) or source.stale(item, status, mark, begun[segment]):
            stale.add(item)
    return stale


def _sealed(out: str | os.PathLike[str]) -> embed_cache.EmbeddingStore | None:
    """The store, None where none is finished yet; damage is told."""
    try:
        return embed_cache.open(out)
    except embed_cache.DamagedStore:
        raise
    except embed_cache.StoreError:
        return None


def _import_report(store: embed_cache.EmbeddingStore, computed: int, *, already_done: bool) -> ImportReport:
    live = store.index.filter(store.index["live"])
    by_reason: Counter[str] = Counter()
    examples: dict[str, tuple[str, ...]] = {}
    for item, status, reason in zip(*(live[name].to_pylist() for name in ("id", "status", "reason")), strict=True):
        if status != "ok":
            by_reason[f"{status}: {reason}"] += 1
            examples[f"{status}: {reason}"] = (*examples.get(f"{status}: {reason}", ()), item)[:3]
    return ImportReport(
        num_rows=live.num_rows,
        by_status=Counter(live["status"].to_pylist()),
        by_reason=by_reason,
        examples=examples,
        num_computed=computed,
        already_done=already_done,
    )


def _check_place(out: str | os.PathLike[str], columns: Sequence[Column], num_rows: int) -> None:
    if embed_cache.is_remote(out):
        return
    near = next(parent for parent in (Path(out).absolute(), *Path(out).absolute().parents) if parent.exists())
    if not near.is_dir() or not os.access(near, os.W_OK):
        raise UserError(f"{near} is not a folder that can be written to; choose another --out.")
    need = sum(column.row_bytes for column in columns if not column.ragged) * num_rows
    free = shutil.disk_usage(near).free
    if free < 1.1 * need and not Path(out).exists():
        raise UserError(
            f"{near} has {free / 1e6:,.1f} MB free, the store needs {need / 1e6:,.1f} MB or more; free some, or choose another."
        )


def _versions() -> Json:
    from importlib.metadata import PackageNotFoundError, version

    found: Json = {"embed_cache_format": embed_cache.FORMAT_VERSION, "command": "store import"}
    with suppress(PackageNotFoundError):
        found["ecgecho"] = version("ecgecho")
    return found
