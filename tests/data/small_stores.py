"""Small stores for the tests of reading: a fixed and a ragged column, in groups, parts and segments."""

from __future__ import annotations

import numpy as np

import embed_cache

COLUMNS = ("moments", "frames")


def make_store(uri, *, studies=12, part_rows=4, shape=(2, 512), entry=(512,), seed=0, extra=0):
    """Studies of 1 to 4 clips, clips of 0 to 5 frames; `extra` further studies come as a second segment."""
    rng = np.random.default_rng(seed)
    columns = [embed_cache.Column("moments", shape, "float16"), embed_cache.Column("frames", entry, "float16", ragged=True)]
    for first, last in ((0, studies), (studies, studies + extra)):
        listed = [(f"{str(uri)[-1]}-{k}-{c}", f"s{k}") for k in range(first, last) for c in range(rng.integers(1, 5))]
        if not listed:
            continue
        ids, groups = (list(names) for names in zip(*listed, strict=True))
        if first == 0:
            plan = embed_cache.make_plan(ids, groups, seed=seed, part_rows=part_rows)
            writer = embed_cache.Writer.create_or_resume(uri, kind="echo", identity={}, columns=columns, plan=plan)
        else:
            writer = embed_cache.Writer.extend(
                uri, identity={}, ids=ids, groups=groups, recompute=ids, part_rows=part_rows, seed=seed
            )
        for part in writer.pending():
            made = {item: {"moments": rng.normal(size=shape).astype(np.float16)} for item, *_ in writer.rows_of(part)}
            for values in made.values():
                values["frames"] = rng.normal(size=(rng.integers(0, 6), *entry)).astype(np.float16)
            writer.commit(part, {item: embed_cache.Row("ok", values=values) for item, values in made.items()}, {})
        writer.seal({})
    return embed_cache.open(uri)


def two_stores(folder):
    """One of two segments whose rows fill whole pages together, one of odd sizes."""
    return [make_store(folder / "a", extra=5), make_store(folder / "b", seed=1, studies=7)]


def groups_of(stores):
    """(N,) the group of every row, over all stores."""
    return [f"{k}/{group}" for k, store in enumerate(stores) for group in store.index.column("group").to_pylist()]
