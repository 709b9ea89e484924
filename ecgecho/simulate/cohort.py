"""The job that writes a cohort: claimed by its plan, done by any number of workers, resumed by the same call.

A person is a pure function of (seed, number), so any number of workers writes the same bytes. Files that exist are kept. Rows go
to the tables as the persons come in order, under a temporary name until all are there, so memory does not grow with the cohort.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import pyarrow as pa

from ecgecho.io.workers import ItemFailure, run_bounded
from ecgecho.simulate import layouts, write
from ecgecho.simulate.echo import VIEWS
from ecgecho.simulate.layouts import Job, Plan
from ecgecho.types import Json, UsageError, UserError

USER_SEEDS = 1_000_000
"""Seeds below are the users'; what ships with the package is trained on seeds from here on."""
VERSION = 2
"""Raised whenever the same seed would give other bytes."""
CLAIM = "simulated.json"

_CHUNK = {False: 4, True: 64}  # subjects of one task, with pictures and without; row groups end between chunks
_SUBJECTS_PER_WORKER = 24  # fewer are done before a second process has started
_TIMEOUT_S = 7200.0


@dataclass(slots=True)
class _Part:
    """What a chunk of subjects adds, ready to be written."""

    subjects: int
    tables: dict[str, bytes]
    truth: pa.Table
    counts: Counter[str] = field(default_factory=Counter)


def simulate(
    out: Path,
    *,
    subjects: int,
    seed: int,
    echo_share: float = 0.25,
    workers: int = 0,
    enrich: bool = False,
    frames: int = 0,
    size: tuple[int, int] = (300, 400),
    views: tuple[str, ...] = VIEWS,
    ecgs_per_subject: int = 3,
    years: float = 3.0,
    difficulty: float = 0.5,
    layout: str = "mimic-iv",
    tables_only: bool = False,
    progress: Callable[[int, int], object] | None = None,
    shipped_training: bool = False,
) -> dict[str, int]:
    """Write a cohort to `out` and return its counts; the same call again completes it, or finds it complete.

    A person has 1 to `ecgs_per_subject` ECGs, 1 to 3 echo visits over `years` and some admissions; a share `echo_share`, at least
    two people unless it is 0, has cines of those visits: one of each of `views` and now and then a still or a Doppler file.
    `frames` = 0 draws as many frames as machines record. `enrich` raises LVEF < 40 % and walls of 16 mm or more, each, from about
    7 % and 4 % of subjects to about 15 %; the counts `lvef_lt_40` and `wall_ge_16` tell what was drawn. `difficulty` from 0 to 1
    hides the heart. `tables_only` writes tables and truth alone; without it the same call adds the files. `workers` = 0 takes as
    many as there are cores.
    """
    chosen = layouts.load(layout)
    plan = Plan(
        subjects=subjects,
        seed=seed,
        echo_share=float(echo_share),
        enrich=enrich,
        frames=frames,
        size=(int(size[0]), int(size[1])),
        views=tuple(sorted(views, key=lambda view: VIEWS.index(view) if view in VIEWS else len(VIEWS))),
        ecgs_per_subject=ecgs_per_subject,
        years=float(years),
        difficulty=float(difficulty),
        layout=chosen.NAME,
        version=VERSION,
    )
    _check(plan, shipped_training=shipped_training)
    with _claim(out, plan):
        job = Job(out=out, plan=plan, tables_only=tables_only)
        counts: Counter[str] = Counter(subjects=0, ecgs=0, studies=0, clips=0, files_written=0)
        with write.Tables(out, chosen.TABLES) as tables:
            for part in _run(job, workers):
                for name, content in part.tables.items():
                    tables.add(name, content)
                tables.add_truth(part.truth)
                counts.update(part.counts)
                counts["subjects"] += part.subjects
                if progress is not None:
                    progress(counts["subjects"], plan.subjects)
            counts["files_written"] += tables.keep()
        counts["files_written"] += chosen.finish(job)
    return dict(counts)


def _check(plan: Plan, *, shipped_training: bool) -> None:
    if plan.seed < 0 or (plan.seed >= USER_SEEDS) != shipped_training:
        raise UsageError(
            f"seed {plan.seed} cannot be used: seeds from 0 to {USER_SEEDS - 1:,} are for cohorts, seeds from {USER_SEEDS:,} on "
            "for what ships with the package, so that nothing is judged on what it was trained on. Choose another --seed."
        )
    if not 2 <= plan.subjects <= 1_000_000:
        raise UsageError(f"--subjects is {plan.subjects}; choose from 2 to 1,000,000.")
    if not 0 <= plan.echo_share <= 1:
        raise UsageError(f"--echo-share is {plan.echo_share}; it is a fraction, from 0 to 1.")
    if plan.frames == 1 or not 0 <= plan.frames <= 200:
        raise UsageError(f"--frames is {plan.frames}; choose from 2 to 200, or 0 for as many as machines record.")
    if not all(64 <= side <= 2048 for side in plan.size):
        raise UsageError(f"--resolution is {plan.size[0]}x{plan.size[1]}; rows and columns are from 64 to 2048.")
    if not 1 <= plan.ecgs_per_subject <= 9:
        raise UsageError(f"--ecgs-per-subject is {plan.ecgs_per_subject}; choose from 1 to 9.")
    if not 0 <= plan.years <= 20:
        raise UsageError(f"--years is {plan.years:g}; choose from 0 to 20.")
    if not 0 <= plan.difficulty <= 1:
        raise UsageError(f"--difficulty is {plan.difficulty:g}; choose from 0 (easy) to 1 (hard).")
    for view in plan.views:
        if view not in VIEWS:
            close = difflib.get_close_matches(view.lower(), VIEWS, n=1, cutoff=0.4)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"there is no view {view!r}.{hint} There is: {', '.join(VIEWS)}.")
    if not plan.views or len(set(plan.views)) < len(plan.views):
        raise UsageError(f"--views must name at least one view, each once; there is: {', '.join(VIEWS)}.")


@contextlib.contextmanager
def _claim(out: Path, plan: Plan) -> Iterator[None]:
    """Refuse a folder that holds something else; else leave the plan in it, and keep others out until the job ends."""
    path = out / CLAIM
    wanted: Json = json.loads(json.dumps({"what": "simulated cohort: no real person is in it", **asdict(plan)}))
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Choose a new folder.")
    if path.is_file():
        _compare(out, path, wanted)
    elif out.is_dir() and any(entry.name != f".{CLAIM}.tmp" for entry in out.iterdir()):
        raise UserError(f"{out} is not empty and holds no simulated cohort. Choose a new folder.")
    else:
        write.atomic(path, (json.dumps(wanted, indent=1) + "\n").encode())
    with path.open("rb") as file:
        _lock(file, out)
        yield


def _compare(out: Path, path: Path, wanted: Json) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found.get("version")
    except (ValueError, AttributeError) as err:
        raise UserError(
            f"{path} is damaged, so what {out} holds is not known. Choose another folder, or remove this one."
        ) from err
    if version != wanted["version"]:
        raise UserError(
            f"{out} holds another simulated cohort: of version {version} of the simulator, this is {wanted['version']}, "
            "and the same seed gives other bytes. Choose another folder."
        )
    other = [f"{key} {found.get(key)!r} there, {value!r} asked" for key, value in wanted.items() if found.get(key) != value]
    if other:
        raise UserError(f"{out} holds another simulated cohort ({'; '.join(other)}). Choose another folder, or ask for that one.")


def _lock(file: IO[bytes], out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if err.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(f"another job is writing {out}. Wait for it, or choose another folder.") from err
        # A file system without locks: two jobs at once would still write equal bytes.


def _run(job: Job, workers: int) -> Iterator[_Part]:
    """The parts of all chunks, in order."""
    size = _CHUNK[job.tables_only]
    tasks = [(job, first, min(first + size, job.plan.subjects)) for first in range(0, job.plan.subjects, size)]
    workers = min(workers or len(os.sched_getaffinity(0)), max(job.plan.subjects // _SUBJECTS_PER_WORKER, 1))
    if workers <= 1:
        yield from map(_chunk, tasks)
        return
    early: dict[int, _Part] = {}
    turn = 0
    results = run_bounded(_chunk, tasks, workers=workers, timeout_s=_TIMEOUT_S, memory_bytes=0)
    with contextlib.closing(results):  # type: ignore[type-var]
        for position, result in results:
            if isinstance(result, ItemFailure):
                first, stop = tasks[position][1:]
                raise UserError(
                    f"subjects {first} to {stop - 1} could not be written to {job.out}: {result.message} ({result.code}). "
                    "When that is mended, the same command goes on; finished files are kept."
                )
            early[position] = result.value
            while turn in early:
                yield early.pop(turn)
                turn += 1


def _chunk(task: tuple[Job, int, int]) -> _Part:
    """Some subjects: their missing files, and their rows as they will stand in the tables."""
    job, first, stop = task
    layout = layouts.load(job.plan.layout)
    rows = [layout.subject(job, job.person(index)) for index in range(first, stop)]
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.counts)
        counts["files_written"] += row.files_written
    return _Part(
        subjects=stop - first,
        tables={
            name: write.lines(table, (r for row in rows for r in row.tables.get(name, ())))
            for name, table in layout.TABLES.items()
        },
        truth=pa.Table.from_pylist([line for row in rows for line in row.truth], schema=write.TRUTH),
        counts=counts,
    )
