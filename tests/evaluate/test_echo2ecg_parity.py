"""Retrieval and neighbours give the published numbers, where they are asked as published (golden/echo2ecg_aggregator)."""

import numpy as np
import pytest
import torch
from golden.golden_rules import TOLERANCE, case, series

from ecgecho.evals.knn import votes
from ecgecho.evals.phenotype_retrieval import rank, within

CASES = ["pairs_24x12", "lvef_tol0.5_24x12", "lvef_tol0.1_24x12", "corr_pairs_60x30"]
KS = (1, 3, 5, 10)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("direction", ["ecg_to_echo", "echo_to_ecg"])
def test_retrieval_equals_the_published_metrics(name, direction):
    golden = case("echo2ecg_aggregator", f"retrieval_{name}")
    like, value = torch.from_numpy(golden["sim"]).double(), golden["study_val"].astype(np.float64)
    study = np.arange(len(like)) % len(value)
    if "lvef" in name:
        near = float(name.split("tol")[1].split("_")[0]) * value.std(ddof=1)
        assert near == pytest.approx(float(golden["threshold"]), rel=1e-5)
        right = torch.from_numpy(within(value[study], value, near))
    else:
        right = torch.from_numpy(study[:, None] == np.arange(len(value)))
    if direction == "echo_to_ecg":
        like, right = like.T.contiguous(), right.T.contiguous()
    found = rank(like, right, None, KS, whole=True)
    mine = {"mAP": found.precision.mean(), "MdR": np.median(found.first), "MnR": found.first.mean()}
    for k in KS:
        mine |= {f"prec@{k}": (found.hits[k] / k).mean(), f"recall@{k}": (found.hits[k] / np.maximum(found.matches, 1)).mean()}
    np.testing.assert_array_equal(found.matches, golden["n_gt_ecg" if direction == "ecg_to_echo" else "n_gt_echo"])
    for metric, score in mine.items():
        assert score == pytest.approx(float(golden[f"metric/{metric}_{direction}"]), rel=TOLERANCE), metric


def test_the_vote_of_five_neighbours_equals_the_published_one():
    golden = case("echo2ecg_aggregator", "knn5_brute")
    features = np.concatenate([series((60, 8)), series((15, 8), 333)])
    y = np.concatenate([golden["y_train"], np.zeros(15, np.int64)])
    np.testing.assert_array_equal(y[:60], 7 * np.arange(60) % 3)
    voted = votes(features, y, np.arange(60), np.arange(60, 75), k=5, metric="euclidean")
    np.testing.assert_array_equal(voted.T, golden["proba"])
    np.testing.assert_array_equal(voted.argmax(0), golden["pred"])
