"""Fine-tuning: the whole encoder and a linear head, trained for a few steps on a tenth and on all of the training labels.

The step that is kept and the threshold come from the validation split. The training itself is handed in by evaluate.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgecho import stats
from ecgecho.evals._settings import check_counts
from ecgecho.types import EvalInputs, EvalRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How long and how fast."""

    steps: int = 120
    """Optimiser steps; small on purpose, so that a CPU affords it. The paper does not say how many it took."""
    batch_size: int = 32
    learning_rate: float = 3e-4
    """Of the encoder; the head's is ten times higher, because it starts from nothing."""

    def __post_init__(self) -> None:
        check_counts("fine_tune.steps", self.steps)
        check_counts("fine_tune.batch_size", self.batch_size)


def build(config: Config) -> FineTuning:
    """The evaluation."""
    return FineTuning(config)


@dataclass(frozen=True, slots=True)
class FineTuning:
    """See the head of this file."""

    config: Config

    def run(self, inputs: EvalInputs) -> list[EvalRow]:
        """Three rows a task and share, or one with the reason."""
        result = []
        for task in inputs.tasks:
            for share in inputs.shares:
                result += self._judge(inputs, task.name, share)
        return result

    def _judge(self, inputs: EvalInputs, task: str, share: float) -> list[EvalRow]:
        y, rows = inputs.labels[task], inputs.known(task, "test")
        train, val = inputs.known(task, "train"), inputs.known(task, "val")
        reason = ""
        if inputs.fine_tune is None:
            reason = inputs.absent.get("fine_tune", "the encoder was not handed in")
        elif len(np.unique(y[train])) < 2:
            reason = f"the training split has {int((y[train] == 1).sum())} positives of {len(train)}"
        elif len(np.unique(y[val])) < 2:
            reason = "nothing to choose the step on: the validation split has one class only"
        if reason or inputs.fine_tune is None:
            return [stats.no_row("fine_tune", task, "auroc", reason, share=share, n=len(rows))]
        chosen = train[stats.sample_subjects(inputs.subject[train], y[train], share=share, seed=inputs.seed)]
        scored = inputs.fine_tune(
            chosen,
            y[chosen],
            val,
            y[val],
            np.concatenate([val, rows]),
            steps=self.config.steps,
            batch_size=self.config.batch_size,
            learning_rate=self.config.learning_rate,
            seed=inputs.seed,
        )
        cut = stats.best_threshold(y[val], scored[: len(val)])
        judged = stats.Scored(scores=scored[None, len(val) :], cuts=(cut,))
        note = f"{self.config.steps} steps of {self.config.batch_size}"
        return stats.binary_rows(judged, inputs, rows, evaluation="fine_tune", task=task, share=share, note=note)
