"""What comes of damaged DICOM cines, by transfer syntax: refused, right, wrong without a word, process lost?

    python benchmarks/dicom_damage.py --out benchmarks/results/dicom_damage_YYYYMM.md

Small simulated pictures, coded by the tests' own encoders (tests/io/test_dicom_syntaxes.py). Damage lies in the pixels only.
Every file is read in a process that can be killed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import PIL

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "io"))
import test_dicom_syntaxes as made
from make_cine import dataset, jpeg, pictures, save

from ecgecho.io import read_echo
from ecgecho.io.workers import Done, ItemFailure, run_bounded

FRAMES = pictures(8, 96, 128)
TIMEOUT_S, MEMORY = 20.0, 2 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mutants", type=int, default=60, help="of each kind of damage")
    words = parser.parse_args()
    load = os.getloadavg()[0]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files(Path(folder)):
            lines.append(row(name, path, words.mutants))
            print(lines[-1], flush=True)
    head = [
        "# Damaged DICOM cines, by transfer syntax",
        "",
        f"- machine: 2 cores, no GPU, {platform.processor() or platform.machine()} (AMD EPYC), load {load:.1f};"
        f" PyAV {av.__version__}, Pillow {PIL.__version__}, Python {platform.python_version()}",
        f"- date: {datetime.date.today()}, commit {commit()}",
        f"- command: `python {' '.join(sys.argv)}`",
        f"- {len(FRAMES)} simulated pictures of {FRAMES.shape[1]} x {FRAMES.shape[2]}; {words.mutants} files with one changed"
        f" byte of the pixels, {words.mutants} with twenty, {words.mutants // 2} cut; one process, at most {TIMEOUT_S:g} s and"
        f" {MEMORY >> 30} GiB a file",
        "- wrong: a clip of the right length with other pixels than the whole file's, and no error",
        "",
        "| syntax | files | refused | right | wrong: one byte, twenty, cut | fewer frames | process lost or too slow |",
        "|---|---|---|---|---|---|---|",
    ]
    words.out.write_text("\n".join([*head, *lines, ""]), encoding="utf-8")


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    rgb = dataset(8, 96, 128, photometric="RGB")
    path = folder / "whole.dcm"
    yield "JPEG baseline", save(path, dataset(8, 96, 128), [jpeg(frame) for frame in FRAMES])
    for name, (syntax, code) in made.CODERS.items():
        yield name, save(path, rgb, [code(frame) for frame in FRAMES], syntax)
    yield "JPEG 2000, lossy", save(path, rgb, [made.j2k(frame, lossy=True) for frame in FRAMES], made.JPEG2000Lossless)
    yield "deflated", made.native(path, rgb, FRAMES.tobytes(), made.DeflatedExplicitVRLittleEndian)
    for name, (syntax, codec, container) in made.STREAMS.items():
        ds = dataset(8, 96, 128, photometric="YBR_PARTIAL_420")
        yield name, save(path, ds, [made.encoded(FRAMES, codec, container)], syntax)


def row(name: str, path: Path, number: int) -> str:
    data, whole = path.read_bytes(), read_echo(path).frames
    random = np.random.default_rng(5)
    begin = len(data) // 20 if name == "deflated" else data.index(b"\xe0\x7f\x10\x00") + 12
    trials: list[tuple[str, Path]] = []
    for kind, count in (("one", number), ("twenty", number), ("cut", number // 2)):
        for i in range(count):
            bad = bytearray(data)
            for _ in range({"one": 1, "twenty": 20, "cut": 0}[kind]):
                bad[random.integers(begin, len(bad))] ^= int(random.integers(1, 256))
            if kind == "cut":
                bad = bad[: random.integers(begin, len(bad))]
            trials.append((kind, path.with_name(f"{kind}_{i}.dcm")))
            trials[-1][1].write_bytes(bad)
    tally: Counter[str] = Counter()
    for position, result in run_bounded(read_echo, [p for _, p in trials], workers=1, timeout_s=TIMEOUT_S, memory_bytes=MEMORY):
        kind = trials[position][0]
        if isinstance(result, ItemFailure):
            lost = result.code in ("decoder_died", "timeout", "out_of_memory", "unexpected_error")
            tally[f"lost: {result.code}" if lost else "refused"] += 1
        else:
            assert isinstance(result, Done)
            frames = result.value.frames
            if frames.shape != whole.shape:
                tally["fewer"] += 1
            else:
                tally["right" if (frames == whole).all() else kind] += 1
    lost = ", ".join(f"{code.split(': ')[1]} {count}" for code, count in tally.items() if code.startswith("lost")) or "0"
    wrong = ", ".join(str(tally[kind]) for kind in ("one", "twenty", "cut"))
    return f"| {name} | {len(trials)} | {tally['refused']} | {tally['right']} | {wrong} | {tally['fewer']} | {lost} |"


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
