"""The nearest rows of a gallery, exactly: the same answer with faiss as without, and equal distances by the lower row.

A fast search in float32 (faiss IndexFlat where it is installed, else torch in chunks) finds a few more rows than are asked for,
whose distances are then computed again in float64 by differences and sorted. Where the fast search may have missed a row, because
those just behind lie nearer than its rounding, the query is asked again in float64, and at last against every row. Rows that are
equal in all their numbers are searched once.

Shape letters: Q queries, S gallery rows, D dimensions, k neighbours, c candidates.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ecgecho.types import F32, I64, Bool

F64 = npt.NDArray[np.float64]

SPARE = 8  # candidates beyond k, so that rounding seldom costs a second search
STEPS = 2.0**48  # of a squared distance of unit vectors: what differs by less is rounding of their lengths, and equal
ROUNDING = 8.0  # times sqrt(D) eps (|q| + max |s|)^2: the rounding of a squared distance is a walk of D steps, eight times wider
_CHUNK = 1 << 22  # distances held at once
_WIDE = 1 << 21  # float64 differences held at once

HAS_FAISS = importlib.util.find_spec("faiss") is not None


@cache
def _faiss() -> Any:
    """The module; None where it cannot be loaded, for what it was built against is missing or another."""
    try:
        import faiss
    except (ImportError, OSError):
        return None
    return faiss


def nearest(
    queries: npt.NDArray[np.floating], gallery: npt.NDArray[np.floating], k: int, *, metric: Literal["cosine", "euclidean"]
) -> tuple[F32, I64]:
    """(Q, D), (S, D) -> distances (Q, min(k, S)), ascending, and rows of the gallery (Q, min(k, S)).

    The distance is |q - s|, or 1 - cos(q, s), where a vector of zeros has cosine 0 with all. Not finite is a ValueError.
    """
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"the metric is {metric!r}; it must be cosine or euclidean")
    q, s = _checked(queries, "queries"), _checked(gallery, "gallery")
    if q.shape[1] != s.shape[1] or k < 1:
        raise ValueError(f"queries {q.shape} and gallery {s.shape} must be equally wide, and k ({k}) 1 or more")
    k = min(k, len(s))
    if not len(q) or not k:
        return np.empty((len(q), k), np.float32), np.empty((len(q), k), np.int64)
    blind: Bool = np.zeros(len(q), np.bool_)
    if metric == "cosine":
        blind = np.logical_not(np.any(q, axis=1))
        q, s = _unit(q), _unit(s)
    order, first, copies = _groups(s)
    steps = STEPS if metric == "cosine" else 0.0
    square, group = _ranked(q, s[order[first]], order[first], min(k, len(first)), steps)
    if len(first) == len(s):
        index = order[first[group]]
    else:
        square, index = _all_copies(square, group, order, first, copies, k)
    if metric == "euclidean":
        return np.sqrt(square).astype(np.float32), index
    distance = 0.5 * square  # of unit vectors |q - s|^2 = 2 - 2 cos
    distance[blind], index[blind] = 1.0, np.arange(k)
    return distance.astype(np.float32), index


def _checked(vectors: npt.NDArray[np.floating], name: str) -> F64:
    wide = np.ascontiguousarray(vectors, dtype=np.float64)
    if wide.ndim != 2 or not np.isfinite(wide).all():
        raise ValueError(f"{name} must be finite (rows, D), not {np.shape(vectors)}")
    return wide


def _unit(vectors: F64) -> F64:
    """Rows of length one; those of zeros stand upright on all others, in a dimension of their own."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.concatenate([vectors / np.where(length > 0, length, 1.0), length == 0], axis=1)


def _groups(s: F64) -> tuple[I64, I64, I64]:
    """Rows in an order that puts equal ones side by side, the lowest first; where each group starts there, and its size."""
    mark = (s * np.random.default_rng(0).normal(size=s.shape[1])).sum(1)  # not a product of matrices: equal rows, equal bits
    order = np.argsort(mark, kind="stable")
    same = mark[order[1:]] == mark[order[:-1]]
    near = np.flatnonzero(same)
    same[near] = (s[order[near]] == s[order[near + 1]]).all(1)
    first = np.flatnonzero(np.r_[True, ~same])
    return order, first, np.diff(np.r_[first, len(order)])


def _ranked(q: F64, s: F64, row: I64, k: int, steps: float) -> tuple[F64, I64]:
    """Squared distances (Q, k) and rows of `s` (Q, k), of equal ones the lower `row` (S,) first; `steps` 0 rounds nothing."""
    square, index = np.empty((len(q), k)), np.empty((len(q), k), np.int64)
    centre = s.mean(0)
    reach = np.linalg.norm(q - centre, axis=1) + np.linalg.norm(s - centre, axis=1).max()
    left = np.arange(len(q))
    for dtype in (np.float32, np.float64, None):
        if not len(left):
            break
        number = min(k + SPARE, len(s)) if dtype is not None else len(s)
        if dtype is None or number == len(s):
            found, outside = None, np.full(len(left), np.inf)
        else:
            found, last = _candidates((q[left] - centre).astype(dtype), (s - centre).astype(dtype), number)
            outside = last - ROUNDING * np.sqrt(s.shape[1]) * np.finfo(dtype).eps * np.square(reach[left])
            outside -= 1 / steps if steps else 0.0
        step = max(1, _WIDE // (number * s.shape[1]))
        for start in range(0, len(left), step):
            rows = left[start : start + step]
            ids = np.broadcast_to(np.arange(len(s)), (len(rows), number)) if found is None else found[start : start + step]
            exact = np.square(q[rows, None] - s[ids]).sum(-1)
            exact = np.round(exact * steps) / steps if steps else exact
            place = np.lexsort((row[ids], exact))[:, :k]
            square[rows], index[rows] = np.take_along_axis(exact, place, 1), np.take_along_axis(ids, place, 1)
        left = left[~(square[left, -1] < outside)]
    return square, index


def _candidates(q: npt.NDArray[np.floating], s: npt.NDArray[np.floating], number: int) -> tuple[I64, F64]:
    """The nearest rows (Q, c) by rounded distances, in no certain order of equals, and the largest of these squares (Q,)."""
    if HAS_FAISS and q.dtype == np.float32 and _faiss() is not None:
        return _by_faiss(q, s, number)
    return _by_torch(q, s, number)


def _by_faiss(q: npt.NDArray[np.floating], s: npt.NDArray[np.floating], number: int) -> tuple[I64, F64]:
    faiss = _faiss()
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(s.shape[1])
    index.add(np.ascontiguousarray(s))
    square, found = index.search(np.ascontiguousarray(q), number)
    missing = np.asarray(found.min(1) < 0)  # where a distance overflows: asked again in float64
    return np.where(missing[:, None], 0, found), np.where(missing, -np.inf, square[:, -1].astype(np.float64))


def _by_torch(q: npt.NDArray[np.floating], s: npt.NDArray[np.floating], number: int) -> tuple[I64, F64]:
    queries, gallery = torch.from_numpy(np.ascontiguousarray(q)), torch.from_numpy(np.ascontiguousarray(s))
    size = gallery.square().sum(1)
    found, last = np.empty((len(q), number), np.int64), np.empty(len(q))
    step = max(1, _CHUNK // len(s))
    for start in range(0, len(q), step):
        part = queries[start : start + step]
        near = torch.addmm(size[None], part, gallery.T, alpha=-2).topk(number, dim=1, largest=False, sorted=False)
        found[start : start + step] = near.indices.numpy()
        last[start : start + step] = (near.values.amax(1) + part.square().sum(1)).double().numpy()
    return found, np.where(np.isfinite(last), last, -np.inf)


def _all_copies(square: F64, group: I64, order: I64, first: I64, copies: I64, k: int) -> tuple[F64, I64]:
    """Ranked groups of equal rows -> the k nearest rows themselves. (Q, g), (Q, g) -> (Q, k), (Q, k)."""
    most = int(min(copies.max(), k))
    place = np.arange(most)
    distance, index = np.empty((len(group), k)), np.empty((len(group), k), np.int64)
    step = max(1, _WIDE // (group.shape[1] * most))
    for start in range(0, len(group), step):
        some = group[start : start + step]
        real = place < copies[some][..., None]
        rows = order[np.minimum(first[some][..., None] + place, len(order) - 1)]
        far = np.where(real, square[start : start + step, :, None], np.inf).reshape(len(some), -1)
        rows = rows.reshape(len(some), -1)
        best = np.lexsort((rows, far))[:, :k]
        distance[start : start + step] = np.take_along_axis(far, best, 1)
        index[start : start + step] = np.take_along_axis(rows, best, 1)
    return distance, index
