"""What is fitted on shares of the training labels: the draws of a share, the scores of each, the floor beside them, the rows.

A share is drawn by subject, stratified by class and seeded; below 100 % the score is the mean over several draws, because one
draw of a tenth, let alone of a thousandth, is mostly luck. The randomly initialised encoder is fitted on the same draws: that
is the floor. Cuts come from the validation split, never from the test split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from ecgecho import stats
from ecgecho.types import I64, Classes, EvalInputs, EvalRow

On = Literal["embedding", "features"]
Scorer = Callable[[stats.Floats, I64, I64, I64, I64], stats.F64]
"""Features (N, D), labels (N,), rows to fit on, validation rows, rows to score (n,) -> (n,) of two classes, (C, n) of more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A task, or several classes."""

    name: str
    y: I64
    """(N,) 0 and 1 or the number of the class; -1 where it is not known."""
    classes: Classes | None = None

    @property
    def num(self) -> int:
        """Of its answers."""
        return 2 if self.classes is None else len(self.classes.tasks)

    def known(self, inputs: EvalInputs, split: str) -> I64:
        """Rows of a split whose answer is known."""
        return np.flatnonzero((inputs.split == split) & (self.y >= 0))


def seen(inputs: EvalInputs, on: On) -> tuple[stats.Floats | str, stats.Floats | None]:
    """What is fitted on (N, D), or why it is not there; and the same of the floor."""
    if on == "embedding":
        return inputs.mean, inputs.floor_mean
    if inputs.features is None:
        return inputs.absent.get("features", "what the heads read was not handed in"), None
    return inputs.features, inputs.floor_features


def questions(inputs: EvalInputs) -> list[Question]:
    """All that is asked: the tasks, then the classes."""
    two = [Question(name=task.name, y=inputs.labels[task.name]) for task in inputs.tasks]
    return two + [Question(name=asked.name, y=number, classes=asked) for asked, number in inputs.classes.items()]


def rows_of(
    inputs: EvalInputs, *, evaluation: str, floor: str, on: On, draws: int, scorer: Scorer, least: int = 1, note: str = ""
) -> list[EvalRow]:
    """Every question at every share: its rows, and those of the floor under that name; or one with the reason."""
    result: list[EvalRow] = []
    features, untrained = seen(inputs, on)
    for question in questions(inputs):
        metric = "auroc" if question.classes is None else "macro_auroc"
        rows = question.known(inputs, "test")
        for share in inputs.shares:
            fitted = partial(judge, inputs, question=question, rows=rows, share=share, draws=draws, scorer=scorer, least=least)
            judged = features if isinstance(features, str) else fitted(features=features)
            if isinstance(judged, str):
                result.append(stats.no_row(evaluation, question.name, metric, judged, share=share, n=len(rows)))
                continue
            base = None
            if untrained is not None:
                found = fitted(features=untrained)
                base = None if isinstance(found, str) else found
            result += _rows(inputs, question, rows, judged, base, evaluation=evaluation, share=share, note=note)
            if base is not None:
                result += _rows(inputs, question, rows, base, None, evaluation=floor, share=share, note=note)
    return result


def judge(
    inputs: EvalInputs,
    features: stats.Floats,
    question: Question,
    rows: I64,
    *,
    share: float,
    draws: int,
    scorer: Scorer,
    least: int = 1,
) -> stats.Scored | stats.ClassScored | str:
    """Scores of `rows` by what was fitted on `features` (N, D) of the training split; or the reason why there are none."""
    val = question.known(inputs, "val")
    drawn = training_rows(inputs, question, share=share, draws=draws, least=least)
    if isinstance(drawn, str):
        return drawn
    asked = np.concatenate([val, rows])
    scored = np.stack([scorer(features, question.y, chosen, val, asked) for chosen in drawn])
    if question.classes is not None:
        return stats.ClassScored(scores=scored[..., len(val) :])
    cuts = tuple(stats.best_threshold(question.y[val], each[: len(val)]) for each in scored)
    return stats.Scored(scores=scored[:, len(val) :], cuts=cuts)


def training_rows(inputs: EvalInputs, question: Question, *, share: float, draws: int, least: int = 1) -> list[I64] | str:
    """The rows of each draw, or why there are too few."""
    train = question.known(inputs, "train")
    y, subject = question.y[train], inputs.subject[train]
    if len(np.unique(y)) < question.num:
        if question.classes is None:
            return f"the training split has {int((y == 1).sum())} positives of {len(train)}"
        missing = next(name for c, name in enumerate(question.classes.tasks) if not (y == c).any())
        return f"the training split has no ECG of the class {missing}"
    people = len(np.unique(subject))
    if share * people < question.num:
        return f"{100 * share:g} % of {people} training subjects is less than one of each of {question.num} classes"
    result = []
    for draw in range(draws if share < 1 else 1):
        chosen = train[stats.sample_subjects(subject, y, share=share, seed=inputs.seed + draw)]
        if len(np.unique(question.y[chosen])) < question.num:
            return f"{100 * share:g} % of the training subjects do not have all {question.num} classes"
        if len(chosen) < least:
            return f"{100 * share:g} % of the training subjects have {len(chosen)} ECGs; {least} are needed"
        result.append(chosen)
    return result


def _rows(
    inputs: EvalInputs,
    question: Question,
    rows: I64,
    judged: stats.Scored | stats.ClassScored,
    floor: stats.Scored | stats.ClassScored | None,
    *,
    evaluation: str,
    share: float,
    note: str,
) -> list[EvalRow]:
    if isinstance(judged, stats.ClassScored):
        assert question.classes is not None
        assert not isinstance(floor, stats.Scored)
        return stats.class_rows(judged, inputs, rows, evaluation=evaluation, question=question.classes, share=share, floor=floor)
    assert not isinstance(floor, stats.ClassScored)
    return stats.binary_rows(judged, inputs, rows, evaluation=evaluation, task=question.name, share=share, floor=floor, note=note)
