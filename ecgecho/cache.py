"""The cache jobs: every echo frame through a frozen teacher once, every ECG through an encoder's contract once.

plan -> parts (decode in killable workers -> sector mask -> teacher -> columns) -> seal -> verify. The same call again
resumes: a part that is committed is kept, a part that is not is computed whole. A later call on a finished store adds
what is new, tries again what failed for a passing reason, and recomputes what was repaired (a healing segment). Several
processes may run the same call on one store. How the stages overlap is in pipeline.py.

Shape letters: U units (frames, or sampled clips), D embedding, L samples.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import embed_cache
from ecgecho import config as configuration
from ecgecho import keys, plugins
from ecgecho.echo.moments import moments
from ecgecho.echo.sector import blank, find_sector
from ecgecho.io import read_ecg, read_echo
from ecgecho.io.fingerprint import fingerprint
from ecgecho.io.workers import Done, ItemFailure, Pool
from ecgecho.pipeline import Busy, Decoding, Forward, ForwardOptions, Passing, Precision, Taught, Teaching, Writing, decode_one
from ecgecho.types import EcgContract, EcgRecord, ItemError, Json, PreparedClip, TeacherSpec, UserError

if TYPE_CHECKING:
    from ecgecho.catalog import Catalog
    from ecgecho.types import Teacher

PLAN_SEED = 20_240_229  # any constant: the order of studies must only be the same on every machine
CLIP_TIMEOUT_S = 120.0
CLIP_MEMORY_BYTES = 4 << 30
ECG_TIMEOUT_S = 30.0
RECOMPUTED_COSINE = 0.999
LOOK_S = 1.0
"""Between two looks at what other writers have committed."""
MAX_REASON = 256
DCT_MARGIN = 5 / 4
"""The "echoclip" crop keeps 80 % of a picture's short side: so many lines more than the teacher's are enough for it."""
Decode = Literal["full", "dct"]
Members = Callable[[embed_cache.Writer, Callable[[int, int], Any] | None], list[Json]]
"""Computes parts of an open segment in other processes; gives what each did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoOptions:
    """How `cache_echo` works. `decode` and `precision` change what the rows say, and so belong to the store's identity."""

    decode: Decode = "full"
    """dct: JPEG frames come from the decoder at 1/2, 1/4 or 1/8 of their size, as small as the teacher allows."""
    precision: Precision = "fp32"
    """bf16 only on CUDA."""
    channels_last: bool = False
    compile: bool = False
    device: str = "auto"
    workers: int | None = None
    """Decode processes; None is one a core, 0 decodes in this process, without bounds."""
    timeout_s: float = CLIP_TIMEOUT_S
    part_rows: int | None = None
    key: str = ""
    """Key file of the catalog, where it does not lie beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """What a cache job did; `exit_status` as the user's page defines it."""

    kind: str
    num_rows: int
    by_status: Mapping[str, int]
    by_reason: Mapping[str, int]
    """Reasons of excluded and failed rows."""
    examples: Mapping[str, tuple[str, ...]]
    """Up to three ids of each of these reasons."""
    defects: Mapping[str, int]
    """What was mended in rows that are ok."""
    num_computed: int
    seconds: float
    device: str
    already_done: bool
    verified_files: int
    recomputed: int
    """Random rows computed again, alone, and found equal within fp16."""
    busy: Mapping[str, float] = field(default_factory=dict)
    """Share of the time that each stage worked; 1 is all of it."""

    @property
    def exit_status(self) -> int:
        """0 nothing failed, 3 some failed, 1 nothing usable."""
        if not self.by_status.get("ok"):
            return 1
        return 3 if self.by_status.get("failed") else 0

    @property
    def slowest(self) -> str:
        """The stage that set the pace, "" where nothing was computed."""
        return max(self.busy, key=lambda stage: self.busy[stage], default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoTask:
    """One clip for a decode worker."""

    path: str
    teacher: str
    spec: TeacherSpec
    decode: Decode = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """What a row keeps of a clip besides its vectors."""

    num_frames: int
    fingerprint: str
    defects: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedClip:
    """One clip back from a worker."""

    prepared: PreparedClip
    facts: ClipFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class EcgTask:
    """One recording for a worker; `contract` None keeps the recording's own rate and length."""

    path: str
    contract: EcgContract | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedEcg:
    """One recording back from a worker: int16 (12, L) or (L, 12) raw, with its scale and lead flags."""

    columns: dict[str, Any]
    fs_mhz: int
    fingerprint: str
    defects: tuple[str, ...]


def decode_clip(task: EchoTask) -> DecodedClip:
    """Read, find the sector, blank the rest, prepare. Runs in a worker; raises ItemError."""
    clip = read_echo(task.path, decode=task.decode, least=least_lines(task.spec))
    if clip.kind == "colour":
        raise ItemError("colour_doppler", "colour Doppler clips are not embedded", outcome="excluded")
    frames, defects = clip.frames, list(clip.defects)
    if task.spec.mask == "sector":
        sector = find_sector(clip)
        defects += sector.defects
        frames = blank(frames, sector, clip.kind)
    prepared = plugins.load("teachers", task.teacher).prepare(task.spec, frames, clip.frame_time_ms)
    facts = ClipFacts(num_frames=len(clip.frames), fingerprint=fingerprint(task.path), defects=tuple(defects))
    return DecodedClip(prepared=prepared, facts=facts)


def least_lines(spec: TeacherSpec) -> int:
    """Lines that a picture decoded at a smaller size must have at least."""
    return round(DCT_MARGIN * spec.size)


def decode_ecg(task: EcgTask) -> DecodedEcg:
    """Read a recording and, where a contract is given, apply it. Runs in a worker; raises ItemError."""
    from ecgecho.ecg.contract import canonical_leads

    record = canonical_leads(read_ecg(task.path))
    if not record.lead_valid.any():
        raise ItemError("no_valid_lead", "no lead of this recording is usable")
    defects = tuple(f"invalid_lead_{name}" for name, ok in zip(record.leads, record.lead_valid, strict=True) if not ok)
    columns = raw_columns(record)
    if task.contract is not None:
        # By way of the raw columns, so that a raw store and the files themselves give the same rows.
        columns = contract_columns(columns, record.fs_hz, task.contract)
    return DecodedEcg(
        columns=columns, fs_mhz=round(record.fs_hz * 1000), fingerprint=fingerprint(*_wfdb_files(task.path)), defects=defects
    )


def raw_columns(record: EcgRecord) -> dict[str, Any]:
    """A 12-lead record as int16 (L, 12), float32 scale (12,), uint8 lead_valid (12,)."""
    from ecgecho.ecg.quantise import to_int16

    stored, scale = to_int16(record.signal)
    return {"signal": np.ascontiguousarray(stored.T), "scale": scale, "lead_valid": record.lead_valid.astype(np.uint8)}


def contract_columns(raw: Mapping[str, Any], fs_hz: float, contract: EcgContract) -> dict[str, Any]:
    """Raw columns at their own rate -> int16 (12, num_samples) under a contract. ItemError where the contract refuses."""
    from ecgecho.ecg.contract import apply_contract
    from ecgecho.ecg.quantise import from_int16, to_int16
    from ecgecho.types import STANDARD_LEADS

    signal = from_int16(np.ascontiguousarray(raw["signal"].T), raw["scale"])
    record = EcgRecord(
        signal=signal, leads=STANDARD_LEADS, lead_valid=np.asarray(raw["lead_valid"], bool), unit="mv", fs_hz=fs_hz
    )
    values, lead_valid = apply_contract(record, contract)
    stored, scale = to_int16(values)
    return {"signal": stored, "scale": scale, "lead_valid": lead_valid.astype(np.uint8)}


def cache_echo(
    catalog: Catalog,
    teacher: str,
    teacher_config: Any,
    out: Path,
    *,
    options: EchoOptions = EchoOptions(),
    progress: Callable[[int, int], Any] | None = None,
    members: Members | None = None,
) -> CacheReport:
    """Push every clip of a catalog through a teacher into an echo store at `out`; resumes, heals, or finds it done.

    `members` (cluster.py) computes parts in other processes first; what is left then is computed here.
    """
    return _echo_job(catalog, teacher, teacher_config, out, options, progress).run(members)


class EchoMember:
    """A process's share of a `cache_echo` that another process planned and will seal."""

    def __init__(self, catalog: Catalog, teacher: str, teacher_config: Any, out: Path, options: EchoOptions) -> None:
        self._job = _echo_job(catalog, teacher, teacher_config, out, options, None)
        self._pool = self._job.pool()
        self._writer = embed_cache.Writer.resume(out, identity=self._job.store.identity)

    def __enter__(self) -> EchoMember:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def compute(self, parts: Sequence[int] | None) -> Json:
        """The parts that are left, all or those named. Gives what it did: number of rows, and seconds of each stage."""
        self._job.num_computed, self._job.busy = 0, Busy()
        if self._writer is not None:
            self._job.fill(self._pool, self._writer, parts)
        return {"num_computed": self._job.num_computed, "busy": self._job.busy.to_json()}

    def close(self) -> None:
        self._pool.close()


def cache_ecg(
    catalog: Catalog,
    contract: EcgContract | None,
    out: Path,
    *,
    part_rows: int | None = None,
    workers: int | None = None,
    key: str = "",
    progress: Callable[[int, int], Any] | None = None,
) -> CacheReport:
    """Read every ECG of a catalog into an ECG store at `out`, under a contract or (None) as recorded."""
    ecgs = catalog.ecgs.sort_by([("subject_id", "ascending"), ("ecg_id", "ascending")])
    ecgs = _not_erased(catalog, ecgs, out, key).to_pydict()
    paths = {e: str(catalog.root / p) for e, p in zip(ecgs["ecg_id"], ecgs["path"], strict=True)}
    sources = {item: _wfdb_files(path) for item, path in paths.items()}
    job = _Job(
        store=_ecg_store(out, contract, list(ecgs["ecg_id"]), sources, part_rows),
        stage=Passing,
        row_of=_ecg_row,
        decode=decode_ecg,
        task_of=lambda item: EcgTask(path=paths.get(item, ""), contract=contract),
        workers=_workers(workers),
        timeout_s=ECG_TIMEOUT_S,
        progress=progress,
    )
    return job.run()


def contract_from_raw(
    raw: Path,
    contract: EcgContract,
    out: Path,
    *,
    part_rows: int | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> CacheReport:
    """A raw ECG store -> a store under a contract, equal to the one made from the files."""
    source = embed_cache.open(raw)
    if source.manifest.kind != "ecg" or source.manifest.identity.get("contract") is not None:
        raise UserError(f"{raw} is no raw ECG store; give a catalog, or a store made by `ecgecho cache-ecg` without --contract.")
    index = source.index.to_pydict()
    rows = {item: row for row, (item, live) in enumerate(zip(index["id"], index["live"], strict=True)) if live}
    store = _ecg_store(out, contract, sorted(rows), {}, part_rows)
    store.marks = {item: index["fingerprint"][row] for item, row in rows.items()}

    def convert(item: str) -> DecodedEcg:
        row = rows[item]
        if index["status"][row] != "ok":
            raise ItemError(
                index["reason"][row],
                "the raw store has no signal for it",
                outcome=index["status"][row],
                permanent=index["permanent"][row],
            )
        columns = {
            "signal": source.read_ragged("signal", row),
            "scale": source.read("scale", np.array([row]))[0],
            "lead_valid": source.read("lead_valid", np.array([row]))[0],
        }
        fs_mhz = int(index["fs_mhz"][row])
        defects = tuple(filter(None, str(index["reason"][row]).split(";")))
        made = contract_columns(columns, fs_mhz / 1000, contract)
        return DecodedEcg(columns=made, fs_mhz=fs_mhz, fingerprint=index["fingerprint"][row], defects=defects)

    job = _Job(
        store=store,
        stage=Passing,
        row_of=_ecg_row,
        decode=convert,
        task_of=str,
        workers=0,
        timeout_s=ECG_TIMEOUT_S,
        progress=progress,
    )
    return job.run()


def subject_hash(catalog: Catalog, subject_id: str, *, key: str = "", make: bool = True) -> str:
    """How a store remembers an erased subject: the id of the key, and a hash that only its owner can make.

    The key is that of the catalog's ids, or one made for this beside a catalog whose ids are public.
    """
    return _hash_with(_key(catalog, key, make=make), subject_id)


def _hash_with(key: keys.Key, subject_id: str) -> str:
    return f"{key.key_id}:{key.of('erased subject', subject_id)}"


def _key(catalog: Catalog, key: str, *, make: bool) -> keys.Key:
    file = Path(key) if key else keys.beside(catalog.path)
    if make and not key and catalog.key_id is None and not file.exists():
        keys.make(file)
    if not file.exists():
        raise UserError(f"there is no key {file}; give the key file of {catalog.path} with --key.")
    found = keys.read(file)
    if catalog.key_id not in (None, found.key_id):
        raise UserError(f"{file} is not the key that the ids of {catalog.path} were made with; give that one with --key.")
    return found


def _not_erased(catalog: Catalog, table: Any, out: Path, key: str) -> Any:
    """A table of the catalog without the subjects that were erased from the store at `out`."""
    hashes = _erased_hashes(out)
    if not hashes:
        return table
    try:
        known = _key(catalog, key, make=False)
    except UserError as error:
        raise UserError(f"subjects were erased from {out}, and only the key of its catalog tells which. {error}") from error
    made_with = {value.partition(":")[0] for value in hashes}
    if made_with != {known.key_id}:
        raise UserError(
            f"subjects were erased from {out} with another key than that of {catalog.path}, so this catalog could bring them "
            f"back. Put that key file at {keys.beside(catalog.path)}, or give it with --key."
        )
    subjects = set(table["subject_id"].unique().to_pylist())
    gone = {subject for subject in subjects if _hash_with(known, subject) in hashes}
    return table.filter([subject not in gone for subject in table["subject_id"].to_pylist()]) if gone else table


def _erased_hashes(out: Path) -> set[str]:
    return {erasure.keyed_hash for erasure in embed_cache.erasures(out)}


def _echo_job(
    catalog: Catalog, teacher: str, config: Any, out: Path, options: EchoOptions, progress: Callable[[int, int], Any] | None
) -> _Job:
    module = plugins.load("teachers", teacher)
    spec: TeacherSpec = module.spec(config)
    built: Teacher = module.build(config)
    device = _device(options.device)
    how = ForwardOptions(device=device, precision=options.precision, channels_last=options.channels_last, compile=options.compile)
    forwards: list[Forward] = []

    def stage() -> Teaching:
        if not forwards:
            forwards.append(Forward(built, how))
        return Teaching(forwards[0])

    clips = _not_erased(catalog, catalog.clips.sort_by([("study_id", "ascending"), ("clip_id", "ascending")]), out, options.key)
    paths = {c: str(catalog.root / p) for c, p in zip(clips["clip_id"].to_pylist(), clips["path"].to_pylist(), strict=True)}
    spec_json = configuration.to_json(spec)
    identity: Json = {
        "teacher": spec_json,
        "teacher_sha256": configuration.digest(spec_json),
        "weights_sha256": built.weights_sha256,
        "mask": spec.mask,
        "decode": "full" if options.decode == "full" else f"{options.decode}, at least {least_lines(spec)} lines",
        "clip_kinds": ["b_mode"],
    }
    if options.precision != "fp32":
        identity["precision"] = options.precision
    columns = [
        embed_cache.Column("moments", (2, spec.dim), "float16"),
        embed_cache.Column("pooled", (spec.dim,), "float16"),
    ]
    sources = {item: (path,) for item, path in paths.items()}
    ids, groups = clips["clip_id"].to_pylist(), clips["study_id"].to_pylist()
    return _Job(
        store=_Store(out, "echo", identity, columns, ("num_frames",), ids, groups, sources, options.part_rows),
        stage=stage,
        row_of=lambda taught: _echo_row(taught, spec.frame_norm),
        decode=decode_clip,
        task_of=lambda item: EchoTask(path=paths.get(item, ""), teacher=teacher, spec=spec, decode=options.decode),
        workers=_workers(options.workers),
        timeout_s=options.timeout_s,
        notes={"device": device, "channels_last": how.channels_last, "compiled": how.compile},
        progress=progress,
    )


def _echo_row(taught: Taught, frame_norm: str) -> embed_cache.Row:
    facts: ClipFacts = taught.facts
    counts = {"num_frames": facts.num_frames}
    try:
        stat = moments(taught.vectors, frame_norm)
    except ItemError as error:
        return embed_cache.Row(status="failed", reason=error.code, fingerprint=facts.fingerprint, counts=counts)
    values = {"moments": stat.astype(np.float16), "pooled": stat[0].astype(np.float16)}
    if not all(np.isfinite(v).all() for v in values.values()):
        return embed_cache.Row(status="failed", reason="beyond_fp16", fingerprint=facts.fingerprint, counts=counts)
    reason = ";".join(facts.defects)[:MAX_REASON]
    return embed_cache.Row(status="ok", reason=reason, fingerprint=facts.fingerprint, values=values, counts=counts)


def _ecg_row(ecg: DecodedEcg) -> embed_cache.Row:
    reason = ";".join(ecg.defects)[:MAX_REASON]
    counts = {"fs_mhz": ecg.fs_mhz}
    return embed_cache.Row(status="ok", reason=reason, fingerprint=ecg.fingerprint, values=ecg.columns, counts=counts)


@dataclass(slots=True)
class _Store:
    """Where a job writes, and what it would write from scratch."""

    out: Path
    kind: str
    identity: Json
    columns: Sequence[embed_cache.Column]
    counts: Sequence[str]
    ids: Sequence[str]
    groups: Sequence[str]
    sources: Mapping[str, Sequence[str]]
    """The files that each item is made from."""
    part_rows: int | None
    marks: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints that are known without reading: those of a raw store."""
    resumed: bool = False
    """Whether the last `writer` is of a segment that an earlier call began."""

    def writer(self) -> embed_cache.Writer | None:
        """The writer of what is missing, or None where nothing is."""
        if not self.ids:
            raise UserError(f"there is nothing to cache for {self.out}: the catalog lists no {self.kind} item.")
        self._check_place()
        embed_cache.finish_erasures(self.out)
        open_segment = embed_cache.Writer.resume(self.out, identity=self.identity)
        self.resumed = open_segment is not None
        if open_segment is not None:
            if self.part_rows not in (None, open_segment.plan.part_rows):
                raise UserError(
                    f"{self.out} was planned with parts of {open_segment.plan.part_rows} rows, not {self.part_rows}. "
                    f"Leave --part-rows out, or choose another --out."
                )
            return open_segment
        if not _is_sealed(self.out):
            plan = embed_cache.make_plan(self.ids, self.groups, seed=PLAN_SEED, part_rows=self.part_rows)
            return embed_cache.Writer.create_or_resume(
                self.out, kind=self.kind, identity=self.identity, columns=self.columns, counts=self.counts, plan=plan
            )
        store = embed_cache.open(self.out)
        store.require(kind=self.kind, identity=self.identity, columns=self.columns, counts=self.counts)
        stale = self._stale(store)
        if not stale:
            return None
        studies = {group for item, group in zip(self.ids, self.groups, strict=True) if item in stale}
        chosen = [(i, g) for i, g in zip(self.ids, self.groups, strict=True) if g in studies]
        return embed_cache.Writer.extend(
            self.out, identity=self.identity, ids=[i for i, _ in chosen], groups=[g for _, g in chosen],
            recompute=stale, part_rows=self.part_rows, seed=PLAN_SEED,
        )  # fmt: skip

    def _stale(self, store: embed_cache.EmbeddingStore) -> set[str]:
        """Items that are new, failed for a passing reason, or whose file is no longer the one that was read."""
        index = store.index.to_pydict()
        # A copied store has younger files; the time that its manifest tells is not moved by that.
        sealed = [float(note.get("time", 0)) for note in store.manifest.provenance]
        begun = [min(store.begun(number), time) for number, time in enumerate(sealed)]
        old = {
            item: (status, permanent, mark, begun[segment])
            for item, status, permanent, mark, segment, live in zip(
                *(index[name] for name in ("id", "status", "permanent", "fingerprint", "segment", "live")), strict=True
            )
            if live
        }
        stale = set()
        for item in self.ids:
            if item not in old:
                stale.add(item)
                continue
            status, permanent, mark, since = old[item]
            if status == "erased":  # its clip keeps a number, and is nobody's
                continue
            if item in self.marks:
                changed = self.marks[item] != mark
            else:
                changed = item in self.sources and _changed(self.sources[item], mark, since, read=status == "failed")
            if changed or (status == "failed" and not permanent):
                stale.add(item)
        return stale

    def mark(self, item: str) -> str:
        """The fingerprint of an item that could not be read."""
        return self.marks[item] if item in self.marks else _mark(self.sources.get(item, ()))

    def _check_place(self) -> None:
        if embed_cache.is_remote(self.out):
            return
        parent = self.out.parent
        parent.mkdir(parents=True, exist_ok=True)
        if not os.access(parent, os.W_OK):
            raise UserError(f"{parent} is not writable; choose another --out.")
        need = sum(int(np.prod(c.shape)) * np.dtype(c.dtype).itemsize for c in self.columns if not c.ragged) * len(self.ids)
        free = shutil.disk_usage(parent).free
        if not self.out.exists() and free < 1.1 * need + (16 << 20):
            raise UserError(
                f"{parent} has {free / 1e9:.1f} GB free, the store needs about {need / 1e9:.1f} GB; "
                f"free some, or choose another --out."
            )


class _Walk:
    """Which part is next: on from a random one that is left, and elsewhere where another writer is at work.

    So several writers meet seldom, without locks or claims. With `only`, the parts that somebody else has dealt out.
    """

    def __init__(self, writer: embed_cache.Writer, only: Collection[int] | None) -> None:
        self._writer = writer
        self._left = {part for part in parts_left(writer) if only is None or part in only}
        self._looked = time.monotonic()
        self._sizes = {part: num_wanted(writer, part) for part in self._left}
        self._last = -1
        self.num_parts = len(self._left)
        self.total = sum(self._sizes.values())
        self.by_others = 0
        """Rows that other writers have committed in the meantime."""

    def next(self, elsewhere: bool = False) -> tuple[int, list[str]] | None:
        """A part's number and the items to compute, or None where nothing is left."""
        now = time.monotonic()
        if elsewhere or now - self._looked > LOOK_S:
            gone = self._left - set(parts_left(self._writer))
            self._left -= gone
            self.by_others += sum(self._sizes[part] for part in gone)
            self._looked = now
        if not self._left:
            return None
        part = self._last + 1
        if elsewhere or self._last < 0 or part not in self._left:
            part = random.choice(sorted(self._left))
        self._last = part
        self._left.discard(part)
        return part, [item for item, _, needs in self._writer.rows_of(part) if needs and item]


def parts_left(writer: embed_cache.Writer) -> list[int]:
    """Parts that nobody has committed yet."""
    return writer.refresh()


def num_wanted(writer: embed_cache.Writer, part: int) -> int:
    """Rows of a part that are computed, not copied, and not erased."""
    return sum(needs and bool(item) for item, _, needs in writer.rows_of(part))


@dataclass(slots=True, kw_only=True)
class _Job:
    """One cache job: what is decoded where, what becomes of it, and where it is written."""

    store: _Store
    stage: Callable[[], Passing | Teaching]
    """What a part's decoded items go through, in this thread; a new one for each part."""
    row_of: Callable[[Any], embed_cache.Row]
    decode: Callable[[Any], Any]
    task_of: Callable[[str], Any]
    workers: int
    timeout_s: float
    notes: Json = field(default_factory=dict)
    """For the provenance of the parts."""
    progress: Callable[[int, int], Any] | None = None
    num_computed: int = 0
    busy: Busy = field(default_factory=Busy)

    def run(self, members: Members | None = None) -> CacheReport:
        """All of it: resumes or plans, computes, seals, verifies."""
        began = time.monotonic()
        with self.pool() as pool:
            writer = self.store.writer()
            already_done = writer is None
            if writer is not None:
                self._complete(pool, writer, members)
                # A segment that an earlier call had planned may be older than the catalog.
                writer = self.store.writer() if self.store.resumed else None
                if writer is not None:
                    self._complete(pool, writer, members)
            return self._report(pool, began, already_done)

    def _complete(self, pool: Pool[Any, Any], writer: embed_cache.Writer, members: Members | None) -> None:
        for told in members(writer, self.progress) if members is not None else ():
            self.num_computed += told["num_computed"]
            self.busy.add(told["busy"])
        self.fill(pool, writer)
        writer.seal({**_versions(), **self.notes})

    def pool(self) -> Pool[Any, Any]:
        """Decode processes for the whole job; none is started before there is something to decode."""
        return Pool(self.decode, workers=self.workers, timeout_s=self.timeout_s, memory_bytes=CLIP_MEMORY_BYTES)

    def fill(self, pool: Pool[Any, Any], writer: embed_cache.Writer, parts: Sequence[int] | None = None) -> None:
        """Computes and commits the parts that are left, all or those named."""
        walk = _Walk(writer, parts)
        if not walk.num_parts:
            return
        total = self.num_computed + walk.total
        began, decoded, taught = time.monotonic(), pool.busy_s, 0.0
        stages: dict[int, Passing | Teaching] = {}
        with Writing(writer, self._row) as writing:

            def choose() -> tuple[int, list[str]] | None:
                elsewhere = writing.superseded.is_set()
                writing.superseded.clear()
                return walk.next(elsewhere)

            for part, item, result in Decoding(pool, self.task_of, choose):
                if part.number not in stages:
                    stages[part.number] = self.stage()
                stage = stages[part.number]
                start = time.monotonic()
                if isinstance(result, ItemFailure):
                    done = [(item, result)]
                else:
                    done = list(stage.finish() if result is None else stage.add(item, result.value))
                taught += time.monotonic() - start
                for name, value in done:
                    writing.put(part.number, name, value)
                if result is None:
                    del stages[part.number]
                    seconds = round(time.monotonic() - part.began, 3)
                    note = {**_versions(), **self.notes, "retried": len(part.retried), "seconds": seconds}
                    writing.put(part.number, "", note)
                    continue
                self.num_computed += 1
                if self.progress is not None:
                    self.progress(self.num_computed + walk.by_others, total)
        seconds_of = {"decode": pool.busy_s - decoded, "teach": taught, "write": writing.busy_s}
        if isinstance(self.stage(), Passing):
            del seconds_of["teach"]
        self.busy.add({"workers": max(pool.workers, 1), "wall_s": time.monotonic() - began, "seconds": seconds_of})

    def _row(self, item: str, value: Any) -> embed_cache.Row:
        if not isinstance(value, ItemFailure):
            return self.row_of(value)
        return embed_cache.Row(
            status=value.outcome,
            reason=value.code,
            permanent=value.permanent,
            fingerprint=self.store.mark(item),
            counts=dict.fromkeys(self.store.counts, 0),
        )

    def _report(self, pool: Pool[Any, Any], began: float, already_done: bool) -> CacheReport:
        out = self.store.out
        seconds = time.monotonic() - began
        checked = embed_cache.verify(out, sample_parts=8, seed=self.num_computed)
        if not checked.ok:
            raise UserError(f"{out} does not verify. `ecgecho store verify {out}` names the damaged rows.")
        opened = embed_cache.open(out)
        live = opened.index.filter(opened.index["live"]).to_pydict()
        by_reason: Counter[str] = Counter()
        defects: Counter[str] = Counter()
        examples: dict[str, tuple[str, ...]] = {}
        for item, status, reason in zip(live["id"], live["status"], live["reason"], strict=True):
            if status == "ok":
                defects.update(filter(None, reason.split(";")))
                continue
            name = f"{status}: {reason}"
            by_reason[name] += 1
            examples[name] = (*examples.get(name, ()), item)[:3]
        return CacheReport(
            kind=self.store.kind,
            num_rows=len(live["id"]),
            by_status=Counter(live["status"]),
            by_reason=by_reason,
            examples=examples,
            defects=defects,
            num_computed=self.num_computed,
            seconds=seconds,
            device=str(self.notes.get("device", "cpu")),
            already_done=already_done,
            verified_files=checked.num_files,
            recomputed=0 if already_done else self._recompute(pool, opened),
            busy=self.busy.shares(),
        )

    def _recompute(self, pool: Pool[Any, Any], store: embed_cache.EmbeddingStore) -> int:
        """Two random ok rows, computed again alone, must be the stored ones; gives how many could be."""
        index = store.index.to_pydict()
        usable = [r for r, (s, live) in enumerate(zip(index["status"], index["live"], strict=True)) if live and s == "ok"]
        column = "pooled" if "pooled" in store.columns else "signal"
        done = 0
        for row in np.random.default_rng(len(usable)).permutation(usable)[:2].tolist():
            item = index["id"][row]
            result = decode_one(pool, self.task_of(item))
            if not isinstance(result, Done):
                continue  # the machine is short of time or memory just now; the row itself was checked by its checksum
            stage = self.stage()
            (made,) = [value for _, value in (*stage.add(item, result.value), *stage.finish())]
            new = np.asarray(self.row_of(made).values[column], np.float64).ravel()
            ragged = store.columns[column].ragged
            old = store.read_ragged(column, row) if ragged else store.read(column, np.array([row]))[0]
            old = np.asarray(old, np.float64).ravel()
            cosine = 1.0 if np.array_equal(new, old) else float(new @ old / (np.linalg.norm(new) * np.linalg.norm(old) + 1e-30))
            if not cosine > RECOMPUTED_COSINE:
                raise UserError(
                    f"row {row} ({item}) computed again differs from the store (cosine {cosine:.5f}): the machine or a file "
                    f"changed during the job. Run the command again with another --out."
                )
            done += 1
        return done


def _ecg_store(
    out: Path, contract: EcgContract | None, ids: Sequence[str], sources: Mapping[str, Sequence[str]], part_rows: int | None
) -> _Store:
    if contract is None:
        identity: Json = {"contract": None, "unit": "mv"}
        signal = embed_cache.Column("signal", (12,), "int16", ragged=True)
    else:
        identity = {"contract": configuration.to_json(contract), "contract_sha256": configuration.digest(contract), "unit": "mv"}
        signal = embed_cache.Column("signal", (12, contract.num_samples), "int16")
    columns = [signal, embed_cache.Column("scale", (12,), "float32"), embed_cache.Column("lead_valid", (12,), "uint8")]
    return _Store(out, "ecg", identity, columns, ("fs_mhz",), ids, ids, sources, part_rows)


def find_contract(name: str) -> EcgContract:
    """The contract of that name, from the encoders that ship with the package or a path to one."""
    from ecgecho.types import UsageError

    stem = name.replace("-", "_")
    known: dict[str, EcgContract] = {}
    for encoder in [name] if name.endswith(".py") else plugins.names("encoders"):
        contract: EcgContract = plugins.load("encoders", encoder).CONTRACT
        known[contract.name] = contract
        known.setdefault(encoder, contract)
    if stem not in known:
        raise UsageError(f"there is no contract {name!r}.{plugins.near_miss(stem, sorted(known))}")
    return known[stem]


def _changed(files: Sequence[str], mark: str, since: float, *, read: bool) -> bool:
    """Whether files are no longer those of fingerprint `mark`; read only when asked, or when size or time differ."""
    try:
        found = [os.stat(file) for file in files]
    except OSError:
        return False
    same_size = mark.startswith(f"{sum(stat.st_size for stat in found)}:")
    younger = any(max(stat.st_mtime, stat.st_ctime) >= since for stat in found)
    return (read or younger or not same_size) and _mark(files) != mark


def _mark(files: Sequence[str]) -> str:
    """The fingerprint of files; of what no reader takes (empty, too large) the size alone; "" for what is not there."""
    try:
        return fingerprint(*files) if files else ""
    except (OSError, ItemError):
        pass
    try:
        return f"{sum(os.stat(file).st_size for file in files)}:"
    except OSError:
        return ""


def _wfdb_files(path: str) -> tuple[str, ...]:
    """The files that an ECG is read from: header and samples of a WFDB record, as far as they are there; else the file itself."""
    stem = path.removesuffix(".hea").removesuffix(".dat")
    return tuple(file for file in (f"{stem}.hea", f"{stem}.dat") if os.path.isfile(file)) or (path,)


def _versions() -> Json:
    import ecgecho

    return {"ecgecho": ecgecho.__version__, "embed_cache_format": embed_cache.FORMAT_VERSION, "time": round(time.time())}


def _workers(workers: int | None) -> int:
    return workers if workers is not None else max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


def _is_sealed(out: Path) -> bool:
    """Whether a finished store lies there."""
    if not embed_cache.is_remote(out):
        return (out / "head.json").exists()
    try:
        embed_cache.open(out)
    except (embed_cache.DamagedStore, embed_cache.StaleStore):
        return True
    except embed_cache.StoreError:
        return False
    return True


def _device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
