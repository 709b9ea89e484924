"""Do damaged files of any kind crash, hang or flood a job? Ten thousand mutants over every reader and every table.

    python benchmarks/mutants.py --mutants 10000 --out benchmarks/results/mutants_202611.md

Each mutant is read in a worker with 2 GiB and 20 s. `accepted`: the reader found nothing wrong (a flipped sample is a sample);
`refused`: a code or a sentence; the other columns are workers that the pool had to end. The second table lists the codes.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import mutants  # noqa: E402
import psutil  # noqa: E402

POOL = ("!timeout", "!decoder_died", "!out_of_memory", "!unexpected_error")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mutants", type=int, default=10_000)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--first", type=int, default=0, help="number of the first mutant of each kind")
    options.add_argument("--only", default="", help="kinds that begin so")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        kinds = [kind for kind in mutants.write_seeds(Path(place)) if kind.startswith(given.only)]
        each = -(-given.mutants // len(kinds))
        load, began = os.getloadavg()[0], time.monotonic()
        outcomes = []
        for outcome in mutants.run(kinds, Path(place), each, workers=given.workers, first=given.first):
            outcomes.append(outcome)
            if outcome.result.startswith("!"):
                print(f"{outcome.kind} {outcome.number}: {outcome.result} {outcome.message}", file=sys.stderr)
            if len(outcomes) % 500 == 0:
                print(f"{len(outcomes)} of {each * len(kinds)}, {time.monotonic() - began:.0f} s", file=sys.stderr)
        seconds = time.monotonic() - began
    text = report(outcomes, kinds, seconds, load, given.workers)
    print(text)
    if given.out is not None:
        given.out.write_text(text)
    sys.exit(any(outcome.result.startswith("!") and outcome.result != "!decoder_died" for outcome in outcomes))


def report(outcomes: list[mutants.Outcome], kinds: list[str], seconds: float, load: float, workers: int) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, cwd=ROOT)
    table = mutants.tally(outcomes)
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    peak = psutil.Process().memory_info().rss / 1e6
    lines = [
        "# Damaged files of every kind",
        "",
        f"- machine: {platform.machine()}, {os.cpu_count()} cores, no GPU, load {load:.1f} at the start; "
        f"{time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip()}",
        f"- command: `python {' '.join(['benchmarks/mutants.py', *sys.argv[1:]])}`",
        f"- {len(outcomes)} mutants of {len(kinds)} kinds of files in {seconds:.0f} s, {workers} workers; "
        f"the parent held {peak:.0f} MB at the end;",
        f"  the slowest mutant that was read took {slowest.seconds:.1f} s ({slowest.kind})",
        "",
        "| kind | accepted | refused | timeout | worker died | out of memory | unexpected error |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        row = table[kind]
        lines.append("| " + " | ".join([kind, *(str(row[word]) for word in ("accepted", "refused", *POOL))]) + " |")
    total = sum(table.values(), Counter())
    lines.append("| all | " + " | ".join(str(total[word]) for word in ("accepted", "refused", *POOL)) + " |")
    codes: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        if not outcome.result.startswith("!") and outcome.result != "accepted":
            codes.setdefault(outcome.kind.partition(" ")[0], Counter())[outcome.result] += 1
    lines += ["", "| files | reasons of what was refused |", "|---|---|"]
    lines += [
        f"| {what} | {', '.join(f'{code} {n}' for code, n in found.most_common())} |" for what, found in sorted(codes.items())
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
