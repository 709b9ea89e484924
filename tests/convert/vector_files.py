"""Small stores to export, and folders of embeddings as labs have them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

import embed_cache
from embed_cache import Column, Row, Writer, make_plan

DIM = 6
COLUMNS = (
    Column("moments", (2, 8), "float16"),
    Column("scale", (3,), "float32"),
    Column("signal", (2,), "int16", ragged=True),
)
IDENTITY = {"teacher": {"name": "hash", "licence": "not to be passed on"}, "weights_sha256": "ab" * 32, "mask": "sector"}
STUDIES = ("s-1", "../s 2", "S-1", "a/b", "CON", "ünder", ".", "x%2Fy")


def names(per_study: int = 5) -> tuple[list[str], list[str]]:
    groups = [study for study in STUDIES for _ in range(per_study)]
    return [f"clip {k:03d}" for k in range(len(groups))], groups


def row_of(item: str, salt: str = "") -> Row:
    """A pure function of the id: most rows ok, some with a mended defect, some excluded or failed."""
    number = int(item[-3:])
    if number % 7 == 3:
        return Row("excluded", "still", fingerprint=f"1:{item}")
    if number % 7 == 5:
        return Row("failed", "timeout", permanent=False, counts={"num_frames": 4})
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{item}{salt}".encode()).digest()[:8], "big"))
    length = number % 4
    values = {
        "moments": rng.standard_normal((2, 8)).astype(np.float16),
        "scale": rng.random(3, dtype=np.float32),
        "signal": rng.integers(-99, 99, (length, 2)).astype(np.int16),
    }
    reason = "colour_tag_wrong" if number % 2 else ""
    return Row("ok", reason, fingerprint=f"2:{item}{salt}", values=values, counts={"num_frames": length})


def fill(writer: Writer, change=lambda item, row: row) -> None:
    for part in writer.pending():
        made = {item: change(item, row_of(item)) for item, _, needed in writer.rows_of(part) if needed}
        writer.commit(part, made, {"device": "cpu"})
    writer.seal({"time": 1, "device": "cpu"})


def make_store(path: Path, *, part_rows=4, seed=3, identity=IDENTITY, change=lambda item, row: row, skip=()) -> Path:
    ids, groups = names()
    kept = [(i, g) for i, g in zip(ids, groups, strict=True) if i not in skip]
    plan = make_plan([i for i, _ in kept], [g for _, g in kept], seed=seed, part_rows=part_rows)
    options = {"kind": "echo", "identity": identity, "columns": COLUMNS, "counts": ("num_frames",)}
    fill(Writer.create_or_resume(path, **options, plan=plan), change)
    return path


def extend_store(path: Path) -> Path:
    """Two studies are made anew with one clip more each, so that their old rows are superseded."""
    ids, groups = names()
    chosen = [(i, g) for i, g in zip(ids, groups, strict=True) if g in STUDIES[:2]]
    chosen += [("clip 901", STUDIES[0]), ("clip 902", STUDIES[1])]
    new = {"clip 901", "clip 902"}
    ids, groups = zip(*chosen, strict=True)
    fill(Writer.extend(path, identity=IDENTITY, ids=ids, groups=groups, recompute=new, part_rows=4, seed=5))
    return path


def live_rows(path: Path) -> dict[str, dict]:
    """Everything that a reader of live rows sees, by id."""
    store = embed_cache.open(path)
    rows = {}
    for line in store.index.to_pylist():
        if not line["live"]:
            continue
        values = {}
        if line["status"] == "ok":
            for column in store.columns.values():
                read = store.read_ragged if column.ragged else lambda name, row: store.read(name, np.array([row]))[0]
                values[column.name] = read(column.name, line["row"]).tolist()
        rows[line["id"]] = {k: v for k, v in line.items() if k not in ("segment", "part", "row", "live")} | values
    return rows


def frames(seed: int = 0, num: int = 5, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, dim)).astype(np.float32)


def save(path: Path, values: np.ndarray) -> Path:
    """One array in the format of the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix
    if kind == ".npy":
        np.save(path, values)
    elif kind == ".npz":
        np.savez_compressed(path, embedding=values)
    elif kind in (".pt", ".pth"):
        import torch

        torch.save({"embedding": torch.from_numpy(values), "label": 3} if kind == ".pt" else torch.from_numpy(values), path)
    elif kind in (".h5", ".hdf5"):
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("inner/embedding", data=values, compression="gzip")
            file["label"] = 3
    else:
        from safetensors.numpy import save_file

        save_file({"embedding": values, "label": np.zeros(1, np.int64)}, path)
    return path


ENDINGS = (".npy", ".npz", ".pt", ".pth", ".h5", ".hdf5", ".safetensors")


def make_folder(folder: Path, num: int = 12, endings=ENDINGS) -> Path:
    """Clips of four studies, in the seven formats or some of them."""
    for k in range(num):
        save(folder / f"study{k // 3}" / f"clip{k:02d}{endings[k % len(endings)]}", frames(k, num=3 + k % 4))
    return folder
