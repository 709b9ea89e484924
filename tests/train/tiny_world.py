"""A catalog and stores of random data with a planted signal: one number a subject, seen in ECG, report, echo and measurement."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

import embed_cache
from ecgecho import catalog as tables
from ecgecho.config import digest, override, to_json
from ecgecho.encoders import resnet_small
from ecgecho.pairs import splits_of
from ecgecho.train import make_recipe

DIM = 16
FRAMES = (8, 12)
NOW = datetime.datetime(2020, 1, 1)  # noqa: DTZ001 - the catalog's times have no zone
SMALL_ENCODER = {"stem_width": 8, "widths": [8, 12, 16]}


@dataclass(frozen=True)
class World:
    catalog: Path
    ecg: Path
    echo: Path
    ids: list[str]
    severity: np.ndarray
    """Per subject, what everything shows."""

    def paths(self):
        return {"catalogs": [self.catalog], "ecgs": [self.ecg], "echos": [self.echo]}


def make_world(
    root: Path,
    *,
    subjects=60,
    seed=0,
    family="tiny",
    prefix="p",
    splits=None,
    contract=resnet_small.CONTRACT,
    cines: Mapping[int, int] | None = None,
    failed=(),
    absent=(),
    **identity,
) -> World:
    """Two ECGs a subject, a text each; every second subject has an echo study of two cines; all have measurements.

    `cines` has other numbers of cines, by the subject's number; the cines of the subjects `failed` are rows without values,
    those of `absent` are not in the store.
    """
    rng = np.random.default_rng(seed)
    ids = [f"{prefix}{i:04d}" for i in range(subjects)]
    severity = rng.uniform(-1, 1, subjects)
    split = splits or splits_of(family, ids)
    ecgs = [(f"{s}-e{k}", s) for s in ids for k in range(2)]
    studies = {s: f"{s}-st" for s in ids[::2]}
    num_cines = {ids[number]: count for number, count in (cines or {}).items()}
    clips = [
        (f"{study}-c{k}", study, s, ("A4C", "PLAX")[k % 2]) for s, study in studies.items() for k in range(num_cines.get(s, 2))
    ]
    level = dict(zip(ids, severity, strict=True))
    split_of = dict(zip(ids, split, strict=True))
    catalog = tables.write(
        root / "catalog",
        root=root,
        dataset="tiny",
        family=family,
        tables={
            "subjects": _table(subject_id=ids, split=split),
            "ecgs": _table(
                ecg_id=[e for e, _ in ecgs],
                subject_id=[s for _, s in ecgs],
                path=[f"{e}.hea" for e, _ in ecgs],
                time=[NOW] * len(ecgs),
            ),
            "texts": _table(
                text_id=[f"{e}-t" for e, _ in ecgs],
                subject_id=[s for _, s in ecgs],
                ecg_id=[e for e, _ in ecgs],
                source=["machine"] * len(ecgs),
                text=[_report(level[s], s, k) for k, (_, s) in enumerate(ecgs)],
            ),
            "clips": _table(
                clip_id=[c for c, *_ in clips],
                study_id=[c[1] for c in clips],
                subject_id=[c[2] for c in clips],
                path=[f"{c}.dcm" for c, *_ in clips],
                time=[NOW] * len(clips),
                view=[c[3] for c in clips],
            ),
            "labels": _table(
                subject_id=ids * 2,
                time=[NOW] * (2 * subjects),
                name=["lvef"] * subjects + ["wall_mm"] * subjects,
                value=[*(45 + 25 * severity), *(12 - 6 * severity)],
            ),
            "pairs": _table(
                ecg_id=[e for e, _ in ecgs],
                subject_id=[s for _, s in ecgs],
                study_id=[studies.get(s) for _, s in ecgs],
                text_id=[f"{e}-t" for e, _ in ecgs],
                gap_days=[1.0 if s in studies else None for _, s in ecgs],
                split=[split_of[s] for _, s in ecgs],
                weight=[1.0] * len(ecgs),
            ),
        },
    )
    wave = np.sin(np.arange(1000) / 7)[None] * np.ones((12, 1))
    signals = {e: (4000 * (1.2 + level[s]) * wave + rng.normal(0, 1000, (12, 1000))).astype(np.int16) for e, s in ecgs}
    scale, valid = np.full(12, 1e-3, np.float32), np.ones(12, np.uint8)
    shapes = {"signal": ((12, 1000), "int16"), "scale": ((12,), "float32"), "lead_valid": ((12,), "uint8")}
    _store(
        root / "ecg.zarr",
        "ecg",
        {"contract": to_json(contract), "contract_sha256": digest(contract), "unit": "mv"},
        [embed_cache.Column(name, *rest) for name, rest in shapes.items()],
        {e: {"signal": x, "scale": scale, "lead_valid": valid} for e, x in signals.items()},
        {e: e for e in signals},
    )
    direction = rng.normal(size=(2, DIM))
    left_out = {ids[number] for number in absent}
    moments = {c: _moments(level[s], direction, rng) for c, _, s, _ in clips if s not in left_out}
    _store(
        root / "echo.zarr",
        "echo",
        {"teacher": "tiny", "weights_sha256": "0" * 64, **identity},
        [embed_cache.Column("moments", (2, DIM), "float16")],
        {c: {"moments": m} for c, m in moments.items()},
        {c: study for c, study, *_ in clips},
        counts={c: FRAMES[k % 2] for k, c in enumerate(moments)},
        failed={c for c, _, s, _ in clips if s in {ids[number] for number in failed}},
    )
    return World(catalog=catalog.path, ecg=root / "ecg.zarr", echo=root / "echo.zarr", ids=ids, severity=severity)


def quick_recipe(method: str, *words: str):
    """The small recipe with a very small encoder, 12 steps of 16."""
    recipe = make_recipe(method, "small")
    recipe = override(recipe, [f"encoder.{k}={v}" for k, v in SMALL_ENCODER.items()])
    text = ["method.text_width=16", "method.pooling=mean"] if method in ("echoing_ecg", "ecg_clip") else []
    return override(recipe, ["data.batch_size=16", "data.ratio=0.25", "optim.steps=12", *text, *words])


def _report(severity: float, subject: str, number: int) -> str:
    word = "severely reduced" if severity < -0.3 else "mildly reduced" if severity < 0.3 else "normal"
    extra = ("sinus rhythm", "regular beat", "good quality")[number % 3]
    return f"{extra}, amplitude {word}. record s{48210000 + number} rate {60 + number % 40} seen by dr {subject}name"


def _moments(severity, direction, rng):
    mean = direction[0] * severity + direction[1] + rng.normal(0, 0.05, DIM)
    mean *= 0.95 / np.linalg.norm(mean)
    return np.stack([mean, np.full(DIM, np.sqrt((1 - 0.95**2) / DIM))]).astype(np.float16)


def _table(**columns):
    return pa.table(columns)


def _store(path, kind, identity, columns, values, groups, counts=None, failed=()):
    plan = embed_cache.make_plan(list(values), [groups[i] for i in values], seed=0)
    names = ("num_frames",) if counts else ()
    writer = embed_cache.Writer.create_or_resume(path, kind=kind, identity=identity, columns=columns, counts=names, plan=plan)
    for part in writer.pending():
        rows = {}
        for item, *_ in writer.rows_of(part):
            if item in failed:
                rows[item] = embed_cache.Row("failed", reason="damaged")
                continue
            rows[item] = embed_cache.Row("ok", values=values[item], counts={"num_frames": counts[item]} if counts else {})
        writer.commit(part, rows, {})
    writer.seal({})
