"""The cache jobs: every echo frame through a frozen teacher once, every ECG through an encoder's contract once.

plan -> parts (decode in killable workers -> sector mask -> teacher -> columns) -> seal -> verify. The same call again
resumes: a part that is committed is kept, a part that is not is computed whole. A later call on a finished store adds
what is new, tries again what failed for a passing reason, and recomputes what was repaired (a healing segment). Several
processes may run the same call on one store. How the stages overlap is in pipeline.py.

Shape letters: U units (frames, or sampled clips), D embedding, L samples.
"""

from __future__ import annotations

import bisect
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import embed_cache
from ecgecho import config as configuration
from ecgecho import keys, plugins
from ecgecho.decode import (
    ClipFacts,
    Decode,
    DecodedEcg,
    EcgTask,
    EcgUnit,
    EchoTask,
    RowTask,
    VcgMethod,
    convert_row,
    decode_clip,
    decode_ecg,
    ecg_files,
    echo_files,
    is_part,
    least_lines,
    mark_ecg,
    source_tag,
)
from ecgecho.echo.moments import moments
from ecgecho.echo.sector import MASK_VERSION
from ecgecho.io.workers import Done, run_bounded
from ecgecho.job import ITEM_MEMORY_BYTES, Job, Progress, Target
from ecgecho.pipeline import Busy, Forward, ForwardOptions, Passing, Precision, Taught, Teaching
from ecgecho.types import EcgContract, ItemError, Json, TeacherSpec, UserError

if TYPE_CHECKING:
    from ecgecho.catalog import Catalog
    from ecgecho.types import Teacher

CLIP_TIMEOUT_S = 120.0
ECG_TIMEOUT_S = 30.0
MAX_REASON = 256
ROWS_FOR_WORKERS = 256
"""Of a raw store: from as many on, a contract with a chain is applied by processes. Fewer take no longer than their start."""


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


def echo_job(
    catalog: Catalog,
    teacher: str,
    teacher_config: Any,
    out: Path,
    *,
    options: EchoOptions = EchoOptions(),
    progress: Progress | None = None,
) -> Job:
    """Every clip of a catalog through a teacher into an echo store at `out`."""
    module = plugins.load("teachers", teacher)
    spec: TeacherSpec = module.spec(teacher_config)
    built: Teacher = module.build(teacher_config)
    device = _device(options.device)
    how = ForwardOptions(device=device, precision=options.precision, channels_last=options.channels_last, compile=options.compile)
    forwards: list[Forward] = []

    def stage() -> Teaching:
        if not forwards:
            forwards.append(Forward(built, how))
        return Teaching(forwards[0], forwards[0].batch)

    erased = _erasure_names(out)
    clips = _not_erased(catalog, catalog.clips.sort_by([("study_id", "ascending"), ("clip_id", "ascending")]), out, options.key)
    ids, groups = clips["clip_id"].to_pylist(), clips["study_id"].to_pylist()
    path_of = _Paths(catalog.root, clips["clip_id"], clips["path"])
    spec_json = configuration.to_json(spec)
    identity: Json = {
        "teacher": spec_json,
        "teacher_sha256": configuration.digest(spec_json),
        "weights_sha256": built.weights_sha256,
        "mask": f"{spec.mask}, version {MASK_VERSION}" if spec.mask == "sector" else spec.mask,
        "decode": "full" if options.decode == "full" else f"{options.decode}, at least {least_lines(spec)} lines",
        "clip_kinds": ["b_mode"],
    }
    if views_sha256 := getattr(built, "views_sha256", ""):
        identity["view_weights_sha256"] = views_sha256  # names that begin with "view" make no moments: embed.py compares without
    if options.precision != "fp32":
        identity["precision"] = options.precision
    columns = [
        embed_cache.Column("moments", (2, spec.dim), "float16"),
        embed_cache.Column("pooled", (spec.dim,), "float16"),
    ]
    if spec.view_names:
        columns.append(embed_cache.Column("view", (len(spec.view_names),), "float16"))
    # The vectors of a row weigh as much as there are of them when the rows of a study are merged; clips are no frames.
    counts = ("num_frames",) if spec.unit == "frame" else ("num_frames", "num_vectors")

    def files_of(item: str) -> tuple[str, ...]:
        return echo_files(path) if (path := path_of(item)) else ()

    return Job(
        target=Target(out, "echo", identity, columns, counts, ids, groups, files_of, options.part_rows, erased),
        stage=stage,
        row_of=lambda taught: _echo_row(taught, spec),
        decode=decode_clip,
        task_of=lambda item: EchoTask(path=path_of(item), teacher=teacher, spec=spec, decode=options.decode),
        workers=_workers(options.workers),
        timeout_s=options.timeout_s,
        notes={"device": device, "channels_last": how.channels_last, "compiled": how.compile},
        progress=progress,
    )


class _Paths:
    """Where the file of an item lies, "" for an unknown item; kept in columns, because a dictionary of a million is large."""

    def __init__(self, root: Path, ids: pa.ChunkedArray, paths: pa.ChunkedArray) -> None:
        order = pc.sort_indices(ids)
        self._root = root
        self._ids, self._paths = ids.take(order).combine_chunks(), paths.take(order).combine_chunks()

    def __call__(self, item: str) -> str:
        place = bisect.bisect_left(range(len(self._ids)), item, key=lambda at: self._ids[at].as_py())
        found = place < len(self._ids) and self._ids[place].as_py() == item
        return str(self._root / self._paths[place].as_py()) if found else ""


class EchoMember:
    """A process's share of an `echo_job` that another process planned and will seal."""

    def __init__(self, catalog: Catalog, teacher: str, teacher_config: Any, out: Path, options: EchoOptions) -> None:
        self._job = echo_job(catalog, teacher, teacher_config, out, options=options)
        self._pool = self._job.pool()
        self._writer = embed_cache.Writer.resume(out, identity=self._job.target.identity)

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


def ecg_job(
    catalog: Catalog,
    contract: EcgContract | None,
    out: Path,
    *,
    part_rows: int | None = None,
    workers: int | None = None,
    key: str = "",
    vcg: VcgMethod = "dower",
    flip_z: bool = False,
    progress: Progress | None = None,
) -> Job:
    """Every ECG of a catalog into an ECG store at `out`, under a contract or (None) as recorded.

    Recordings of X, Y and Z become 12 leads by `vcg` and are named in their rows ("derived_from_xyz"). A store is in mV, or in
    z-scores where all of the catalog's ECGs are; under a contract that is the contract's unit.
    """
    ecgs = catalog.ecgs.sort_by([("subject_id", "ascending"), ("ecg_id", "ascending")])
    erased = _erasure_names(out)
    ecgs = _not_erased(catalog, ecgs, out, key)
    path_of = _Paths(catalog.root, ecgs["ecg_id"], ecgs["path"])

    sources = catalog.ecg_sources(ecgs)
    zscores = sum(source.unit == "zscore" for source in sources.values())
    unit: EcgUnit = "zscore" if zscores and zscores == ecgs.num_rows else "mv"
    _check_unit(contract, unit, str(catalog.path))

    def files_of(item: str) -> tuple[str, ...]:
        return ecg_files(path) if (path := path_of(item)) else ()

    target = _ecg_target(
        out, contract, ecgs["ecg_id"].to_pylist(), files_of, part_rows, erased, unit=unit, vcg=vcg, flip_z=flip_z
    )

    def task_of(item: str) -> EcgTask:
        return EcgTask(path=path_of(item), contract=contract, source=sources.get(item), unit=unit, vcg=vcg, flip_z=flip_z)

    target.tag_of = lambda item: source_tag(sources.get(item))
    target.is_part = lambda item: is_part(sources.get(item))
    target.marks_of = lambda items: _marks(items, task_of, _workers(workers))
    return Job(
        target=target,
        stage=Passing,
        row_of=_ecg_row,
        decode=decode_ecg,
        task_of=task_of,
        workers=_workers(workers),
        timeout_s=ECG_TIMEOUT_S,
        progress=progress,
    )


def _marks(items: Sequence[str], task_of: Callable[[str], EcgTask], workers: int) -> dict[str, str]:
    """The fingerprints of those rows and excerpts that can be read, by workers that their files may kill."""
    tasks = (task_of(item) for item in items)
    found = run_bounded(mark_ecg, tasks, workers=workers, timeout_s=ECG_TIMEOUT_S, memory_bytes=ITEM_MEMORY_BYTES)
    return {items[at]: result.value for at, result in found if isinstance(result, Done)}


def contract_job(
    raw: Path,
    contract: EcgContract,
    out: Path,
    *,
    part_rows: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Job:
    """A raw ECG store -> a store under a contract, equal to the one made from the files."""
    erased = _erasure_names(out)
    source = embed_cache.open(raw)
    if source.manifest.kind != "ecg" or source.manifest.identity.get("contract") is not None:
        raise UserError(f"{raw} is no raw ECG store; give a catalog, or a store made by `ecgecho cache-ecg` without --contract.")
    if missing := _erased_hashes(out) - _erased_hashes(raw):
        raise UserError(
            f"{len(missing)} subjects were erased from {out} and not from {raw}, which would bring them back. "
            f"Erase them there too: `ecgecho store erase {raw} ...`."
        )
    index = source.index.to_pydict()
    rows = {item: row for row, (item, live) in enumerate(zip(index["id"], index["live"], strict=True)) if live}
    made = source.manifest.identity
    unit: EcgUnit = made.get("unit", "mv")
    _check_unit(contract, unit, str(raw))
    target = _ecg_target(
        out, contract, sorted(rows), lambda _: (), part_rows, erased,
        unit=unit, vcg=made.get("vcg", "dower"), flip_z=made.get("flip_z", False),
    )  # fmt: skip
    target.marks = {item: index["fingerprint"][row] for item, row in rows.items()}

    def task_of(item: str) -> RowTask:
        row = rows[item]
        status, reason, permanent = index["status"][row], index["reason"][row], index["permanent"][row]
        columns: dict[str, Any] = {}
        if status == "ok":
            try:
                columns = {
                    "signal": source.read_ragged("signal", row),
                    "scale": source.read("scale", np.array([row]))[0],
                    "lead_valid": source.read("lead_valid", np.array([row]))[0],
                }
            except (embed_cache.StoreError, OSError):
                status, reason, permanent = "failed", "unreadable", False
        return RowTask(
            columns=columns, fs_mhz=int(index["fs_mhz"][row]), fingerprint=index["fingerprint"][row],
            status=status, reason=reason, permanent=permanent, contract=contract, unit=unit,
        )  # fmt: skip

    # A chain takes longer than a process and the way to it; without one, and for a few, it is the other way round.
    alone = not contract.chain or len(rows) < ROWS_FOR_WORKERS
    return Job(
        target=target,
        stage=Passing,
        row_of=_ecg_row,
        decode=convert_row,
        task_of=task_of,
        workers=0 if workers is None and alone else _workers(workers),
        timeout_s=ECG_TIMEOUT_S,
        progress=progress,
    )


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


def _erasure_names(out: Path) -> tuple[str, ...]:
    return tuple(erasure.name for erasure in embed_cache.erasures(out))


def _erased_hashes(out: Path) -> set[str]:
    return {erasure.keyed_hash for erasure in embed_cache.erasures(out)}


def _echo_row(taught: Taught, spec: TeacherSpec) -> embed_cache.Row:
    facts: ClipFacts = taught.facts
    counts = {"num_frames": facts.num_frames}
    if spec.unit == "clip":
        counts["num_vectors"] = len(taught.vectors)
    try:
        stat = moments(taught.vectors[:, : spec.dim], spec.frame_norm)
    except ItemError as error:
        return embed_cache.Row(status="failed", reason=error.code, fingerprint=facts.fingerprint, counts=counts)
    values = {"moments": stat.astype(np.float16), "pooled": stat[0].astype(np.float16)}
    if spec.view_names:
        values["view"] = taught.vectors[:, spec.dim :].mean(0).astype(np.float16)
    if not all(np.isfinite(v).all() for v in values.values()):
        return embed_cache.Row(status="failed", reason="beyond_fp16", fingerprint=facts.fingerprint, counts=counts)
    reason = _joined(facts.defects)
    return embed_cache.Row(status="ok", reason=reason, fingerprint=facts.fingerprint, values=values, counts=counts)


def _ecg_row(ecg: DecodedEcg) -> embed_cache.Row:
    reason = _joined(ecg.defects)
    counts = {"fs_mhz": ecg.fs_mhz}
    return embed_cache.Row(status="ok", reason=reason, fingerprint=ecg.fingerprint, values=ecg.columns, counts=counts)


def _ecg_target(
    out: Path,
    contract: EcgContract | None,
    ids: Sequence[str],
    files_of: Callable[[str], Sequence[str]],
    part_rows: int | None,
    erased: Collection[str],
    *,
    unit: EcgUnit,
    vcg: VcgMethod,
    flip_z: bool,
) -> Target:
    if contract is None:
        identity: Json = {"contract": None, "unit": unit}
        signal = embed_cache.Column("signal", (12,), "int16", ragged=True)
    else:
        identity = {"contract": configuration.to_json(contract), "contract_sha256": configuration.digest(contract)}
        identity["unit"] = contract.unit
        signal = embed_cache.Column("signal", (12, contract.num_samples), "int16")
    # What recordings of X, Y, Z became; as stores before these settings had it, where they are not named.
    identity |= ({"vcg": vcg} if vcg != "dower" else {}) | ({"flip_z": True} if flip_z else {})
    columns = [signal, embed_cache.Column("scale", (12,), "float32"), embed_cache.Column("lead_valid", (12,), "uint8")]
    return Target(out, "ecg", identity, columns, ("fs_mhz",), ids, ids, files_of, part_rows, erased)


def _check_unit(contract: EcgContract | None, unit: EcgUnit, of: str) -> None:
    if contract is not None and contract.unit == "mv" and unit != "mv":
        raise UserError(
            f"the ECGs of {of} are z-scores, whose millivolts nobody knows, and the contract {contract.name!r} wants millivolts. "
            f"Cache them as recorded, without --contract, or under a contract whose unit is zscore."
        )


def _joined(codes: Sequence[str]) -> str:
    """As many of the codes as a row's reason has room for."""
    reason = ""
    for code in codes:
        longer = f"{reason};{code}" if reason else code
        if len(longer) > MAX_REASON:
            break
        reason = longer
    return reason


def defect_counts(store: Path) -> dict[str, int]:
    """Code -> number of rows of a store that have it: what was mended in rows that are ok, and why the others are not."""
    index = embed_cache.open(store).index
    live = index.filter(pc.and_(index["live"], pc.not_equal(index["status"], "erased")))
    counts = Counter[str]()
    for reasons in pc.value_counts(live["reason"]).to_pylist():
        counts.update(dict.fromkeys(filter(None, reasons["values"].split(";")), reasons["counts"]))
    return dict(sorted(counts.items()))


def find_contract(name: str) -> EcgContract:
    """The contract of that name, from the encoders that ship with the package or a path to one."""
    from ecgecho.types import UsageError

    stem = name if name.endswith(".py") else name.replace("-", "_")
    known: dict[str, EcgContract] = {}
    for encoder in [name] if name.endswith(".py") else plugins.names("encoders"):
        contract: EcgContract = plugins.load("encoders", encoder).CONTRACT
        known[contract.name] = contract
        known.setdefault(encoder, contract)
    if stem not in known:
        raise UsageError(f"there is no contract {name!r}.{plugins.near_miss(stem, sorted(known))}")
    return known[stem]


def _workers(workers: int | None) -> int:
    return workers if workers is not None else max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


def _device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
