"""Scores with intervals: every number comes with its n, and every interval from resampling subjects, never rows.

A statistic is a function of weights: (R, N) weights, one row a resample -> (R,) values, NaN where it is not defined (one class
only). The plain value is the statistic of equal weights; a difference, a mean over draws and a subset are statistics again.
Shape letters: R resamples, N rows, S subjects, G groups of equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecgecho.types import I64, EvalInputs, EvalRow

F64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer]
Statistic = Callable[[F64], F64]

LEVEL = 0.95
MIN_DEFINED = 0.95  # share of resamples that must have both classes for an interval to be reported
EPS = 1e-12  # length of a zero vector, so that it stays zero
NO_CUT = "no threshold: the validation split has one class only"
_CHUNK = 1 << 21  # weights held at once, 16 MiB


def auroc_of(y: npt.ArrayLike, score: npt.ArrayLike) -> Statistic:
    """Area under the ROC curve; equal scores count half. (N,), (N,) -> statistic.

    sum over groups g of equal scores of  pos_g * (neg_below_g + neg_g / 2),  over  pos * neg.
    """
    positive, order, starts = _grouped(y, score)

    def statistic(weights: F64) -> F64:
        pos, neg = _class_weights(weights, positive, order, starts)
        below = np.cumsum(neg, axis=1) - neg
        return _ratio((pos * (below + 0.5 * neg)).sum(1), pos.sum(1) * neg.sum(1))

    return statistic


def average_precision_of(y: npt.ArrayLike, score: npt.ArrayLike) -> Statistic:
    """Sum over thresholds of (step of recall) x precision, equal scores enter together. (N,), (N,) -> statistic."""
    positive, order, starts = _grouped(y, score)

    def statistic(weights: F64) -> F64:
        pos, neg = _class_weights(weights, positive, order, starts)
        found = np.cumsum(pos[:, ::-1], axis=1)
        called = found + np.cumsum(neg[:, ::-1], axis=1)
        precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
        both = pos.sum(1) * neg.sum(1)
        return _ratio(np.where(both > 0, (pos[:, ::-1] * precision).sum(1), 0.0), np.where(both > 0, pos.sum(1), 0.0))

    return statistic


def balanced_accuracy_of(y: npt.ArrayLike, decision: npt.ArrayLike) -> Statistic:
    """(sensitivity + specificity) / 2 of decisions (True = positive). (N,), (N,) -> statistic."""
    positive = _binary(y)
    called = np.asarray(decision, dtype=bool)
    columns = np.stack([positive & called, positive, ~positive & ~called, ~positive], axis=1).astype(np.float64)

    def statistic(weights: F64) -> F64:
        hit, pos, correct, neg = (weights @ columns).T
        return 0.5 * (_ratio(hit, pos) + _ratio(correct, neg))

    return statistic


def mean_of(values: npt.ArrayLike) -> Statistic:
    """The mean, e.g. of hits. (N,) -> statistic."""
    column = np.asarray(values, dtype=np.float64)
    return lambda weights: _ratio(weights @ column, weights.sum(1))


def average(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of statistics over the same rows, e.g. over several draws of training labels."""
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)


def difference(first: Statistic, second: Statistic) -> Statistic:
    """`first - second` under the same weights: what makes a comparison paired."""
    return lambda weights: first(weights) - second(weights)


def within(rows: npt.ArrayLike, statistic: Statistic) -> Statistic:
    """A statistic of some of the rows, to be resampled with all of them."""
    index = np.asarray(rows)
    return lambda weights: statistic(np.ascontiguousarray(weights[:, index]))


def value_of(statistic: Statistic, num_rows: int) -> float | None:
    """The statistic itself; None where it is not defined."""
    if num_rows == 0:
        return None
    value = float(statistic(np.ones((1, num_rows)))[0])
    return value if np.isfinite(value) else None


def auroc(y: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """AUROC of all rows; None with one class only."""
    return value_of(auroc_of(y, score), len(np.asarray(y)))


def average_precision(y: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Average precision of all rows; None with one class only."""
    return value_of(average_precision_of(y, score), len(np.asarray(y)))


def balanced_accuracy(y: npt.ArrayLike, decision: npt.ArrayLike) -> float | None:
    """Balanced accuracy of all rows; None with one class only."""
    return value_of(balanced_accuracy_of(y, decision), len(np.asarray(y)))


def best_threshold(y: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """The cut (positive: score > cut) of the highest balanced accuracy, midway between two scores; None with one class.

    Of equally good cuts the middle one, so that a wide gap is not cut at its edge.
    """
    positive = _binary(y)
    values, group = np.unique(np.asarray(score, dtype=np.float64), return_inverse=True)
    pos = np.bincount(group, positive, minlength=len(values))
    neg = np.bincount(group, ~positive, minlength=len(values))
    if pos.sum() == 0 or neg.sum() == 0:
        return None
    if len(values) == 1:
        return float(values[0])
    gained = (pos.sum() - np.cumsum(pos)[:-1]) / pos.sum() + np.cumsum(neg)[:-1] / neg.sum()
    best = np.flatnonzero(gained >= gained.max() - 1e-12)
    cut = int(best[len(best) // 2])
    return float(0.5 * (values[cut] + values[cut + 1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval; `reason` says why one of them is None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def bootstrap(statistic: Statistic, subject: npt.ArrayLike, *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Percentile interval of a statistic, by drawing subjects with replacement. (N,) subjects -> Estimate.

    A resample with one class only has no value and is left out; when that is more than one in twenty there is no interval.
    """
    subject = np.asarray(subject)
    if len(subject) == 0:
        return Estimate(value=None, reason="no rows")
    value = value_of(statistic, len(subject))
    if value is None:
        return Estimate(value=None, reason="one class only")
    chunks = subject_weights(subject, resamples=resamples, seed=seed)
    values = np.concatenate([np.empty(0), *(statistic(weights) for weights in chunks)])
    defined = values[np.isfinite(values)]
    if len(defined) < max(1.0, MIN_DEFINED * resamples):
        return Estimate(value=value, reason="too few subjects for an interval")
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Estimate(value=value, low=float(low), high=float(high))


def subject_weights(subject: npt.ArrayLike, *, resamples: int, seed: int) -> Iterator[F64]:
    """Chunks (r, N) of weights: how often each row's subject was drawn. The order of the rows does not matter."""
    subjects, index = np.unique(np.asarray(subject), return_inverse=True)
    rng = np.random.default_rng([seed, len(subjects)])
    chunk = max(1, _CHUNK // max(len(index), 1))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, len(subjects), size=(rows, len(subjects)))
        drawn += np.arange(rows)[:, None] * len(subjects)
        counts = np.bincount(drawn.ravel(), minlength=rows * len(subjects)).reshape(rows, len(subjects))
        yield counts.astype(np.float64)[:, index]


def paired_difference(
    y: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    subject: npt.ArrayLike,
    *,
    of: Callable[[npt.ArrayLike, npt.ArrayLike], Statistic] = auroc_of,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`of(first) - of(second)` on the same rows, subjects resampled together. (N,) x 4 -> Estimate."""
    return bootstrap(difference(of(y, first), of(y, second)), subject, resamples=resamples, seed=seed)


def sample_subjects(subject: npt.ArrayLike, y: npt.ArrayLike, *, share: float, seed: int) -> I64:
    """Rows of a share of the subjects, stratified by having a positive row; at least one of each. (N,), (N,) -> (n,) ascending.

    Depends on the subjects, not on the order of the rows; with one seed a smaller share is a subset of a larger one.
    """
    subject, positive = np.asarray(subject), _binary(y)
    if share >= 1:
        return np.arange(len(subject))
    subjects, index = np.unique(subject, return_inverse=True)
    ill = np.bincount(index, positive, minlength=len(subjects)) > 0
    rank = np.random.default_rng(seed).permutation(len(subjects))
    chosen = np.zeros(len(subjects), dtype=bool)
    for stratum in (np.flatnonzero(ill), np.flatnonzero(~ill)):
        wanted = min(len(stratum), max(1, round(share * len(stratum))))
        chosen[stratum[np.argsort(rank[stratum])[:wanted]]] = True
    return np.flatnonzero(chosen[index])


def row_of(
    statistic: Statistic,
    subject: npt.ArrayLike,
    *,
    evaluation: str,
    task: str,
    metric: str,
    y: npt.ArrayLike | None = None,
    floor: Statistic | None = None,
    chance: float | None = None,
    share: float | None = None,
    subset: str = "all",
    note: str = "",
    resamples: int = 1000,
    seed: int = 0,
    rows: I64 | None = None,
    scores: F64 | None = None,
) -> EvalRow:
    """A statistic as a row of the table, with the paired gain over the floor where there is one."""
    subject = np.asarray(subject)
    found = bootstrap(statistic, subject, resamples=resamples, seed=seed)
    base, gain = None, Estimate(value=None)
    if floor is not None and found.value is not None:
        base = value_of(floor, len(subject))
        gain = bootstrap(difference(statistic, floor), subject, resamples=resamples, seed=seed)
    return EvalRow(
        evaluation=evaluation,
        task=task,
        metric=metric,
        value=found.value,
        low=found.low,
        high=found.high,
        share=share,
        subset=subset,
        n=len(subject),
        subjects=len(np.unique(subject)),
        positives=None if y is None else int(_binary(y).sum()),
        chance=chance,
        floor=base,
        gain=gain.value,
        gain_low=gain.low,
        gain_high=gain.high,
        reason="; ".join(part for part in (found.reason, note) if part),
        rows=rows,
        scores=scores,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Scores of some rows and the cut of each draw that makes them decisions; the cut is never chosen on these rows."""

    scores: F64
    """(draws, n)."""
    cuts: tuple[float | None, ...]
    """One a draw; None where there was nothing to choose it on."""

    def auroc(self, y: npt.ArrayLike) -> Statistic:
        """Mean AUROC of the draws."""
        return average([auroc_of(y, score) for score in self.scores])

    def average_precision(self, y: npt.ArrayLike) -> Statistic:
        """Mean average precision of the draws."""
        return average([average_precision_of(y, score) for score in self.scores])

    def balanced_accuracy(self, y: npt.ArrayLike) -> Statistic | None:
        """Mean balanced accuracy of the draws; None without cuts."""
        cuts = [cut for cut in self.cuts if cut is not None]
        if len(cuts) < len(self.cuts):
            return None
        return average([balanced_accuracy_of(y, score > cut) for score, cut in zip(self.scores, cuts, strict=True)])

    def statistics(self, y: npt.ArrayLike) -> dict[str, Statistic | None]:
        """Metric name -> statistic."""
        return {
            "auroc": self.auroc(y),
            "balanced_accuracy": self.balanced_accuracy(y),
            "average_precision": self.average_precision(y),
        }


def binary_rows(
    judged: Scored,
    inputs: EvalInputs,
    rows: I64,
    *,
    evaluation: str,
    task: str,
    share: float | None = None,
    floor: Scored | None = None,
    note: str = "",
) -> list[EvalRow]:
    """AUROC, balanced accuracy and average precision of scores of `rows`, with the floor's on the same rows."""
    y, subject = inputs.labels[task][rows], inputs.subject[rows]
    floors = {} if floor is None else floor.statistics(y)
    chance = {"auroc": 0.5, "balanced_accuracy": 0.5, "average_precision": float(y.mean()) if len(y) else None}
    result = []
    for metric, statistic in judged.statistics(y).items():
        if statistic is None:
            result.append(no_row(evaluation, task, metric, NO_CUT, share=share, n=len(y), positives=int(y.sum())))
            continue
        result.append(
            row_of(
                statistic,
                subject,
                evaluation=evaluation,
                task=task,
                metric=metric,
                y=y,
                floor=floors.get(metric),
                chance=chance[metric],
                share=share,
                note=note,
                resamples=inputs.bootstraps,
                seed=inputs.seed,
                rows=rows,
                scores=judged.scores if metric == "auroc" else None,
            )
        )
    return result


def no_row(
    evaluation: str,
    task: str,
    metric: str,
    reason: str,
    *,
    share: float | None = None,
    subset: str = "all",
    n: int = 0,
    positives: int | None = None,
) -> EvalRow:
    """A row that says why there is no number."""
    return EvalRow(
        evaluation=evaluation,
        task=task,
        metric=metric,
        value=None,
        share=share,
        subset=subset,
        n=n,
        positives=positives,
        reason=reason,
    )


def unit_rows(vectors: Floats) -> F64:
    """Rows of length one, in float64. (n, D) -> (n, D)."""
    wide = np.asarray(vectors, dtype=np.float64)
    result: F64 = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), EPS)
    return result


def _binary(y: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    values = np.asarray(y)
    if values.ndim != 1 or not np.isin(values, (0, 1)).all():
        raise ValueError(f"labels must be one 0 or 1 a row, not {values.dtype} {values.shape}")
    return values.astype(bool)


def _grouped(y: npt.ArrayLike, score: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], I64, I64]:
    """Labels by ascending score, that order, and where each group of equal scores starts."""
    positive, values = _binary(y), np.asarray(score, dtype=np.float64)
    if values.shape != positive.shape or not np.isfinite(values).all():
        raise ValueError(f"scores must be finite, one a label; got {values.shape} for {positive.shape} labels")
    order = np.argsort(values, kind="stable")
    values = values[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.empty(0, np.int64)
    return positive[order], order, starts


def _class_weights(weights: F64, positive: npt.NDArray[np.bool_], order: I64, starts: I64) -> tuple[F64, F64]:
    """(R, N) weights -> (R, G) weight of positives and of negatives in each group of equal scores."""
    ordered = weights[:, order]
    pos, neg = ordered * positive, ordered * ~positive
    if len(starts) == len(order):
        return pos, neg
    return np.add.reduceat(pos, starts, axis=1), np.add.reduceat(neg, starts, axis=1)


def _ratio(numerator: F64, denominator: F64) -> F64:
    result = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
