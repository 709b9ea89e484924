"""Small stores that the tests of embed_cache share: a teacher made of a hash, parts of 4 rows, fixed and ragged columns."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

import embed_cache
from embed_cache import Column, Row, Writer, make_plan

COLUMNS = (
    Column("moments", (2, 256), "float16"),  # 4 rows are one page: mapped
    Column("scale", (3,), "float32"),  # never whole pages: loaded
    Column("signal", (2,), "int16", ragged=True),
)
COUNTS = ("num_frames",)
IDENTITY = {"teacher": {"name": "hash", "weights_sha256": "ab" * 32}, "mask": "sector"}
ROWS = 22


def items(num=ROWS, group_size=3):
    """Ids and groups, of which some rows will be excluded and some will fail."""
    return [f"clip{i:03d}" for i in range(num)], [f"study{i // group_size:03d}" for i in range(num)]


def row_of(name: str, salt: str = "", healed: bool = False) -> Row:
    """What the teacher makes of an item: a pure function of its id and of the salt of its source."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{name}{salt}".encode()).digest()[:8], "big"))
    kind = int(name[-3:]) % 7 if name[-3:].isdigit() else 0
    if kind == 3:
        return Row("excluded", "still", fingerprint=f"12:{name}{salt}")
    if kind == 5 and not healed:
        return Row("failed", "timeout", permanent=False, counts={"num_frames": 9})
    length = int(rng.integers(0, 5))
    return Row(
        "ok",
        fingerprint=f"34:{name}{salt}",
        values={
            "moments": rng.standard_normal((2, 256)).astype(np.float16),
            "scale": rng.random(3, dtype=np.float32),
            "signal": rng.integers(-99, 99, (length, 2)).astype(np.int16),
        },
        counts={"num_frames": length},
    )


def begin(path: Path, **changes) -> Writer:
    ids, groups = items()
    options = {"kind": "echo", "identity": IDENTITY, "columns": COLUMNS, "counts": COUNTS}
    return Writer.create_or_resume(path, **options | {"plan": make_plan(ids, groups, seed=7, part_rows=4)} | changes)


def finish(writer: Writer, salt: str = "", healed: bool = False) -> None:
    for part in writer.pending():
        writer.commit(
            part, {n: row_of(n, salt, healed) for n, _, compute in writer.rows_of(part) if compute}, {"host": "a", "part": part}
        )
    writer.seal({"version": "1"})


def make(path: Path, **changes) -> embed_cache.EmbeddingStore:
    finish(begin(path, **changes))
    return embed_cache.open(path)


def heal(path: Path) -> None:
    """The job that tries transient failures again: every clip of the studies they belong to, in one new segment."""
    writer = Writer.resume(path, identity=IDENTITY)
    if writer is None:
        index = embed_cache.open(path).index.to_pylist()
        live = [line for line in index if line["live"]]
        failed = {line["id"] for line in live if line["status"] == "failed" and not line["permanent"]}
        studies = {line["group"] for line in live if line["id"] in failed}
        chosen = [line for line in live if line["group"] in studies]
        if not failed:
            return
        ids, groups = [line["id"] for line in chosen], [line["group"] for line in chosen]
        writer = Writer.extend(path, identity=IDENTITY, ids=ids, groups=groups, recompute=failed, part_rows=4, seed=8)
    finish(writer, healed=True)
