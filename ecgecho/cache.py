"""The cache jobs: every echo frame through a frozen teacher once, every ECG through an encoder's contract once.

plan -> parts (decode in killable workers -> sector mask -> teacher -> columns) -> seal -> verify. The same call again
resumes: a part that is committed is kept, a part that is not is computed whole. A later call on a finished store adds
what is new, tries again what failed for a passing reason, and recomputes what was repaired (a healing segment).

Shape letters: U units (frames, or sampled clips), D embedding, L samples.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import embed_cache
from ecgecho import config as configuration
from ecgecho import plugins
from ecgecho.echo.sector import blank, find_sector
from ecgecho.io import read_ecg, read_echo
from ecgecho.io.fingerprint import fingerprint
from ecgecho.io.workers import Done, ItemFailure, run_bounded
from ecgecho.types import EcgContract, EcgRecord, ItemError, Json, PreparedClip, TeacherSpec, UserError

if TYPE_CHECKING:
    from ecgecho.catalog import Catalog
    from ecgecho.types import Teacher

PLAN_SEED = 20_240_229  # any constant: the order of studies must only be the same on every machine
BATCH_UNITS = 64
CLIP_TIMEOUT_S = 120.0
CLIP_MEMORY_BYTES = 4 << 30
ECG_TIMEOUT_S = 30.0
UNIT_NORM_TOLERANCE = 1e-4
RECOMPUTED_COSINE = 0.999


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

    @property
    def exit_status(self) -> int:
        """0 nothing failed, 3 some failed, 1 nothing usable."""
        if not self.by_status.get("ok"):
            return 1
        return 3 if self.by_status.get("failed") else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoTask:
    """One clip for a decode worker."""

    path: str
    teacher: str
    spec: TeacherSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedClip:
    """One clip back from a worker."""

    prepared: PreparedClip
    num_frames: int
    fingerprint: str
    defects: tuple[str, ...]


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
    clip = read_echo(task.path)
    if clip.kind == "colour":
        raise ItemError("colour_doppler", "colour Doppler clips are not embedded", outcome="excluded")
    frames, defects = clip.frames, list(clip.defects)
    if task.spec.mask == "sector":
        sector = find_sector(clip)
        defects += sector.defects
        frames = blank(frames, sector, clip.kind)
    prepared = plugins.load("teachers", task.teacher).prepare(task.spec, frames, clip.frame_time_ms)
    return DecodedClip(prepared=prepared, num_frames=len(clip.frames), fingerprint=fingerprint(task.path), defects=tuple(defects))


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
    part_rows: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    timeout_s: float = CLIP_TIMEOUT_S,
    progress: Callable[[int, int], Any] | None = None,
) -> CacheReport:
    """Push every clip of a catalog through a teacher into an echo store at `out`; resumes, heals, or finds it done."""
    module = plugins.load("teachers", teacher)
    spec: TeacherSpec = module.spec(teacher_config)
    built: Teacher = module.build(teacher_config)
    where = _device(device)
    clips = catalog.clips.sort_by([("study_id", "ascending"), ("clip_id", "ascending")]).to_pydict()
    paths = {c: str(catalog.root / p) for c, p in zip(clips["clip_id"], clips["path"], strict=True)}
    spec_json = configuration.to_json(spec)
    identity: Json = {
        "teacher": spec_json,
        "teacher_sha256": configuration.digest(spec_json),
        "weights_sha256": built.weights_sha256,
        "mask": spec.mask,
        "decode": "full",
        "clip_kinds": ["b_mode"],
    }
    columns = [
        embed_cache.Column("moments", (2, spec.dim), "float16"),
        embed_cache.Column("pooled", (spec.dim,), "float16"),
    ]
    sources = {item: (path,) for item, path in paths.items()}
    store = _Store(out, "echo", identity, columns, ("num_frames",), clips["clip_id"], clips["study_id"], sources, part_rows)
    sink = _TeacherSink(built.to(where), where)
    job = _Job(
        store=store,
        sink=sink,
        decode=decode_clip,
        task_of=lambda item: EchoTask(path=paths.get(item, ""), teacher=teacher, spec=spec),
        workers=_workers(workers),
        timeout_s=timeout_s,
        device=where,
        progress=progress,
    )
    return job.run()


def cache_ecg(
    catalog: Catalog,
    contract: EcgContract | None,
    out: Path,
    *,
    part_rows: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> CacheReport:
    """Read every ECG of a catalog into an ECG store at `out`, under a contract or (None) as recorded."""
    ecgs = catalog.ecgs.sort_by([("subject_id", "ascending"), ("ecg_id", "ascending")]).to_pydict()
    paths = {e: str(catalog.root / p) for e, p in zip(ecgs["ecg_id"], ecgs["path"], strict=True)}
    sources = {item: _wfdb_files(path) for item, path in paths.items()}
    store = _ecg_store(out, contract, list(ecgs["ecg_id"]), sources, part_rows)
    job = _Job(
        store=store,
        sink=_EcgSink(),
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

    job = _Job(store=store, sink=_EcgSink(), decode=convert, task_of=str, workers=0, timeout_s=ECG_TIMEOUT_S, progress=progress)
    return job.run()


def moments(vectors: np.ndarray, frame_norm: str) -> np.ndarray:
    """Frame vectors (T, D) -> (2, D) float64: mean and population standard deviation over the frames.

    With frame_norm "l2" the vectors are unit vectors first, and sum(var) = 1 - |mean|^2 is checked.
    Source: EchoingECG src/datasets/echo.py (mean and biased variance over frames); the root is stored because a
    variance of 1e-7 in fp16 is off by a third.
    """
    values = np.asarray(vectors, np.float64)
    if not np.isfinite(values).all():
        raise ItemError("teacher_not_finite", "the teacher gave a value that is not finite")
    if frame_norm == "l2":
        norm = np.linalg.norm(values, axis=1, keepdims=True)
        if (norm < 1e-12).any():
            raise ItemError("teacher_zero_vector", "the teacher gave a zero vector, which has no direction")
        values = values / norm
    mean, std = values.mean(0), values.std(0)
    if frame_norm == "l2":
        assert abs(np.square(std).sum() - (1 - np.square(mean).sum())) < UNIT_NORM_TOLERANCE
    return np.stack([mean, std])


class _TeacherSink:
    """Collects a part's clips in row order; batches cross clip borders and end at the part's border."""

    def __init__(self, teacher: Teacher, device: str) -> None:
        self.teacher = teacher
        self.device = device
        self._waiting: list[tuple[str, np.ndarray]] = []
        self._num_waiting = 0
        self._vectors: dict[str, list[np.ndarray]] = {}
        self._clips: dict[str, DecodedClip] = {}

    def add(self, item: str, clip: DecodedClip) -> None:
        self._clips[item] = clip
        self._vectors[item] = []
        values = clip.prepared.values
        while len(values):
            take = values[: BATCH_UNITS - self._num_waiting]
            self._waiting.append((item, take))
            self._num_waiting += len(take)
            values = values[len(take) :]
            if self._num_waiting == BATCH_UNITS:
                self._flush()

    def finish(self) -> dict[str, embed_cache.Row]:
        self._flush()
        rows = {item: self._row(clip, np.concatenate(self._vectors[item])) for item, clip in self._clips.items()}
        self._vectors, self._clips = {}, {}
        return rows

    def _row(self, clip: DecodedClip, vectors: np.ndarray) -> embed_cache.Row:
        counts = {"num_frames": clip.num_frames}
        try:
            stat = moments(vectors, self.teacher.spec.frame_norm)
        except ItemError as error:
            return embed_cache.Row(status="failed", reason=error.code, fingerprint=clip.fingerprint, counts=counts)
        values = {"moments": stat.astype(np.float16), "pooled": stat[0].astype(np.float16)}
        if not all(np.isfinite(v).all() for v in values.values()):
            return embed_cache.Row(status="failed", reason="beyond_fp16", fingerprint=clip.fingerprint, counts=counts)
        return embed_cache.Row(
            status="ok", reason=";".join(clip.defects)[:256], fingerprint=clip.fingerprint, values=values, counts=counts
        )

    def _flush(self) -> None:
        import torch

        if not self._waiting:
            return
        batch = torch.from_numpy(np.concatenate([values for _, values in self._waiting])).to(self.device)
        output = self.teacher.forward(batch)
        if self.teacher.spec.tokens_are_frames and output.tokens is not None:
            vectors = output.tokens.float().cpu().numpy()
        else:
            vectors = output.pooled.float().cpu().numpy()[:, None]
        at = 0
        for item, values in self._waiting:
            self._vectors[item].append(vectors[at : at + len(values)].reshape(-1, vectors.shape[-1]))
            at += len(values)
        self._waiting, self._num_waiting = [], 0


class _EcgSink:
    """Collects a part's recordings."""

    def __init__(self) -> None:
        self._rows: dict[str, embed_cache.Row] = {}

    def add(self, item: str, ecg: DecodedEcg) -> None:
        self._rows[item] = embed_cache.Row(
            status="ok", reason=";".join(ecg.defects)[:256], fingerprint=ecg.fingerprint, values=ecg.columns,
            counts={"fs_mhz": ecg.fs_mhz},
        )  # fmt: skip

    def finish(self) -> dict[str, embed_cache.Row]:
        rows, self._rows = self._rows, {}
        return rows


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
        open_segment = embed_cache.Writer.resume(self.out, identity=self.identity)
        self.resumed = open_segment is not None
        if open_segment is not None:
            if self.part_rows not in (None, open_segment.plan.part_rows):
                raise UserError(
                    f"{self.out} was planned with parts of {open_segment.plan.part_rows} rows, not {self.part_rows}. "
                    f"Leave --part-rows out, or choose another --out."
                )
            return open_segment
        if not (self.out / "head.json").exists():
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
            if status == "erased":
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


@dataclass(slots=True, kw_only=True)
class _Job:
    """One cache job: what is decoded where, and what collects it."""

    store: _Store
    sink: Any
    decode: Callable[[Any], Any]
    task_of: Callable[[str], Any]
    workers: int
    timeout_s: float
    device: str = "cpu"
    progress: Callable[[int, int], Any] | None = None
    num_computed: int = 0

    def run(self) -> CacheReport:
        began = time.monotonic()
        writer = self.store.writer()
        already_done = writer is None
        if writer is not None:
            self._fill(writer)
            # A segment that an earlier call had planned may be older than the catalog.
            writer = self.store.writer() if self.store.resumed else None
            if writer is not None:
                self._fill(writer)
        return self._report(time.monotonic() - began, already_done)

    def _fill(self, writer: embed_cache.Writer) -> None:
        wanted = [(part, [i for i, _, needs in writer.rows_of(part) if needs]) for part in writer.pending()]
        total = self.num_computed + sum(len(items) for _, items in wanted)
        with closing(self._decoded([item for _, items in wanted for item in items], self.workers)) as decoded:
            for part, items in wanted:
                started, retried = time.monotonic(), 0
                rows: dict[str, embed_cache.Row] = {}
                for item in items:
                    result = next(decoded)
                    if isinstance(result, ItemFailure) and not result.permanent:
                        retried += 1
                        result = self._alone(item)
                    if isinstance(result, Done):
                        self.sink.add(item, result.value)
                    else:
                        rows[item] = self._failure(item, result)
                    self.num_computed += 1
                    if self.progress is not None:
                        self.progress(self.num_computed, total)
                rows |= self.sink.finish()
                seconds = round(time.monotonic() - started, 3)
                writer.commit(part, rows, {**_versions(), "device": self.device, "retried": retried, "seconds": seconds})
        writer.seal({**_versions(), "device": self.device})

    def _decoded(self, items: Sequence[str], workers: int) -> Generator[Any, None, None]:
        """Results in the order of `items`; those that came early wait."""
        early: dict[int, Any] = {}
        wanted = 0
        tasks = (self.task_of(item) for item in items)
        results = run_bounded(
            self.decode, tasks, workers=workers, timeout_s=self.timeout_s, memory_bytes=CLIP_MEMORY_BYTES
        )  # fmt: skip
        for index, result in results:
            early[index] = result
            while wanted in early:
                yield early.pop(wanted)
                wanted += 1

    def _alone(self, item: str) -> Any:
        with closing(self._decoded([item], min(self.workers, 1))) as decoded:
            return next(decoded)

    def _failure(self, item: str, result: ItemFailure) -> embed_cache.Row:
        return embed_cache.Row(
            status=result.outcome,
            reason=result.code,
            permanent=result.permanent,
            fingerprint=self.store.mark(item),
            counts=dict.fromkeys(self.store.counts, 0),
        )

    def _report(self, seconds: float, already_done: bool) -> CacheReport:
        out = self.store.out
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
            device=self.device,
            already_done=already_done,
            verified_files=checked.num_files,
            recomputed=0 if already_done else self._recompute(opened),
        )

    def _recompute(self, store: embed_cache.EmbeddingStore) -> int:
        """Two random ok rows, computed again alone, must be the stored ones; gives how many could be."""
        index = store.index.to_pydict()
        usable = [r for r, (s, live) in enumerate(zip(index["status"], index["live"], strict=True)) if live and s == "ok"]
        column = "pooled" if "pooled" in store.columns else "signal"
        done = 0
        for row in np.random.default_rng(len(usable)).permutation(usable)[:2].tolist():
            item = index["id"][row]
            result = self._alone(item)
            if not isinstance(result, Done):
                continue  # the machine is short of time or memory just now; the row itself was checked by its checksum
            self.sink.add(item, result.value)
            new = np.asarray(self.sink.finish()[item].values[column], np.float64).ravel()
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


def _device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
