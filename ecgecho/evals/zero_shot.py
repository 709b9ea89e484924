"""Zero-shot by prompt pairs: an ECG is positive when it lies nearer to the sentence that says so than to the one that denies it.

The score is the difference of two cosines, the decision its sign (the argmax of the pair), so nothing is chosen on any split.
The prompts of the paper (EchoingECG, section 1.14 of its specification) are not published; these are our own plain sentences,
and each side is the mean of its sentences' unit vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgecho import stats
from ecgecho.types import EvalInputs, EvalRow

ALIKE = 1e-6  # two prompt vectors nearer than this are one: the text tower knows none of the words that differ


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPair:
    """Sentences that affirm and that deny a task."""

    task: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


# In the words of ECG reports, because those are what a student's text tower has read: a sentence about an ejection fraction
# would be mostly unknown to it. What an ECG can show of a weak ventricle is conduction delay, old infarction and lost R waves.
PROMPTS = (
    PromptPair(
        task="lvef_lt_40",
        positive=(
            "Sinus rhythm. Left bundle branch block. Abnormal ECG",
            "Sinus rhythm. Extensive anterior infarct - age undetermined. Abnormal ECG",
            "Sinus rhythm. Poor R wave progression. Nonspecific intraventricular conduction delay. Abnormal ECG",
        ),
        negative=("Sinus rhythm. Normal ECG", "Sinus rhythm. Within normal limits"),
    ),
    PromptPair(
        task="severe_lvh",
        positive=(
            "Sinus rhythm. Left ventricular hypertrophy. Abnormal ECG",
            "Sinus rhythm. Left ventricular hypertrophy with repolarization abnormality. Abnormal ECG",
        ),
        negative=("Sinus rhythm. Normal ECG", "Sinus rhythm. Within normal limits"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Which sentences stand for a task."""

    prompts: tuple[PromptPair, ...] = PROMPTS


def build(config: Config) -> ZeroShot:
    """The evaluation."""
    return ZeroShot(config)


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """See the head of this file."""

    config: Config

    def run(self, inputs: EvalInputs) -> list[EvalRow]:
        """Three rows a task, or one with the reason."""
        result = []
        for task in inputs.tasks:
            rows = inputs.known(task.name, "test")
            scored = scores(inputs, task.name, self.config.prompts)
            if isinstance(scored, str):
                result.append(stats.no_row("zero_shot", task.name, "auroc", scored, n=len(rows)))
                continue
            judged = stats.Scored(scores=scored[None, rows], cuts=(0.0,))
            result += stats.binary_rows(judged, inputs, rows, evaluation="zero_shot", task=task.name)
        return result


def scores(inputs: EvalInputs, task: str, prompts: tuple[PromptPair, ...] = PROMPTS) -> stats.F64 | str:
    """cos(ecg, positive) - cos(ecg, negative) of every row, (N,); or the reason why there is none."""
    if inputs.embed_texts is None:
        return inputs.absent.get("text", "the run was trained without text")
    pair = next((pair for pair in prompts if pair.task == task), None)
    if pair is None:
        return "there are no prompts for this task"
    vectors = stats.unit_rows(inputs.embed_texts([*pair.positive, *pair.negative]))
    sides = stats.unit_rows(np.stack([vectors[: len(pair.positive)].mean(0), vectors[len(pair.positive) :].mean(0)]))
    if np.linalg.norm(sides[0] - sides[1]) < ALIKE:
        return "the text tower embeds both prompts alike: it knows none of the words in which they differ"
    positive, negative = stats.Gallery.of(stats.unit_rows(inputs.mean)).cosines(sides)
    return np.asarray(positive - negative, dtype=np.float64)
