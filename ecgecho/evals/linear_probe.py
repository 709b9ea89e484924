"""Linear probe: a logistic regression on frozen embeddings, at shares of the training labels.

The cost and the threshold come from the validation split, never from the test split; how a share is drawn, and what the floor
is, says `_shares.py`. Several classes share one softmax and are not asked one by one: a class between two others (LVEF 40 to
50 %) is no half of the space, and a line of its own could not find it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ecgecho import stats
from ecgecho.evals import _shares
from ecgecho.evals._settings import check_counts
from ecgecho.types import I64, EvalInputs, EvalRow

STD_EPS = 1e-8  # a constant feature stays constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How the probe is fitted."""

    draws: int = 5
    """How often a share below 100 % is drawn."""
    costs: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Inverse strengths of the L2 penalty to choose from, ascending."""
    max_iterations: int = 1000
    on: _shares.On = field(default="embedding", metadata={"omit_default": True})
    """"embedding" is what is searched with; "features" is what was published: the pooled tokens that the method's heads read."""

    def __post_init__(self) -> None:
        check_counts("linear_probe.draws", self.draws)
        check_counts("linear_probe.max_iterations", self.max_iterations)


def build(config: Config) -> LinearProbe:
    """The evaluation."""
    return LinearProbe(config)


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """See the head of this file."""

    config: Config

    def run(self, inputs: EvalInputs) -> list[EvalRow]:
        """Three rows a task and share, two of several classes, or one with the reason."""
        own = self.config
        scorer = partial(_scores, config=own)
        return _shares.rows_of(inputs, evaluation="linear_probe", floor="floor", on=own.on, draws=own.draws, scorer=scorer)


def probe(inputs: EvalInputs, task: str, rows: I64, *, share: float, config: Config) -> stats.Scored | str:
    """Scores of `rows` by probes on the training split; or the reason why there are none."""
    features, _ = _shares.seen(inputs, config.on)
    if isinstance(features, str):
        return features
    question = _shares.Question(name=task, y=inputs.labels[task])
    scorer = partial(_scores, config=config)
    judged = _shares.judge(inputs, features, question, rows, share=share, draws=config.draws, scorer=scorer)
    assert not isinstance(judged, stats.ClassScored)
    return judged


def _scores(features: stats.Floats, y: I64, train: I64, val: I64, judge: I64, *, config: Config) -> stats.F64:
    return fit(features, y, train=train, val=val, judge=judge, config=config)


def fit(features: stats.Floats, y: I64, *, train: I64, val: I64, judge: I64, config: Config) -> stats.F64:
    """(N, D), (N,) labels -> scores of rows `judge` by the probe whose cost has the lowest loss on `val`.

    (n,) logits of labels 0 and 1, (C, n) probabilities of C classes. The loss and not the AUROC, which on a small split is the
    same for many costs. Without all classes in `val` the middle cost is taken unseen.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    seen = np.asarray(features[train], dtype=np.float64)
    centre, spread = seen.mean(0), np.maximum(seen.std(0), STD_EPS)
    scaled = {name: (features[rows] - centre) / spread for name, rows in (("train", train), ("val", val), ("judge", judge))}
    kinds = np.unique(y[train])
    choosable = bool(np.isin(kinds, y[val]).all())
    costs = config.costs if choosable else (config.costs[len(config.costs) // 2],)
    model = LogisticRegression(max_iter=config.max_iterations, warm_start=True, class_weight="balanced")
    best, result = np.inf, np.zeros(len(judge))
    for cost in costs:
        with threadpool_limits(1):  # so many small products that threads cost ten times what they save
            model.set_params(C=cost).fit(scaled["train"], y[train])
        outputs = model.decision_function if len(kinds) == 2 else model.predict_proba
        loss = _loss(y[val], outputs(scaled["val"])) if choosable else 0.0
        if loss < best:
            best, result = loss, outputs(scaled["judge"]).T
    return np.asarray(result, dtype=np.float64)


def _loss(y: I64, output: stats.F64) -> float:
    """Cross-entropy, all classes weighing the same. (n,), (n,) logits or (n, C) probabilities -> scalar."""
    if output.ndim == 1:
        each = np.logaddexp(0, np.where(y == 1, -output, output))
        return float(0.5 * (each[y == 1].mean() + each[y == 0].mean()))
    own = -np.log(np.maximum(output[np.arange(len(y)), y], stats.EPS))
    return float(np.mean([own[y == c].mean() for c in range(output.shape[1])]))
