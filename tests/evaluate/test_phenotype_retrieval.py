"""Retrieval by measurement: chance and oracle are exact, equals stand in expectation, one's own subject is left out."""

import dataclasses

import numpy as np
import pytest
import torch

from ecgecho.evals import phenotype_retrieval as module
from ecgecho.evals import retrieval
from ecgecho.types import EvalInputs, Phenotype, StudyInputs

KS = (1, 3, 5)


def world(*, n=60, dim=4, seed=0, values=None, **config):
    """A study and an ECG of each of n/2 subjects, twice; all vectors at random."""
    rng = np.random.default_rng(seed)
    subject = np.arange(n) // 2
    values = rng.normal(60, 10, n) if values is None else values
    studies = StudyInputs(
        mean=rng.normal(size=(n, dim)).astype(np.float32),
        logvar=rng.normal(size=(n, dim)).astype(np.float32),
        subject=subject,
        of_ecg=np.arange(n),
        phenotypes=(Phenotype(name="lvef", title="LVEF", unit="%", values=values),),
    )
    given = EvalInputs(
        mean=rng.normal(size=(n, dim)).astype(np.float32),
        logvar=rng.normal(size=(n, dim)).astype(np.float32),
        subject=subject,
        split=np.full(n, "test"),
        tasks=(),
        labels={},
        text_key=np.full(n, -1),
        studies=studies,
        bootstraps=20,
    )
    return given, module.build(module.Config(ks=KS, **config))


def table(rows):
    return {(row.evaluation, row.task, row.metric): row for row in rows}


def test_ranks_equal_a_loop_over_each_query():
    rng = np.random.default_rng(0)
    like, right = rng.normal(size=(20, 12)), rng.random((20, 12)) < 0.2
    among = rng.random((20, 12)) < 0.8
    right[0] = False
    found = module.rank(torch.from_numpy(like), torch.from_numpy(right), torch.from_numpy(among), KS)
    for q in range(20):
        order = [s for s in np.argsort(-like[q]) if among[q, s]]
        places = [p for p, s in enumerate(order, 1) if right[q, s]]
        assert found.first[q] == (places[0] if places else len(order) + 1)
        assert (found.size[q], found.matches[q]) == (len(order), len(places))
        for k in KS:
            assert found.hits[k][q] == sum(p <= k for p in places)
            assert found.found[k][q] == any(p <= k for p in places)


def test_equal_likenesses_score_the_mean_over_their_orders():
    rng = np.random.default_rng(1)
    like, right = rng.integers(0, 3, size=(8, 9)).astype(float), rng.random((8, 9)) < 0.3
    found = module.rank(torch.from_numpy(like), torch.from_numpy(right), None, KS)
    rounds = 4000
    orders = np.tile(like, (rounds, 1)) + 1e-3 * rng.random((rounds * len(like), like.shape[1]))
    drawn = module.rank(torch.from_numpy(orders), torch.from_numpy(np.tile(right, (rounds, 1))), None, KS)

    def mean(each):
        return each.reshape(rounds, len(like)).mean(0)

    np.testing.assert_allclose(found.first, mean(drawn.first), atol=0.12)
    for k in KS:
        np.testing.assert_allclose(found.hits[k], mean(drawn.hits[k]), atol=0.06)
        np.testing.assert_allclose(found.found[k], mean(drawn.found[k]), atol=0.04)


def test_chance_is_what_random_embeddings_score_on_average():
    scores = [table(run.run(given)) for given, run in (world(seed=s, values=np.arange(60.0) ** 1.5) for s in range(60))]
    for key in scores[0]:
        if key[0] == module.NAME and key[2] != "median_rank":
            values = np.array([one[key].value for one in scores])
            spread = values.std(ddof=1) / np.sqrt(len(values))
            assert abs(values.mean() - scores[0][key].chance) < 4 * spread, key


def test_the_median_of_chance_is_that_of_all_queries_and_orders():
    rng = np.random.default_rng(0)
    size, matches = np.array([9, 9, 30, 4]), np.array([1, 3, 2, 0])
    mean, median = module.blind_first(size, matches)
    drawn = np.concatenate(
        [
            [np.sort(rng.permutation(n)[:m] + 1)[0] if m else n + 1 for _ in range(4000)]
            for n, m in zip(size, matches, strict=True)
        ]
    )
    assert mean == pytest.approx(drawn.mean(), rel=0.03)
    assert median == np.median(drawn)


def test_the_oracle_is_the_order_by_the_true_difference():
    given, run = world()
    rows = table(run.run(given))
    values, subject = given.studies.phenotypes[0].values, given.subject
    apart = np.abs(values[:, None] - values[None])
    right = apart <= 0.5 * values.std(ddof=1)
    best = module.rank(-torch.from_numpy(apart), torch.from_numpy(right), torch.from_numpy(subject[:, None] != subject), KS)
    for k in KS:
        assert rows[module.ORACLE, "ecg_to_study.lvef", f"precision_at_{k}"].value == pytest.approx((best.hits[k] / k).mean())
    assert rows[module.ORACLE, "ecg_to_study.lvef", "mean_rank"].value == pytest.approx(best.first.mean())


def test_ones_own_subject_is_no_match_unless_it_is_asked_to_count():
    given, run = world(values=np.arange(60.0) // 2 * 100, tolerance=0.01)  # only the own subject's two studies are alike
    given = dataclasses.replace(given, mean=given.studies.mean.copy())
    assert table(run.run(given))[module.NAME, "ecg_to_study.lvef", "precision_at_1"].value == 0
    _, counting = world(own="count", tolerance=0.01)
    rows = table(counting.run(given))
    assert rows[module.NAME, "ecg_to_study.lvef", "precision_at_1"].value == 1
    assert rows[module.NAME, "ecg_to_study.own", "recall_at_1"].value == 1


def test_of_several_own_ecgs_one_is_enough_or_the_share_that_is_found():
    given, run = world()
    of_ecg = np.arange(60) // 2 * 2  # two ECGs a study
    mean = given.studies.mean[of_ecg]
    mean[1::2] *= -1  # one is what the study is, the other lies opposite
    given = dataclasses.replace(given, mean=mean, studies=dataclasses.replace(given.studies, of_ecg=of_ecg))
    key = (module.NAME, "study_to_ecg.own", "recall_at_1")
    assert table(run.run(given))[key].value == 1
    _, sharing = world(recall="share")
    assert table(sharing.run(given))[key].value == 0.5


def test_an_unsure_study_is_nobodys_nearest_by_csd():
    given, run = world(similarity="csd")
    first = np.zeros((60, 4), np.float32)
    first[7] = 9
    given = dataclasses.replace(given, studies=dataclasses.replace(given.studies, mean=given.mean.copy(), logvar=first))
    row = table(run.run(given))[module.NAME, "ecg_to_study.own", "recall_at_1"]
    assert row.scores[0][7] == 0
    assert row.value == pytest.approx(59 / 60)
    bare = dataclasses.replace(given, logvar=None)
    assert run.run(bare)[0].reason == "the run has no variance"


def test_what_cannot_be_asked_says_why():
    given, run = world()
    for values, said in ((np.full(60, 50.0), "measure the same"), (np.r_[0.0, 1.0, np.full(58, np.nan)], "are needed")):
        phenotypes = (Phenotype(name="lvef", title="LVEF", unit="%", values=values),)
        rows = run.run(dataclasses.replace(given, studies=dataclasses.replace(given.studies, phenotypes=phenotypes)))
        assert all(said in row.reason for row in rows if row.task.endswith("lvef"))
    rows = run.run(dataclasses.replace(given, studies=dataclasses.replace(given.studies, phenotypes=())))
    assert rows[-1].reason == "the catalogs measure nothing of these studies"
    assert {row.unit for row in rows if row.task.startswith("study")} == {"study"}


def test_embeddings_that_have_collapsed_score_chance_exactly():
    given, run = world(n=1001, dim=50)
    flat = dataclasses.replace(
        given,
        mean=np.repeat(given.mean[:1], 1001, axis=0),
        studies=dataclasses.replace(given.studies, mean=np.repeat(given.studies.mean[:1], 1001, axis=0)),
    )
    scored = [row for row in run.run(flat) if row.evaluation == module.NAME and row.metric != "median_rank"]
    assert len(scored) == 4 * (len(KS) + 1)
    for row in scored:
        assert row.value == pytest.approx(row.chance, rel=1e-9), (row.task, row.metric)


def test_reports_are_found_by_chance_among_ecgs_that_have_collapsed():
    given, _ = world(n=1001, dim=50)
    key = np.arange(1001) // 3
    text = np.random.default_rng(1).normal(size=(334, 50)).astype(np.float32)
    flat = dataclasses.replace(given, mean=np.repeat(given.mean[:1], 1001, axis=0), text_key=key, text_mean=text)
    _, hit, chance = retrieval.hits(flat, 10)
    assert hit.mean() == pytest.approx(chance, rel=1e-9)
