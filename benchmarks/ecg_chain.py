"""What does the chain of OTiS cost a recording, beside the published way, and how exact is it?

    python benchmarks/ecg_chain.py --out benchmarks/results/ecg_chain_YYYYMM.md

The published way is a sparse LU of each lead in each of five iterations, stated here anew. Recordings: s0010_re of the PTB
Diagnostic ECG Database (tests/data, ODC-By 1.0; 38.4 s), as three of 10 s at 500 Hz, and simulated ones where it says so. Times
are processor time of one process with one thread; the ways take turns, so that the load of the machine is theirs alike.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.linalg import solveh_banded
from scipy.linalg.lapack import dpbsv, spbsv
from scipy.sparse.linalg import spsolve

from ecgecho.ecg import baseline
from ecgecho.ecg.contract import LIMB, apply_contract
from ecgecho.ecg.filters import resample
from ecgecho.ecg.quantise import from_int16, to_int16
from ecgecho.ecg.vcg import EIGHT
from ecgecho.types import STANDARD_LEADS, EcgContract, EcgRecord

TESTS = Path(__file__).parents[1] / "tests"
LAMBDA, P, ITERATIONS = 1e7, 0.3, 5
OTIS = EcgContract(name="otis", fs_hz=500, num_samples=5000, chain="otis", least_samples=1008)
PLAIN = EcgContract(name="plain", fs_hz=500, num_samples=5000)
LOAD = f"{os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    lines = [
        "# The chain of OTiS over a recording: clip, asymmetric least squares, groups of leads",
        "",
        f"- machine: {platform.machine()}, {len(os.sched_getaffinity(0))} cores, no GPU; load before: {LOAD} (1 min)",
        f"- date: {datetime.date.today()}, commit {commit}",
        f"- command: `python benchmarks/ecg_chain.py{f' --out {args.out}' if args.out else ''}`",
        "",
        *speed(args.repeats),
        "",
        *lengths(),
        "",
        *exactness(),
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def recorded() -> np.ndarray:
    """(3, 12, 5000) mV at 500 Hz."""
    with np.load(TESTS / "data/ptb_s0010_re_steps.npz") as steps:
        raw = np.cumsum((steps["high"].astype(np.int16) << 8) + steps["low"], axis=1, dtype=np.int16) / 2000
    heart = dict(zip(EIGHT, raw, strict=False))
    heart |= {name: a * heart["I"] + b * heart["II"] for name, (a, b) in LIMB.items()}
    signal = resample(np.stack([heart[name] for name in STANDARD_LEADS]), 1000, 500)
    return np.stack([signal[:, k * 5000 : (k + 1) * 5000] for k in range(3)])


def simulated(num_samples: int, seed: int = 0) -> np.ndarray:
    """(12, L) mV: narrow waves, a wandering line, noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples) / 500
    line = 0.3 * np.sin(2 * np.pi * 0.25 * t + rng.uniform(0, 6, (12, 1)))
    waves = rng.uniform(-1, 2, (12, 1)) * np.exp(-np.square((t % 0.8 - 0.4) / 0.02))
    return waves + line + rng.normal(0, 0.02, (12, num_samples))


def published(values: np.ndarray) -> np.ndarray:
    """Lead by lead, a general sparse LU of every system."""
    length = values.shape[1]
    difference = sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, -1, -2], shape=(length, length - 2))
    penalty = (LAMBDA * (difference @ difference.T)).tocsc()
    result = np.empty_like(values)
    for row, lead in enumerate(values):
        weight = np.ones(length)
        for _ in range(ITERATIONS):
            line = spsolve((sparse.diags_array(weight, offsets=0) + penalty).tocsc(), weight * lead)
            weight = P * (lead > line) + (1 - P) * (lead < line)
        result[row] = line
    return result


def upper(values: np.ndarray) -> np.ndarray:
    """scipy's solveh_banded, upper bands."""
    length = values.shape[1]
    bands = baseline._penalty(length)
    penalty = np.zeros((3, length))
    penalty[2], penalty[1, 1:], penalty[0, 2:] = bands[0], bands[1, :-1], bands[2, :-2]
    result = np.empty_like(values)
    for row, lead in enumerate(values):
        weight = np.ones(length)
        for _ in range(ITERATIONS):
            system = penalty.copy()
            system[2] += weight
            line = solveh_banded(system, weight * lead, overwrite_ab=True, overwrite_b=True, check_finite=False)
            weight = np.where(lead > line, P, 1 - P)
        result[row] = line
    return result


def joined(values: np.ndarray) -> np.ndarray:
    """All leads as one long system, one call of LAPACK an iteration."""
    penalty = np.asfortranarray(np.concatenate([baseline._penalty(values.shape[1])] * len(values), axis=1))
    lead, weight = values.reshape(-1), np.ones(values.size)
    for _ in range(ITERATIONS):
        system = penalty.copy(order="F")
        system[0] += weight
        _, line, _ = dpbsv(system, weight * lead, lower=1, overwrite_ab=1)
        weight = np.where(lead > line, P, 1 - P)
    return line.reshape(values.shape)


def recursive(values: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """L D L^T sample by sample in Python, all leads side by side: the only way to longdouble, and to batches of recordings."""
    diagonal, first, second = baseline._penalty(values.shape[1]).astype(dtype)
    y = np.ascontiguousarray(values.T.astype(dtype))
    length, rows = y.shape
    weight = np.ones_like(y)
    d, low, lower, line = (np.zeros((length + 2, rows), dtype) for _ in range(4))
    for _ in range(ITERATIONS):
        right = weight * y
        for i in range(length):
            lower[i] = second[i - 2] / d[i - 2] if i >= 2 else 0
            low[i] = (first[i - 1] - lower[i] * d[i - 2] * low[i - 1]) / d[i - 1] if i >= 1 else 0
            d[i] = diagonal[i] + weight[i] - np.square(low[i]) * d[i - 1] - np.square(lower[i]) * d[i - 2]
            right[i] -= low[i] * right[i - 1] + lower[i] * right[i - 2] if i >= 2 else low[i] * right[0] if i else 0
        line[length:] = 0
        for i in range(length - 1, -1, -1):
            line[i] = right[i] / d[i] - low[i + 1] * line[i + 1] - lower[i + 2] * line[i + 2]
        low[length:] = lower[length:] = d[length:] = 0
        weight = np.where(y > line[:length], dtype(P), dtype(1 - P))
    return line[:length].T


def times(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Way -> least and median milliseconds; the ways take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.process_time()
            way()
            taken[name].append(1000 * (time.process_time() - began))
    return {name: (min(values), float(np.median(values))) for name, values in taken.items()}


def speed(repeats: int) -> list[str]:
    values = recorded()[0]
    clipped = baseline.clip(values)
    many = np.concatenate([simulated(5000, seed) for seed in range(64)])
    record = record_of(values)
    lines = [
        "## Times of one recording, 12 leads of 10 s at 500 Hz",
        "",
        f"Milliseconds of processor time, least and median of {repeats} (of 3 for the recursions), the ways in turn.",
        "",
        "| what | least | median | times the speed (least, median) |",
        "|---|---|---|---|",
    ]
    ways = {
        "baselines, the published way: sparse LU by lead": lambda: published(clipped),
        "baselines, ours: LAPACK dpbsv, lower bands, by lead": lambda: baseline.baseline(clipped),
        "the same through scipy's solveh_banded (upper bands)": lambda: upper(clipped),
        "the same, all leads as one long system": lambda: joined(clipped),
    }
    found = times(ways, repeats)
    for name, given, count in (("12 leads side by side", clipped, 1), ("64 recordings at once, a recording", many, 64)):
        least, median = times({name: lambda given=given: recursive(given)}, 3)[name]
        found[f"recursion in numpy, {name}"] = (least / count, median / count)
    base = found["baselines, the published way: sparse LU by lead"]
    lines += [f"| {n} | {a:.1f} | {b:.1f} | {base[0] / a:.1f}, {base[1] / b:.1f} |" for n, (a, b) in found.items()]
    whole = times(
        {
            "the whole chain: clip, baselines, groups": lambda: baseline.otis(values, STANDARD_LEADS),
            "a recording under a contract with the chain": lambda: apply_contract(record, OTIS),
            "the same under a contract without it": lambda: apply_contract(record, PLAIN),
        },
        repeats,
    )
    lines += [f"| {n} | {a:.1f} | {b:.1f} | |" for n, (a, b) in whole.items()]
    system = np.asfortranarray(baseline._penalty(5000).astype(np.float32))
    system[0] += np.float32(0.5)
    info = spbsv(system, clipped[0].astype(np.float32), lower=1)[2]
    lines += ["", f"In float32 the system is no longer positive definite: spbsv stops at row {info} of 5000."]
    return lines


def lengths() -> list[str]:
    lines = [
        "## Longer recordings (simulated, 500 Hz): a contract looks at 120 s",
        "",
        "| recorded | ms of processor time | peak of Python's memory, MB |",
        "|---|---|---|",
    ]
    for seconds in (10, 60, 120, 1800):
        record = record_of(simulated(seconds * 500))
        tracemalloc.start()
        began = time.process_time()
        apply_contract(record, OTIS)
        taken = 1000 * (time.process_time() - began)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        lines.append(f"| {seconds} s | {taken:.0f} | {peak:.1f} |")
    return lines


def exactness() -> list[str]:
    lines = ["## Exactness", "", "| what | largest difference |", "|---|---|"]
    real = [baseline.clip(values) for values in recorded()]
    scale = max(float(np.abs(values).max()) for values in real)
    off = max(float(np.abs(baseline.baseline(v) - published(v)).max()) for v in real)
    lines.append(f"| baseline, ours against the published way, three real recordings, of the largest value | {off / scale:.1e} |")
    exact = recursive(real[0], np.longdouble).astype(np.float64)
    for name, way in (("ours", baseline.baseline), ("the published way", published)):
        lines.append(f"| baseline, {name} against the recursion in 80 bits | {np.abs(way(real[0]) - exact).max() / scale:.1e} |")
    long = baseline.clip(simulated(60_000))
    off = np.abs(baseline.baseline(long) - published(long)).max() / np.abs(long).max()
    lines.append(f"| baseline of 120 s (simulated), ours against the published way | {off:.1e} |")
    chained = half = 0.0
    for values in recorded():
        plain, _ = apply_contract(record_of(values), OTIS)
        stored, steps = to_int16(values)
        row = to_int16(apply_contract(record_of(from_int16(stored, steps)), OTIS)[0])
        chained = max(chained, float(np.abs(from_int16(*row) - plain).max()))
        half = max(half, float(row[1].max()) / 2)
    lines.append(
        f"| a row of a store (int16 twice) against the chain in float32, in standard deviations of a group | {chained:.1e} |"
    )
    lines.append(f"| of that, half a step of the row at most | {half:.1e} |")
    return lines


def record_of(signal: np.ndarray) -> EcgRecord:
    return EcgRecord(signal=signal.astype(np.float32), leads=STANDARD_LEADS, lead_valid=np.ones(12, bool), unit="mv", fs_hz=500.0)


if __name__ == "__main__":
    main()
