"""Is a cache job safe from kills? `ecgecho cache-echo`, killed with -9 at random moments until it is complete, again and again.

    python benchmarks/kills.py --out benchmarks/results/NAME_YYYYMM.md [--kills 300]

Each job is killed with all its processes, at a moment drawn evenly from the time an undisturbed job takes, and begun again by
the same command, until it is sealed or was killed `--each` times; then it is left to end. A share of the jobs runs twice at
once on one store, and one or both are killed. At the end of each job its content hash must be that of the undisturbed job,
`store verify` must find nothing, and no other file may be there. Simulated cines, demo teacher, CPU.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

STEPS = ("before the plan", "parts being written", "all parts written, no head", "sealed")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--each", type=int, default=6, help="kills of one job at most, before it is left to end")
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--pairs", type=float, default=0.3, help="share of jobs that run twice at once")
    parser.add_argument("--seed", type=int, default=5)
    words = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        found = Kills(Path(scratch), words)
        found.run()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    settings = f"--kills {words.kills} --each {words.each} --subjects {words.subjects} --pairs {words.pairs} --seed {words.seed}"
    lines = [
        "# Kills of cache-echo",
        "",
        f"- machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}, no GPU",
        f"- date: {datetime.date.today().isoformat()}, commit {commit}",
        f"- command: `python benchmarks/kills.py {settings}`",
        f"- data: {found.clips} simulated clips in {found.parts} parts of 4 rows; an undisturbed job takes {found.seconds:.1f} s",
        f"- took {(time.monotonic() - started) / 60:.0f} min",
        "",
        "| question | number |",
        "|---|---|",
        f"| kills with -9 of a running command | {sum(found.kills.values())} |",
        *(f"| ... {step} | {found.kills[step]} |" for step in STEPS),
        f"| ... one of two that ran at once | {found.in_pairs} |",
        f"| commands that had ended before their kill | {found.too_late} |",
        f"| stores completed | {found.stores} |",
        f"| ... with the content hash of the undisturbed job | {found.equal} |",
        f"| ... in which `store verify` finds nothing | {found.verified} |",
        f"| ... with the same files as the undisturbed job | {found.same_files} |",
    ]
    words.out.parent.mkdir(parents=True, exist_ok=True)
    words.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    if not found.equal == found.verified == found.same_files == found.stores:
        sys.exit("a store was not what it should be")


class Kills:
    def __init__(self, scratch: Path, words: argparse.Namespace) -> None:
        self.scratch, self.words, self.rng = scratch, words, random.Random(words.seed)
        self.catalog = scratch / "catalog"
        self.kills: Counter[str] = Counter()
        self.in_pairs = self.too_late = self.stores = self.equal = self.verified = self.same_files = 0
        cohort = scratch / "cohort"
        must(
            "simulate",
            cohort,
            "--subjects",
            words.subjects,
            "--seed",
            7,
            "--echo-share",
            0.6,
            "--views",
            "a4c,plax",
            "--frames",
            12,
        )
        must("index", "mimic-iv", cohort, "--out", self.catalog)
        self.whole = scratch / "whole.zarr"
        must(*self.command(self.whole))
        begun = time.monotonic()
        must(*self.command(scratch / "timed.zarr"))
        self.seconds = time.monotonic() - begun
        self.expected = content(self.whole)
        self.clips, self.parts = self.expected["rows"], self.expected["parts_planned"]

    def command(self, out: Path) -> tuple[object, ...]:
        return (
            "cache-echo",
            self.catalog,
            "--teacher",
            "demo",
            "--part-rows",
            4,
            "--workers",
            1,
            "--device",
            "cpu",
            "--out",
            out,
        )

    def run(self) -> None:
        while sum(self.kills.values()) < self.words.kills:
            path = self.scratch / f"s{self.stores}.zarr"
            many = 2 if self.rng.random() < self.words.pairs else 1
            for _ in range(self.words.each):
                self.disturb(path, many)
                if sum(self.kills.values()) >= self.words.kills or (path / "head.json").exists():
                    break
            must(*self.command(path))
            self.stores += 1
            same = content(path)["content_hash"] == self.expected["content_hash"]
            sound = ecgecho("store", "verify", path).returncode == 0
            files = names(path) == names(self.whole)
            self.equal, self.verified, self.same_files = self.equal + same, self.verified + sound, self.same_files + files
            print(
                f"{sum(self.kills.values())} kills, {self.stores} stores, {self.equal} equal, {self.verified} sound", flush=True
            )
            if same and sound and files:
                shutil.rmtree(path)
            else:
                kept = Path(tempfile.mkdtemp(prefix="kills-")) / path.name
                shutil.move(path, kept)
                print(f"kept: {kept}; other files: {sorted(names(kept) ^ names(self.whole))[:5]}", flush=True)

    def disturb(self, path: Path, many: int) -> None:
        """Starts the command, or two at once, and kills one or all at a random moment; the others end by themselves."""
        running = [start(*self.command(path)) for _ in range(many)]
        time.sleep(self.rng.uniform(0, self.seconds))
        doomed = running if self.rng.random() < 0.5 else running[:1]
        step = reached(path, self.parts)
        for process in doomed:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        for process in running:
            status = process.wait()
            if process in doomed and status == -signal.SIGKILL:
                self.kills[step] += 1
                self.in_pairs += many == 2
            elif process in doomed:
                self.too_late += 1
            elif status != 0:
                sys.exit(f"a command that was not killed ended with {status} on {path}")


def reached(path: Path, parts: int) -> str:
    if (path / "head.json").exists():
        return STEPS[3]
    if not (path / "segments/00000/plan.json").exists():
        return STEPS[0]
    return STEPS[2] if len(list(path.glob("segments/00000/log/p*.json"))) == parts else STEPS[1]


def content(path: Path) -> dict:
    import embed_cache

    return embed_cache.info(path)


def names(path: Path) -> set[str]:
    return {found.relative_to(path).as_posix() for found in path.rglob("*") if found.is_file()}


def ecgecho(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ecgecho", *(str(word) for word in words)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def must(*words: object) -> None:
    done = ecgecho(*words)
    if done.returncode:
        sys.exit(f"ecgecho {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def start(*words: object) -> subprocess.Popen[bytes]:
    """In a session of its own, so that a kill of its group is a kill of all that it started."""
    line = [sys.executable, "-m", "ecgecho", *(str(word) for word in words)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


if __name__ == "__main__":
    main()
