"""Text-to-ECG retrieval: the report of each test ECG is asked for among all test ECGs; R@1 and R@10.

Equal reports count as hits: a query finds its aim when any ECG with the same report is among the first k. Equal similarities are
ranked in expectation over their orders, so that an embedding that has collapsed scores chance and not 1. The chance beside a
score is that of drawing k ECGs blindly: 1 - C(N - m, k) / C(N, k), m of N ECGs having the report, averaged over queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ecgecho import stats
from ecgecho.evals._settings import check_counts
from ecgecho.types import I64, EvalInputs, EvalRow

_CHUNK = 1 << 22  # similarities held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How deep, and by which likeness."""

    ks: tuple[int, ...] = (1, 10)
    similarity: Literal["cosine", "csd"] = "cosine"
    """"csd" also subtracts an ECG's summed variance, as PCME++ does: an unsure ECG is nobody's nearest."""

    def __post_init__(self) -> None:
        check_counts("retrieval.ks", self.ks)


def build(config: Config) -> Retrieval:
    """The evaluation."""
    return Retrieval(config)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """See the head of this file."""

    config: Config

    def run(self, inputs: EvalInputs) -> list[EvalRow]:
        """One row a depth, or its reason."""
        result = []
        for k in self.config.ks:
            metric = f"recall_at_{k}"
            found = hits(inputs, k, self.config.similarity)
            if isinstance(found, str):
                result.append(stats.no_row("retrieval", "text_to_ecg", metric, found))
                continue
            rows, hit, chance = found
            result.append(
                stats.row_of(
                    stats.mean_of(hit),
                    inputs.subject[rows],
                    evaluation="retrieval",
                    task="text_to_ecg",
                    metric=metric,
                    chance=chance,
                    resamples=inputs.bootstraps,
                    seed=inputs.seed,
                    rows=rows,
                    scores=hit[None],
                    values=hit,
                )
            )
        return result


def hits(inputs: EvalInputs, k: int, similarity: str = "cosine") -> tuple[I64, stats.F64, float] | str:
    """Test rows with a report, the probability that each one's report is answered within k, and chance; or the reason."""
    if inputs.text_mean is None:
        return inputs.absent.get("text", "the run was trained without text")
    rows = np.flatnonzero((inputs.split == "test") & (inputs.text_key >= 0))
    if len(rows) <= k:
        return f"the test split has {len(rows)} ECGs with a report; more than {k} are needed"
    keys, member = np.unique(inputs.text_key[rows], return_inverse=True)
    ecg = stats.Gallery.of(stats.unit_rows(inputs.mean[rows]))
    text = stats.unit_rows(inputs.text_mean[keys])
    penalty = np.zeros(len(rows))
    if similarity == "csd":
        if inputs.logvar is None:
            return "the run has no variance"
        penalty = 0.5 * np.exp(inputs.logvar[rows].astype(np.float64)).sum(1)
    answered = np.empty(len(keys))
    chunk = max(1, _CHUNK // len(rows))
    for start in range(0, len(keys), chunk):
        queries = np.arange(start, min(start + chunk, len(keys)))
        answered[queries] = _answered(ecg.cosines(text[queries]) - penalty, member[None] == queries[:, None], k)
    blind = 1 - none_drawn(len(rows), np.bincount(member), k)
    return rows, answered[member], float(blind[member].mean())


def _answered(likeness: stats.F64, right: stats.Mask, k: int) -> stats.F64:
    """Probability that a right candidate is among the first k, equals in random order. (Q, N), (Q, N) -> (Q,)."""
    best = np.where(right, likeness, -np.inf).max(1, keepdims=True)
    above = (likeness > best).sum(1)
    level = likeness == best
    equal, equal_right = level.sum(1), (level & right).sum(1)
    return 1 - none_drawn(equal, equal_right, np.clip(k - above, 0, equal))


def none_drawn(n: stats.Ints | int, m: stats.Ints | int, k: stats.Ints | int) -> stats.F64:
    """C(n - m, k) / C(n, k): the chance that k of n drawn blindly hold none of m, a product of k factors. All may be arrays."""
    n, m, k = np.broadcast_arrays(n, m, k)
    result = np.ones(n.shape)
    for drawn in range(int(k.max(initial=0))):
        factor = np.maximum(n - m - drawn, 0) / np.maximum(n - drawn, 1)
        result = np.where(drawn < k, result * factor, result)
    return result
