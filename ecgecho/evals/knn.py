"""Nearest neighbours: the vote of the five training ECGs whose frozen embeddings lie nearest, at shares of the training labels.

What Echo2ECG reports as its probe (shared/models/linear_probing/LinearProbe.py): the score is the share of the k neighbours that
are positive, so it has k + 1 values and many ECGs are equal; they count half in the AUROC. As published are `on=features`, what
the method's heads read, as it is, and the Euclidean distance; `metric=cosine` forgets lengths, which embeddings of length one do
not have. Of equally near neighbours the first in the order of ids votes. How a share is drawn, and what the floor is, says
`_shares.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from ecgecho import stats
from ecgecho.evals import _shares
from ecgecho.evals._settings import check_counts
from ecgecho.nearest import nearest
from ecgecho.types import I64, EvalInputs, EvalRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How many vote, and which are near."""

    k: int = 5
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """"euclidean" is what was published; "cosine" is how a student is taught that lengths say nothing."""
    draws: int = 5
    """How often a share below 100 % is drawn."""
    on: _shares.On = field(default="embedding", metadata={"omit_default": True})
    """"embedding" is what is searched with; "features" is what was published: the pooled tokens that the method's heads read."""

    def __post_init__(self) -> None:
        check_counts("knn.k", self.k)
        check_counts("knn.draws", self.draws)


def build(config: Config) -> Knn:
    """The evaluation."""
    return Knn(config)


@dataclass(frozen=True, slots=True)
class Knn:
    """See the head of this file."""

    config: Config

    def run(self, inputs: EvalInputs) -> list[EvalRow]:
        """Three rows a task and share, two of several classes, or one with the reason."""
        k, own = self.config.k, self.config
        scorer = partial(_scores, k=k, metric=own.metric)
        return _shares.rows_of(inputs, evaluation="knn", floor="floor.knn", on=own.on, draws=own.draws, scorer=scorer, least=k)


def votes(features: stats.Floats, y: I64, train: I64, judge: I64, *, k: int, metric: Literal["euclidean", "cosine"]) -> stats.F64:
    """Share of the k nearest rows `train` that are of each class, (C, n) for C = largest label of `train` + 1."""
    _, near = nearest(features[judge], features[train], k, metric=metric)
    named = y[train][near]
    return np.stack([(named == c).mean(1) for c in range(int(y[train].max()) + 1)])


def _scores(
    features: stats.Floats, y: I64, train: I64, val: I64, judge: I64, *, k: int, metric: Literal["euclidean", "cosine"]
) -> stats.F64:
    voted = votes(features, y, train, judge, k=k, metric=metric)
    return voted[1] if len(voted) == 2 else voted
