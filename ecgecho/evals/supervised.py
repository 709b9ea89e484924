"""The ceiling: what a supervised run predicts by itself, with all training labels.

The threshold comes from the validation split.
"""

from __future__ import annotations

from dataclasses import dataclass

from ecgecho import stats
from ecgecho.types import EvalInputs, EvalRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Nothing to set."""


def build(config: Config) -> Supervised:
    """The evaluation."""
    return Supervised(config)


@dataclass(frozen=True, slots=True)
class Supervised:
    """See the head of this file."""

    config: Config

    def run(self, inputs: EvalInputs) -> list[EvalRow]:
        """Three rows a task, or one with the reason."""
        result = []
        for task in inputs.tasks:
            rows, val = inputs.known(task.name, "test"), inputs.known(task.name, "val")
            logits = inputs.predictions.get(task.name)
            if logits is None:
                reason = inputs.absent.get("supervised", "the run was not trained on this task")
                result.append(stats.no_row("supervised", task.name, "auroc", reason, share=1.0, n=len(rows)))
                continue
            cut = stats.best_threshold(inputs.labels[task.name][val], logits[val])
            judged = stats.Scored(scores=logits[None, rows].astype(float), cuts=(cut,))
            result += stats.binary_rows(judged, inputs, rows, evaluation="supervised", task=task.name, share=1.0)
        return result
