"""Which decoder reads a damaged video honestly, and what does a smaller JPEG cost a teacher?

    python benchmarks/decoders.py video --out benchmarks/results/decoders_YYYYMM.md
    python benchmarks/decoders.py jpeg --out benchmarks/results/decode_jpeg_YYYYMM.md
    python benchmarks/decoders.py leak --out benchmarks/results/decode_leak_YYYYMM.md
    python benchmarks/decoders.py flips --out benchmarks/results/decode_flips_YYYYMM.md
    python benchmarks/decoders.py nvjpeg --out benchmarks/results/decode_nvjpeg_YYYYMM.md     (needs a GPU; has never run)

`video`: small AVI and MP4 files, each damaged in many ways, each read by each decoder in a process that can be killed. What
comes out is held against what the same decoder makes of the whole file: equal, an error, too few frames without a word, other
pixels without a word, a crash, a hang. Then frames a second and memory on whole files, and whose frame times are right.

`jpeg`: simulated cines at 708 x 1016 and the real one that pydicom ships, decoded in full and DCT-scaled: time, the mask of the
sector, drawing that the mask lets through, and the cosine distance of the demo teacher's vector. `leak`: whether the ECG can be
read from what the mask of the smaller picture leaves around the sector. `flips`: how much damage inside a JPEG frame is noticed.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import io
import os
import platform
import shlex
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ecgecho.io import read_echo
from ecgecho.io.workers import Done, ItemFailure, run_bounded
from ecgecho.simulate import write
from ecgecho.simulate.echo import VIEWS, draw, shoot
from ecgecho.simulate.heart import draw_heart, stream

SEED = 20_261
SMALL, SMALL_FRAMES = (180, 240), 24
LARGE, LARGE_FRAMES = (708, 1016), 48
TIMEOUT_S = 6.0
"""A whole file takes 0.02 to 0.1 s."""
MEMORY_BYTES = 2 << 30
REPEATS = 5
OUTCOMES = ("right", "error", "fewer or more frames", "other pixels", "crash", "hang", "memory")


# --- decoders: path -> frames (T, H, W, 3) uint8


def by_decord(path: str) -> np.ndarray:
    """As its users write it."""
    import decord

    decord.logging.set_level(decord.logging.FATAL)
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    return np.stack([reader[number].asnumpy() for number in range(len(reader))])


def by_decord_checked(path: str) -> np.ndarray:
    """Behind ecgecho's checks of the container: what was the default before."""
    from ecgecho.io import video_decord

    return video_decord.read(Path(path))[1]


def by_pyav(path: str) -> np.ndarray:
    """As its users write it."""
    import av

    with av.open(path) as source:
        stream = source.streams.video[0]
        stream.codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in source.decode(stream)])


def by_pyav_strict(path: str) -> np.ndarray:
    """ecgecho.io.video: damage is refused, and frames are counted against packets and header."""
    from ecgecho.io import video

    return video.read(Path(path)).frames


def by_torchcodec(path: str) -> np.ndarray:
    """As its users write it."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    return decoder.get_frames_in_range(0, len(decoder)).data.numpy()


def by_torchcodec_checked(path: str) -> np.ndarray:
    """Behind ecgecho's checks of the container, frames counted against the header."""
    from torchcodec.decoders import VideoDecoder

    from ecgecho.io import video

    _, promised = video.checked_header(Path(path))
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    promised = max(promised, decoder.metadata.num_frames_from_header or 0)
    if len(decoder) < promised:
        raise ValueError(f"{promised} frames are promised, {len(decoder)} are there")
    return decoder.get_frames_in_range(0, len(decoder)).data.numpy()


def by_opencv(path: str) -> np.ndarray:
    """As its users write it."""
    reader = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    while True:
        there, frame = reader.read()
        if not there:
            return np.stack(frames)
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


DECODERS: dict[str, Callable[[str], np.ndarray]] = {
    "decord": by_decord,
    "decord, checked": by_decord_checked,
    "PyAV": by_pyav,
    "PyAV, strict": by_pyav_strict,
    "torchcodec": by_torchcodec,
    "torchcodec, checked": by_torchcodec_checked,
    "OpenCV": by_opencv,
}


def times_of(decoder: str, path: str) -> np.ndarray | None:
    """(T,) ms since the first frame, by a decoder's own interface."""
    if decoder == "decord":
        import decord

        reader = decord.VideoReader(path, num_threads=1)
        found = reader.get_frame_timestamp(range(len(reader)))[:, 0] * 1000.0
    elif decoder == "PyAV, strict":
        from ecgecho.io import video

        found = video.read(Path(path)).frame_time_ms
    elif decoder == "torchcodec":
        from torchcodec.decoders import VideoDecoder

        found = VideoDecoder(path).get_frames_in_range(0, len(VideoDecoder(path))).pts_seconds.numpy() * 1000.0
    else:
        reader, found = cv2.VideoCapture(path, cv2.CAP_FFMPEG), []
        while reader.grab():
            found.append(reader.get(cv2.CAP_PROP_POS_MSEC))
    return np.asarray(found, np.float64) - found[0]


# --- good files


def picture_frames(frames: int, size: tuple[int, int]) -> np.ndarray:
    """A simulated cine with its burned-in trace and text."""
    heart = draw_heart(stream(SEED, 0, "heart"), enrich=False)
    rng = stream(SEED, 0, "echo")
    return draw(heart, shoot(heart, VIEWS[0], rng, frames=frames, size=size), rng).frames


def with_opencv(path: Path, frames: np.ndarray, code: str) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 50.0, (frames.shape[2], frames.shape[1]))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()


def with_h264(path: Path, frames: np.ndarray, *, index_first: bool, times_ms: Sequence[int] | None = None) -> None:
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"} if index_first else {}) as target:
        stream_ = target.add_stream("libx264", rate=50, options={"bf": "2", "crf": "18"})
        stream_.height, stream_.width, stream_.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream_.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = times_ms[number] if times_ms else 20 * number, Fraction(1, 1000)
            target.mux(stream_.encode(picture))
        target.mux(stream_.encode(None))


def write_files(folder: Path, frames: np.ndarray) -> dict[str, Path]:
    made = {
        "Motion JPEG, AVI": folder / "mjpeg.avi",
        "MPEG-4, AVI": folder / "mpeg4.avi",
        "MPEG-4, MP4": folder / "mpeg4.mp4",
        "H.264, MP4": folder / "h264.mp4",
        "H.264, MP4, index first": folder / "h264_first.mp4",
    }
    paths = list(made.values())
    for path, code in zip(paths, ("MJPG", "XVID", "mp4v"), strict=False):
        with_opencv(path, frames, code)
    with_h264(paths[3], frames, index_first=False)
    with_h264(paths[4], frames, index_first=True)
    return made


# --- damage


def damaged(data: bytes, *, avi: bool) -> Iterator[tuple[str, bytes]]:
    """(the kind of damage, the bytes)."""
    random = np.random.default_rng(len(data))
    size = len(data)
    for share in (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999):
        yield "cut", data[: int(share * size)]
    for lost in (1, 16):
        yield "cut", data[:-lost]
    for _ in range(12):
        yield "one byte changed", changed(data, random.integers(size, size=1), random)
    for _ in range(6):
        yield "twenty bytes changed", changed(data, random.integers(size, size=20), random)
    start, stop = (0, 2048) if avi else span_of_index(data)
    for _ in range(8):
        yield "four bytes of the index changed", changed(data, random.integers(start, stop, size=4), random)
    for length, count in ((512, 6), (4096, 3)):
        for at in random.integers(size - length, size=count):
            yield "a block of zeros", data[:at] + bytes(length) + data[at + length :]
    for at in random.integers(size - 64, size=4):
        yield "64 bytes lost", data[:at] + data[at + 64 :]
    for wanted in (SMALL_FRAMES + 1, 2 * SMALL_FRAMES, 1_000_000, 0xFFFFFFF0):
        yield "more frames promised", promising(data, wanted, avi=avi)
    picture = io.BytesIO(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()).getvalue()
    for other in (b"", data[:1], data[:12], b"These are notes, no video.\n" * 50, picture, data[:12] + random.bytes(20_000)):
        yield "no video at all", other


def changed(data: bytes, places: np.ndarray, random: np.random.Generator) -> bytes:
    out = bytearray(data)
    for place in places:
        out[place] ^= int(random.integers(1, 256))
    return bytes(out)


def span_of_index(data: bytes) -> tuple[int, int]:
    """Of an MP4's moov box."""
    at = data.index(b"moov") - 4
    return at, at + int.from_bytes(data[at : at + 4], "big")


def promising(data: bytes, frames: int, *, avi: bool) -> bytes:
    """The same file with another number of frames in its header."""
    out = bytearray(data)
    if avi:
        for name, offset in ((b"avih", 24), (b"strh", 40)):
            at = out.index(name) + offset
            assert struct.unpack_from("<L", out, at)[0] == SMALL_FRAMES
            struct.pack_into("<L", out, at, frames)
    else:  # the tables of sizes and of durations
        for name, offset in ((b"stsz", 12), (b"stts", 12)):
            struct.pack_into(">L", out, out.index(name) + offset, frames)
    return bytes(out)


# --- judging, in a process that can be killed


@dataclass(frozen=True)
class Trial:
    """One file for one decoder."""

    decoder: str
    path: str
    truth: str
    """An .npy of what the decoder makes of the whole file."""


def judge(trial: Trial) -> str:
    frames = DECODERS[trial.decoder](trial.path)
    truth = np.load(trial.truth, mmap_mode="r")
    if len(frames) != len(truth):
        return "fewer or more frames"
    return "right" if frames.shape == truth.shape and np.array_equal(frames, truth) else "other pixels"


def verdict(result: Done[str] | ItemFailure) -> str:
    if isinstance(result, Done):
        return result.value
    return {"timeout": "hang", "decoder_died": "crash", "out_of_memory": "memory"}.get(result.code, "error")


@dataclass(frozen=True)
class Speed:
    frames_per_s: float
    memory_mb: float


def measure(task: tuple[str, str]) -> Speed:
    """In a process of its own: processor time of the quickest of some reads, and the peak of memory above the imports."""
    decoder, path = task
    read = DECODERS[decoder]
    imports(decoder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
    before = resident("VmRSS")
    num_frames = len(read(path))
    spent = []
    for _ in range(REPEATS):
        start = time.process_time()
        read(path)
        spent.append(time.process_time() - start)
    return Speed(num_frames / min(spent), resident("VmHWM") - before)


def resident(name: str) -> float:
    """MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def imports(decoder: str) -> None:
    """Before the memory bound, which counts what comes after. FFmpeg's complaints are not read here."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if "decord" in decoder:
        import decord  # noqa: F401
    elif "torchcodec" in decoder:
        import torchcodec.decoders  # noqa: F401
    elif "PyAV" in decoder:
        import av  # noqa: F401


def versions() -> dict[str, str]:
    """Of the decoders that load here; the others with their first line of complaint."""
    found = {"OpenCV": cv2.__version__}
    for name, module in (("decord", "decord"), ("PyAV", "av"), ("torchcodec", "torchcodec.decoders")):
        code = f"import {module}, importlib.metadata as m; print(m.version('{module.split('.', maxsplit=1)[0]}'))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        found[name] = done.stdout.strip() if done.returncode == 0 else f"does not load: {done.stderr.strip().splitlines()[-1]}"
    return found


# --- video


def video(out: Path) -> None:
    have = versions()
    names = [name for name in DECODERS if not have[name.split(",")[0]].startswith("does not")]
    tally: dict[str, dict[str, Counter[str]]] = {name: defaultdict(Counter) for name in names}
    by_file: dict[str, dict[str, Counter[str]]] = {name: defaultdict(Counter) for name in names}
    spent: dict[str, float] = {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        frames = picture_frames(SMALL_FRAMES, SMALL)
        good = write_files(folder, frames)
        truths: dict[str, np.ndarray] = {}
        trials: list[tuple[str, str, Path]] = []
        for file, path in good.items():
            for number, (kind, data) in enumerate(damaged(path.read_bytes(), avi=path.suffix == ".avi")):
                bad = folder / f"{path.stem}_{number}{path.suffix}"
                bad.write_bytes(data)
                trials.append((file, kind, bad))
        for name in names:
            start = time.perf_counter()
            tasks = []
            for file, path in good.items():
                truths[f"{name}/{file}"] = truth = DECODERS[name](str(path))
                assert truth.shape == frames.shape, (name, file, truth.shape)
                np.save(folder / f"truth_{len(truths)}.npy", truth)
                tasks += [Trial(name, str(bad), str(folder / f"truth_{len(truths)}.npy")) for f, _, bad in trials if f == file]
            results = run_bounded(
                judge,
                tasks,
                workers=1,
                timeout_s=TIMEOUT_S,
                memory_bytes=MEMORY_BYTES,
                initializer=functools.partial(imports, name),
            )
            for position, result in results:
                file, kind, _ = trials[position]
                tally[name][kind][verdict(result)] += 1
                by_file[name][file][verdict(result)] += 1
            spent[name] = time.perf_counter() - start
            print(name, dict(sum(tally[name].values(), Counter())), f"{spent[name]:.0f} s", flush=True)
        agree = {
            name: max(int(np.abs(truths[f"{name}/{f}"].astype(int) - truths[f"PyAV, strict/{f}"]).max()) for f in good)
            for name in names
        }
        times = time_errors(folder, frames, names)
        large = write_files(folder, picture_frames(LARGE_FRAMES, LARGE))
        speeds = {
            (name, file): one(run_bounded(measure, [(name, str(path))], workers=1, timeout_s=300, memory_bytes=0))
            for file, path in list(large.items())[:4]
            for name in names
        }
    kinds = list(tally[names[0]])
    text = [
        "# Video decoders on damaged files, and their speed",
        "",
        *head(out, "video", load),
        "- " + ", ".join(f"{name} {number}" for name, number in have.items()),
        f"- {len(trials)} damaged files: {len(good)} simulated cines of {SMALL_FRAMES} frames of {SMALL[0]} x {SMALL[1]}, each"
        f" damaged in {len(trials) // len(good)} ways; one thread, one process, at most {TIMEOUT_S:g} s and"
        f" {MEMORY_BYTES >> 30} GiB a file",
        '- "right": all frames, every pixel as that decoder gives it from the whole file. "checked", "strict": with the checks of'
        " ecgecho.io around the library; without: the library as its users call it",
        "",
        "| decoder | " + " | ".join(OUTCOMES) + " | wrong without a word | s for all |",
        "|---|" + "---|" * (len(OUTCOMES) + 2),
    ]
    for name in names:
        total = sum(tally[name].values(), Counter())
        silent = total["fewer or more frames"] + total["other pixels"]
        share = f"{100 * silent / len(trials):.0f} %"
        text.append(f"| {name} | " + " | ".join(str(total[o]) for o in OUTCOMES) + f" | {silent} ({share}) | {spent[name]:.0f} |")
    text += ["", "Wrong without a word (too few frames, or other pixels), by kind of damage:", ""]
    text += ["| damage | files | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for kind in kinds:
        row = [tally[name][kind]["fewer or more frames"] + tally[name][kind]["other pixels"] for name in names]
        text.append(f"| {kind} | {sum(tally[names[0]][kind].values())} | " + " | ".join(map(str, row)) + " |")
    text += ["", "The same, by file:", "", "| file | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for file in good:
        row = [by_file[name][file]["fewer or more frames"] + by_file[name][file]["other pixels"] for name in names]
        text.append(f"| {file} | " + " | ".join(map(str, row)) + " |")
    text += [
        "",
        f"Whole files, {LARGE_FRAMES} frames of {LARGE[0]} x {LARGE[1]}, the quickest of {REPEATS} reads in a process of its"
        " own, told to use one thread: frames for each second of processor time (all threads together; wall time says more of"
        " other work on the machine), and in brackets the peak of memory above the imports, in MB"
        f" (the frames themselves are {LARGE_FRAMES * LARGE[0] * LARGE[1] * 3 / 2**20:.0f} MB).",
        "",
        "| file | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for file in list(large)[:4]:
        cells = [f"{speeds[name, file].frames_per_s:.0f} ({speeds[name, file].memory_mb:.0f})" for name in names]
        text.append(f"| {file} | " + " | ".join(cells) + " |")
    text += ["", "Greatest difference of a pixel from PyAV's, over the five small whole files:", ""]
    text += [", ".join(f"{name} {value}" for name, value in agree.items()) + ".", ""]
    text += ["Frame times of an MP4 whose frames lie 20, 33 and 47 ms apart by turns, greatest error in ms:", ""]
    text += [", ".join(f"{name} {value:.2f}" for name, value in times.items()) + "."]
    out.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


def time_errors(folder: Path, frames: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    wanted = [0, *np.cumsum([(20, 33, 47)[number % 3] for number in range(SMALL_FRAMES - 1)]).tolist()]
    path = folder / "uneven.mp4"
    with_h264(path, frames, index_first=False, times_ms=wanted)
    found = {name: times_of(name, str(path)) for name in ("decord", "PyAV, strict", "torchcodec", "OpenCV") if name in names}
    return {
        name: float(np.abs(times - wanted).max()) if times is not None and len(times) == len(wanted) else float("nan")
        for name, times in found.items()
    }


def one(results: Iterator[tuple[int, Done[Any] | ItemFailure]]) -> Any:
    _, result = next(results)
    results.close()  # type: ignore[attr-defined]
    assert isinstance(result, Done), result
    return result.value


# --- jpeg


@dataclass(frozen=True)
class Seen:
    """One clip by one way of decoding."""

    read_ms: float
    """A frame, processor time."""
    all_ms: float
    """A frame, with the sector's mask, blanking and the teacher's preparation."""
    shape: tuple[int, int]
    mask: np.ndarray
    kept: np.ndarray
    """(H, W) share of coloured pixels left over."""
    coloured: float
    vector: np.ndarray
    prepared: np.ndarray
    defects: tuple[str, ...]


@dataclass(frozen=True)
class Way:
    name: str
    decode: str
    least: int
    own_sector: bool = True
    """False: the sector found on the full picture, so that only the pixels differ."""


WAYS = (
    Way("full", "full", 0),
    Way("dct, at least 280", "dct", 280),
    Way("the same, sector of the full picture", "dct", 280, own_sector=False),
    Way("dct, at least 112", "dct", 112),
    Way("the same, sector of the full picture ", "dct", 112, own_sector=False),
)
"""280 lines are 5/4 of what a teacher of 224 is fed, as `cache-echo --decode dct` asks for; 112 is all that the demo teacher is
fed (cache-echo asks for 140, which gives the same of 708 lines, and the full picture of 240)."""
HEARTS, JPEG_FRAMES = 6, 24
COLOURED = 24
"""Greatest minus least channel of a pixel that is certainly drawn; grey speckle after JPEG stays below 15."""


def jpeg(out: Path) -> None:
    import torch
    from pydicom.data import get_testdata_file

    from ecgecho.teachers import demo

    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    teacher = demo.build(demo.Config())
    table: dict[str, list[tuple[str, dict[str, Seen]]]] = {"simulated": [], "real": []}
    with tempfile.TemporaryDirectory() as folder:
        for heart_number in range(HEARTS):
            heart = draw_heart(stream(SEED, heart_number, "heart"), enrich=True)
            for number, view in enumerate(VIEWS):
                rng = stream(SEED, heart_number, "echo", number)
                made = draw(heart, shoot(heart, view, rng, frames=JPEG_FRAMES, size=LARGE), rng)
                path = Path(folder) / "clip.dcm"
                when = datetime.datetime(2150, 1, 1)
                write.dicom(path, made, subject_id=heart_number, study_id=heart_number, instance=number, time=when)
                table["simulated"].append((view, ways(path, teacher)))
        simulated_codes = write.jpegs(made.frames)
    real = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    table["real"].append(("real", ways(real, teacher)))
    clips = len(table["simulated"])
    text = [
        "# JPEG frames in full and DCT-scaled",
        "",
        *head(out, "jpeg", load),
        f"- OpenCV {cv2.__version__}, Pillow {version('pillow')}, pydicom {version('pydicom')}",
        f"- simulated: {clips} cines of {HEARTS} hearts in {len(VIEWS)} views, {JPEG_FRAMES} frames of {LARGE[0]} x {LARGE[1]},"
        " JPEG baseline 4:2:2 of quality 88 with burned-in text and trace. Real: the one cine that pydicom ships, 30 frames of"
        " 240 x 320, which with at least 280 lines is decoded in full",
        "- the teacher is the demo one (112 x 112, 64 dimensions, trained on simulated cines): other teachers' distances differ",
        "- times: processor time of one thread",
        "",
    ]
    for kind, rows in table.items():
        text += [f"## {kind.capitalize()} ({len(rows)} {'cine' if len(rows) == 1 else 'cines'})", ""]
        text += jpeg_table(rows)
        text.append("")
    text += neighbours(table["simulated"])
    text += [
        "",
        "## Who scales: ms a frame, one thread",
        "",
        "| frame | by | full | 1/2 | 1/4 | 1/8 |",
        "|---|---|---|---|---|---|",
    ]
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    real_codes = list(generate_frames(dcmread(real).PixelData))
    for name, codes in ((f"simulated {LARGE[0]} x {LARGE[1]}", simulated_codes), ("real 240 x 320", real_codes)):
        for by, decode in (("Pillow, draft mode", by_pillow), ("OpenCV, IMREAD_REDUCED", by_reduced)):
            spent = [f"{frame_ms(decode, codes, scale):.2f}" for scale in (1, 2, 4, 8)]
            text.append(f"| {name} | {by} | " + " | ".join(spent) + " |")
        equal = all(np.array_equal(by_pillow(code, s), by_reduced(code, s)) for code in codes[:8] for s in (1, 2, 4, 8))
        text.append(f"| {name} | both give the same pixels: {'yes' if equal else 'no'} | | | | |")
    out.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


def ways(path: Path, teacher: Any) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    for way in WAYS:
        found[way.name] = seen(path, way, teacher, None if way.own_sector else found["full"].mask)
    return found


def seen(path: Path, way: Way, teacher: Any, full_mask: np.ndarray | None) -> Seen:
    import torch

    from ecgecho.echo.moments import moments
    from ecgecho.echo.sector import Sector, blank, find_sector
    from ecgecho.teachers import demo

    read_s, all_s = [], []
    for _ in range(2):
        start = time.process_time()
        clip = read_echo(path, decode=way.decode, least=way.least)  # type: ignore[arg-type]
        read_s.append(time.process_time() - start)
        sector = find_sector(clip)
        if full_mask is not None:
            sector = Sector(mask=shrunk(full_mask, clip.frames.shape[1:3]), source=sector.source, defects=sector.defects)
        frames = blank(clip.frames, sector, clip.kind)
        prepared = demo.prepare(teacher.spec, frames, clip.frame_time_ms).values
        all_s.append(time.process_time() - start)
    vectors = teacher.forward(torch.from_numpy(prepared)).pooled.numpy()
    spread = (frames.max(axis=3) - frames.min(axis=3)).max(axis=0)
    return Seen(
        read_ms=1000 * min(read_s) / len(frames),
        all_ms=1000 * min(all_s) / len(frames),
        shape=(frames.shape[1], frames.shape[2]),
        mask=sector.mask,
        kept=frames.any(axis=(0, 3)),
        coloured=float((spread > COLOURED).mean()),
        vector=moments(vectors, teacher.spec.frame_norm)[0],
        prepared=prepared,
        defects=(*clip.defects, *sector.defects),
    )


def jpeg_table(rows: list[tuple[str, dict[str, Seen]]]) -> list[str]:
    columns = (
        "decoding",
        "picture",
        "read, ms a frame",
        "all before the teacher, ms a frame",
        "cosine distance to full: median, greatest",
        "prepared frames differ by, grey levels",
        "sector: IoU with full's, median, least",
        "kept after blanking, % of picture",
        "coloured pixels left, % of picture, mean, greatest",
        "other defects than full",
    )
    text = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for way in WAYS:
        found = [clip[way.name] for _, clip in rows]
        full = [clip["full"] for _, clip in rows]
        distance = [1 - cosine(a.vector, b.vector) for a, b in zip(found, full, strict=True)]
        overlap = [iou(a.mask, b.mask) for a, b in zip(found, full, strict=True)]
        level = [np.abs(a.prepared.astype(int) - b.prepared).mean() for a, b in zip(found, full, strict=True)]
        other = sum(a.defects != b.defects for a, b in zip(found, full, strict=True))
        cells = (
            way.name.strip(),
            f"{found[0].shape[0]} x {found[0].shape[1]}",
            f"{np.median([a.read_ms for a in found]):.2f}",
            f"{np.median([a.all_ms for a in found]):.2f}" if way.own_sector else "-",
            f"{np.median(distance):.1e}, {max(distance):.1e}",
            f"{np.mean(level):.2f}",
            f"{np.median(overlap):.3f}, {min(overlap):.3f}",
            f"{100 * np.mean([a.kept.mean() for a in found]):.1f}",
            f"{100 * np.mean([a.coloured for a in found]):.3f}, {100 * max(a.coloured for a in found):.3f}",
            str(other),
        )
        text.append("| " + " | ".join(cells) + " |")
    return text


def neighbours(rows: list[tuple[str, dict[str, Seen]]]) -> list[str]:
    """How far apart clips lie that are not the same, for scale."""
    by_view: dict[str, list[np.ndarray]] = defaultdict(list)
    for view, clip in rows:
        by_view[view].append(clip["full"].vector)
    apart = [1 - cosine(a, b) for vectors in by_view.values() for i, a in enumerate(vectors) for b in vectors[:i]]
    return [
        f"For scale: two different hearts in the same view, both decoded in full, lie {np.median(apart):.1e} apart (median),"
        f" the nearest two {min(apart):.1e}."
    ]


def shrunk(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of a picture with fewer pixels: those of which half is kept."""
    scale = -(-mask.shape[0] // shape[0])
    padded = np.zeros((shape[0] * scale, shape[1] * scale), np.bool_)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return padded.reshape(shape[0], scale, shape[1], scale).mean(axis=(1, 3)) >= 0.5


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def iou(small: np.ndarray, full: np.ndarray) -> float:
    """Of a mask and one of a larger picture."""
    scale = -(-full.shape[0] // small.shape[0])
    large = small.repeat(scale, axis=0).repeat(scale, axis=1)[: full.shape[0], : full.shape[1]]
    return float((large & full).sum() / (large | full).sum())


def by_pillow(code: bytes, scale: int) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(code), formats=("JPEG",)) as image:
        if scale > 1:
            image.draft(None, (image.size[0] // scale, image.size[1] // scale))
        return np.asarray(image)


def by_reduced(code: bytes, scale: int) -> np.ndarray:
    flags = {1: cv2.IMREAD_COLOR_BGR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    return np.asarray(cv2.cvtColor(cv2.imdecode(np.frombuffer(code, np.uint8), flags[scale]), cv2.COLOR_BGR2RGB))


def frame_ms(decode: Callable[[bytes, int], np.ndarray], codes: Sequence[bytes], scale: int) -> float:
    spent = []
    for _ in range(5):
        start = time.process_time()
        for code in codes:
            decode(code, scale)
        spent.append((time.process_time() - start) / len(codes))
    return 1000 * min(spent)


# --- leak: does the mask of a smaller picture hide the ECG as well?


LEAK_RUNS = (
    *(
        (name, (708, 1016), 280, 20_261)
        for name in ("first layout", "second layout, no region", "third layout, wrong colour tag")
    ),
    *((name, (360, 480), 180, 20_261) for name in ("first layout", "second layout, no region", "third layout, wrong colour tag")),
    *(("first layout", (360, 480), 180, seed) for seed in (7, 8, 9)),
)
"""Layout, picture, least lines, seed. The simulator's lines are 2 pixels thick at 708 lines and 1 at 360."""


def leak(out: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "echo"))
    import test_mask_control as control

    load = os.getloadavg()[0]
    text = [
        "# The control of the sector's mask, in full and DCT-scaled",
        "",
        *head(out, "leak", load),
        f"- in each line {control.SUBJECTS} simulated subjects, 12 frames each, decoded in full and at 1/2. The true sector is"
        " blanked; a ridge, cross-validated by subject, reads the heart rate and the phase of the beat from what surrounds it,"
        " before and after the mask (tests/echo/test_mask_control.py). R2, and in brackets the 99th percentile of"
        f" {control.PERMUTATIONS} permutations of the subjects: chance. Of {2 * len(LEAK_RUNS)} lines of three masked columns"
        f" each, {2 * len(LEAK_RUNS) * 3 / 100:.1f} lie above it by chance",
        "",
        "| picture | layout | seed | decoding | heart rate, unmasked | masked | by the mask's shape | phase, unmasked | masked |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, size, least, seed in LEAK_RUNS:
        layout, quirks, _ = control.KINDS[name]
        views = [around(control, (seed, subject), layout, quirks, size, least) for subject in range(control.SUBJECTS)]
        for decode in ("full", "dct"):
            bare, masked, shape = (np.array([view[decode][i] for view in views]) for i in range(3))
            phase = np.array([view["truth"][0] for view in views])
            rate = np.array([view["truth"][1] for view in views])[:, None, None]
            scores = [
                control.ridge_and_chance(features, target)
                for features, target in (
                    (bare.mean(axis=1, keepdims=True), rate),
                    (masked.mean(axis=1, keepdims=True), rate),
                    (shape, rate),
                    (bare, phase),
                    (masked, phase),
                )
            ]
            cells = [f"{score:.2f} ({np.quantile(chance, 0.99):.2f})" for score, chance in scores]
            text.append(f"| {size[0]} x {size[1]} | {name} | {seed} | {decode} | " + " | ".join(cells) + " |")
            print(text[-1], flush=True)
    out.write_text("\n".join(text) + "\n", encoding="utf-8")


def around(control: Any, who: tuple[int, int], layout: int, quirks: Any, size: tuple[int, int], least: int) -> dict[str, Any]:
    """Of one subject, by decoding: unmasked and masked surroundings, the mask's shape; and the beat's phase, the heart rate."""
    from ecgecho.echo.sector import blank, coloured_boxes, find_sector

    heart = draw_heart(stream(*who, "heart"), enrich=False)
    rng = stream(*who, "echo")
    shot = shoot(heart, VIEWS[who[1] % len(VIEWS)], rng, frames=12, size=size)
    made = draw(heart, dataclasses.replace(shot, layout=layout), rng)
    chosen = np.linspace(0, 11, control.FRAMES_USED).round().astype(int)
    last = np.searchsorted(shot.beats_s, shot.time_s[chosen], side="right") - 1
    angle = 2 * np.pi * (shot.time_s[chosen] - shot.beats_s[last]) / (shot.beats_s[last + 1] - shot.beats_s[last])
    found: dict[str, Any] = {"truth": (np.stack([np.cos(angle), np.sin(angle)], axis=-1), shot.hr_bpm)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.dcm"
        when = datetime.datetime(2150, 1, 1)
        write.dicom(path, made, subject_id=who[1], study_id=who[1], instance=1, time=when, quirks=quirks)
        clips = {"full": read_echo(path), "dct": read_echo(path, decode="dct", least=least)}
    for decode, clip in clips.items():
        scale = size[0] // clip.frames.shape[1]
        assert scale == {"full": 1, "dct": 2}[decode]
        outside = np.ones(clip.frames.shape[1:3], np.uint8)
        polygon = (shot.geometry.polygon() + 0.5) / scale - 0.5
        cv2.fillPoly(outside, [polygon.round().astype(np.int32)], 0)
        sector = find_sector(clip)
        masked = blank(clip.frames, sector, clip.kind)
        kept = sector.mask & ~coloured_boxes(clip.frames, sector.mask)
        found[decode] = (
            [control._small(frame * outside[..., None]) for frame in clip.frames[chosen]],
            [control._small(frame * outside[..., None]) for frame in masked[chosen]],
            [control._small(255.0 * kept)],
        )
    return found


# --- flips: damage inside the JPEG frames of a DICOM file


def flips(out: Path) -> None:
    load = os.getloadavg()[0]
    heart = draw_heart(stream(SEED, 0, "heart"), enrich=False)
    rng = stream(SEED, 0, "echo")
    made = draw(heart, shoot(heart, VIEWS[0], rng, frames=6, size=(240, 320)), rng)
    tally: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    readers: dict[str, Callable[[Path], np.ndarray]] = {
        "Pillow (libjpeg)": frames_by_pillow,
        "FFmpeg, strict": frames_by_ffmpeg,
        "read_echo, full": lambda path: read_echo(path).frames,
        "read_echo, dct": lambda path: read_echo(path, decode="dct", least=112).frames,
    }
    random = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.dcm"
        write.dicom(path, made, subject_id=0, study_id=0, instance=0, time=datetime.datetime(2150, 1, 1))
        data = path.read_bytes()
        begin = data.index(b"\xe0\x7f\x10\x00") + 12
        truth = {name: read(path) for name, read in readers.items()}
        for number in range(300):
            count = (1, 20)[number % 2]
            path.write_bytes(changed(data, random.integers(begin, len(data), size=count), random))
            for name, read in readers.items():
                try:
                    frames = read(path)
                except Exception:
                    tally[name, count]["error"] += 1
                    continue
                same = frames.shape == truth[name].shape and np.array_equal(frames, truth[name])
                tally[name, count]["right" if same else "other pixels"] += 1
    text = [
        "# Damage inside the JPEG frames of a DICOM file",
        "",
        *head(out, "flips", load),
        "- a simulated cine of 6 frames of 240 x 320; 150 times one byte of the pixel data changed, 150 times twenty",
        "- read_echo: each frame first through FFmpeg at an eighth of its size, which must not refuse it, then through Pillow",
        "",
        "| reader | bytes | right | error | other pixels without a word |",
        "|---|---|---|---|---|",
    ]
    for (name, count), found in tally.items():
        text.append(f"| {name} | {count} | {found['right']} | {found['error']} | {found['other pixels']} |")
    out.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


def frames_by_pillow(path: Path) -> np.ndarray:
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    return np.stack([by_pillow(code, 1) for code in generate_frames(dcmread(path).PixelData)])


def frames_by_ffmpeg(path: Path) -> np.ndarray:
    """FFmpeg's own JPEG decoder, told to refuse damage."""
    import av
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    frames = []
    for code in generate_frames(dcmread(path).PixelData):
        decoder = av.CodecContext.create("mjpeg", "r")
        decoder.options = {"err_detect": "explode", "threads": "1"}
        pictures = [*decoder.decode(av.Packet(code)), *decoder.decode(None)]
        if len(pictures) != 1 or pictures[0].is_corrupt:
            raise ValueError("damaged")
        frames.append(pictures[0].to_ndarray(format="rgb24"))
    return np.stack(frames)


# --- nvjpeg: ready for a machine with a GPU; it has never run on one


def nvjpeg(out: Path) -> None:
    import torch

    from ecgecho.io.nvjpeg import decode_jpegs_on
    from ecgecho.teachers import demo

    load = os.getloadavg()[0]
    frames = picture_frames(LARGE_FRAMES, LARGE)
    codes = write.jpegs(frames)
    decode_jpegs_on("cuda", codes)  # the first one pays for nvJPEG's memory; a UserError where there is no GPU
    exact = np.stack([by_pillow(code, 1) for code in codes])
    text = ["# Batched nvJPEG", "", *head(out, "nvjpeg", load), f"- GPU: {torch.cuda.get_device_name()}", ""]
    text += ["| batch | frames/s |", "|---|---|"]
    for batch in (1, 8, 16, 48):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(REPEATS):
            decode_jpegs_on("cuda", codes, batch=batch)
        torch.cuda.synchronize()
        text.append(f"| {batch} | {REPEATS * len(codes) / (time.perf_counter() - start):.0f} |")
    start = time.perf_counter()
    for code in codes:
        by_pillow(code, 1)
    text.append(f"| one core, Pillow | {len(codes) / (time.perf_counter() - start):.0f} |")
    found = decode_jpegs_on("cuda", codes).permute(0, 2, 3, 1).cpu().numpy()
    difference = np.abs(found.astype(int) - exact)
    teacher = demo.build(demo.Config())
    ready = [demo.prepare(teacher.spec, f, np.zeros(len(f), np.float32)).values for f in (found, exact)]
    vectors = [teacher.forward(torch.from_numpy(values)).pooled.numpy().mean(0) for values in ready]
    text += [
        "",
        f"Pixels differ from the CPU's by {difference.mean():.3f} grey levels on average, {difference.max()} at most; the demo"
        f" teacher's vectors, of frames with nothing blanked, lie {1 - cosine(*vectors):.1e} apart (cosine distance).",
    ]
    out.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


# --- what every result says of itself


def version(package: str) -> str:
    return importlib.metadata.version(package)


def head(out: Path, command: str, load: float) -> list[str]:
    words = shlex.join(["python", "benchmarks/decoders.py", command, "--out", f"benchmarks/results/{out.name}"])
    return [
        f"- machine: {os.cpu_count()} cores of {processor()}, no GPU, Python {platform.python_version()}",
        f"- date: {datetime.date.today()}, commit {commit()}",
        f"- command: `{words}`",
        f"- load of the machine at the start: {load:.1f}",
    ]


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("video", "jpeg", "leak", "flips", "nvjpeg"))
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    cv2.setNumThreads(1)
    {"video": video, "jpeg": jpeg, "leak": leak, "flips": flips, "nvjpeg": nvjpeg}[words.what](words.out)


if __name__ == "__main__":
    main()
