"""How near are 12 leads made of X, Y, Z to recorded ones, and what do a look at a signal, a row and an excerpt cost?

    python benchmarks/ecg_signals.py --out benchmarks/results/ecg_signals_YYYYMM.md

The record is s0010_re of the PTB Diagnostic ECG Database (tests/data, ODC-By 1.0), 38.4 s, 12 leads and Frank's X, Y, Z at the
same time; the golden figures are those of tests/golden/kors. Times are of simulated signals, one process, the files in memory.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from ecgecho.decode import EcgTask, decode_ecg, ecg_fingerprint
from ecgecho.ecg.contract import LIMB
from ecgecho.ecg.filters import band_pass
from ecgecho.ecg.quality import defects_of
from ecgecho.ecg.vcg import EIGHT, twelve_leads
from ecgecho.io import read_ecg
from ecgecho.types import STANDARD_LEADS, EcgRecord, EcgSource

TESTS = Path(__file__).parents[1] / "tests"
XYZ = ("X", "Y", "Z")
LOAD = f"{os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    lines = [
        "# ECG signals: 12 leads of X, Y, Z; what a look, a row and an excerpt cost",
        "",
        f"- machine: {platform.machine()} (AMD EPYC), {len(os.sched_getaffinity(0))} cores, no GPU; load before: {LOAD} (1 min)",
        f"- date: {datetime.date.today()}, commit {commit}",
        f"- command: `python benchmarks/ecg_signals.py{f' --out {args.out}' if args.out else ''}`",
        "",
        *accuracy(),
        "",
        *costs(),
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def accuracy() -> list[str]:
    with np.load(TESTS / "data/ptb_s0010_re_steps.npz") as steps:
        raw = np.cumsum((steps["high"].astype(np.int16) << 8) + steps["low"], axis=1, dtype=np.int16) / 2000
    heart = dict(zip((*EIGHT, *XYZ), raw, strict=True))
    heart |= {name: a * heart["I"] + b * heart["II"] for name, (a, b) in LIMB.items()}
    recorded = np.stack([heart[name] for name in (*STANDARD_LEADS, *XYZ)])
    golden = dict(np.load(TESTS / "golden/kors/case_matrices_and_s0010_re.npz"))
    lines = [
        "## 12 leads of X, Y, Z on one real record (s0010_re, inferolateral infarction, 38.4 s)",
        "",
        "Pearson's r with the recorded lead, and root mean square error in mV; in brackets the golden figure. One record of one",
        "heart: this checks the computation, and says little of other hearts. The 12 leads have rank 3.",
    ]
    for title, key, signal in (
        ("median removed", "median_removed", recorded - np.median(recorded, axis=1, keepdims=True)),
        ("0.5 to 100 Hz (our filter; the golden one may differ)", "bandpass0.5_100", band_pass(recorded, 1000, (0.5, 100), 1000)),
    ):
        lines += ["", f"{title}:", "", "| lead | Dower r | Dower mV | pinv(Kors) r | pinv(Kors) mV |", "|---|---|---|---|---|"]
        columns, means = [], []
        for method, name in (("dower", "dower"), ("kors", "pinv_kors")):
            made = twelve_leads(record(signal[12:], XYZ, 1000.0), method).signal.astype(np.float64)  # type: ignore[arg-type]
            r = [np.corrcoef(a, b)[0, 1] for a, b in zip(made, signal[:12], strict=True)]
            mv = np.sqrt(np.square(made - signal[:12]).mean(axis=1))
            known = f"{key}/vcg_to_12lead/{name}"
            columns += [(r, golden[f"{known}/pearson"], 3), (mv, golden[f"{known}/rmse"], 3)]
            means += [(np.mean(r), golden[f"{known}/pearson"].mean()), (mv.mean(), golden[f"{known}/rmse"].mean())]
        for k, lead in enumerate(STANDARD_LEADS):
            lines.append(f"| {lead} | " + " | ".join(f"{ours[k]:.3f} ({theirs[k]:.3f})" for ours, theirs, _ in columns) + " |")
        lines.append("| mean | " + " | ".join(f"{ours:.3f} ({theirs:.3f})" for ours, theirs in means) + " |")
    return lines


def costs() -> list[str]:
    rng = np.random.default_rng(0)
    limb = np.array(list(LIMB.values())) @ rng.normal(scale=0.3, size=(2, 5000))
    signal = np.concatenate([limb, rng.normal(scale=0.3, size=(6, 5000))])
    swapped = signal[[0, 1, 2, 3, 5, 4, *range(6, 12)]]
    rows = [
        ("defects of a sound record, 10 s at 500 Hz", seconds(lambda: defects_of(record(signal, STANDARD_LEADS, 500.0)))),
        (
            "the same with aVL and aVF exchanged (720 orders tried)",
            seconds(lambda: defects_of(record(swapped, STANDARD_LEADS, 500.0))),
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        np.save(root / "rows.npy", rng.normal(size=(400, 1, 2500, 12)))
        zscore = EcgSource(row=200, leads=STANDARD_LEADS, fs_hz=250.0, unit="zscore")
        with h5py.File(root / "rows.hdf5", "w") as file:
            file.create_dataset(
                "tracings", data=rng.normal(size=(200, 4096, 12)).astype(np.float32), chunks=(1, 4096, 12), compression="gzip"
            )
        code = EcgSource(row=100, leads=STANDARD_LEADS, fs_hz=400.0, unit="mv")
        holter = rng.integers(-500, 500, (24 * 3600 * 200, 3)).astype("<i2")
        holter.tofile(root / "P0001.dat")
        head = [f"P0001 3 200 {len(holter)}", *(f"P0001.dat 16 200/mV 16 0 0 0 0 {lead}" for lead in XYZ)]
        (root / "P0001.hea").write_text("\n".join(head) + "\n")
        excerpt = EcgSource(start_s=40_000.0, duration_s=10.0)
        array, part, day = str(root / "rows.npy"), str(root / "rows.hdf5"), str(root / "P0001")
        rows += [
            ("read one row of .npy (N, 1, 2500, 12) float64", seconds(lambda: read_ecg(array, zscore))),
            ("its fingerprint", seconds(lambda: ecg_fingerprint(array, zscore))),
            ("read one row of HDF5 (N, 4096, 12) float32, a chunk a row, gzip", seconds(lambda: read_ecg(part, code))),
            ("read 10 s of a Holter of 24 h (104 MB)", seconds(lambda: read_ecg(day, excerpt))),
            (
                "the same as a row of a raw store: 12 leads, defects, fingerprint",
                seconds(lambda: decode_ecg(EcgTask(path=day, contract=None, source=excerpt))),
            ),
            ("read all of that Holter, for comparison", seconds(lambda: read_ecg(day), times=1)),
        ]
    return [
        "## Times (simulated signals; median of repeated calls in one process, files in the page cache)",
        "",
        "| what | ms |",
        "|---|---|",
        *(f"| {what} | {1e3 * each:.2f} |" for what, each in rows),
    ]


def record(signal: np.ndarray, leads: tuple[str, ...], fs_hz: float) -> EcgRecord:
    return EcgRecord(
        signal=np.ascontiguousarray(signal, np.float32), leads=leads, lead_valid=np.ones(len(leads), bool), unit="mv", fs_hz=fs_hz
    )


def seconds(call: Callable[[], object], times: int = 50) -> float:
    """Median of one call."""
    call()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return float(np.median(found))


if __name__ == "__main__":
    main()
