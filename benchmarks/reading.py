"""How fast do rows of a store reach training, beside what else people keep rows in?

Three questions: views in full shuffle (rows of 2 KiB, batch 256), ragged frames (16 to 48 a view, 1 KiB each), and a set larger
than memory. Every peer reads the same rows from its own format, is given its best documented way, runs in a process of its own
under a time cap, and has its first batch compared with the source to the bit. Rounds go over all of them. The reference is
measured before and after every peer and a ratio is that to their mean; the table gives the median of the rounds (one, for a
peer below a fifth of the reference). "By CPU time" is the same ratio of rows in a second of the process's own CPU time, which
other work on the machine disturbs less.

A rate is taken over the quarter-seconds in which other processes used less than a third of a core and hardly the disk; where
there were too few of them the rate is of all, is marked with *, and counts only if no other round is better.

    python benchmarks/reading.py --scratch DIR --peers-python VENV/bin/python [--rounds 3] [--out results.md]

The peers' libraries live in an environment of their own:
    pip install torch h5py safetensors pylance datasets webdataset litdata mosaicml-streaming
A peer that is not installed there is named in the table and skipped.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import importlib.machinery
import io
import json
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BATCH = 256
SHAPE = (2, 512)
ROW_BYTES = 2048
NUM_VIEWS = 100_000
NUM_RAGGED = 20_000
FRAMES = (16, 49)
NUM_COLD = 1_000_000  # 2 GB
COLD_LIMIT = 512 << 20  # what a process may have of it in memory
SMALL = {"pt": 20_000, "pt ragged": 5_000}
SECONDS = {"views": 2.0, "frames": 2.0, "cold": 8.0}
CAP = 300.0
STRETCH_S = 0.25
OTHERS_CORES = 0.35  # more than that of other processes, or
OTHERS_DISK = 50e6  # so many bytes a second, and a stretch is not counted as quiet
MIN_QUIET = 3
PATIENCE = 2  # times the wanted seconds, in waiting for quiet ones


class Reader(NamedTuple):
    """How one peer reads: by row numbers, or in an order of its own."""

    gather: Callable[[Any], Any] | None = None
    """Row numbers (batch,) -> the rows' values, concatenated when ragged."""
    stream: Callable[[], Iterator[tuple[Any, Any]]] | None = None
    """(row numbers, values) of batches, without end."""
    size: int = 0
    """Rows that there are, where not all."""
    number: Any = None
    """The source's number of each row, where they differ: our stores keep studies in random order."""


# --- the source ------------------------------------------------------------------------------------------------------------


def make_source(folder: Path, name: str) -> None:
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    if name == "frames":
        count = rng.integers(*FRAMES, NUM_RAGGED)
        np.save(folder / "start.npy", np.cumsum([0, *count]))
        values = rng.standard_normal((int(count.sum()), SHAPE[1]), np.float32).astype(np.float16)
        np.save(folder / "source.npy", values)
    else:
        n = NUM_VIEWS if name == "views" else NUM_COLD
        target = np.lib.format.open_memmap(folder / "source.npy", mode="w+", dtype=np.float16, shape=(n, *SHAPE))
        for start in range(0, n, 50_000):
            part = target[start : start + 50_000]
            part[:] = rng.standard_normal(part.shape, np.float32).astype(np.float16)
        target.flush()
    (folder / "done").touch()


class Source:
    """The rows of a set, mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ragged = folder, (folder / "start.npy").exists()
        self.values = np.load(folder / "source.npy", mmap_mode="r")
        self.start = np.load(folder / "start.npy") if self.ragged else np.arange(len(self.values) + 1)
        self.size = len(self.start) - 1

    def row(self, row: int) -> np.ndarray:
        return self.values[self.start[row] : self.start[row + 1]] if self.ragged else self.values[row]

    def rows(self, rows: Any) -> np.ndarray:
        found = [self.row(int(row)) for row in rows]
        return np.concatenate(found) if self.ragged else np.stack(found)


# --- ours ------------------------------------------------------------------------------------------------------------------


def write_ours(source: Source, folder: Path) -> None:
    import embed_cache

    shape = source.values.shape[1:]
    column = embed_cache.Column("values", shape, "float16", ragged=source.ragged)
    ids = [str(i) for i in range(source.size)]
    groups = [f"s{i // 12}" for i in range(source.size)]  # a study has a dozen views
    plan = embed_cache.make_plan(ids, groups, seed=0, part_rows=1024 if source.size > 50_000 else None)
    writer = embed_cache.Writer.create_or_resume(folder / "store", kind="echo", identity={}, columns=[column], plan=plan)
    for part in writer.pending():
        rows = {r[0]: embed_cache.Row("ok", values={"values": np.array(source.row(int(r[0])))}) for r in writer.rows_of(part)}
        writer.commit(part, rows, {})
    writer.seal({})


def ours(place: str) -> Callable[[Source, Path], Reader]:
    def read(source: Source, folder: Path) -> Reader:
        import torch

        import embed_cache
        from ecgecho.data.place import Table
        from ecgecho.data.sampler import BlockOrder, Sampler

        torch.set_num_threads(1)
        store = embed_cache.open(folder / "store")
        device = torch.device("cuda" if place.startswith("gpu") else "cpu")
        where: Any = {"gpu": "device", "gpu pinned": "pinned"}.get(place, place)
        table = Table([store], "values", device, where)
        number = np.array([int(i) for i in store.index.column("id").to_pylist()])

        def gather(rows: Any) -> Any:
            values = table.gather_ragged(rows)[0] if source.ragged else table.gather(rows)
            torch.cuda.synchronize()
            return values

        if device.type == "cpu":
            gather = (lambda rows: table.gather_ragged(rows)[0]) if source.ragged else table.gather
        if place != "blocks":
            return Reader(gather=gather, number=number)
        order = BlockOrder()
        block_of = np.searchsorted(table.chunks.block_edges(order.block_bytes), np.arange(len(store)), side="right") - 1
        sampler = Sampler(
            num_ecgs=len(store),
            num_pairs=0,
            batch_size=BATCH,
            ratio=0,
            batches="joint",
            seed=0,
            block_of=block_of,
            pool=order.pool,
        )

        def stream() -> Iterator[tuple[Any, Any]]:
            step = 0
            while True:
                table.hold(sampler.held(step))
                rows = sampler.draw(step).ecgs
                yield rows, gather(rows)
                step += 1

        return Reader(stream=stream, number=number)

    return read


# --- memory and files ------------------------------------------------------------------------------------------------------


def nothing(source: Source, folder: Path) -> None:
    """What reads the source itself has nothing to write."""


def in_memory(values: np.ndarray) -> np.ndarray:
    """A copy on a page border and in huge pages where there are such: both make copies out of it faster."""
    memory = mmap.mmap(-1, values.nbytes)
    memory.madvise(mmap.MADV_HUGEPAGE)
    result = np.frombuffer(memory, values.dtype).reshape(values.shape)
    np.copyto(result, values)
    return result


def read_memory(source: Source, folder: Path) -> Reader:
    """The reference for views: np.take from an array in memory into one reused buffer."""
    values = in_memory(source.values)
    out = in_memory(values[:BATCH])

    def gather(rows: Any) -> Any:
        return np.take(values, rows, axis=0, out=out, mode="clip")

    return Reader(gather=gather)


def read_memcpy(source: Source, folder: Path) -> Reader:
    """The reference for frames: a loop in C, one memcpy a view, from memory into one reused buffer."""
    values, length = in_memory(source.values), np.diff(source.start)
    out = in_memory(values[: BATCH * FRAMES[1]])
    code = "#include <string.h>\nvoid copy(char *to, const char *from, const long *start, const long *rows, long n) {\n"
    code += " for (long i = 0; i < n; i++) { long a = start[rows[i]], b = start[rows[i] + 1];\n"
    code += f"  memcpy(to, from + a * {ROW_BYTES // 2}, (b - a) * {ROW_BYTES // 2}); to += (b - a) * {ROW_BYTES // 2}; }} }}\n"
    (folder / "copy.c").write_text(code)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", folder / "copy.so", folder / "copy.c"], check=True)
    copy = ctypes.CDLL(str(folder / "copy.so")).copy
    copy.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long]

    def gather(rows: Any) -> Any:
        copy(out.ctypes.data, values.ctypes.data, source.start.ctypes.data, rows.ctypes.data, len(rows))
        return out[: int(length[rows].sum())]

    return Reader(gather=gather)


def read_one_memcpy(source: Source, folder: Path) -> Reader:
    """A limit: as many bytes as the batch has, in one piece."""
    values, length = in_memory(source.values), np.diff(source.start)
    out = in_memory(values[: BATCH * FRAMES[1]])

    def gather(rows: Any) -> Any:
        count = int(length[rows].sum())
        begin = min(int(source.start[rows[0]]), len(values) - count)
        np.copyto(out[:count], values[begin : begin + count])
        return None

    return Reader(gather=gather)


def read_slices(source: Source, folder: Path) -> Reader:
    """Slices of an array in memory, concatenated by numpy."""
    values = np.array(source.values)
    return Reader(gather=lambda rows: np.concatenate([values[source.start[r] : source.start[r + 1]] for r in rows.tolist()]))


def read_torch_memmap(source: Source, folder: Path) -> Reader:
    import torch

    torch.set_num_threads(1)
    path = folder / "raw.bin"
    mapped = torch.from_file(str(path), shared=False, size=source.values.size, dtype=torch.float16).view(source.values.shape)
    return _torch_rows(mapped, source)


def write_raw(source: Source, folder: Path) -> None:
    with (folder / "raw.bin").open("wb") as file:
        for start in range(0, len(source.values), 50_000):
            file.write(source.values[start : start + 50_000].tobytes())


def _torch_rows(values: Any, source: Source) -> Reader:
    import torch

    if source.ragged:
        return Reader(gather=lambda rows: torch.cat([values[source.start[r] : source.start[r + 1]] for r in rows.tolist()]))
    out = torch.empty((BATCH, *values.shape[1:]), dtype=values.dtype)
    return Reader(gather=lambda rows: torch.index_select(values, 0, torch.from_numpy(rows), out=out[: len(rows)]))


def write_safetensors(source: Source, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"values": torch.from_numpy(np.array(source.values))}, folder / "x.safetensors")


def read_safetensors(source: Source, folder: Path) -> Reader:
    import torch
    from safetensors import safe_open

    torch.set_num_threads(1)
    with safe_open(folder / "x.safetensors", "pt") as file:
        return _torch_rows(file.get_tensor("values"), source)


def read_tensor_dataset(source: Source, folder: Path) -> Reader:
    """torch's own loader over a TensorDataset in memory, no workers."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    dataset = TensorDataset(torch.arange(source.size), torch.from_numpy(np.array(source.values)))

    def stream() -> Iterator[tuple[Any, Any]]:
        while True:
            yield from DataLoader(dataset, batch_size=BATCH, shuffle=True)

    return Reader(stream=stream)


def write_pt(source: Source, folder: Path) -> None:
    import torch

    for row in range(min(source.size, SMALL["pt ragged" if source.ragged else "pt"])):
        (folder / str(row // 1000)).mkdir(exist_ok=True)
        torch.save(torch.from_numpy(np.array(source.row(row))), folder / str(row // 1000) / f"{row}.pt")


def read_pt(source: Source, folder: Path) -> Reader:
    import torch

    join = torch.cat if source.ragged else torch.stack

    def gather(rows: Any) -> Any:
        return join([torch.load(folder / str(r // 1000) / f"{r}.pt", weights_only=True) for r in rows.tolist()])

    return Reader(gather=gather, size=min(source.size, SMALL["pt ragged" if source.ragged else "pt"]))


# --- formats with libraries ------------------------------------------------------------------------------------------------


def write_h5py(source: Source, folder: Path) -> None:
    import h5py

    with h5py.File(folder / "x.h5", "w") as file:
        target = file.create_dataset("values", source.values.shape, source.values.dtype)
        for start in range(0, len(source.values), 50_000):
            target[start : start + 50_000] = source.values[start : start + 50_000]


def read_h5py(source: Source, folder: Path) -> Reader:
    """Contiguous; a batch is one sorted fancy selection, or one slice a view."""
    import h5py

    values = h5py.File(folder / "x.h5", "r")["values"]
    if source.ragged:
        return Reader(gather=lambda rows: np.concatenate([values[source.start[r] : source.start[r + 1]] for r in rows]))

    def gather(rows: Any) -> Any:
        order = np.argsort(rows)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return values[rows[order]][back]

    return Reader(gather=gather)


def _arrow(source: Source) -> Iterator[Any]:
    """Record batches: a fixed-size list a view, or a list of them."""
    import pyarrow as pa

    width = int(np.prod(source.values.shape[1:]))
    for first in range(0, source.size, 10_000):
        last = min(first + 10_000, source.size)
        values = np.ascontiguousarray(source.values[source.start[first] : source.start[last]]).reshape(-1)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values), width)
        if source.ragged:
            column = pa.ListArray.from_arrays(pa.array(source.start[first : last + 1] - source.start[first], pa.int32()), column)
        yield pa.record_batch({"values": column})


def _from_arrow(table: Any, source: Source) -> Any:
    column = table["values"].combine_chunks()
    if source.ragged:
        column = column.flatten()
    return column.flatten().to_numpy().reshape(-1, *source.values.shape[1:])


def write_datasets(source: Source, folder: Path) -> None:
    import pyarrow as pa
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter

    with ArrowWriter(path=str(folder / "x.arrow")) as writer:
        for batch in _arrow(source):
            writer.write_table(pa.Table.from_batches([batch]))
        writer.finalize()
    Dataset.from_file(str(folder / "x.arrow"))


def read_datasets(source: Source, folder: Path) -> Reader:
    """Hugging Face's arrow format; its "numpy" and "torch" formats are slower."""
    from datasets import Dataset

    dataset = Dataset.from_file(str(folder / "x.arrow")).with_format("arrow")
    return Reader(gather=lambda rows: _from_arrow(dataset[rows.tolist()], source))


def write_lance(source: Source, folder: Path) -> None:
    import lance
    import pyarrow as pa

    batches = _arrow(source)
    first = next(batches)

    def every() -> Iterator[Any]:
        yield first
        yield from batches

    lance.write_dataset(pa.RecordBatchReader.from_batches(first.schema, every()), str(folder / "x.lance"))


def read_lance(source: Source, folder: Path) -> Reader:
    import lance

    dataset = lance.dataset(str(folder / "x.lance"))
    return Reader(gather=lambda rows: _from_arrow(dataset.take(rows), source))


def _item(source: Source, row: int) -> dict[str, Any]:
    return {"row": row, "values": np.array(source.row(row))}


class _Items:
    """Made at the top level: litdata pickles it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, rows: Any) -> Iterator[dict[str, Any]]:
        source = Source(Path(self.folder))
        for row in range(*rows):
            yield _item(source, row)


def write_litdata(source: Source, folder: Path) -> None:
    from litdata import optimize

    ranges = [(first, min(first + 5000, source.size)) for first in range(0, source.size, 5000)]
    optimize(_Items(str(source.folder)), ranges, str(folder / "x"), chunk_bytes="64MB", num_workers=1)


def read_litdata(source: Source, folder: Path) -> Reader:
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(folder / "x"), shuffle=True)

    def stream() -> Iterator[tuple[Any, Any]]:
        while True:
            for batch in StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0, collate_fn=_collate):
                yield batch["row"], batch["values"]

    return Reader(stream=stream)


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    values = [np.asarray(item["values"]) for item in items]
    join = np.concatenate if values[0].shape != SHAPE else np.stack
    return {"row": np.array([int(item["row"]) for item in items]), "values": join(values)}


def _import_streaming() -> Any:
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # streaming imports it for its vision sets alone; without it a stand-in will do
        for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules["torchvision.datasets"].VisionDataset = object  # type: ignore[attr-defined]
        sys.modules["torchvision.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]
    import streaming

    return streaming


def write_mosaic(source: Source, folder: Path) -> None:
    streaming = _import_streaming()
    with streaming.MDSWriter(out=str(folder / "x"), columns={"row": "int", "values": "bytes"}, size_limit=1 << 26) as writer:
        for row in range(source.size):
            writer.write({"row": row, "values": source.row(row).tobytes()})


def read_mosaic(source: Source, folder: Path) -> Reader:
    """Random access by ds[i], which is faster than its loader."""
    streaming = _import_streaming()
    dataset = streaming.StreamingDataset(local=str(folder / "x"), shuffle=False, batch_size=BATCH)
    shape, join = source.values.shape[1:], np.concatenate if source.ragged else np.stack
    inner = (-1, *shape) if source.ragged else shape

    def gather(rows: Any) -> Any:
        return join([np.frombuffer(dataset[int(r)]["values"], np.float16).reshape(inner) for r in rows])

    return Reader(gather=gather)


def write_webdataset(source: Source, folder: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(str(folder / "x-%04d.tar"), maxsize=64 << 20, verbose=0) as writer:
        for row in range(source.size):
            writer.write({"__key__": f"{row:08d}", "bin": source.row(row).tobytes()})


def read_webdataset(source: Source, folder: Path) -> Reader:
    import webdataset

    shards = [str(path) for path in sorted(folder.glob("x-*.tar"))]
    inner = (-1, *source.values.shape[1:]) if source.ragged else source.values.shape[1:]
    join = np.concatenate if source.ragged else np.stack

    def stream() -> Iterator[tuple[Any, Any]]:
        while True:
            made = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(2000 if source.ragged else 10_000)
            batch = []
            for sample in made:
                batch.append(sample)
                if len(batch) == BATCH:
                    values = join([np.frombuffer(s["bin"], np.float16).reshape(inner) for s in batch])
                    yield np.array([int(s["__key__"]) for s in batch]), values
                    batch = []

    return Reader(stream=stream)


class Peer(NamedTuple):
    name: str
    read: Callable[[Source, Path], Reader]
    write: Callable[[Source, Path], None]
    sets: tuple[str, ...]
    module: str = ""
    """To be installed for it."""
    folder: str = ""
    """Where it lies, when shared with another."""
    note: str = ""


ALL = ("views", "frames", "cold")
WARM = ("views", "frames")
PEERS = (
    Peer("np.take from RAM", read_memory, nothing, ("views",), note="reference"),
    Peer("memcpy of each view", read_memcpy, nothing, ("frames",), note="reference: a loop in C"),
    Peer("one memcpy", read_one_memcpy, nothing, ("frames",), note="a limit: as many bytes in one piece"),
    Peer("ours, pinned", ours("pinned"), write_ours, WARM, "ecgecho", "ours"),
    Peer("ours, mapped", ours("mapped"), write_ours, ALL, "ecgecho", "ours"),
    Peer("ours, blocks", ours("blocks"), write_ours, ALL, "ecgecho", "ours", "in the order of its blocks"),
    Peer("ours, device (GPU)", ours("gpu"), write_ours, WARM, "ecgecho", "ours", "waits for each batch"),
    Peer("ours, pinned to GPU", ours("gpu pinned"), write_ours, WARM, "ecgecho", "ours", "waits for each batch"),
    Peer("RAM slices, np.concatenate", read_slices, nothing, ("frames",)),
    Peer("torch memmap", read_torch_memmap, write_raw, ALL, "torch", note="index_select, torch.cat of slices"),
    Peer("safetensors", read_safetensors, write_safetensors, WARM, "safetensors", note="mapped; index_select, torch.cat"),
    Peer("TensorDataset + DataLoader", read_tensor_dataset, nothing, ("views",), "torch", note="in RAM, no workers"),
    Peer("h5py", read_h5py, write_h5py, ALL, "h5py", note="contiguous; sorted selection, slices"),
    Peer("HF datasets", read_datasets, write_datasets, ALL, "datasets", note="arrow format"),
    Peer("lance", read_lance, write_lance, ALL, "lance", note="take"),
    Peer("litdata", read_litdata, write_litdata, WARM, "litdata", note="StreamingDataLoader, no workers, own shuffle"),
    Peer("MosaicML streaming", read_mosaic, write_mosaic, WARM, "streaming", note="ds[i]"),
    Peer("webdataset", read_webdataset, write_webdataset, WARM, "webdataset", note="inline, shuffle buffer"),
    Peer("per-view .pt", read_pt, write_pt, WARM, "torch", note=f"first {SMALL['pt']} views, {SMALL['pt ragged']} ragged"),
)
REFERENCE = {"views": "np.take from RAM", "frames": "memcpy of each view", "cold": "sequential disk"}


# --- measuring, in the peer's process --------------------------------------------------------------------------------------


def measure(peer: Peer, source: Source, folder: Path, seconds: float, cold: bool) -> dict[str, Any]:
    """Rows a second of whole passes (or of what fits the time), after the first batch was checked."""
    began = time.perf_counter()
    reader = peer.read(source, folder)
    opened = time.perf_counter() - began
    size, rng = reader.size or source.size, np.random.default_rng(int(time.time()))
    limiter = Limiter(folder) if cold else None
    for path in () if cold else sorted(folder.rglob("*")):  # others may have pushed it out of the cache
        if path.is_file():
            with path.open("rb") as file:
                while file.read(4 << 20):
                    pass
    batches = _batches(reader, size, rng)
    rows, values = next(batches)
    number = np.arange(source.size) if reader.number is None else reader.number
    if values is not None:
        got = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
        np.testing.assert_array_equal(got, source.rows(number[np.asarray(rows)]), err_msg=f"{peer.name}: first batch")
    if limiter:
        limiter.drop()
    length = np.diff(source.start)[number] * source.values[:1].nbytes
    cpu_before = time.process_time()
    read_before, whole, stretches = _read_bytes(), time.perf_counter(), list[Stretch]()
    all_rows = all_bytes = counted = num_bytes = 0
    others = Others()
    for rows, _ in batches:
        counted += len(rows)
        if source.ragged:
            num_bytes += int(length[np.asarray(rows)].sum())
        if limiter:
            limiter.check()
        if time.perf_counter() - others.began < STRETCH_S:
            continue
        stretches.append(others.end(counted))
        all_rows, all_bytes, counted, num_bytes = all_rows + counted, all_bytes + num_bytes, 0, 0
        elapsed, quiet = time.perf_counter() - whole, [s for s in stretches if s.quiet]
        if len(quiet) * STRETCH_S >= seconds or elapsed > PATIENCE * seconds:
            break
        others = Others()
    used = quiet if len(quiet) >= MIN_QUIET else stretches
    cpu_s = (time.process_time() - cpu_before) / all_rows
    row_bytes = all_bytes / all_rows if source.ragged else source.values[:1].nbytes
    rate = sum(s.rows for s in used) / sum(s.seconds for s in used)
    from_disk = (_read_bytes() - read_before) / (all_rows * row_bytes)
    peak = next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")) / 1024
    return {
        "rate": rate,
        "gb_s": rate * row_bytes / 1e9,
        "open_s": opened,
        "from_disk": from_disk,
        "peak_mib": peak,
        "quiet": used is quiet,
        "cpu_s": cpu_s,
    }


class Stretch(NamedTuple):
    """A quarter of a second of measuring."""

    rows: int
    seconds: float
    quiet: bool


class Others:
    """What other processes do meanwhile: their share of the processors, and of the disk."""

    def __init__(self) -> None:
        self.began, self.busy, self.own, self.disk, self.read = time.perf_counter(), *self._now()

    def _now(self) -> tuple[float, float, int, int]:
        ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]  # user ... steal
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        lines = (line.split() for line in Path("/proc/diskstats").read_text().splitlines())
        disk = sum(512 * (int(x[5]) + int(x[9])) for x in lines if not x[2][-1].isdigit() or x[2].startswith("nvme"))
        return busy, time.process_time(), disk, _read_bytes()

    def end(self, rows: int) -> Stretch:
        seconds = time.perf_counter() - self.began
        busy, own, disk, read = self._now()
        cores = (busy - self.busy - (own - self.own)) / seconds
        foreign = (disk - self.disk - (read - self.read)) / seconds
        return Stretch(rows, seconds, cores < OTHERS_CORES and foreign < OTHERS_DISK)


def _batches(reader: Reader, size: int, rng: np.random.Generator) -> Iterator[tuple[Any, Any]]:
    if reader.stream is not None:
        yield from reader.stream()
    assert reader.gather is not None
    while True:
        order = rng.permutation(size)
        for start in range(0, size - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            yield rows, reader.gather(rows)


class Limiter:
    """Keeps a process's part of the page cache small where no cgroup can: whenever COLD_LIMIT bytes were read from disk since
    the last time, all pages of the folder's files are unmapped and dropped from the cache."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.read = folder, 0
        self.paths = [path for path in folder.rglob("*") if path.is_file()]
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def check(self) -> None:
        if _read_bytes() - self.read > COLD_LIMIT:
            self.drop()

    def drop(self) -> None:
        for line in Path("/proc/self/maps").read_text().splitlines():
            if str(self.folder) in line:
                begin, end = (int(x, 16) for x in line.split()[0].split("-"))
                self.libc.madvise(begin, end - begin, mmap.MADV_DONTNEED)
        for path in self.paths:
            drop(path)
        self.read = _read_bytes()


def drop(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def _read_bytes() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def sequential(source: Source, seconds: float) -> dict[str, Any]:
    """O_DIRECT reads of 4 MiB from front to back, by 1 and by 4 threads; the faster counts."""
    path, size = source.folder / "source.npy", 4 << 20
    total, best, ways, calm = path.stat().st_size // size * size, 0.0, {}, True
    handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    for threads in (1, 4):
        buffers = [mmap.mmap(-1, size) for _ in range(threads)]
        tasks = iter(range(0, 1 << 60, size))
        ended = time.perf_counter() + PATIENCE * seconds / 2
        stretches = []

        def read(thread: int, tasks: Iterator[int] = tasks, buffers: list[mmap.mmap] = buffers, until: float = 0.0) -> int:
            done = 0
            while time.perf_counter() < until:
                done += os.preadv(handle, [buffers[thread]], next(tasks) % total)
            return done

        with ThreadPoolExecutor(threads) as pool:
            while sum(s.quiet for s in stretches) * STRETCH_S < seconds / 2 and time.perf_counter() < ended:
                others, until = Others(), time.perf_counter() + STRETCH_S
                done = sum(pool.map(lambda thread: read(thread, until=until), range(threads)))  # noqa: B023 - waited for here
                stretches.append(others.end(done))
        quiet = [s for s in stretches if s.quiet]
        used = quiet if len(quiet) >= MIN_QUIET else stretches
        ways[threads] = sum(s.rows for s in used) / sum(s.seconds for s in used)
        best, calm = max(best, ways[threads]), calm and used is quiet
    return {
        "rate": best / ROW_BYTES,
        "gb_s": best / 1e9,
        "open_s": 0.0,
        "from_disk": 1.0,
        "peak_mib": 0.0,
        "quiet": calm,
        "cpu_s": 0.0,
        "ways": ways,
    }


# --- all of them -----------------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> None:
    scratch = Path(arguments.scratch)
    began, results, missing = time.time(), {}, {}
    loads = [os.getloadavg()[0]]
    for name in arguments.sets:
        folder = scratch / name
        make_source(folder, name)
        peers = [p for p in PEERS if name in p.sets and (not arguments.only or p.name in arguments.only)]
        found: dict[str, list[dict[str, Any]]] = {}
        for peer in list(peers):
            answer = _child(arguments, peer, name, "write")
            if "error" in answer:
                missing[name, peer.name] = answer["error"]
                peers.remove(peer)
        subprocess.run(["sync"], check=True)
        reference = next((p for p in PEERS if p.name == REFERENCE[name]), None)  # None: the disk
        for number in range(arguments.rounds):
            before = _child(arguments, reference, name, "read")
            for peer in list(peers):
                answer = _child(arguments, peer, name, "read") if peer is not reference else before
                loads.append(os.getloadavg()[0])
                if "error" in answer:
                    missing[name, peer.name] = answer["error"]
                    peers.remove(peer)
                    continue
                slow = answer["gb_s"] < 0.2 * before["gb_s"]  # then how the reference wavers matters little
                after = before if slow else _child(arguments, reference, name, "read")
                if "error" in before or "error" in after:
                    raise SystemExit(f"the reference failed: {before} {after}")
                base = (before["gb_s"] + after["gb_s"]) / 2
                cpu = (before["cpu_s"] + after["cpu_s"]) / 2 / answer["cpu_s"] if answer["cpu_s"] else 0.0
                found.setdefault(REFERENCE[name], []).append(before | {"ratio": 1.0, "cpu": 1.0})
                if peer is not reference:
                    found.setdefault(peer.name, []).append(
                        answer
                        | {
                            "ratio": answer["gb_s"] / base,
                            "cpu": cpu,
                            "quiet": answer["quiet"] and before["quiet"] and after["quiet"],
                        }
                    )
                if slow:
                    peers.remove(peer)  # one round tells it
                before = after
                quiet = found[peer.name][-1].get("quiet")
                print(f"{name} {number} {peer.name:28s} {answer['gb_s']:.3f} GB/s, reference {base:.3f}, {quiet=}", flush=True)
        results[name] = found
        if arguments.out:
            Path(arguments.out).write_text(report(arguments, results, missing, loads, time.time() - began), encoding="utf-8")
    print(report(arguments, results, missing, loads, time.time() - began))


def _child(arguments: argparse.Namespace, peer: Peer | None, name: str, what: str) -> dict[str, Any]:
    """One peer in a process of its own."""
    python = sys.executable if peer is None or peer.module in ("", "ecgecho") else arguments.peers_python
    command = [python, __file__, "--scratch", arguments.scratch, "--child", what, "--sets", name]
    command += ["--only", peer.name] if peer else []
    if arguments.seconds:
        command += ["--seconds", str(arguments.seconds)]
    if name == "cold" and what == "read" and arguments.scope:
        command = ["systemd-run", "--scope", "--quiet", "-p", f"MemoryMax={2 * COLD_LIMIT}", *command]
    root = str(Path(__file__).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CAP, env=env, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no result in {CAP:.0f} s"}
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            answer: dict[str, Any] = json.loads(line[7:])
            return answer
    last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return {"error": last[:160]}


def child(arguments: argparse.Namespace) -> None:
    name = arguments.sets[0]
    source = Source(Path(arguments.scratch) / name)
    seconds = arguments.seconds or SECONDS[name]
    if not arguments.only:
        answer = sequential(source, seconds)
    else:
        peer = next(p for p in PEERS if p.name == arguments.only[0])
        folder = Path(arguments.scratch) / name / (peer.folder or peer.read.__name__)
        if peer.name in ("ours, device (GPU)", "ours, pinned to GPU"):
            import torch

            if not torch.cuda.is_available():
                raise SystemExit("no GPU here")
        if peer.module:
            __import__(peer.module) if peer.module != "streaming" else _import_streaming()
        if arguments.child == "write":
            answer = write(peer, source, folder)
        else:
            answer = measure(peer, source, folder, seconds, name == "cold")
    print("RESULT " + json.dumps(answer), flush=True)
    os._exit(0)  # loaders may leave threads behind


def write(peer: Peer, source: Source, folder: Path) -> dict[str, Any]:
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        peer.write(source, folder)
        (folder / "done").touch()
    return {}


def report(
    arguments: argparse.Namespace, results: dict[str, Any], missing: dict[Any, str], loads: Iterable[float], took: float
) -> str:
    loads = list(loads)
    out = io.StringIO()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    asked = f"--rounds {arguments.rounds}" + f" --seconds {arguments.seconds:g}" * bool(arguments.seconds)
    machine = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ": ?").split(": ")[
        1
    ]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    print(f"{os.cpu_count()} cores {machine}, {memory:.0f} GiB, {platform.system()} {platform.release()}, Python "
          f"{platform.python_version()}; {datetime.date.today()}; commit {commit}; `python benchmarks/reading.py --scratch DIR "
          f"--peers-python PYTHON {asked}`; {took / 60:.0f} min; load average (1 min) {min(loads):.1f} to {max(loads):.1f}, "
          f"median {statistics.median(loads):.1f}, of which about 1 is the measurement itself.\n", file=out)  # fmt: skip
    titles = {
        "views": f"Views in full shuffle: {NUM_VIEWS:,} rows of 2 KiB, batch {BATCH}, warm",
        "frames": f"Ragged frames: {NUM_RAGGED:,} views of {FRAMES[0]} to {FRAMES[1] - 1} rows of 1 KiB, batch {BATCH}, warm",
        "cold": f"Larger than memory: {NUM_COLD:,} rows of 2 KiB, {COLD_LIMIT >> 20} MiB of them in memory",
    }
    notes = {peer.name: peer.note for peer in PEERS}
    for name, found in results.items():
        print(f"## {titles[name]}\n", file=out)
        print(
            "| how | GB/s | rows/s | ratio | of each round | by CPU time | read from disk | peak MiB | |\n"
            "|---|---|---|---|---|---|---|---|---|",
            file=out,
        )
        rows = []
        for peer, answers in found.items():
            rates = [a["gb_s"] for a in answers if a["quiet"]] or [a["gb_s"] for a in answers]
            ratios = [a["ratio"] for a in answers if a["quiet"]] or [a["ratio"] for a in answers]
            median = statistics.median(rates)
            rows.append((statistics.median(ratios), peer, median, statistics.median(a["rate"] for a in answers), ratios, answers))
        for ratio, peer, rate, per_second, _, answers in sorted(rows, key=lambda r: -r[0]):
            each = ", ".join(f"{a['ratio']:.2g}" + "*" * (not a["quiet"]) for a in answers) if peer != REFERENCE[name] else ""
            disk, peak = (statistics.median(a[k] for a in answers) for k in ("from_disk", "peak_mib"))
            cpu = f"{statistics.median(a['cpu'] for a in answers):.2g}" if name != "cold" else ""
            cells = [peer, f"{rate:.3g}", f"{per_second:,.0f}", f"{ratio:.2g}", each, cpu, f"{disk:.2f}", f"{peak:.0f}"]
            cells.append(notes.get(peer, ""))
            print(f"| {' | '.join(cells)} |", file=out)
        for (where, peer), why in missing.items():
            if where == name:
                print(f"| {peer} | | | | | | | | not measured: {why} |", file=out)
        print(file=out)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", required=True, help="a folder on the disk to measure; 15 GB")
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--sets", nargs="+", default=list(ALL), choices=ALL)
    parser.add_argument("--only", nargs="+", default=[], help="peers by name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.0, help="of each measurement")
    parser.add_argument("--out", default="")
    parser.add_argument("--child", choices=("write", "read"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    scope = ["systemd-run", "--scope", "--quiet", "-p", "MemoryMax=64M", "true"]
    arguments.scope = shutil.which(scope[0]) and subprocess.run(scope, capture_output=True, check=False).returncode == 0
    child(arguments) if arguments.child else run(arguments)


if __name__ == "__main__":
    main()
