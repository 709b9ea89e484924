"""Does the slowest stage alone set the pace of cache-echo? What is won over the published way? Is memory flat?

    python benchmarks/cache_echo.py --out benchmarks/results/cache_echo_YYYYMM.md            (any machine)
    python benchmarks/cache_echo.py --gpu --out benchmarks/results/cache_echo_gpu_YYYYMM.md  (a machine with a GPU)

Cines are simulated. Without a GPU, teacher and decoders share the cores, so overlap is shown with a teacher that only waits,
as a process waits for its GPU; the shipped teacher on the CPU is measured too. The published way (EchoingECG preprocess/utils.py
and echoclip.py, Echo2ECG generate_embeddings.py) is written anew here: one process; decode, resize, then teach, clip by clip.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pydicom

import embed_cache
from ecgecho import cache, plugins
from ecgecho import catalog as tables
from ecgecho.cache import EchoOptions
from ecgecho.decode import EchoTask, decode_clip
from ecgecho.io.workers import Done, Pool
from ecgecho.pipeline import Forward, ForwardOptions, Teaching, decode_one

MIMIC_FILES = 525_422
WAITING_TEACHER = """
import time
from dataclasses import dataclass
import torch
from ecgecho.teachers import demo
from ecgecho.types import TeacherOutput

@dataclass(frozen=True)
class Config:
    seconds: float = 0.001

def spec(config):
    return demo.spec(demo.Config())

prepare = demo.prepare

class Waiting:
    weights_sha256 = "0" * 64
    def __init__(self, config):
        self.spec, self.seconds = spec(config), config.seconds
    def forward(self, values):
        time.sleep(self.seconds * len(values))
        means = values.reshape(len(values), -1)[:, :: 37632 // 64][:, :64].float() + 1
        return TeacherOutput(pooled=means)
    def to(self, device):
        return self

def build(config):
    return Waiting(config)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--clips", type=int, default=240, help="the simulated cines are listed again until there are so many")
    parser.add_argument("--resolution", default="708x1016")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--short", type=int, nargs="*", default=[1_000, 20_000], help="numbers of short clips for the memory rows"
    )
    parser.add_argument("--waits", type=float, nargs="*", default=[0.5, 1.0, 2.0], help="how long the stand-in for a GPU waits")
    parser.add_argument("--one", nargs=3, metavar=("FILE", "COUNT", "TEACHER"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        report_memory(Path(words.one[0]), int(words.one[1]), words.one[2])
        return
    with tempfile.TemporaryDirectory() as scratch:
        lines = measure_gpu(Path(scratch), words) if words.gpu else measure(Path(scratch), words)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    head = [
        "# cache-echo end to end, its stages alone, and the published way",
        "",
        f"- machine: {platform.machine()}, {len(os.sched_getaffinity(0))} cores, {device_name()}; load before: {LOAD}",
        f"- date: {datetime.date.today().isoformat()}, commit {commit}",
        f"- command: `python benchmarks/cache_echo.py {' '.join(word for word in sys.argv[1:] if word != str(words.out))}`",
        "",
    ]
    text = "\n".join([*head, *lines]) + "\n"
    print(text)
    if words.out:
        words.out.write_text(text, encoding="utf-8")


LOAD = f"{os.getloadavg()[0]:.1f} (1 min)"


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def measure(scratch: Path, words: argparse.Namespace) -> list[str]:
    files = simulated(scratch, words.resolution)
    (scratch / "waiting.py").write_text(WAITING_TEACHER)
    teacher = str(scratch / "waiting.py")
    decoded = [decode(file, teacher) for file in files]  # both teachers prepare alike
    frames = [clip.facts.num_frames for clip in decoded]
    lines = [
        f"Data: {len(files)} simulated cines of {words.resolution} pixels (JPEG), {np.mean(frames):.0f} frames each on average, "
        f"listed again under other ids up to {words.clips} clips. {words.workers} decode processes; their start is not counted.",
        "",
        "| teacher | decode alone | teach alone | write alone | together | of the slowest alone | published way | ratio to it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    decode_rate = clips_per_s(files, teacher, words)
    per_frame = 1 / (decode_rate * np.mean(frames))
    for times in words.waits:
        name = f"waits {times:g} times as long as decoding takes"
        lines.append(row(name, scratch, files, decoded, teacher, {"seconds": float(times * per_frame)}, words))
        print(lines[-1], file=sys.stderr, flush=True)
    lines.append(row("demo, on the same cores as the decoders", scratch, files, decoded, "demo", {}, words))
    print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", "Clips/s. The last row has one bound more: decoding and teaching share the cores.", ""]
    lines += later_epochs(scratch, files, words)
    lines += memory(scratch, words)
    return lines


def simulated(scratch: Path, resolution: str) -> list[Path]:
    """Cines alone: no stills, no Doppler."""
    words = ["--subjects", "24", "--seed", "7", "--echo-share", "0.5", "--views", "a4c,plax", "--resolution", resolution]
    command = [sys.executable, "-m", "ecgecho", "simulate", str(scratch / "c"), *words]
    subprocess.run(command, check=True, capture_output=True)
    import pyarrow.parquet as pq

    truth = pq.read_table(scratch / "c/truth.parquet", columns=["content", "path"]).to_pylist()
    return sorted(scratch / "c" / line["path"] for line in truth if line["content"] == "cine")


def listing(scratch: Path, files: list[Path], count: int) -> Any:
    """A catalog of `count` clips, five a study, over files that are listed again and again."""
    rows = [
        {
            "clip_id": f"c{n:07d}",
            "study_id": f"s{n // 5:07d}",
            "subject_id": f"p{n // 10:07d}",
            "path": str(files[n % len(files)]),
        }
        for n in range(count)
    ]
    clips = tables.conform("clips", pa.Table.from_pylist(rows), "clips")
    return SimpleNamespace(path=scratch / "catalog", root=Path("/"), clips=clips, key_id=None)


def task(path: Path, teacher: str) -> EchoTask:
    module = plugins.load("teachers", teacher)
    return EchoTask(path=str(path), teacher=teacher, spec=module.spec(module.Config()))


def decode(path: Path, teacher: str) -> Any:
    return decode_clip(task(path, teacher))


def clips_per_s(files: list[Path], teacher: str, words: argparse.Namespace) -> float:
    """Decoding alone, by the pool of the job, at its full length."""
    import threading

    with Pool(decode_clip, workers=words.workers, timeout_s=120, memory_bytes=4 << 30) as pool:
        warm_up(pool, files, teacher)
        room, left = threading.Semaphore(2 * words.workers), threading.Semaphore(0)

        def taken(result: Any) -> None:
            assert isinstance(result, Done)
            room.release()
            left.release()

        began = time.monotonic()
        for n in range(words.clips):
            room.acquire()
            pool.submit(task(files[n % len(files)], teacher), taken)
        for _ in range(words.clips):
            left.acquire()
        return float(words.clips / (time.monotonic() - began))


def warm_up(pool: Pool[Any, Any], files: list[Path], teacher: str) -> None:
    """All processes are there and have imported what they need."""
    import queue

    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(4 * max(pool.workers, 1)):
        pool.submit(task(files[0], teacher), done.put)
    for _ in range(4 * max(pool.workers, 1)):
        done.get()


def row(
    name: str,
    scratch: Path,
    files: list[Path],
    decoded: list[Any],
    teacher: str,
    settings: dict[str, Any],
    words: argparse.Namespace,
) -> str:
    module = plugins.load("teachers", teacher)
    config = module.Config(**settings)
    forward = Forward(module.build(config), ForwardOptions())
    alone = {"decode": clips_per_s(files, teacher, words), "teach": teach_rate(forward, decoded, words.clips)}
    out = Path(tempfile.mkdtemp(dir=scratch)) / "e.zarr"
    options = EchoOptions(device="cpu", workers=words.workers)
    job = cache.echo_job(listing(scratch, files, words.clips), teacher, config, out, options=options)
    writer = job.target.writer()
    assert writer is not None
    with job.pool() as pool:
        warm_up(pool, files, teacher)
        began = time.monotonic()
        job.fill(pool, writer)
        together = words.clips / (time.monotonic() - began)
    writer.seal({})
    alone["write"] = write_rate(scratch, embed_cache.open(out), words.clips)
    few = files[: max(len(files) // 4, 4)]
    began = time.monotonic()
    published_way(few, module.build(config), module.spec(config).size)
    published = len(few) / (time.monotonic() - began)
    shown = " | ".join(f"{alone[stage]:.1f}" for stage in ("decode", "teach", "write"))
    share = together / min(alone.values())
    return f"| {name} | {shown} | {together:.1f} | {share:.2f} | {published:.2f} | {together / published:.1f} |"


def teach_rate(forward: Forward, decoded: list[Any], count: int) -> float:
    stage = Teaching(forward)
    began = time.monotonic()
    for n in range(count):
        for _ in stage.add(str(n), decoded[n % len(decoded)]):
            pass
    for _ in stage.finish():
        pass
    return count / (time.monotonic() - began)


def write_rate(scratch: Path, made: embed_cache.EmbeddingStore, count: int) -> float:
    """The rows of a finished store, written again as they are."""
    index = made.index.to_pydict()
    plan = embed_cache.make_plan(index["id"], index["group"], seed=1)
    columns = list(made.columns.values())
    writer = embed_cache.Writer.create_or_resume(
        Path(tempfile.mkdtemp(dir=scratch)) / "w.zarr",
        kind="echo",
        identity={"a": 1},
        columns=columns,
        counts=("num_frames",),
        plan=plan,
    )
    values = {c.name: np.asarray(made.array(c.name)) for c in columns}
    places = dict(zip(index["id"], range(len(index["id"])), strict=True))
    began = time.monotonic()
    for part in writer.pending():
        rows = {
            item: embed_cache.Row(
                status="ok", values={name: array[places[item]] for name, array in values.items()}, counts={"num_frames": 1}
            )
            for item, _, _ in writer.rows_of(part)
        }
        writer.commit(part, rows, {})
    return count / (time.monotonic() - began)


def published_way(files: list[Path], teacher: Any, size: int) -> np.ndarray:
    """One process, clip by clip: decode, crop to the first region, squash, teach the whole clip, keep all till the end.

    Source: EchoingECG preprocess/utils.py:9-39 (less its second colour conversion) and echoclip.py; Echo2ECG collects likewise.
    """
    import cv2
    import torch

    kept = []
    for file in files:
        cine = pydicom.dcmread(file)
        pixels = cine.pixel_array
        region = cine.SequenceOfUltrasoundRegions[0] if "SequenceOfUltrasoundRegions" in cine else None
        if region is not None:
            top, bottom = region.RegionLocationMinY0, region.RegionLocationMaxY1
            left, right = region.RegionLocationMinX0, region.RegionLocationMaxX1
            pixels = pixels[:, top : bottom + 1, left : right + 1]
        if pixels.ndim == 3:
            pixels = np.repeat(pixels[..., None], 3, axis=-1)
        small = np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in pixels])
        output = teacher.forward(torch.from_numpy(np.ascontiguousarray(small.transpose(0, 3, 1, 2))))
        kept.append(torch.nn.functional.normalize(output.pooled, dim=-1).mean(0).numpy())
    return np.stack(kept)


def later_epochs(scratch: Path, files: list[Path], words: argparse.Namespace) -> list[str]:
    """Reading all rows in a random order, against decoding and teaching them again."""
    out = Path(tempfile.mkdtemp(dir=scratch)) / "e.zarr"
    catalog = listing(scratch, files, words.clips)
    began = time.monotonic()
    cache.echo_job(
        catalog, "demo", plugins.load("teachers", "demo").Config(), out, options=EchoOptions(device="cpu", workers=words.workers)
    ).run()
    first = time.monotonic() - began
    store = embed_cache.open(out)
    column = store.array("moments")
    order = np.random.default_rng(0).permutation(len(store))
    buffer = np.empty((256, *column.shape[1:]), column.dtype)
    epochs, began = 0, time.monotonic()
    while time.monotonic() - began < 1.0:
        for at in range(0, len(order), 256):
            rows = order[at : at + 256]
            np.take(column, rows, axis=0, out=buffer[: len(rows)])
        epochs += 1
    later = (time.monotonic() - began) / epochs
    few = files[: max(len(files) // 4, 4)]
    began = time.monotonic()
    teacher = plugins.load("teachers", "demo")
    published_way(few, teacher.build(teacher.Config()), teacher.SIZE)
    again = (time.monotonic() - began) / len(few) * words.clips
    return [
        "| epoch | seconds | ratio to the published way |",
        "|---|---|---|",
        f"| first: cache-echo, {words.clips} clips, start and checks included | {first:.1f} | {again / first:.1f} |",
        f"| every later one: all rows in random order, batches of 256 | {later:.6f} | {again / later:,.0f} |",
        f"| published way, decode and teach again (from {len(few)} clips) | {again:.1f} | 1 |",
        "",
    ]


def memory(scratch: Path, words: argparse.Namespace) -> list[str]:
    """Each number in a process of its own."""
    short = scratch / "short.dcm"
    write_short(short)
    lines = ["| short clips | peak memory of the job, MB | of its largest decode process, MB | clips/s |", "|---|---|---|---|"]
    peaks = []
    for count in words.short:
        command = [sys.executable, __file__, "--one", str(short), str(count), str(scratch / "waiting.py")]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        peaks.append(float(told[0]))
        lines.append(f"| {count:,} | {told[0]} | {told[1]} | {told[2]} |")
        print(lines[-1], file=sys.stderr, flush=True)
    if len(peaks) > 1:
        lines += ["", f"Peak of the most clips over that of the fewest: {peaks[-1] / peaks[0]:.3f}."]
    return lines


def write_short(path: Path) -> None:
    """Three small frames, not compressed."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    cine = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    cine.SOPClassUID, cine.SOPInstanceUID, cine.Modality = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, "US"
    cine.Rows, cine.Columns, cine.NumberOfFrames, cine.SamplesPerPixel = 48, 64, 3, 1
    cine.PhotometricInterpretation, cine.BitsAllocated, cine.BitsStored, cine.HighBit = "MONOCHROME2", 8, 8, 7
    cine.PixelRepresentation, cine.FrameTime = 0, "33"
    cine.PixelData = np.random.default_rng(0).integers(0, 256, (3, 48, 64), dtype=np.uint8).tobytes()
    cine.save_as(path, enforce_file_format=True)


def report_memory(file: Path, count: int, teacher: str) -> None:
    config = plugins.load("teachers", teacher).Config(seconds=0.0)
    options = EchoOptions(device="cpu", workers=2)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        report = cache.echo_job(
            listing(Path(scratch), [file], count), teacher, config, Path(scratch) / "e.zarr", options=options
        ).run()
        seconds = time.monotonic() - began
    assert report.by_status == {"ok": count}, report.by_reason
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    own = int(peak.split()[1]) / 1024  # getrusage's would be that of the process that started this one, where it is larger
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{own:.0f} {children:.0f} {count / seconds:.0f}")


def measure_gpu(scratch: Path, words: argparse.Namespace) -> list[str]:
    """The teacher's forward alone at both shapes, and the whole job on `echoclip`."""
    import torch

    assert torch.cuda.is_available(), "there is no GPU here"
    files = simulated(scratch, words.resolution)
    echoclip = plugins.load("teachers", "echoclip")
    config = echoclip.Config(weights="random:0")
    lines = ["| teacher (random weights) | how | frames/s | clips/s |", "|---|---|---|---|"]
    ways = {
        "fp32": ForwardOptions(device="cuda"),
        "bf16": ForwardOptions(device="cuda", precision="bf16"),
        "bf16, channels-last": ForwardOptions(device="cuda", precision="bf16", channels_last=True),
        "bf16, channels-last, compiled": ForwardOptions(device="cuda", precision="bf16", channels_last=True, compile=True),
    }
    frames = np.random.default_rng(0).integers(0, 256, (64, 3, 224, 224), dtype=np.uint8)
    best, best_name = 0.0, ""
    for name, how in ways.items():
        rate = forward_rate(Forward(echoclip.build(config), how), frames)
        lines.append(f"| echoclip, batches of 64 frames of 224 | {name} | {rate:,.0f} | |")
        best, best_name = max((best, best_name), (rate, name))
    for name, how in ways.items():
        rate = forward_rate(Forward(EchoPrimeShape(), how), np.zeros((16, 3, 16, 224, 224), np.uint8)) * 16
        lines.append(
            f"| EchoPrime's shape (MViT-v2-S, 16 frames of 224), batches of 16 clips | {name} | {rate:,.0f} | {rate / 16:,.1f} |"
        )
    how = ways[best_name]
    lines += [
        "",
        f"Whole job: echoclip, preprocessing echoing_ecg (all frames), {best_name}, {words.workers} decode processes.",
        "",
    ]
    lines += [
        "| decode | frames/s | of the forward alone | clips/s | hours for 525,422 files | busy |",
        "|---|---|---|---|---|---|",
    ]
    config = echoclip.Config(weights="random:0", preprocessing="echoing_ecg")
    for kind in ("full", "dct"):
        options = EchoOptions(
            decode=kind, precision=how.precision, channels_last=how.channels_last, compile=how.compile, device="cuda",
            workers=words.workers,
        )  # fmt: skip
        out = Path(tempfile.mkdtemp(dir=scratch)) / "e.zarr"
        job = cache.echo_job(listing(scratch, files, words.clips), "echoclip", config, out, options=options)
        writer = job.target.writer()
        assert writer is not None
        with job.pool() as pool:
            warm_up(pool, files, "demo")
            for _, clip in enumerate(files[:2]):  # builds the teacher, and compiles it
                stage = job.stage()
                result = decode_one(pool, job.task_of("c0000000"))
                assert isinstance(result, Done), clip
                list((*stage.add("x", result.value), *stage.finish()))
            began = time.monotonic()
            job.fill(pool, writer)
            seconds = time.monotonic() - began
        writer.seal({})
        counts = embed_cache.open(out).index["num_frames"].to_numpy()
        rate = counts.sum() / seconds
        busy = ", ".join(f"{stage} {share:.0%}" for stage, share in job.busy.shares().items())
        hours = MIMIC_FILES / (words.clips / seconds) / 3600
        lines.append(f"| {kind} | {rate:,.0f} | {rate / best:.2f} | {words.clips / seconds:.1f} | {hours:.1f} | {busy} |")
    return [*lines, "", "Hours are for one GPU and so many decode processes, were all files like these cines."]


class EchoPrimeShape:
    """A teacher with the shape of EchoPrime's video tower."""

    weights_sha256 = "0" * 64
    spec = SimpleNamespace(tokens_are_frames=False, frame_norm="none")

    def __init__(self) -> None:
        from torchvision.models.video import mvit_v2_s

        self.net = mvit_v2_s(weights=None, num_classes=512).eval().requires_grad_(False)

    def forward(self, values: Any) -> Any:
        import torch

        with torch.no_grad():
            return SimpleNamespace(pooled=self.net(values.float() / 255), tokens=None)

    def to(self, device: str) -> EchoPrimeShape:
        self.net.to(device)
        return self


def forward_rate(forward: Callable[[np.ndarray], Callable[[], np.ndarray]], batch: np.ndarray) -> float:
    """Units per second, one batch ahead as in the job."""
    for _ in range(3):
        forward(batch)()
    began, count, before = time.monotonic(), 0, None
    while time.monotonic() - began < 5.0:
        after = forward(batch)
        if before is not None:
            before()
        before, count = after, count + len(batch)
    assert before is not None
    before()
    return count / (time.monotonic() - began)


if __name__ == "__main__":
    main()
