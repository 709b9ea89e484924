"""Does the student know when it does not know? Zero-shot, probe and retrieval in the surer and the less sure half.

u = sum_k exp(logvar_k) of each test ECG (the scalar of PCME++, naver-ai/pcmepp evaluation.py:156-159); the halves are cut at its
median among the judged rows. Nothing is fitted anew: scores and thresholds are those of the whole, and "low - high" resamples
subjects of both halves together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ecgecho import stats
from ecgecho.evals import linear_probe, retrieval, zero_shot
from ecgecho.types import I64, EvalInputs, EvalRow

METRICS = ("auroc", "balanced_accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The evaluations that are looked at in halves."""

    zero_shot: zero_shot.Config = field(default_factory=zero_shot.Config)
    linear_probe: linear_probe.Config = field(default_factory=linear_probe.Config)
    retrieval: retrieval.Config = field(default_factory=retrieval.Config)


def build(config: Config) -> Uncertainty:
    """The evaluation."""
    return Uncertainty(config)


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """See the head of this file."""

    config: Config

    def run(self, inputs: EvalInputs) -> list[EvalRow]:
        """Low, high and their difference for each metric, or the reason."""
        if inputs.logvar is None:
            return [stats.no_row("uncertainty", "", "auroc", inputs.absent.get("uncertainty", "the run has no variance"))]
        result = []
        for task in inputs.tasks:
            rows = inputs.known(task.name, "test")
            direct = zero_shot.scores(inputs, task.name, self.config.zero_shot.prompts)
            judged = {
                "zero_shot": direct if isinstance(direct, str) else stats.Scored(scores=direct[None, rows], cuts=(0.0,)),
                "linear_probe": linear_probe.probe(inputs, task.name, rows, share=1.0, config=self.config.linear_probe),
            }
            for name, scored in judged.items():
                label = Label(evaluation=f"uncertainty.{name}", task=task.name, share=1.0 if name == "linear_probe" else None)
                if isinstance(scored, str):
                    result.append(stats.no_row(label.evaluation, label.task, "auroc", scored, share=label.share))
                else:
                    result += _classified(inputs, rows, scored, label)
        for k in self.config.retrieval.ks:
            label = Label(evaluation="uncertainty.retrieval", task="text_to_ecg", share=None)
            found = retrieval.hits(inputs, k, self.config.retrieval.similarity)
            if isinstance(found, str):
                result.append(stats.no_row(label.evaluation, label.task, f"recall_at_{k}", found))
            else:
                rows, hit, _ = found
                result += _halves(inputs, rows, partial(_mean_of_part, hit), label=label, metric=f"recall_at_{k}", y=None)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Where a row belongs."""

    evaluation: str
    task: str
    share: float | None


def _classified(inputs: EvalInputs, rows: I64, scored: stats.Scored, label: Label) -> list[EvalRow]:
    y = inputs.labels[label.task][rows]
    result = []
    for metric in METRICS:
        if scored.statistics(y)[metric] is None:
            result.append(stats.no_row(label.evaluation, label.task, metric, stats.NO_CUT, share=label.share))
        else:
            result += _halves(inputs, rows, partial(_metric_of_part, scored, y, metric), label=label, metric=metric, y=y)
    return result


def _halves(
    inputs: EvalInputs, rows: I64, of_part: Callable[[I64], stats.Statistic], *, label: Label, metric: str, y: I64 | None
) -> list[EvalRow]:
    """The statistic of the surer half, of the less sure half, and their difference."""
    assert inputs.logvar is not None
    u = np.exp(inputs.logvar[rows].astype(np.float64)).sum(1)
    low = np.flatnonzero(u <= np.median(u)) if len(u) else np.empty(0, np.int64)
    high = np.setdiff1d(np.arange(len(u)), low)
    if len(high) == 0:
        reason = f"the {len(u)} test ECGs are all equally uncertain"
        return [stats.no_row(label.evaluation, label.task, metric, reason, share=label.share)]
    parts = {
        "low": (low, of_part(low)),
        "high": (high, of_part(high)),
        "low - high": (
            np.arange(len(u)),
            stats.difference(stats.within(low, of_part(low)), stats.within(high, of_part(high))),
        ),
    }
    return [
        stats.row_of(
            statistic,
            inputs.subject[rows[part]],
            evaluation=label.evaluation,
            task=label.task,
            metric=metric,
            y=None if y is None else y[part],
            share=label.share,
            subset=subset,
            resamples=inputs.bootstraps,
            seed=inputs.seed,
        )
        for subset, (part, statistic) in parts.items()
    ]


def _metric_of_part(scored: stats.Scored, y: I64, metric: str, part: I64) -> stats.Statistic:
    statistic = stats.Scored(scores=scored.scores[:, part], cuts=scored.cuts).statistics(y[part])[metric]
    assert statistic is not None
    return statistic


def _mean_of_part(hit: stats.F64, part: I64) -> stats.Statistic:
    return stats.mean_of(hit[part])
