"""Damage of every kind, to a small file of every kind that is read: what a mutant is, and what became of it.

Used by tests/io/test_mutants.py (a few of each) and benchmarks/mutants.py (ten thousand). A mutant is a seed file and a number;
it is made in the worker that reads it, so nothing but names travels.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
for _folder in ("io", "datasets", ""):
    if str(HERE / _folder) not in sys.path:
        sys.path.append(str(HERE / _folder))

from ecgecho.io.workers import Done, ItemFailure, run_bounded  # noqa: E402
from ecgecho.types import EcgSource, ItemError, UserError  # noqa: E402

TIMEOUT_S = 20.0
MEMORY_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Task:
    """One mutant: the folder of the seeds, the seed's kind, and the mutant's number."""

    seeds: str
    kind: str
    number: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutant."""

    kind: str
    number: int
    result: str
    """accepted, or the code of the row; a code of the pool (timeout, decoder_died, ...) begins with an exclamation mark."""
    seconds: float
    message: str = ""


def write_seeds(folder: Path) -> dict[str, Path]:
    """Small sound files of every kind, one folder a kind, the file to be damaged first by name where several belong together."""
    made: dict[str, Path] = {}

    def place(kind: str) -> Path:
        made[kind] = folder / kind.replace(" ", "_")
        made[kind].mkdir(parents=True)
        return made[kind]

    _write_ecgs(place)
    _write_echos(place)
    _write_tables(place)
    return made


def damage(data: bytes, number: int) -> bytes:
    """The mutant of a number: cut, flipped, filled, doubled, swapped, with lengths that lie; half of them in the header."""
    rng = np.random.default_rng([number, len(data)])
    made = bytearray(data)
    span = min(len(data), 1024) if rng.random() < 0.5 else len(data)

    def spot(room: int = 1) -> int:
        return int(rng.integers(max(span - room, 1)))

    match number % 9:
        case 0:
            del made[spot() :]
        case 1:
            for _ in range(int(rng.integers(1, 33))):
                at = spot()
                made[at] ^= 1 << int(rng.integers(8))
        case 2:
            at = spot()
            made[at : at + int(rng.integers(1, 257))] = bytes([int(rng.choice([0, 255, 32, 48]))]) * int(rng.integers(1, 257))
        case 3:  # a length, a count, an offset
            width = int(rng.choice([2, 4, 8]))
            at = spot(width)
            low, high = -(1 << (8 * width - 1)), (1 << (8 * width - 1)) - 1
            value = int(rng.choice([low, high, -1, 0, 1, *([len(data), len(data) - 1, 65_536, high // 2] if width > 2 else [])]))
            made[at : at + width] = (value & ((1 << (8 * width)) - 1)).to_bytes(width, str(rng.choice(["little", "big"])))
        case 4:  # two fields change places
            size = int(rng.integers(1, 65))
            one, two = spot(size), spot(size)
            first, second = bytes(made[one : one + size]), bytes(made[two : two + size])
            made[one : one + len(second)] = second
            made[two : two + len(first)] = first
        case 5:
            at, size = spot(), int(rng.integers(1, 1025))
            made[at:at] = made[at : at + size] * int(rng.integers(1, 5))
        case 6:
            made += rng.integers(0, 256, int(rng.integers(1, 4097)), np.uint8).tobytes()
        case 7:  # a digit of a number in words, or a line that is doubled or lost
            digits = [place for place, byte in enumerate(made[:span]) if 48 <= byte <= 57]
            if digits:
                at = int(rng.choice(digits))
                words = [b"-1", b"999999999999", b"1e308", b"nan", b"", b"0", b"0x10", b"1,5", b"\xff"]
                made[at : at + 1] = words[int(rng.integers(len(words)))]
        case _:
            lines = bytes(made).split(b"\n")
            at = int(rng.integers(len(lines)))
            lines[at : at + 1] = [[], [lines[at]] * 2, [lines[at][::-1]], [lines[at][: len(lines[at]) // 2]]][
                int(rng.integers(4))
            ]
            made = bytearray(b"\n".join(lines))
    return bytes(made)


def read_mutant(task: Task) -> float:
    """Reads one mutant as a job would; seconds. ItemError where it is refused, whatever the reader found wrong."""
    seed = Path(task.seeds) / task.kind.replace(" ", "_")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as place:
        copy = Path(place, "m")
        shutil.copytree(seed, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name != "kind")
        chosen = files[task.number % len(files)]
        data = chosen.read_bytes()
        if chosen.suffix == ".gz" and task.number % 2:  # inside the packing, too
            chosen.write_bytes(gzip.compress(damage(gzip.decompress(data), task.number), 1))
        else:
            chosen.write_bytes(damage(data, task.number))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                _read(task.kind, copy)
            except UserError as error:
                if not str(error).strip():
                    raise AssertionError("a refusal without a word") from error
                raise ItemError("refused", str(error)) from error
    return time.monotonic() - began


def run(kinds: Sequence[str], seeds: Path, each: int, *, workers: int, first: int = 0) -> Iterator[Outcome]:
    """The outcome of `each` mutants of every kind, in no order."""
    tasks = [Task(str(seeds), kind, number) for number in range(first, first + each) for kind in kinds]
    for index, result in run_bounded(read_mutant, tasks, workers=workers, timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES):
        task = tasks[index]
        if isinstance(result, Done):
            yield Outcome(task.kind, task.number, "accepted", result.value)
        else:
            assert isinstance(result, ItemFailure)
            pool = result.code in ("timeout", "decoder_died", "out_of_memory", "unexpected_error")
            yield Outcome(task.kind, task.number, f"{'!' if pool else ''}{result.code}", 0.0, result.message)


def tally(outcomes: Sequence[Outcome]) -> dict[str, Counter[str]]:
    """By kind: accepted, refused (by a code or a sentence), and what the pool had to end."""
    table: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        word = outcome.result if outcome.result.startswith("!") or outcome.result == "accepted" else "refused"
        table.setdefault(outcome.kind, Counter())[word] += 1
    return table


def _read(kind: str, copy: Path) -> None:
    from ecgecho.io import read_ecg, read_echo, scan_echo

    what, _, name = kind.partition(" ")
    if what == "ecg":
        source = EcgSource(row=1, fs_hz=400.0, unit="mv", leads=LEADS) if name == "code15" else None
        if name in ("npy", "csv"):
            source = EcgSource(fs_hz=500.0, unit="mv", leads=LEADS)
        record = read_ecg(_first(copy), source)
        assert np.isfinite(record.signal[record.lead_valid]).all()
    elif what == "echo":
        path = _first(copy)
        with contextlib.suppress(ItemError):
            scan_echo(path)
        clip = read_echo(path)
        assert clip.frames.ndim == 4
        assert np.isfinite(clip.frame_time_ms).all()
    elif what == "index":
        from ecgecho import plugins
        from ecgecho.catalog import IndexOptions

        module = plugins.load("datasets", name)
        module.build(module.Config()).index(copy, copy.parent / "cat", options=IndexOptions(workers=0))
    elif kind == "catalog parquet":
        from ecgecho import catalog

        found = catalog.read(copy)
        for table in catalog.SCHEMAS:
            found.table(table)
        assert found.labels.num_rows >= 0
        assert found.texts.num_rows >= 0
    else:
        raise AssertionError(kind)


LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def _first(folder: Path) -> Path:
    """The file that is opened: a header before its samples."""
    files = sorted(folder.iterdir())
    heads = [path for path in files if path.suffix == ".hea"]
    return heads[0] if heads else files[0]


def _write_ecgs(place) -> None:
    import h5py
    import make_ecg_files as make
    from snomed_tree import write_record

    eight, twelve = make.counts_of(num_samples=200), make.counts_of(make.TWELVE, num_samples=200)
    beat = {lead: values[:40] for lead, values in make.counts_of(seed=5).items()}
    buffer = io.BytesIO()
    make.dicom(buffer, make.dicom_group(twelve))
    files = {
        "muse.xml": make.muse(make.muse_waveform("Rhythm", eight)),
        "sierra.xml": make.sierra(twelve),
        "aecg.xml": make.aecg(make.aecg_series(twelve)),
        "cardiosoft.xml": make.cardiosoft(twelve),
        "scp.scp": make.scp(eight, beat=(15, 5000, beat), qrs=[(0, 30, 50, 70)]),
        "scp_without_crc.scp": make.scp(eight, beat=(15, 5000, beat), qrs=[(0, 30, 50, 70)], crc=0),
        "edf.edf": make.edf([(lead, "uV", "-16384", "16383.5", 100, values) for lead, values in eight.items()]),
        "ishne.ecg": make.ishne({lead: twelve[lead] for lead in ("V1", "V5")}, crc=0),
        "dicom.dcm": buffer.getvalue(),
    }
    for name, data in files.items():
        stem = name.partition(".")[0]
        (place(f"ecg {stem}") / name).write_bytes(data)
    rng = np.random.default_rng(0)
    samples = rng.integers(-2000, 2000, (400, 12)).astype("<i2")
    wfdb = place("ecg wfdb")
    (wfdb / "r.dat").write_bytes(samples.tobytes())
    lines = [f"r.dat 16 200/mV 16 0 {samples[0, i]} {int(samples[:, i].sum()) % 65536} 0 {lead}" for i, lead in enumerate(LEADS)]
    (wfdb / "r.hea").write_text("\n".join(["r 12 500 400", *lines]) + "\n")
    format_212 = place("ecg wfdb212")
    pairs = rng.integers(-1500, 1500, 800)
    packed = bytearray()
    for one, two in zip(pairs[::2] & 0xFFF, pairs[1::2] & 0xFFF, strict=True):
        packed += bytes([one & 0xFF, (one >> 8) | ((two >> 8) << 4), two & 0xFF])
    (format_212 / "r.dat").write_bytes(bytes(packed))
    (format_212 / "r.hea").write_text("r 2 250 400\nr.dat 212 200/mV 12 0 0 0 0 I\nr.dat 212 200/mV 12 0 0 0 0 II\n")
    write_record(place("ecg mat"), "JS00001", num=400)
    np.save(place("ecg npy") / "a.npy", rng.normal(0, 1, (400, 12)).astype("<f4"))
    rows = [",".join(LEADS), *(",".join(f"{value:.3f}" for value in row) for row in rng.normal(0, 1, (300, 12)))]
    (place("ecg csv") / "a.csv").write_text("\n".join(rows) + "\n")
    with h5py.File(place("ecg code15") / "exams_part0.hdf5", "w") as file:
        file["exam_id"] = np.array([11, 12, 0])
        file["tracings"] = rng.normal(0, 1, (3, 512, 12)).astype("<f4")


def _write_echos(place) -> None:
    import make_cine
    import test_dicom_syntaxes as syntaxes
    from echo_trees import write_nifti
    from folder_tree import write_dicom, write_video

    frames = make_cine.pictures()
    write_dicom(place("echo native") / "a.dcm")
    make_cine.jpeg_cine(
        place("echo jpeg") / "a.dcm", frames, SequenceOfUltrasoundRegions=[make_cine.region(4, 4, 60, 44, cm=0.05)]
    )
    for name, (syntax, coder) in syntaxes.CODERS.items():
        if name == "bare":
            continue
        ds = make_cine.dataset(len(frames), *frames.shape[1:3], photometric="RGB")
        make_cine.save(place(f"echo {name.replace(' ', '-')}") / "a.dcm", ds, [_even(coder(frame)) for frame in frames], syntax)
    write_video(place("echo avi") / "a.avi", frames=6)
    _write_mp4(place("echo mp4") / "a.mp4", "h264", frames)
    for name, codec, syntax in (
        ("h264", "h264", "1.2.840.10008.1.2.4.102"),
        ("hevc", "hevc", "1.2.840.10008.1.2.4.107"),
        ("mpeg2", "mpeg2video", "1.2.840.10008.1.2.4.100"),
    ):
        data = _stream(codec, frames)
        ds = make_cine.dataset(len(frames), *frames.shape[1:3], photometric="YBR_PARTIAL_420")
        make_cine.save(place(f"echo {name}-in-dicom") / "a.dcm", ds, [_even(data)], syntax)
    write_nifti(place("echo nifti") / "a.nii.gz")


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


def _write_mp4(path: Path, codec: str, frames: np.ndarray) -> None:
    _encode(str(path), codec, frames, None)


def _stream(codec: str, frames: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    _encode(buffer, codec, frames, {"h264": "h264", "hevc": "hevc", "mpeg2video": "mpeg2video"}[codec])
    return buffer.getvalue()


def _encode(target, codec: str, frames: np.ndarray, container: str | None) -> None:
    import av

    names = {"h264": ("libx264", "h264"), "hevc": ("libx265", "hevc"), "mpeg2video": ("mpeg2video",)}[codec]
    name = next(word for word in names if word in av.codec.codecs_available)
    with av.open(target, "w", format=container) as out:
        stream = out.add_stream(name, rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)


def _write_tables(place) -> None:
    from test_datasets_conformance import TREES

    from ecgecho import plugins
    from ecgecho.catalog import IndexOptions

    for name, write in TREES.items():
        write(place(f"index {name}"))
    catalog = place("catalog parquet")
    with tempfile.TemporaryDirectory() as work:
        TREES["mimic_iv"](Path(work, "root"))
        module = plugins.load("datasets", "mimic_iv")
        module.build(module.Config()).index(Path(work, "root"), Path(work, "cat"), options=IndexOptions(workers=0))
        for file in Path(work, "cat").iterdir():
            shutil.copy(file, catalog / file.name)
