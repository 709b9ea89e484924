"""ECGs and echo studies ask for each other: is what comes first a heart of the same measurement, and where is one's own?

For each measurement of the studies (LVEF, volumes, ...) a study matches when its value lies within half a standard deviation of
the query's, ends included; the deviation is that of the studies of the gallery (n - 1), the value of an ECG that of its nearest
study. precision_at_k is the share of matches among the first k; the rank of the first match counts from 1, and is one behind the
last where there is none. In `own` the aim is the query's own study (or ECGs): recall_at_k, and its rank.

Such a score says little alone: of a Gaussian measurement 28 % match blindly. Chance stands beside each number, exactly; and the
row "oracle" is what the order by the true difference scores, which is all there is to reach.

A subject is left out of its own gallery (`own=leave_out`), for a heart finds itself by more than one measurement, and a model
that knows people again would be taken for one that measures; in `own` the same subject's other studies are left out. `own=count`
is what Echo2ECG does (multimodal/models/Retriever.py). Equal likenesses are ranked in expectation over their orders. Intervals
resample the subjects of the queries; the gallery stays.

Shape letters: Q queries, S entries of the gallery, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ecgecho import stats
from ecgecho.evals._settings import check_counts
from ecgecho.evals.retrieval import none_drawn
from ecgecho.types import I64, EvalInputs, EvalRow, StudyInputs

NEEDS_STUDIES = True
NAME, ORACLE = "phenotype_retrieval", "phenotype_retrieval.oracle"
_CHUNK = 1 << 22  # likenesses held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How deep, by which likeness, and what counts."""

    ks: tuple[int, ...] = (1, 3, 5, 10)
    similarity: Literal["cosine", "csd"] = "cosine"
    """"csd" also subtracts the summed variance of what is found, as PCME++ does."""
    tolerance: float = 0.5
    """Standard deviations that a match may differ by."""
    own: Literal["leave_out", "count"] = "leave_out"
    """"count" as published: the query's own study is a match, and other studies of the subject are in the gallery."""
    recall: Literal["any", "share"] = "any"
    """Of several ECGs of one's own: whether one is among the first k, or, as published, the share of them that is."""
    average_precision: bool = False
    """Also the mean average precision, as published; it sorts all likenesses, which takes ten times as long."""

    def __post_init__(self) -> None:
        check_counts("phenotype_retrieval.ks", self.ks)


def build(config: Config) -> PhenotypeRetrieval:
    """The evaluation."""
    return PhenotypeRetrieval(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Queries or gallery."""

    unit: Literal["ecg", "study"]
    rows: I64
    """(n,) of the inputs' ECGs, or of the studies."""
    vectors: stats.F64
    """(n, D) of length one."""
    penalty: stats.F64
    """(n,) what it is less like all others."""
    subject: I64
    study: I64
    """(n,) the own study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """Where the matches of each query stand, in expectation over the orders of equal likenesses."""

    hits: Mapping[int, stats.F64]
    """k -> (Q,) matches among the first k."""
    found: Mapping[int, stats.F64]
    """k -> (Q,) probability that there is one."""
    first: stats.F64
    """(Q,) rank of the first match, from 1; the size of the gallery + 1 where there is none."""
    matches: I64
    """(Q,) in the gallery."""
    size: I64
    """(Q,) of the gallery."""
    precision: stats.F64 | None = None
    """(Q,) average precision; equal likenesses enter together."""


@dataclass(frozen=True, slots=True)
class PhenotypeRetrieval:
    """See the head of this file."""

    config: Config

    def run(self, inputs: EvalInputs) -> list[EvalRow]:
        """Both directions: the own study, then every measurement with its oracle; or the reason."""
        studies = inputs.studies
        if studies is None:
            return [stats.no_row(NAME, "", "precision_at_1", inputs.absent.get("echo", "the run has no echo side"))]
        if self.config.similarity == "csd" and (inputs.logvar is None or studies.logvar is None):
            return [stats.no_row(NAME, "", "precision_at_1", "the run has no variance")]
        ecg, study = _sides(inputs, studies, csd=self.config.similarity == "csd")
        result = self._own(inputs, ecg, study, "ecg_to_study.own")
        paired = np.isin(study.rows, ecg.study)
        result += self._own(inputs, _part(study, paired), ecg, "study_to_ecg.own")
        if not studies.phenotypes:
            result.append(stats.no_row(NAME, "", "precision_at_1", "the catalogs measure nothing of these studies"))
        for direction, queries, gallery in (("ecg_to_study", ecg, study), ("study_to_ecg", study, ecg)):
            for phenotype in studies.phenotypes:
                result += self._measured(inputs, queries, gallery, phenotype.values, f"{direction}.{phenotype.name}")
        return result

    def _own(self, inputs: EvalInputs, queries: Side, gallery: Side, task: str) -> list[EvalRow]:
        """Recall and rank of what belongs together."""
        ks, refused = self._depths(queries, gallery, task, "recall")
        if not ks:
            return refused
        chunks = (
            (rows, like, own, own | other if self.config.own == "leave_out" else None)
            for rows, like, own, other in _likenesses(queries, gallery)
        )
        ranked = _ranked(chunks, ks, whole=self.config.average_precision)
        share = self.config.recall == "share"
        recall = {k: ranked.hits[k] / np.maximum(ranked.matches, 1) if share else ranked.found[k] for k in ks}
        blind = {
            k: np.where(ranked.matches > 0, np.minimum(k, ranked.size) / ranked.size, 0.0)
            if share
            else 1 - none_drawn(ranked.size, ranked.matches, np.minimum(k, ranked.size))
            for k in ks
        }
        values = {f"recall_at_{k}": (recall[k], float(blind[k].mean())) for k in ks}
        return self._rows(inputs, queries, NAME, task, ranked, values) + refused

    def _measured(self, inputs: EvalInputs, queries: Side, gallery: Side, values: stats.F64, task: str) -> list[EvalRow]:
        """Precision and rank by one measurement, and what its oracle scores."""
        queries, gallery = (_part(side, np.isfinite(values[side.study])) for side in (queries, gallery))
        asked, there = values[queries.study], values[gallery.study]
        measured = values[np.isfinite(values)]
        ks, refused = self._depths(queries, gallery, task, "precision")
        if not ks:
            return refused
        if np.ptp(measured) == 0:
            reason = "all studies measure the same"
            return [stats.no_row(NAME, task, "precision_at_1", reason, n=len(queries.rows), unit=queries.unit)]
        near = self.config.tolerance * float(measured.std(ddof=1))
        chunks = (
            (rows, like, torch.from_numpy(within(asked[rows], there, near)), other if self.config.own == "leave_out" else None)
            for rows, like, _, other in _likenesses(queries, gallery)
        )
        ranked = _ranked(chunks, ks, whole=self.config.average_precision)
        blind = ranked.matches / ranked.size
        best = perfect(ranked, ks)
        result = []
        for name, one in ((NAME, ranked), (ORACLE, best)):
            scored = {f"precision_at_{k}": (one.hits[k] / k, float(blind.mean())) for k in ks}
            result += self._rows(inputs, queries, name, task, one, scored)
        return result + refused

    def _depths(self, queries: Side, gallery: Side, task: str, metric: str) -> tuple[list[int], list[EvalRow]]:
        """The depths that the gallery has, and why the others have no number."""
        most = np.bincount(gallery.subject).max() if len(gallery.rows) else 0  # one subject may be left out
        ks = [k for k in self.config.ks if len(queries.rows) and k < len(gallery.rows) - most]
        names = {"ecg": "ECGs with a study", "study": "studies"}
        found = f"{len(queries.rows)} {names[queries.unit]} to ask and {len(gallery.rows)} {names[gallery.unit]} to find"
        refused = [
            stats.no_row(
                NAME,
                task,
                f"{metric}_at_{k}",
                f"there are {found}; more than {k} of other subjects are needed",
                n=len(queries.rows),
                unit=queries.unit,
            )
            for k in self.config.ks
            if k not in ks
        ]
        return ks, refused if ks else refused[:1]

    def _rows(
        self,
        inputs: EvalInputs,
        queries: Side,
        evaluation: str,
        task: str,
        ranked: Ranked,
        values: Mapping[str, tuple[stats.F64, float | None]],
    ) -> list[EvalRow]:
        mean, median = blind_first(ranked.size, ranked.matches)
        scored = {
            **{name: (stats.mean_of(each), each, chance) for name, (each, chance) in values.items()},
            "mean_rank": (stats.mean_of(ranked.first), ranked.first, mean),
            "median_rank": (stats.median_of(ranked.first), ranked.first, median),
        }
        if ranked.precision is not None:
            scored["average_precision"] = (stats.mean_of(ranked.precision), ranked.precision, None)
        return [
            stats.row_of(
                statistic,
                queries.subject,
                evaluation=evaluation,
                task=task,
                metric=metric,
                chance=chance,
                resamples=inputs.bootstraps,
                seed=inputs.seed,
                unit=queries.unit,
                rows=queries.rows,
                scores=each[None] if evaluation == NAME else None,
                values=each,
            )
            for metric, (statistic, each, chance) in scored.items()
        ]


def within(asked: stats.F64, there: stats.F64, near: float) -> stats.Mask:
    """Which measurements match, ends included. (Q,), (S,) -> (Q, S)."""
    return np.asarray(np.abs(there[None] - asked[:, None]) <= near)


def rank(likeness: Tensor, right: Tensor, among: Tensor | None, ks: Sequence[int], *, whole: bool = False) -> Ranked:
    """(Q, S) likenesses, which are matches, and which are in the gallery (None: all) -> where the matches stand."""
    if among is not None:
        likeness, right = likeness.masked_fill(~among, -torch.inf), right & among
    size = torch.full((len(likeness),), likeness.shape[1]) if among is None else _count(among)
    matches = _count(right)
    top = likeness.topk(min(max(ks) + 1, likeness.shape[1]), dim=1)
    right_top = right.gather(1, top.indices)
    among_top = right_top.cumsum(1)
    best = top.values.gather(1, right_top.int().argmax(1, keepdim=True))
    level = top.values == best
    above, equal, equal_right = (top.values > best).sum(1), level.sum(1), (level & right_top).sum(1)
    seen = right_top.any(1)
    if top.values.shape[1] < likeness.shape[1]:
        seen &= best[:, 0] > top.values[:, -1]  # else equals may stand behind those that were looked at
    unseen = torch.nonzero(~seen).squeeze(1)
    if len(unseen):
        above[unseen], equal[unseen], equal_right[unseen] = _before(likeness[unseen], right[unseen])
    first = torch.where(matches > 0, above + (equal + 1).double() / (equal_right + 1), size + 1)
    hits, found = {}, {}
    for k in ks:
        places = min(k, top.values.shape[1])
        at_k = among_top[:, places - 1].double()
        if places < top.values.shape[1]:
            value = top.values[:, places - 1]
            tied = torch.nonzero((top.values[:, places] == value) & (value > -torch.inf)).squeeze(1)
            if len(tied):
                at_k[tied] = _hits_of_equals(likeness[tied], right[tied], value[tied], k)
        hits[k] = at_k.numpy()
        left = (k - above).clamp(min=0).minimum(equal)
        found[k] = np.where(matches > 0, 1 - none_drawn(equal.numpy(), equal_right.numpy(), left.numpy()), 0.0)
    return Ranked(
        hits=hits,
        found=found,
        first=first.double().numpy(),
        matches=matches.numpy(),
        size=size.numpy(),
        precision=_average_precision(likeness, right, matches) if whole else None,
    )


def perfect(ranked: Ranked, ks: Sequence[int]) -> Ranked:
    """The same queries and galleries, with every match before all others."""
    some = ranked.matches > 0
    return Ranked(
        hits={k: np.minimum(ranked.matches, k).astype(np.float64) for k in ks},
        found={k: some.astype(np.float64) for k in ks},
        first=np.where(some, 1.0, ranked.size + 1.0),
        matches=ranked.matches,
        size=ranked.size,
        precision=None if ranked.precision is None else some.astype(np.float64),
    )


def blind_first(size: I64, matches: I64) -> tuple[float, float]:
    """Mean and median of the rank of the first match over all queries and all orders of their galleries. (Q,), (Q,).

    The mean of a query is (n + 1) / (m + 1). The median is the least r with P(first <= r) >= 1/2, averaged over queries.
    """
    pairs, times = np.unique(np.stack([size, matches]), axis=1, return_counts=True)
    n, m = pairs.astype(np.float64)
    share = times / times.sum()
    later = np.ones(len(n))
    step = 0
    while step <= n.max(initial=0) and share @ later > 0.5 + 1e-12:
        later *= np.maximum(n - m - step, 0) / np.maximum(n - step, 1)
        step += 1
    return float(share @ ((n + 1) / (m + 1))), float(step)


def _sides(inputs: EvalInputs, studies: StudyInputs, *, csd: bool) -> tuple[Side, Side]:
    """The test ECGs that have a study, and the studies."""
    rows = np.flatnonzero((inputs.split == "test") & (studies.of_ecg >= 0))
    everyone = np.arange(len(studies.mean))
    sides: list[Side] = []
    for unit, chosen, mean, logvar, subject, own in (
        ("ecg", rows, inputs.mean, inputs.logvar, inputs.subject, studies.of_ecg),
        ("study", everyone, studies.mean, studies.logvar, studies.subject, everyone),
    ):
        penalty = np.zeros(len(chosen))
        if csd:
            assert logvar is not None
            penalty = 0.5 * np.exp(logvar[chosen].astype(np.float64)).sum(1)
        sides.append(
            Side(
                unit="ecg" if unit == "ecg" else "study",
                rows=chosen,
                vectors=stats.unit_rows(mean[chosen]),
                penalty=penalty,
                subject=subject[chosen],
                study=own[chosen],
            )
        )
    return sides[0], sides[1]


def _part(side: Side, chosen: stats.Mask) -> Side:
    return Side(
        unit=side.unit,
        rows=side.rows[chosen],
        vectors=side.vectors[chosen],
        penalty=side.penalty[chosen],
        subject=side.subject[chosen],
        study=side.study[chosen],
    )


def _likenesses(queries: Side, gallery: Side) -> Iterator[tuple[I64, Tensor, Tensor, Tensor]]:
    """Chunks: rows of the queries, likenesses (q, S), which are the own ones, which are of other subjects."""
    step = max(1, _CHUNK // len(gallery.rows))
    towards = stats.Gallery.of(gallery.vectors)
    for start in range(0, len(queries.rows), step):
        rows = np.arange(start, min(start + step, len(queries.rows)))
        like = torch.from_numpy(towards.cosines(queries.vectors[rows]) - gallery.penalty)
        own = queries.study[rows, None] == gallery.study[None]
        other = queries.subject[rows, None] != gallery.subject[None]
        yield rows, like, torch.from_numpy(own), torch.from_numpy(other)


def _ranked(chunks: Iterator[tuple[I64, Tensor, Tensor, Tensor | None]], ks: Sequence[int], *, whole: bool) -> Ranked:
    parts = [rank(like, right, among, ks, whole=whole) for _, like, right, among in chunks]
    return Ranked(
        hits={k: np.concatenate([part.hits[k] for part in parts]) for k in ks},
        found={k: np.concatenate([part.found[k] for part in parts]) for k in ks},
        first=np.concatenate([part.first for part in parts]),
        matches=np.concatenate([part.matches for part in parts]),
        size=np.concatenate([part.size for part in parts]),
        precision=np.concatenate([part.precision for part in parts if part.precision is not None]) if whole else None,
    )


def _before(likeness: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many are more like than the best match, how many as like, and how many of these match. (q,) each."""
    best = torch.where(right, likeness, -torch.inf).amax(1, keepdim=True)
    level = likeness == best
    return _count(likeness > best), _count(level), _count(level & right)


def _count(mask: Tensor) -> Tensor:
    """True values of each row. torch takes 25 times as long for it."""
    return torch.from_numpy(np.add.reduce(mask.numpy(), axis=1, dtype=np.int32)).long()


def _hits_of_equals(likeness: Tensor, right: Tensor, value: Tensor, k: int) -> Tensor:
    """Expected matches among the first k where `value` (q,) is that of the k-th and of some behind it."""
    above, level = likeness > value[:, None], likeness == value[:, None]
    share = (k - _count(above)).double() / _count(level)
    return _count(right & above) + _count(right & level) * share


def _average_precision(likeness: Tensor, right: Tensor, matches: Tensor) -> stats.F64:
    """(Q,) mean over matches of the share of matches down to them; 0 where there are none."""
    ordered, place = likeness.sort(dim=1, descending=True)
    hit = right.gather(1, place)
    number = torch.arange(ordered.shape[1]).expand_as(ordered)
    last = torch.ones_like(hit)
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    end = torch.where(last, number, ordered.shape[1]).flip(1).cummin(1).values.flip(1)  # of each group of equals
    called = hit.cumsum(1).gather(1, end).double() / (end + 1)
    return ((hit * called).sum(1) / matches.clamp(min=1)).numpy()
