"""Linear probe: a logistic regression on frozen embeddings, at a tenth and at all of the training labels.

The cost and the threshold come from the validation split, never from the test split. A share is drawn by subject, stratified and
seeded; below 100 % the score is the mean over several draws, because one draw of a tenth is mostly luck. The randomly initialised
encoder goes through the same probe on the same draws: that is the floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgecho import stats
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


def build(config: Config) -> LinearProbe:
    """The evaluation."""
    return LinearProbe(config)


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """See the head of this file."""

    config: Config

    def run(self, inputs: EvalInputs) -> list[EvalRow]:
        """Three rows a task and share, or one with the reason."""
        result = []
        for task in inputs.tasks:
            rows = inputs.known(task.name, "test")
            for share in inputs.shares:
                judged = probe(inputs, inputs.mean, task.name, rows, share=share, config=self.config)
                if isinstance(judged, str):
                    result.append(stats.no_row("linear_probe", task.name, "auroc", judged, share=share, n=len(rows)))
                    continue
                floor = self._floor(inputs, task.name, rows, share)
                result += stats.binary_rows(
                    judged, inputs, rows, evaluation="linear_probe", task=task.name, share=share, floor=floor
                )
                if floor is not None:
                    result += stats.binary_rows(floor, inputs, rows, evaluation="floor", task=task.name, share=share)
        return result

    def _floor(self, inputs: EvalInputs, task: str, rows: I64, share: float) -> stats.Scored | None:
        if inputs.floor_mean is None:
            return None
        judged = probe(inputs, inputs.floor_mean, task, rows, share=share, config=self.config)
        return judged if isinstance(judged, stats.Scored) else None


def probe(
    inputs: EvalInputs, features: stats.Floats, task: str, rows: I64, *, share: float, config: Config
) -> stats.Scored | str:
    """Scores of `rows` by probes on `features` (N, D) of the training split; or the reason why there are none."""
    y = inputs.labels[task]
    train, val = inputs.known(task, "train"), inputs.known(task, "val")
    if len(np.unique(y[train])) < 2:
        return f"the training split has {int((y[train] == 1).sum())} positives of {len(train)}"
    drawn, cuts = [], []
    for draw in range(config.draws if share < 1 else 1):
        chosen = train[stats.sample_subjects(inputs.subject[train], y[train], share=share, seed=inputs.seed + draw)]
        if len(np.unique(y[chosen])) < 2:
            return f"{share:.0%} of the training subjects have one class only"
        scored = fit(features, y, train=chosen, val=val, judge=np.concatenate([val, rows]), config=config)
        drawn.append(scored[len(val) :])
        cuts.append(stats.best_threshold(y[val], scored[: len(val)]))
    return stats.Scored(scores=np.stack(drawn), cuts=tuple(cuts))


def fit(features: stats.Floats, y: I64, *, train: I64, val: I64, judge: I64, config: Config) -> stats.F64:
    """(N, D), (N,) labels -> logits of rows `judge` by the probe whose cost has the lowest loss on `val`.

    The loss and not the AUROC, which on a small split is the same for many costs. Without both classes in `val` the middle
    cost is taken unseen.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    seen = np.asarray(features[train], dtype=np.float64)
    centre, spread = seen.mean(0), np.maximum(seen.std(0), STD_EPS)
    scaled = {name: (features[rows] - centre) / spread for name, rows in (("train", train), ("val", val), ("judge", judge))}
    choosable = len(np.unique(y[val])) == 2
    costs = config.costs if choosable else (config.costs[len(config.costs) // 2],)
    model = LogisticRegression(max_iter=config.max_iterations, warm_start=True, class_weight="balanced")
    best, result = np.inf, np.zeros(len(judge))
    for cost in costs:
        with threadpool_limits(1):  # so many small products that threads cost ten times what they save
            model.set_params(C=cost).fit(scaled["train"], y[train])
        loss = _loss(y[val], model.decision_function(scaled["val"])) if choosable else 0.0
        if loss < best:
            best, result = loss, model.decision_function(scaled["judge"])
    return np.asarray(result, dtype=np.float64)


def _loss(y: I64, logit: stats.F64) -> float:
    """Cross-entropy, both classes weighing the same. (n,), (n,) -> scalar."""
    each = np.logaddexp(0, np.where(y == 1, -logit, logit))
    return float(0.5 * (each[y == 1].mean() + each[y == 0].mean()))
