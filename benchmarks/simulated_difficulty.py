"""How much of LVEF < 40 % does a simulated ECG tell? Area under the ROC curve by `--difficulty`, measured in two ways.

    python benchmarks/simulated_difficulty.py --out benchmarks/results/simulated_difficulty_YYYYMM.md

The bound: gradient boosting on what the ECG is drawn from (`Electro`, rate, rhythm), as if measured without error, save that
infarct, block and right ventricular forces carry an error, for what is too small to be seen is not there. The waveform: a small
convolutional network on the recordings themselves, noise and artefacts included. Both are told nothing else, not even age.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

from ecgecho import stats
from ecgecho.simulate.ecg import Electro, draw_beats, draw_body, draw_electro, record
from ecgecho.simulate.heart import Heart, draw_heart, stream
from ecgecho.simulate.rhythm import ATRIAL, VENTRICULAR, Beats

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]

SEED = 31
BLURRED = ("infarct", "block", "right")
FOLDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=6000, help="for the bound")
    parser.add_argument("--train", type=int, default=3000, help="people the network learns from")
    parser.add_argument("--test", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--difficulties", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0])
    words = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    lines = [
        "# LVEF < 40 % from a simulated ECG: ceiling by difficulty",
        "",
        f"- machine: {platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__} on the CPU",
        f"- date: {datetime.date.today().isoformat()}, commit {commit()}",
        f"- command: `python benchmarks/simulated_difficulty.py --people {words.people} --train {words.train} "
        f"--test {words.test} --epochs {words.epochs} --difficulties {' '.join(f'{d:g}' for d in words.difficulties)}`",
        f"- **simulated hearts, no real person**; enriched; one 10 s ECG each; bound by {FOLDS}-fold cross-validation over "
        f"{words.people} people; network judged on {words.test} people it has not seen; 95 % intervals from resampling people",
        "",
        "| difficulty | bound: boosting on parameters | waveform: small CNN |",
        "|---|---|---|",
    ]
    for difficulty in words.difficulties:
        bound = bound_auroc(words.people, difficulty)
        waveform = waveform_auroc(words.train, words.test, difficulty, epochs=words.epochs)
        lines.append(f"| {difficulty:g} | {shown(bound)} | {shown(waveform)} |")
        print(lines[-1], flush=True)
    lines += ["", f"{(time.perf_counter() - begin) / 60:.1f} minutes in all."]
    words.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()


def shown(found: stats.Estimate) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def person(index: int, difficulty: float) -> tuple[Heart, Electro, Beats]:
    heart = draw_heart(stream(SEED, index, "heart"), enrich=True)
    body = draw_body(stream(SEED, index, "text"))
    electro = draw_electro(heart, body, stream(SEED, index, "measurement"), difficulty=difficulty)
    return heart, electro, draw_beats(heart, stream(SEED, index, "ecg"))


def bound_auroc(people: int, difficulty: float) -> stats.Estimate:
    rows, y = [], np.zeros(people, dtype=bool)
    for index in range(people):
        heart, electro, beats = person(index, difficulty)
        y[index] = heart.lvef < 40
        rows.append(parameters(heart, electro, beats, stream(SEED, index, "note")))
    x, score, fold = np.array(rows), np.zeros(people), np.arange(people) % FOLDS
    for out in range(FOLDS):
        model = HistGradientBoostingClassifier(
            max_iter=120, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=30, l2_regularization=1.0, random_state=0
        )
        model.fit(x[fold != out], y[fold != out])
        score[fold == out] = model.decision_function(x[fold == out])
    return stats.bootstrap(stats.auroc_of(y, score), np.arange(people), resamples=300)


def parameters(heart: Heart, electro: Electro, beats: Beats, rng: np.random.Generator) -> list[float]:
    """What an ideal reader would measure of one ECG."""
    blur = 0.1 * rng.normal(size=6)
    plain = [
        float(getattr(electro, field.name)) for field in dataclasses.fields(Electro) if field.name not in ("electrodes", *BLURRED)
    ]
    rr = np.diff(beats.times_s)
    rhythm = [beats.hr_bpm, rr.std() / rr.mean(), *(float((beats.kinds == kind).mean()) for kind in (ATRIAL, VENTRICULAR))]
    scars = [electro.infarct * (heart.infarct == site) for site in ("anterior", "inferior", "lateral")]
    blocks = [electro.block * (heart.conduction == kind) for kind in ("lbbb", "rbbb")]
    return [*plain, *rhythm, *(np.array([*scars, *blocks, 3 * electro.right]) + blur), *electro.electrodes.ravel()]


def waveform_auroc(train: int, test: int, difficulty: float, *, epochs: int) -> stats.Estimate:
    x, y = recordings(train + test, difficulty)
    scale = x[:train].std(axis=(0, 2), keepdims=True)
    data, target = torch.from_numpy(np.clip(x / scale, -12, 12)), torch.from_numpy(y.astype(np.float32))
    torch.manual_seed(SEED)
    model = Network()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=2e-2)
    batch = 64
    steps = epochs * (train // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    rng = np.random.Generator(np.random.Philox(key=SEED))
    model.train()
    for step in range(steps):
        if step % (train // batch) == 0:
            order = torch.from_numpy(rng.permutation(train))
        rows = order[(step % (train // batch)) * batch :][:batch]
        seen = data[rows].roll(int(rng.integers(1000)), dims=2)
        loss = nn.functional.binary_cross_entropy_with_logits(model(seen), target[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        score = torch.cat([model(part) for part in data[train:].split(500)]).numpy()
    return stats.bootstrap(stats.auroc_of(y[train:], score), np.arange(test), resamples=300)


def recordings(people: int, difficulty: float) -> tuple[F32, npt.NDArray[np.bool_]]:
    """(N, 12, 1000) mV at 100 Hz, less the median of each lead, and LVEF < 40."""
    x, y = np.zeros((people, 12, 1000), dtype=np.float32), np.zeros(people, dtype=bool)
    for index in range(people):
        heart, electro, beats = person(index, difficulty)
        signal = record(heart, electro, beats, stream(SEED, index, "ecg", 1)).signal_mv
        x[index] = signal.reshape(12, 1000, 5).mean(2)
        y[index] = heart.lvef < 40
    return x - np.median(x, axis=2, keepdims=True), y


class Network(nn.Module):
    """(B, 12, 1000) -> (B,): four strided convolutions, then mean and largest over time."""

    def __init__(self) -> None:
        super().__init__()
        widths, kernels, strides = (12, 32, 48, 64, 96), (15, 9, 7, 5), (4, 2, 2, 2)
        layers: list[nn.Module] = []
        for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            layers += [nn.Conv1d(widths[i], widths[i + 1], kernel, stride, kernel // 2), nn.BatchNorm1d(widths[i + 1]), nn.GELU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * widths[-1], 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.body(x)
        logit: torch.Tensor = self.head(torch.cat([tokens.mean(2), tokens.amax(2)], dim=1))
        return logit.squeeze(1)


if __name__ == "__main__":
    main()
