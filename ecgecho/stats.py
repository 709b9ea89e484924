"""Scores with intervals: every number comes with its n, and every interval from resampling subjects, never rows.

A statistic is a function of weights: (R, N) weights, one row a resample -> (R,) values, NaN where it is not defined (one class
only). The plain value is the statistic of equal weights; a difference, a mean over draws and a subset are statistics again.
Shape letters: R resamples, N rows, S subjects, G groups of equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt

from ecgecho.types import I64, Classes, EvalInputs, EvalRow

F64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer]
Statistic = Callable[[F64], F64]

LEVEL = 0.95
MIN_DEFINED = 0.95  # share of resamples that must have both classes for an interval to be reported
EPS = 1e-12  # length of a zero vector, so that it stays zero
STEPS = 2.0**44  # of a cosine: what differs by less is the rounding of a sum of D products, and equal
NO_CUT = "no threshold: the validation split has one class only"
_CHUNK = 1 << 21  # weights held at once, 16 MiB
_KEPT = 1 << 25  # drawn counts that are kept for the next row of the table, 64 MiB


def auroc_of(y: npt.ArrayLike, score: npt.ArrayLike) -> Statistic:
    """Area under the ROC curve; equal scores count half. (N,), (N,) -> statistic.

    sum over positives of (weight of the negatives below + half of that of the negatives as high),  over  pos * neg.
    """
    positive, values = _scored(y, score)
    pos, neg = (rows[np.argsort(values[rows], kind="stable")] for rows in (np.flatnonzero(positive), np.flatnonzero(~positive)))
    below, up_to = (np.searchsorted(values[neg], values[pos], side=side) for side in ("left", "right"))
    tied = bool((below != up_to).any())

    def statistic(weights: F64) -> F64:
        ill, well = weights[:, pos], np.zeros((len(weights), len(neg) + 1))
        np.cumsum(weights[:, neg], axis=1, out=well[:, 1:])
        beaten = 0.5 * (well[:, below] + well[:, up_to]) if tied else well[:, below]
        return _ratio(np.einsum("rp,rp->r", ill, beaten), ill.sum(1) * well[:, -1])

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


def median_of(values: npt.ArrayLike) -> Statistic:
    """The median, e.g. of ranks; midway between the two middle values of an even number. (N,) -> statistic."""
    column = np.asarray(values, dtype=np.float64)
    order = np.argsort(column, kind="stable")
    ascending = column[order]

    def statistic(weights: F64) -> F64:
        if not len(ascending):
            return np.full(len(weights), np.nan)
        reached = np.cumsum(weights[:, order], axis=1)
        half = 0.5 * reached[:, -1:]
        low, high = (reached >= half).argmax(1), (reached > half).argmax(1)
        return np.where(half[:, 0] > 0, 0.5 * (ascending[low] + ascending[high]), np.nan)

    return statistic


def macro_auroc_of(number: npt.ArrayLike, scores: Floats) -> Statistic:
    """The mean of each class's AUROC against all others. (N,) classes, (C, N) scores -> statistic."""
    classes = np.asarray(number)
    return average([auroc_of(classes == c, score) for c, score in enumerate(scores)])


def recall_of(number: npt.ArrayLike, decided: npt.ArrayLike, num_classes: int) -> Statistic:
    """The mean over classes of the share that is recognised (balanced accuracy). (N,), (N,) -> statistic."""
    classes = np.asarray(number)
    right = classes == np.asarray(decided)
    return average([within(np.flatnonzero(classes == c), mean_of(right[classes == c])) for c in range(num_classes)])


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
    return bootstraps([statistic], subject, resamples=resamples, seed=seed)[0]


def bootstraps(
    statistics: Sequence[Statistic], subject: npt.ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> list[Estimate]:
    """The same of several statistics of the same rows, and behind them of the difference of the first two where there are two."""
    subject = np.asarray(subject)
    if len(subject) == 0:
        return [Estimate(value=None, reason="no rows")] * (len(statistics) + (len(statistics) > 1))
    found: list[list[F64]] = [[] for _ in statistics]
    for weights in chain([np.ones((1, len(subject)))], subject_weights(subject, resamples=resamples, seed=seed)):
        for each, statistic in zip(found, statistics, strict=True):
            each.append(statistic(weights))
    values = [np.concatenate(each) for each in found]
    if len(values) > 1:
        values.append(values[0] - values[1])
    return [_estimate(each[0], each[1:]) for each in values]


def _estimate(value: float, resampled: F64) -> Estimate:
    if not np.isfinite(value):
        return Estimate(value=None, reason="one class only")
    defined = resampled[np.isfinite(resampled)]
    if len(defined) < max(1.0, MIN_DEFINED * len(resampled)):
        return Estimate(value=float(value), reason="too few subjects for an interval")
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Estimate(value=float(value), low=float(low), high=float(high))


def subject_weights(subject: npt.ArrayLike, *, resamples: int, seed: int) -> Iterator[F64]:
    """Chunks (r, N) of weights: how often each row's subject was drawn. The order of the rows does not matter."""
    subjects, index = np.unique(np.asarray(subject), return_inverse=True)
    few = resamples * len(subjects) <= _KEPT
    drawn = _kept_counts(len(subjects), resamples, seed) if few else None
    chunk = max(1, _CHUNK // max(len(index), 1))
    fresh = iter(()) if few else _counts(len(subjects), resamples, seed, chunk)
    for start in range(0, resamples, chunk):
        counts = next(fresh) if drawn is None else drawn[start : start + chunk]
        yield counts.astype(np.float64)[:, index]


@lru_cache(maxsize=4)
def _kept_counts(num_subjects: int, resamples: int, seed: int) -> npt.NDArray[np.uint16]:
    """(resamples, S): every row of a table resamples alike, so it is drawn once."""
    return np.concatenate(list(_counts(num_subjects, resamples, seed, max(1, _CHUNK // num_subjects))))


def _counts(num_subjects: int, resamples: int, seed: int, chunk: int) -> Iterator[npt.NDArray[np.uint16]]:
    """Chunks (r, S): how often each subject was drawn; the same numbers for any size of chunks."""
    rng = np.random.default_rng([seed, num_subjects])
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, num_subjects, size=(rows, num_subjects))
        drawn += np.arange(rows)[:, None] * num_subjects
        counts = np.bincount(drawn.ravel(), minlength=rows * num_subjects).reshape(rows, num_subjects)
        yield counts.astype(np.uint16)


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
    """Rows of a share of the subjects, stratified by their highest label; at least one of each. (N,), (N,) -> (n,) ascending.

    Labels are 0 and 1, or the numbers of classes. Depends on the subjects, not on the order of the rows; with one seed a
    smaller share is a subset of a larger one.
    """
    subject, label = np.asarray(subject), np.asarray(y)
    if share >= 1:
        return np.arange(len(subject))
    subjects, index = np.unique(subject, return_inverse=True)
    stratum = np.full(len(subjects), -1, np.int64)
    np.maximum.at(stratum, index, label)
    rank = np.random.default_rng(seed).permutation(len(subjects))
    chosen = np.zeros(len(subjects), dtype=bool)
    for kind in np.unique(stratum):
        alike = np.flatnonzero(stratum == kind)
        wanted = min(len(alike), max(1, round(share * len(alike))))
        chosen[alike[np.argsort(rank[alike])[:wanted]]] = True
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
    draws: Sequence[Statistic] = (),
    resamples: int = 1000,
    seed: int = 0,
    rows: I64 | None = None,
    scores: F64 | None = None,
    values: npt.ArrayLike | None = None,
    unit: Literal["ecg", "study"] = "ecg",
) -> EvalRow:
    """A statistic as a row of the table, with the paired gain over the floor where there is one.

    `draws` are the statistics of each draw of the training labels, whose mean the statistic is. `values` (N,) are what it is the
    mean or the median of: where all are equal every resample is too, which would look like certainty, so there is no interval.
    """
    subject = np.asarray(subject)
    asked = [statistic] if floor is None else [statistic, floor]
    found, *more = bootstraps(asked, subject, resamples=resamples, seed=seed)
    if values is not None and len(subject) and np.ptp(np.asarray(values)) == 0:
        equal = f"all {len(subject)} are equal" if len(subject) > 1 else "there is one value"
        found = Estimate(value=found.value, reason=f"no interval: {equal}")
    base, gain = (more[0].value, more[1]) if more and found.value is not None else (None, Estimate(value=None))
    each = [v for one in draws if (v := value_of(one, len(subject))) is not None] if len(draws) > 1 else []
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
        draws=len(draws) if each else None,
        draws_low=min(each, default=None),
        draws_high=max(each, default=None),
        reason="; ".join(part for part in (found.reason, note) if part),
        unit=unit,
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

    def draws(self, y: npt.ArrayLike) -> dict[str, list[Statistic] | None]:
        """Metric name -> its statistic of each draw; None where there are no cuts."""
        cuts = [cut for cut in self.cuts if cut is not None]
        decided = [balanced_accuracy_of(y, score > cut) for score, cut in zip(self.scores, cuts, strict=False)]
        return {
            "auroc": [auroc_of(y, score) for score in self.scores],
            "balanced_accuracy": decided if len(cuts) == len(self.cuts) else None,
            "average_precision": [average_precision_of(y, score) for score in self.scores],
        }

    def statistics(self, y: npt.ArrayLike) -> dict[str, Statistic | None]:
        """Metric name -> the mean over draws."""
        return {name: None if each is None else average(each) for name, each in self.draws(y).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScored:
    """Scores of some rows for each of several classes; the decision is the highest, of equal ones the first."""

    scores: F64
    """(draws, C, n)."""

    def draws(self, number: npt.ArrayLike) -> dict[str, list[Statistic]]:
        """Metric name -> its statistic of each draw."""
        return {
            "macro_auroc": [macro_auroc_of(number, scores) for scores in self.scores],
            "balanced_accuracy": [recall_of(number, scores.argmax(0), len(scores)) for scores in self.scores],
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
    for metric, each in judged.draws(y).items():
        if each is None:
            result.append(no_row(evaluation, task, metric, NO_CUT, share=share, n=len(y), positives=int(y.sum())))
            continue
        result.append(
            row_of(
                average(each),
                subject,
                evaluation=evaluation,
                task=task,
                metric=metric,
                y=y,
                floor=floors.get(metric),
                chance=chance[metric],
                share=share,
                note=note,
                draws=each,
                resamples=inputs.bootstraps,
                seed=inputs.seed,
                rows=rows,
                scores=judged.scores if metric == "auroc" else None,
            )
        )
    return result


def class_rows(
    judged: ClassScored,
    inputs: EvalInputs,
    rows: I64,
    *,
    evaluation: str,
    question: Classes,
    share: float | None = None,
    floor: ClassScored | None = None,
) -> list[EvalRow]:
    """Macro AUROC and balanced accuracy of scores of `rows`, with the floor's on the same rows; or which class they lack."""
    number = inputs.classes[question][rows]
    names = question.tasks
    if absent := [names[c] for c in range(len(names)) if not (number == c).any()]:
        reason = f"the test split has no ECG of the class {absent[0]}"
        return [no_row(evaluation, question.name, "macro_auroc", reason, share=share, n=len(rows))]
    floors = {} if floor is None else floor.draws(number)
    chance = {"macro_auroc": 0.5, "balanced_accuracy": 1 / len(names)}
    return [
        row_of(
            average(each),
            inputs.subject[rows],
            evaluation=evaluation,
            task=question.name,
            metric=metric,
            floor=average(floors[metric]) if floors else None,
            chance=chance[metric],
            share=share,
            draws=each,
            resamples=inputs.bootstraps,
            seed=inputs.seed,
            rows=rows,
            scores=judged.scores.reshape(-1, len(rows)) if metric == "macro_auroc" else None,
        )
        for metric, each in judged.draws(number).items()
    ]


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
    unit: Literal["ecg", "study"] = "ecg",
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
        unit=unit,
    )


def unit_rows(vectors: Floats) -> F64:
    """Rows of length one, in float64. (n, D) -> (n, D)."""
    wide = np.asarray(vectors, dtype=np.float64)
    result: F64 = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), EPS)
    return result


@dataclass(frozen=True, slots=True)
class Gallery:
    """Unit vectors that are asked for. Equal ones are equally like every query, which a product of matrices does not give."""

    distinct: F64
    """(d, D)."""
    number: I64
    """(S,) which of them each is."""

    @classmethod
    def of(cls, vectors: F64) -> Gallery:
        """(S, D)."""
        whole = np.ascontiguousarray(vectors) + 0.0  # -0 is 0
        if not whole.size:
            return cls(whole, np.arange(len(whole)))
        bits = whole.view(np.dtype((np.void, whole[0].nbytes))).reshape(-1)
        _, first, number = np.unique(bits, return_index=True, return_inverse=True)
        order = np.argsort(first)  # as they came, so that a gallery of different vectors is left as it is
        place = np.empty(len(first), np.int64)
        place[order] = np.arange(len(first))
        return cls(whole[first[order]], place[number.reshape(-1)])

    def cosines(self, queries: F64) -> F64:
        """(Q, D) of length one -> (Q, S), in steps of 2^-44."""
        like = queries @ self.distinct.T
        like *= STEPS
        np.rint(like, out=like)
        like /= STEPS
        return like if len(self.distinct) == len(self.number) else like[:, self.number]


def _binary(y: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    values = np.asarray(y)
    if values.ndim != 1 or not np.isin(values, (0, 1)).all():
        raise ValueError(f"labels must be one 0 or 1 a row, not {values.dtype} {values.shape}")
    return values.astype(bool)


def _scored(y: npt.ArrayLike, score: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], F64]:
    """Labels and finite scores of the same rows."""
    positive, values = _binary(y), np.asarray(score, dtype=np.float64)
    if values.shape != positive.shape or not np.isfinite(values).all():
        raise ValueError(f"scores must be finite, one a label; got {values.shape} for {positive.shape} labels")
    return positive, values


def _grouped(y: npt.ArrayLike, score: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], I64, I64]:
    """Labels by ascending score, that order, and where each group of equal scores starts."""
    positive, values = _scored(y, score)
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
