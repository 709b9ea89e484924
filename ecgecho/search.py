"""Search: the echo studies of stores that are most like one ECG, as a run embeds both.

The recording goes the way of an ECG store's rows (decode.py), each study the way it was learnt (`Student.embed_studies`).
Points are compared by their cosine, Gaussians by their closed-form sampled distance

    csd = |mu_ecg - mu_study|^2 + sum(var_ecg) + sum(var_study)

so that a study that its views leave uncertain ranks lower. Whether neighbours say anything is told beside them: each phenotype
among the k, in the whole store, and among k studies drawn at random. Nothing is written.

Shape letters: S studies, N cines, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

import embed_cache
from ecgecho import catalog as tables
from ecgecho import embed, tasks
from ecgecho.catalog import Catalog
from ecgecho.data.examples import TOGETHER, is_shown
from ecgecho.data.tables import EchoTable
from ecgecho.decode import EcgTask, decode_ecg
from ecgecho.embed import Student
from ecgecho.io import read_ecg
from ecgecho.types import F32, I64, EcgSource, ItemError, Json, UsageError, UserError

F64 = npt.NDArray[np.float64]

SCHEMA = "ecgecho.search"
VERSION = 1
SLICE = 1024
"""Studies whose embeddings are held at once."""
DRAWS = 2000
"""Of k studies at random: the ends of an interval of 95 % are then its 50 outermost."""
ADVICE = {
    "missing_file": "Check the path.",
    "not_ecg": "docs/ecg_files.md lists the kinds that are read.",
    "unit_not_mv": "Millivolts cannot be had back from it: give the recording itself.",
    "unit_unknown": "Say it with --unit.",
    "rate_unknown": "Say it with --fs-hz.",
    "leads_unknown": "Say them with --leads.",
    "row_unknown": "Say it with --row.",
    "row_outside": "Mend --row, or leave it out.",
    "too_short": "Give a longer recording.",
}

Progress = Callable[[int, int], None]


def search(
    run: Path,
    ecg: Path,
    *,
    k: int = 10,
    stores: Sequence[Path] = (),
    catalogs: Sequence[Path] = (),
    source: EcgSource | None = None,
    device: str = "auto",
    progress: Progress = lambda done, total: None,
) -> Json:
    """The `k` studies most like the ECG of a file, the nearest first, with what is known of them.

    Without `stores` and `catalogs` those that the run learnt from. `source` says which recording of a file is meant.
    """
    import torch

    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    student = embed.load(run, device=where)
    opened = [embed_cache.open(path) for path in stores or (student.source_paths("echos") if student.has_echo else [])]
    table = student.open_echo(opened)
    known, notes = _catalogs(student, catalogs)
    studies = _studies(student, opened, table, known, notes)
    if not studies.rows:
        raise UserError(f"{', '.join(s.path for s in opened)}: no study has a usable cine; nothing can be found in it.")
    if k > len(studies.rows):
        raise UsageError(f"-k is {k}, but there are {len(studies.rows)} studies to find; give {len(studies.rows)} or less.")
    mean, logvar, about = _query(student, ecg, source)

    measure: Literal["csd", "cosine"] = "cosine" if logvar is None else "csd"
    values, spread = np.empty(len(studies.rows)), np.full(len(studies.rows), np.nan)
    for start in range(0, len(values), SLICE):
        part = slice(start, start + SLICE)
        others, other_logvar = student.embed_studies(table, studies.rows[part])
        if not np.isfinite(others).all():
            raise UserError(f"{student.path} gives embeddings of studies that are not finite; its training diverged.")
        if logvar is not None and other_logvar is None:
            measure = "cosine"
        if other_logvar is not None:
            spread[part] = np.exp(other_logvar.astype(np.float64)).sum(1)
        values[part] = _cosine(mean, others) if measure == "cosine" else _squared(mean, others)
        progress(min(start + SLICE, len(values)), len(values))
    if measure == "csd":
        values += about["uncertainty"] + spread
    order = np.argsort(values if measure == "csd" else -values, kind="stable")[:k]

    phenotypes = {name: studies.phenotype(name, known, student.recipe.data.window_days) for name in tasks.PHENOTYPES}
    phenotypes = {name: value for name, value in phenotypes.items() if np.isfinite(value).any()}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "run": {
            "name": student.path.resolve().name,
            "method": student.recipe.method_name,
            "encoder": student.recipe.encoder_name,
        },
        "simulated": bool((studies.catalog >= 0).all()) and all(_is_simulated(c) for c in known),
        "measure": measure,
        "ecg": about,
        "stores": [store.content_hash() for store in opened],
        "num_studies": len(values),
        "found": [
            {
                "rank": rank,
                "study_id": studies.study_id[row],
                measure: float(values[row]),
                "uncertainty": _number(spread[row]),
                "views": len(studies.rows[row]),
                "split": studies.split[row],
                "phenotypes": {name: _number(value[row]) for name, value in phenotypes.items()},
            }
            for rank, row in enumerate(order, 1)
        ],
        "summary": _summaries(measure, {measure: values, **phenotypes}, order),
        "notes": notes,
    }


def render(result: Json) -> str:
    """The result as two tables, for a terminal."""
    found, measure, about = result["found"], result["measure"], result["ecg"]
    columns = {
        "rank": [str(study["rank"]) for study in found],
        "study": [study["study_id"] for study in found],
        measure: [_shown(study[measure]) for study in found],
        "uncertainty": [_shown(study["uncertainty"]) for study in found],
        "views": [str(study["views"]) for study in found],
        "split": [f"{study['split']}{' (learnt from)' if study['split'] == 'train' else ''}" for study in found],
        **{
            _titled(line): [_shown(study["phenotypes"][line["name"]]) for study in found]
            for line in result["summary"]
            if line["name"] != measure
        },
    }
    if all(study["uncertainty"] is None for study in found):
        del columns["uncertainty"]
    told = {
        "median (middle half)": [_titled(line) for line in result["summary"]],
        f"the {len(found)}": [_middle(line["found"]) for line in result["summary"]],
        "all studies": [_middle(line["store"]) for line in result["summary"]],
        f"median of {len(found)} at random, 95 %": [_ends(line["chance"]) for line in result["summary"]],
    }
    order = "highest first" if measure == "cosine" else "closed-form sampled distance, lowest first"
    own = "" if about["uncertainty"] is None else f", uncertainty {_shown(about['uncertainty'])}"
    padded = f" (padded with {about['padded_seconds']:.4g} s of zeros)" if about["padded_seconds"] else ""
    noted = f"; noted: {', '.join(about['defects'])}" if about["defects"] else ""
    lines = [
        f"{'SIMULATED cohort, no real person. ' if result['simulated'] else ''}"
        f"The {len(found)} of {result['num_studies']} studies most like this ECG, by {result['run']['name']} "
        f"({result['run']['method']} on {result['run']['encoder']}); {measure}: {order}.",
        f"ECG: {about['seconds']:.4g} s{padded}, {about['leads']} leads{own}{noted}",
        "",
        *_aligned(columns),
        "",
        *_aligned(told),
        *(f"note: {note}" for note in result["notes"]),
    ]
    return "\n".join(lines)


def _query(student: Student, ecg: Path, source: EcgSource | None) -> tuple[F32, F32 | None, Json]:
    """The recording of a file embedded, mean and log-variance (D,), and what is to be said of it."""
    if embed_cache.is_remote(ecg):
        raise UserError(f"{ecg} is in a bucket; copy the recording to this machine and give its path.")
    contract = student.contract
    try:
        record = read_ecg(ecg, source)
        made = decode_ecg(EcgTask(path=str(ecg), contract=contract, source=source, unit=contract.unit))
    except ItemError as error:
        advice = ADVICE.get(error.code, "Give another recording, or export it again.")
        said = str(error)
        said = said.replace(ecg.name, str(ecg), 1) if ecg.name in said else f"{ecg}: {said}"
        raise UserError(f"{said} ({error.code}). {advice}") from error
    signal_mv = made.columns["signal"].astype(np.float32) * made.columns["scale"][:, None]
    lead_valid = made.columns["lead_valid"].astype(bool)
    found = student.embed_prepared(signal_mv[None], lead_valid[None])
    mean, logvar = found.mean[0].numpy(), None if found.logvar is None else found.logvar[0].numpy()
    if not np.isfinite(mean).all():
        raise UserError(f"{student.path} gives an embedding that is not finite; its training diverged.")
    seconds, wanted = record.signal.shape[1] / record.fs_hz, contract.num_samples / contract.fs_hz
    return mean, logvar, {
        "seconds": seconds,
        "padded_seconds": round(max(wanted - seconds, 0.0), 3),
        "leads": int(lead_valid.sum()),
        "defects": list(made.defects),
        "uncertainty": None if logvar is None else float(np.exp(logvar.astype(np.float64)).sum()),
    }  # fmt: skip


def _catalogs(student: Student, given: Sequence[Path]) -> tuple[list[Catalog], list[str]]:
    """Those given, all of them; else those of the run as far as they are where they were."""
    if given:
        return [tables.read(path) for path in given], []
    places = student.source_paths("catalogs")
    there = [path for path in places if (path / "catalog.json").is_file()]
    gone = [str(path) for path in places if path not in there]
    notes = [f"the run's catalog {path} is gone: give one with --catalog to see views and phenotypes" for path in gone]
    return [tables.read(path) for path in there], notes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Studies:
    """Every study that can be found, in order of catalog, store and id."""

    rows: list[I64]
    """Per study its cines in the echo table."""
    study_id: list[str]
    catalog: I64
    """(S,) -1 where no catalog knows the study."""
    split: list[str]
    """Of subjects that the run knows; else "new", or "unknown" where no catalog names the subject."""

    def phenotype(self, label: str, catalogs: Sequence[Catalog], window_days: float) -> F64:
        """(S,) what was measured of the study, else of its subject nearest in time; NaN where nothing was."""
        result = np.full(len(self.rows), np.nan)
        for number, catalog in enumerate(catalogs):
            here = np.flatnonzero(self.catalog == number)
            if len(here):
                result[here] = tasks.study_values(catalog, [self.study_id[i] for i in here], label, window_days)
        return result


def _studies(
    student: Student,
    stores: Sequence[embed_cache.EmbeddingStore],
    table: EchoTable,
    catalogs: Sequence[Catalog],
    notes: list[str],
) -> _Studies:
    """The usable cines of the stores by study: B-mode as far as the catalogs know, of the run's view where it learnt from one."""
    ids, rows = pa.array(list(table.rows), pa.string()), np.fromiter(table.rows.values(), np.int64, len(table.rows))
    groups = np.array([group for store in stores for group in store.index.column("group").to_pylist()], object)
    store_of = np.repeat(np.arange(len(stores)), [len(store) for store in stores])[rows]
    number, study = np.full(len(ids), -1), groups[rows] if len(rows) else np.empty(0, object)
    subject, kind, view = (np.full(len(ids), None, object) for _ in range(3))
    for at, catalog in enumerate(catalogs):
        names = ("clip_id", "study_id", "subject_id", "kind", "view")
        clips = catalog.table("clips", columns=names)
        place = pc.index_in(ids, value_set=_flat(clips["clip_id"]))
        known = place.is_valid().to_numpy(zero_copy_only=False) & (number < 0)
        columns = {name: np.array(_flat(clips[name]).take(place).to_pylist(), object)[known] for name in names[1:]}
        number[known], study[known] = at, columns["study_id"]
        subject[known], kind[known], view[known] = columns["subject_id"], columns["kind"], columns["view"]
    wanted = student.recipe.data.views
    shown = [is_shown(wanted, kind[i], view[i], row, table.view_of_row) for i, row in enumerate(rows.tolist())]
    usable = np.array(shown, bool)
    if wanted not in TOGETHER:
        notes.append(f"the run learnt from the view {wanted} alone: other views are left out")
    if (unknown := int((usable & (number < 0)).sum())) and catalogs:
        notes.append(f"{unknown} of {len(ids)} cines are in no catalog: nothing is known of their studies")
    learnt = {entry["family"] for entry in student.run["identity"]["catalogs"]}
    splits = [dict(zip(*(c.subjects[n].to_pylist() for n in ("subject_id", "split")), strict=True)) for c in catalogs]
    found: dict[tuple[int, int, str], list[int]] = {}
    split: dict[tuple[int, int, str], str] = {}
    for i in np.flatnonzero(usable):
        at = int(number[i])
        key = (at, int(store_of[i]) if at < 0 else -1, study[i])  # what no catalog knows two stores may name alike
        found.setdefault(key, []).append(int(rows[i]))
        split[key] = "unknown" if at < 0 else splits[at][subject[i]] if catalogs[at].family in learnt else "new"
    keys = sorted(found)
    return _Studies(
        rows=[np.sort(np.array(found[key], np.int64)) for key in keys],
        study_id=[name for *_, name in keys],
        catalog=np.array([at for at, *_ in keys], np.int64),
        split=[split[key] for key in keys],
    )


def _summaries(measure: str, values: Mapping[str, F64], found: I64) -> list[Json]:
    """What is known of the k beside all, and where the median of k studies drawn at random falls in 95 % of draws."""
    rng = np.random.default_rng(0)
    size = len(values[measure])
    drawn = np.stack([rng.choice(size, len(found), replace=False) for _ in range(DRAWS)])
    result = []
    for name, column in values.items():
        known = column[drawn]
        known = known[np.isfinite(known).any(1)]
        chance = np.quantile(np.nanmedian(known, axis=1), (0.025, 0.975)).tolist() if len(known) else None
        unit = tasks.PHENOTYPES[name][1] if name in tasks.PHENOTYPES else ""
        line = {"name": name, "unit": unit, "found": _spread(column[found]), "store": _spread(column)}
        result.append({**line, "chance": chance})
    return result


def _spread(values: F64) -> Json:
    known = values[np.isfinite(values)]
    ends = np.quantile(known, (0.25, 0.5, 0.75)).tolist() if len(known) else [None] * 3
    return {"n": len(known), "low": ends[0], "median": ends[1], "high": ends[2]}


def _cosine(one: F32, others: F32) -> F64:
    """(D,), (S, D) -> (S,)."""
    a, b = one.astype(np.float64), others.astype(np.float64)
    length = np.linalg.norm(b, axis=1) * np.linalg.norm(a)
    return np.asarray((b @ a) / np.maximum(length, np.finfo(np.float64).tiny))


def _squared(one: F32, others: F32) -> F64:
    """(D,), (S, D) -> (S,) squared distances."""
    return np.asarray(np.square(others.astype(np.float64) - one).sum(1))


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _titled(line: Json) -> str:
    return f"{line['name']} [{line['unit']}]" if line["unit"] else str(line["name"])


def _middle(spread: Json) -> str:
    if not spread["n"]:
        return "-"
    return f"{_shown(spread['median'])} ({_ends((spread['low'], spread['high']))}), n {spread['n']}"


def _ends(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else " to ".join(map(_shown, ends))


def _aligned(columns: Mapping[str, Sequence[str]]) -> list[str]:
    rows = zip(*([title, *cells] for title, cells in columns.items()), strict=True)
    widths = [max(map(len, (title, *cells))) for title, cells in columns.items()]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _is_simulated(catalog: Catalog) -> bool:
    return bool(catalog.meta.get("simulated")) or (catalog.root / "simulated.json").is_file()


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
