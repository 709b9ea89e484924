"""The control of the mask: what lies outside the sector tells the heart rate and the R phase; after the mask it does not.

Simulated cines, written and read as DICOM. The inside of the true sector is blanked, so that only what surrounds it is left. A
ridge, cross-validated by subject, meets its own chance: the same ridge on targets permuted between subjects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import cv2
import numpy as np
import pytest

from ecgecho.echo.sector import blank, drawn_boxes, find_sector
from ecgecho.io import read_echo
from ecgecho.simulate import write
from ecgecho.simulate.echo import VIEWS, draw, shoot
from ecgecho.simulate.heart import draw_heart, stream
from ecgecho.simulate.write import Quirk

SEED = 20_261
SUBJECTS = 64
FRAMES_USED = 8
SMALL = (120, 90)
PERMUTATIONS = 300
KINDS: dict[str, tuple[int, tuple[Quirk, ...], float]] = {
    "first layout": (0, (), 0.15),
    "second layout, no region": (1, ("no_regions",), 0.15),
    "third layout, wrong colour tag": (2, ("colour_tag_wrong",), 0.1),
}
"""A maker's layout, what is wrong with its files, and the R2 that the unmasked surroundings must exceed.
One layout at a time: a ridge on 64 subjects cannot learn three."""


@dataclass(frozen=True)
class Outside:
    """Frames with the true sector blanked, without and with the mask before it, and the truth."""

    least: float
    """R2 that tells a leak."""
    bare: np.ndarray
    """(subjects, frames, pixels)"""
    masked: np.ndarray
    silhouette: np.ndarray
    """(subjects, 1, pixels): which pixels the mask keeps."""
    heart_rate: np.ndarray
    """(subjects,)"""
    phase: np.ndarray
    """(subjects, frames, 2): cosine and sine of the share of the RR interval since the last R wave."""


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def outside(request, tmp_path_factory) -> Outside:
    layout, quirks, least = request.param
    folder = tmp_path_factory.mktemp("control")
    bare, masked, silhouettes, rates, phases = [], [], [], [], []
    for subject in range(SUBJECTS):
        heart = draw_heart(stream(SEED, subject, "heart"), enrich=False)
        rng = stream(SEED, subject, "echo")
        shot = shoot(heart, VIEWS[subject % len(VIEWS)], rng, frames=12, size=(180, 240))
        made = draw(heart, replace(shot, layout=layout), rng)
        path = folder / "clip.dcm"
        write.dicom(path, made, subject_id=subject, study_id=subject, instance=1, time=datetime(2150, 1, 1), quirks=quirks)
        clip = read_echo(path)
        around = np.ones(clip.frames.shape[1:3], np.uint8)
        cv2.fillPoly(around, [shot.geometry.polygon().round().astype(np.int32)], 0)
        chosen = np.linspace(0, len(clip.frames) - 1, FRAMES_USED).round().astype(int)
        sector = find_sector(clip)
        seen = blank(clip.frames, sector, clip.kind)
        kept = sector.mask & ~drawn_boxes(clip.frames, sector.mask)
        silhouettes.append([_small(255.0 * kept)])
        bare.append([_small(frame * around[..., None]) for frame in clip.frames[chosen]])
        masked.append([_small(frame * around[..., None]) for frame in seen[chosen]])
        last = np.searchsorted(shot.beats_s, shot.time_s[chosen], side="right") - 1
        angle = 2 * np.pi * (shot.time_s[chosen] - shot.beats_s[last]) / (shot.beats_s[last + 1] - shot.beats_s[last])
        rates.append(shot.hr_bpm)
        phases.append(np.stack([np.cos(angle), np.sin(angle)], axis=-1))
    return Outside(least, np.array(bare), np.array(masked), np.array(silhouettes), np.array(rates), np.array(phases))


def _small(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, SMALL, interpolation=cv2.INTER_AREA).astype(np.float32).reshape(-1) / 255.0


def ridge_and_chance(features: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Correlation of held-out predictions with the target (subjects, frames, k), and the same for targets permuted by subject."""
    subjects, frames = features.shape[:2]
    flat = features.reshape(subjects * frames, -1)
    kernel = flat @ flat.T
    random = np.random.default_rng(0)
    orders = [np.arange(subjects), *(random.permutation(subjects) for _ in range(PERMUTATIONS))]
    targets = np.stack([target[order].reshape(subjects * frames, -1) for order in orders], axis=-1)  # (n, k, 1 + permutations)
    predicted = np.zeros_like(targets)
    fold = np.repeat(np.arange(subjects) % 6, frames)
    for number in range(6):
        train, test = fold != number, fold == number
        mean = targets[train].mean(axis=0)
        centre = kernel[np.ix_(train, train)].mean(axis=0)
        inner = kernel[np.ix_(train, train)] - centre - centre[:, None] + centre.mean()
        cross = kernel[np.ix_(test, train)]
        cross = cross - cross.mean(axis=1, keepdims=True) - centre + centre.mean()
        strength = 0.3 * np.trace(inner) / len(inner) + 1e-6
        weights = np.linalg.solve(inner + strength * np.eye(len(inner)), (targets[train] - mean).reshape(len(inner), -1))
        predicted[test] = (cross @ weights).reshape(test.sum(), *targets.shape[1:]) + mean
    error = np.square(targets - predicted).sum(axis=(0, 1))
    scores = 1 - error / np.square(targets - targets.mean(axis=0)).sum(axis=(0, 1))
    return float(scores[0]), scores[1:]


@pytest.mark.parametrize("what", ["heart_rate", "phase"])
def test_the_surroundings_of_the_sector_tell_the_ecg_and_the_masked_ones_do_not(outside, what):
    target = outside.phase
    features = {"bare": outside.bare, "masked": outside.masked}
    if what == "heart_rate":
        target = outside.heart_rate[:, None, None]
        features = {name: frames.mean(axis=1, keepdims=True) for name, frames in features.items()}
    score, chance = ridge_and_chance(features["bare"], target)
    assert score > chance.max()
    assert score > outside.least
    score, chance = ridge_and_chance(features["masked"], target)
    assert score < np.quantile(chance, 0.99)
    assert score < 0.05


def test_the_shape_of_what_is_blanked_does_not_tell_the_heart_rate(outside):
    score, chance = ridge_and_chance(outside.silhouette, outside.heart_rate[:, None, None])
    assert score < np.quantile(chance, 0.99)
    assert score < 0.1


def test_nothing_drawn_is_left_around_the_sector(outside):
    assert outside.bare.max() > 0.5
    assert outside.masked.mean() < 0.01 * outside.bare.mean()
