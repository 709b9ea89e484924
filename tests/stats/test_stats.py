import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from ecgecho import stats

BOTH_CLASSES = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda y: 0 < sum(y) < len(y)),
        st.lists(st.integers(-3, 3), min_size=n, max_size=n),
    )
)


def cohort(n=600, seed=0, shift=1.0, per_subject=1.5):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return y, rng.normal(size=n) + shift * y, rng.integers(0, int(n / per_subject), n)


@given(BOTH_CLASSES)
@settings(max_examples=60, deadline=None)
def test_metrics_equal_those_of_sklearn_ties_included(case):
    y, score = np.array(case[0]), np.array(case[1], dtype=float)
    assert stats.auroc(y, score) == pytest.approx(roc_auc_score(y, score), abs=1e-12)
    assert stats.average_precision(y, score) == pytest.approx(average_precision_score(y, score), abs=1e-12)
    assert stats.balanced_accuracy(y, score > 0) == pytest.approx(balanced_accuracy_score(y, score > 0), abs=1e-12)


@given(BOTH_CLASSES, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_a_weight_of_two_is_the_row_twice(case, seed):
    y, score = np.array(case[0]), np.array(case[1], dtype=float)
    weights = np.random.default_rng(seed).integers(0, 3, len(y))
    repeated = np.repeat(np.arange(len(y)), weights)
    for of in (stats.auroc_of, stats.average_precision_of, lambda a, b: stats.balanced_accuracy_of(a, np.asarray(b) > 0)):
        weighted = of(y, score)(weights[None].astype(float))[0]
        plain = stats.value_of(of(y[repeated], score[repeated]), len(repeated))
        if plain is None:
            assert np.isnan(weighted)
        else:
            assert weighted == pytest.approx(plain, abs=1e-12)


def test_a_perfect_score_is_1_a_reversed_one_0_and_a_constant_one_half():
    y = np.array([0, 0, 1, 1])
    assert stats.auroc(y, y) == 1
    assert stats.auroc(y, -y) == 0
    assert stats.auroc(y, np.zeros(4)) == 0.5


@pytest.mark.parametrize("y", [[], [0, 0, 0], [1, 1]])
def test_one_class_gives_a_reason_and_no_number(y):
    found = stats.bootstrap(stats.auroc_of(y, np.arange(len(y))), np.arange(len(y)))
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.reason


def test_too_few_positives_give_the_value_without_an_interval():
    found = stats.bootstrap(stats.auroc_of([1, 0, 0, 0, 0], [5, 1, 2, 3, 4]), np.arange(5))
    assert found.value == 1
    assert found.low is None
    assert "interval" in found.reason


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        stats.auroc([0, 1], [0.0, np.nan])


def test_an_interval_of_600_rows_takes_well_under_a_second():
    y, score, subject = cohort()
    began = time.perf_counter()
    stats.bootstrap(stats.auroc_of(y, score), subject, resamples=1000)
    assert time.perf_counter() - began < 1.0


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # Normal scores a distance 1 apart: AUROC = Phi(1 / sqrt(2)).
    truth, hits = 0.7602499, 0
    for seed in range(100):
        y, score, _ = cohort(n=200, seed=seed)
        found = stats.bootstrap(stats.auroc_of(y, score), np.arange(200), resamples=300, seed=seed)
        hits += found.low <= truth <= found.high
    assert 87 <= hits <= 100


def test_rows_of_one_subject_do_not_narrow_the_interval():
    y, score, _ = cohort(n=200)
    once = stats.bootstrap(stats.auroc_of(y, score), np.arange(200))
    tenfold = np.repeat(np.arange(200), 10)
    repeated = stats.bootstrap(stats.auroc_of(y[tenfold], score[tenfold]), tenfold)
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_the_order_of_the_rows_does_not_matter():
    y, score, subject = cohort()
    order = np.random.default_rng(1).permutation(len(y))
    a = stats.bootstrap(stats.auroc_of(y, score), subject)
    b = stats.bootstrap(stats.auroc_of(y[order], score[order]), subject[order])
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-12)


def test_a_large_cohort_in_chunks_gives_what_one_piece_gives(monkeypatch):
    y, score, subject = cohort()
    whole = stats.bootstrap(stats.auroc_of(y, score), subject)
    monkeypatch.setattr(stats, "_CHUNK", len(y) * 7)
    assert stats.bootstrap(stats.auroc_of(y, score), subject) == whole


def test_a_score_against_itself_differs_by_nothing():
    y, score, subject = cohort()
    found = stats.paired_difference(y, score, score, subject)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_a_paired_difference_is_narrower_than_two_intervals():
    y, score, subject = cohort()
    better = score + 0.2 * y
    paired = stats.paired_difference(y, better, score, subject)
    alone = stats.bootstrap(stats.auroc_of(y, better), subject)
    assert paired.value == pytest.approx(stats.auroc(y, better) - stats.auroc(y, score))
    assert paired.low > 0
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_the_best_threshold_lies_midway_and_has_the_highest_balanced_accuracy():
    assert stats.best_threshold([0, 0, 1, 1], [0.0, 1.0, 3.0, 4.0]) == 2.0
    y, score, _ = cohort(n=80)
    cut = stats.best_threshold(y, score)
    assert stats.balanced_accuracy(y, score > cut) == max(stats.balanced_accuracy(y, score > c) for c in np.r_[score, -9])
    assert stats.best_threshold([1, 1], [0.0, 1.0]) is None


def test_a_share_is_drawn_by_subject_holds_both_classes_and_grows():
    y, _, subject = cohort(n=1000)
    y = (subject % 29 == 0).astype(int)
    tenth = stats.sample_subjects(subject, y, share=0.1, seed=3)
    half = stats.sample_subjects(subject, y, share=0.5, seed=3)
    assert not set(subject[tenth]) & set(np.delete(subject, tenth))
    assert set(tenth) <= set(half)
    assert set(y[tenth]) == {0, 1}
    assert len(np.unique(subject[tenth])) == pytest.approx(0.1 * len(np.unique(subject)), abs=2)
    order = np.random.default_rng(0).permutation(len(y))
    assert set(order[stats.sample_subjects(subject[order], y[order], share=0.1, seed=3)]) == set(tenth)


def test_the_median_of_weights_is_that_of_the_repeated_rows():
    rng = np.random.default_rng(0)
    values, weights = rng.integers(0, 9, 12).astype(float), rng.integers(0, 4, (50, 12)).astype(float)
    found = stats.median_of(values)(weights)
    np.testing.assert_array_equal(found, [np.median(np.repeat(values, w.astype(int))) for w in weights])
    assert np.isnan(stats.median_of(values)(np.zeros((1, 12)))).all()


def test_scores_of_classes_equal_those_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    rng = np.random.default_rng(0)
    number, scores = np.arange(90) % 3, rng.random((3, 90))
    scores /= scores.sum(0)
    auroc = stats.value_of(stats.macro_auroc_of(number, scores), 90)
    assert auroc == pytest.approx(roc_auc_score(number, scores.T, multi_class="ovr", average="macro"))
    recall = stats.value_of(stats.recall_of(number, scores.argmax(0), 3), 90)
    assert recall == pytest.approx(balanced_accuracy_score(number, scores.argmax(0)))


def test_resamples_that_are_kept_equal_those_drawn_anew(monkeypatch):
    y, score, subject = cohort()
    kept = stats.bootstrap(stats.auroc_of(y, score), subject)
    monkeypatch.setattr(stats, "_KEPT", 0)
    assert stats.bootstrap(stats.auroc_of(y, score), subject) == kept


def test_several_statistics_resampled_together_are_those_resampled_alone():
    y, score, subject = cohort()
    other = np.random.default_rng(5).normal(size=len(y))
    one, two, apart = stats.bootstraps([stats.auroc_of(y, score), stats.auroc_of(y, other)], subject)
    assert one == stats.bootstrap(stats.auroc_of(y, score), subject)
    assert two == stats.bootstrap(stats.auroc_of(y, other), subject)
    assert apart == stats.paired_difference(y, score, other, subject)


def test_a_share_of_several_classes_holds_each_of_them():
    subject = np.arange(400)
    number = np.where(subject < 4, 0, np.where(subject < 40, 1, 2))
    rows = stats.sample_subjects(subject, number, share=0.05, seed=1)
    assert np.bincount(number[rows]).tolist() == [1, 2, 18]


def test_resamples_are_held_a_chunk_at_a_time(monkeypatch):
    monkeypatch.setattr(stats, "_CHUNK", 1 << 14)
    rng = np.random.default_rng(0)
    subject, hit = rng.integers(0, 40, 2000), rng.random(2000)
    expected = stats.bootstraps([stats.mean_of(hit), stats.mean_of(1 - hit)], subject)
    tracemalloc.start()
    assert stats.bootstraps([stats.mean_of(hit), stats.mean_of(1 - hit)], subject) == expected
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2e6  # of 16e6 that all weights take


def test_equal_vectors_are_equally_like_every_query():
    rng = np.random.default_rng(0)
    few = stats.unit_rows(rng.normal(size=(3, 50)))
    number, queries = rng.integers(0, 3, 1001), stats.unit_rows(rng.normal(size=(70, 50)))
    like = stats.Gallery.of(few[number]).cosines(queries)
    assert all(len(set(row)) == 3 for row in like)
    np.testing.assert_allclose(like, queries @ few[number].T, atol=1e-13)
    np.testing.assert_allclose(stats.Gallery.of(queries).cosines(few), few @ queries.T, atol=1e-13)
    signed = np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]])
    assert stats.Gallery.of(signed).number.tolist() == [0, 0, 1]


@pytest.mark.parametrize(("values", "said"), [([0.0] * 18, "no interval: all 18 are equal"), ([0.0] * 17 + [1.0], "")])
def test_a_mean_of_equal_values_has_no_interval(values, said):
    row = stats.row_of(stats.mean_of(values), np.arange(18), evaluation="e", task="t", metric="m", values=values, resamples=50)
    assert (row.value, row.reason) == (np.mean(values), said)
    assert (row.low is None) == (row.high is None) == bool(said)
