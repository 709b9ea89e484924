"""Nearest rows: what a loop in float64 finds, the same with faiss as without, equal distances by the lower row."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ecgecho import nearest as rooms
from ecgecho.nearest import nearest

torch.set_num_threads(1)
METRICS = ("euclidean", "cosine")


def by_loop(queries, gallery, k, metric):
    result = []
    for q in queries.astype(np.float64):
        s = gallery.astype(np.float64)
        if metric == "cosine":
            size = np.linalg.norm(q) * np.linalg.norm(s, axis=1)
            far = 1 - np.divide(s @ q, size, out=np.zeros(len(s)), where=size > 0)
        else:
            far = np.linalg.norm(s - q, axis=1)
        order = np.lexsort((np.arange(len(s)), far.round(12)))[:k]
        result.append((far[order], order))
    return np.stack([r[0] for r in result]), np.stack([r[1] for r in result])


def both_ways(monkeypatch, *given, **more):
    if not rooms.HAS_FAISS:
        pytest.skip("faiss is not installed")
    results = []
    for has in (True, False):
        monkeypatch.setattr(rooms, "HAS_FAISS", has)
        results.append(nearest(*given, **more))
    return results


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(40, 30, 5, 3), (7, 300, 16, 20), (3, 4, 2, 9), (1, 1, 1, 1)])
def test_it_finds_what_a_loop_finds(metric, shape):
    q, s, d, k = shape
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(q, d)), rng.normal(size=(s, d))
    distance, index = nearest(queries, gallery, k, metric=metric)
    far, order = by_loop(queries, gallery, k, metric)
    np.testing.assert_array_equal(index, order)
    np.testing.assert_allclose(distance, far, atol=1e-6)
    assert (distance.dtype, index.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("fault", [ImportError("libmkl"), OSError("wrong ELF class")])
def test_a_faiss_that_cannot_be_loaded_is_as_none(monkeypatch, tmp_path, fault):
    (tmp_path / "faiss.py").write_text(f"raise {fault!r}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(rooms, "HAS_FAISS", True)
    rooms._faiss.cache_clear()
    try:
        q = np.random.default_rng(0).normal(size=(50, 3))
        np.testing.assert_array_equal(nearest(q, q, 1, metric="euclidean")[1][:, 0], np.arange(50))
        assert rooms._faiss() is None
    finally:
        rooms._faiss.cache_clear()


@pytest.mark.parametrize("metric", METRICS)
def test_equal_distances_go_by_the_lower_row(metric):
    rng = np.random.default_rng(1)
    few = rng.integers(-1, 2, size=(9, 3)).astype(np.float32)  # with rows of zeros, and many at the same distance
    gallery, queries = few[rng.integers(0, 9, 200)], rng.integers(-1, 2, size=(30, 3)).astype(np.float32)
    for k in (1, 5, 60, 200):
        _, index = nearest(queries, gallery, k, metric=metric)
        np.testing.assert_array_equal(index, by_loop(queries, gallery, k, metric)[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-7, 0.0])
def test_faiss_changes_no_bit_of_the_answer_however_near_the_rows_lie(monkeypatch, metric, spread):
    rng = np.random.default_rng(2)
    gallery = (1 + spread * rng.normal(size=(400, 24))).astype(np.float32)
    queries = (1 + spread * rng.normal(size=(50, 24))).astype(np.float32)
    one, two = both_ways(monkeypatch, queries, gallery, 6, metric=metric)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    if metric == "euclidean":
        far = np.square(queries[:, None].astype(np.float64) - gallery[None].astype(np.float64)).sum(-1)
        np.testing.assert_array_equal(one[1], np.argsort(far, axis=1, kind="stable")[:, :6])


def test_rows_far_from_the_origin_lose_no_digits():
    rng = np.random.default_rng(3)
    gallery, queries = rng.normal(size=(100, 8)), rng.normal(size=(10, 8))
    _, near = nearest(queries, gallery, 5, metric="euclidean")
    _, far = nearest(queries + 1e6, gallery + 1e6, 5, metric="euclidean")
    np.testing.assert_array_equal(near, far)


def test_a_query_finds_itself_at_no_distance():
    gallery = np.random.default_rng(4).normal(size=(50, 6)).astype(np.float32)
    for metric in METRICS:
        distance, index = nearest(gallery, gallery, 1, metric=metric)
        np.testing.assert_array_equal(index[:, 0], np.arange(50))
        np.testing.assert_array_equal(distance[:, 0], np.zeros(50))


@pytest.mark.parametrize(
    ("queries", "gallery", "k", "metric"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), 1, "cosine"),
        (np.zeros((2, 3)), np.zeros((2, 3)), 0, "cosine"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), 1, "cosine"),
        (np.zeros((2, 3)), np.zeros(3), 1, "cosine"),
        (np.zeros((2, 3)), np.zeros((2, 3)), 1, "dot"),
    ],
)
def test_what_cannot_be_searched_is_an_error(queries, gallery, k, metric):
    with pytest.raises(ValueError, match="must be"):
        nearest(queries, gallery, k, metric=metric)


def test_nothing_to_ask_or_nothing_to_find_is_empty():
    assert nearest(np.empty((0, 3)), np.ones((4, 3)), 2, metric="cosine")[1].shape == (0, 2)
    assert nearest(np.ones((4, 3)), np.empty((0, 3)), 2, metric="cosine")[1].shape == (4, 0)


@pytest.mark.parametrize("order", ["import faiss, torch", "import torch, faiss"])
def test_faiss_and_torch_work_with_threads_in_one_process(order):
    """Two OpenMP runtimes in a process are known to hang or to crash; here both are at work by turns, and beside each other."""
    if not rooms.HAS_FAISS:
        pytest.skip("faiss is not installed")
    code = (
        f"{order}\nimport numpy as np\nfrom concurrent.futures import ThreadPoolExecutor\nfrom ecgecho import nearest as room\n"
        "torch.set_num_threads(2)\nx = np.random.default_rng(0).normal(size=(600, 64)).astype('float32')\n"
        "def ask(_):\n    (torch.from_numpy(x) @ torch.from_numpy(x).T).sum()\n"
        "    return room.nearest(x, x, 5, metric='cosine')[1]\n"
        "alone = ask(0)\n"
        "with ThreadPoolExecutor(3) as pool:\n    assert all((r == alone).all() for r in pool.map(ask, range(6)))\n"
        "assert (alone[:, 0] == np.arange(600)).all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
