"""Pairs and labels equal a loop over all rows; splits hang on (family, subject) alone."""

import collections
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgecho import catalog, pairs
from ecgecho.catalog import SCHEMAS, IndexOptions
from ecgecho.types import UsageError, UserError

T0 = datetime(2150, 1, 1)
PEOPLE = ["a", "b", "c"]
STAYS = [None, "1", "2"]

times = st.one_of(
    st.none(),
    st.integers(-4, 4).map(lambda days: T0 + timedelta(days=days)),
    st.integers(-300, 300).map(lambda h: T0 + timedelta(hours=h)),
)


@st.composite
def cohorts(draw):
    ecgs = [
        {
            "ecg_id": f"e{i}",
            "subject_id": draw(st.sampled_from(PEOPLE)),
            "path": f"e{i}",
            "time": draw(times),
            "admission_id": draw(st.sampled_from(STAYS)),
        }
        for i in range(draw(st.integers(0, 6)))
    ]
    clips, number = [], 0
    for i in range(draw(st.integers(0, 6))):
        who, stay = draw(st.sampled_from(PEOPLE)), draw(st.sampled_from(STAYS))
        for _ in range(draw(st.integers(1, 2))):
            kind, frames = draw(st.sampled_from([(None, None), ("b_mode", 9), ("still", 1), ("colour", 9)]))
            clips.append(
                {
                    "clip_id": f"c{number}",
                    "study_id": f"s{9 - i}",
                    "subject_id": who,
                    "path": "p",
                    "time": draw(times),
                    "kind": kind,
                    "num_frames": frames,
                    "admission_id": stay,
                }
            )
            number += 1
    texts = [
        {
            "text_id": f"t{i}",
            "subject_id": e["subject_id"],
            "ecg_id": draw(st.sampled_from([e["ecg_id"], None])),
            "source": "x",
            "text": "y",
        }
        for i, e in enumerate(ecgs + ecgs)
    ]
    return ecgs, clips, texts


def tables(ecgs, clips, texts):
    subjects = [{"subject_id": who, "split": split} for who, split in zip(PEOPLE, ("train", "val", "test"), strict=True)]
    return [
        pa.Table.from_pylist(rows, SCHEMAS[name])
        for name, rows in (("ecgs", ecgs), ("clips", clips), ("texts", texts), ("subjects", subjects))
    ]


def pairs_by_loop(ecgs, clips, texts, options):
    """(ECG, study, gap in days, text), every study in the window of each ECG, or the first of them."""
    studies = collections.defaultdict(list)
    for clip in clips:
        if clip["kind"] in (None, "b_mode") and (clip["num_frames"] is None or clip["num_frames"] > 1):
            studies[clip["study_id"], clip["subject_id"], clip["admission_id"]].append(clip["time"])
    first = {key: min((t for t in all_times if t is not None), default=None) for key, all_times in studies.items()}
    low, high = (timedelta(days=end) for end in options.window_days)
    for ecg in ecgs:
        found = []
        for (study, who, stay), time in first.items():
            if who != ecg["subject_id"] or time is None or ecg["time"] is None:
                continue
            if options.same_admission and (stay is None or stay != ecg["admission_id"]):
                continue
            if low <= time - ecg["time"] <= high:
                found.append((abs(time - ecg["time"]), time, study))
        text = next((t["text_id"] for t in texts if t["ecg_id"] == ecg["ecg_id"]), None)
        found = sorted(found)[: 1 if options.match == "nearest" else None]
        for _, time, study in found:
            yield ecg["ecg_id"], study, (time - ecg["time"]) / timedelta(days=1), text
        if not found:
            yield ecg["ecg_id"], None, None, text


WINDOWS = [(-1.0, 1.0), (-1.5, 1.5), (-30.0, 30.0), (0.0, 3.0), (-3.0, 0.0), (-0.25, 1.0), (1.0, 3.0), (-4.0, -1.0), (2.0, 2.0)]


@settings(max_examples=300, deadline=None)
@given(cohort=cohorts(), window=st.sampled_from(WINDOWS), match=st.sampled_from(["nearest", "all"]), same=st.booleans())
def test_pairs_equal_a_loop_over_all_studies(cohort, window, match, same):
    options = IndexOptions(window_days=window, match=match, same_admission=same)
    made = pairs.make_pairs(*tables(*cohort), options).to_pylist()
    expected = list(pairs_by_loop(*cohort, options))
    assert [(p["ecg_id"], p["study_id"], p["text_id"]) for p in made] == [(e, s, t) for e, s, _, t in expected]
    number = collections.Counter(p["ecg_id"] for p in made)
    for pair, (_, _, gap, _) in zip(made, expected, strict=True):
        assert (pair["gap_days"] is None) == (gap is None)
        assert gap is None or pair["gap_days"] == pytest.approx(gap, abs=1e-12)
        assert pair["split"] == {"a": "train", "b": "val", "c": "test"}[pair["subject_id"]]
        assert pair["weight"] == 1 / number[pair["ecg_id"]]


@settings(max_examples=50, deadline=None)
@given(cohort=cohorts(), seed=st.integers(0, 9))
def test_the_order_of_the_clips_plays_no_part(cohort, seed):
    ecgs, clips, texts = cohort
    shuffled = [clips[i] for i in np.random.default_rng(seed).permutation(len(clips))]
    for match in ("nearest", "all"):
        one, two = (pairs.make_pairs(*tables(ecgs, c, texts), IndexOptions(match=match)) for c in (clips, shuffled))
        assert one.equals(two)


def test_many_ecgs_are_paired_at_once():
    """Half a million rows: a loop would be noticed."""
    rng = np.random.default_rng(0)
    ids = np.arange(300_000).astype(str)
    when = (np.datetime64(T0, "us") + rng.integers(0, 4000, ids.size) * np.timedelta64(1, "D")).astype("datetime64[us]")
    who = rng.integers(0, 60_000, ids.size).astype(str)
    ecgs = pa.table({"ecg_id": ids, "subject_id": who, "path": ids, "time": when})
    studies = slice(0, 200_000)
    owner = rng.permutation(200_000).astype(str)
    clips = pa.table(
        {"clip_id": ids[studies], "study_id": ids[studies], "subject_id": owner, "path": ids[studies], "time": when[studies]}
    )
    clips = catalog.conform("clips", clips, "")
    people = np.unique(np.concatenate([who, owner]))
    subjects = pa.table({"subject_id": people, "split": pairs.splits_of("f", people.tolist())})
    made = pairs.make_pairs(catalog.conform("ecgs", ecgs, ""), clips, SCHEMAS["texts"].empty_table(), subjects)
    found = made.filter(made["study_id"].is_valid()).to_pandas()
    assert len(made) == ids.size
    assert 0 < len(found) < ids.size
    assert found["gap_days"].abs().max() <= pairs.WINDOW_DAYS
    assert (owner[found["study_id"].astype(int)] == found["subject_id"]).all()
    gap = (when[found["study_id"].astype(int)] - when[found["ecg_id"].astype(int)]) / np.timedelta64(1, "D")
    np.testing.assert_allclose(gap, found["gap_days"])


def test_the_gap_is_the_echo_minus_the_ecg_in_days():
    ecgs = [{"ecg_id": "e", "subject_id": "a", "path": "p", "time": T0}]
    clips = [{"clip_id": "c", "study_id": "s", "subject_id": "a", "path": "p", "time": T0 + timedelta(hours=36)}]
    assert pairs.make_pairs(*tables(ecgs, clips, []))["gap_days"].to_pylist() == [1.5]


@pytest.mark.parametrize("match", ["nearest", "all"])
def test_of_two_studies_equally_near_the_earlier_goes_first_and_of_one_moment_the_first_by_id(match):
    ecgs = [{"ecg_id": "e", "subject_id": "a", "path": "p", "time": T0}]
    days = {"s1": 2, "s3": -2, "s2": -2}
    clips = [
        {"clip_id": f"c{s}", "study_id": s, "subject_id": "a", "path": "p", "time": T0 + timedelta(days=d)}
        for s, d in days.items()
    ]
    made = pairs.make_pairs(*tables(ecgs, clips, []), IndexOptions(match=match))["study_id"].to_pylist()
    assert made == ["s2", "s3", "s1"][: len(made)]
    assert len(made) == {"nearest": 1, "all": 3}[match]


@pytest.mark.parametrize(
    "window",
    [(0.0, 0.0), (-0.5, 0.5), (float("nan"), float("nan")), (-1e9, 1e9), (-0.9, 0.9), (3.0, 1.0), (float("nan"), 3.0), (0, 0.5)],
)
def test_a_window_shorter_than_the_clock_skew_is_refused(window):
    with pytest.raises(UsageError, match="the window is"):
        pairs.make_pairs(*tables([], [], []), IndexOptions(window_days=window))


@given(family=st.sampled_from(["mimic-iv", "cinc", "private:1"]), subjects=st.lists(st.text(max_size=12), max_size=20))
def test_a_split_depends_on_family_and_subject_alone(family, subjects):
    assert pairs.splits_of(family, subjects) == [pairs.split_of(family, subject) for subject in subjects]
    assert pairs.splits_of(family, subjects[::-1]) == pairs.splits_of(family, subjects)[::-1]


def test_the_split_function_never_changes_under_its_version():
    """Computed once; whoever changes a constant must raise SPLIT_VERSION and these values."""
    assert pairs.SPLIT_VERSION == 1
    assert pairs.splits_of("mimic-iv", [str(10_000_000 + i) for i in range(12)]) == PINNED


PINNED = ["test", "val", "train", "train", "train", "train", "test", "train", "train", "train", "test", "train"]


def test_the_shares_of_the_splits_are_as_stated():
    counted = collections.Counter(pairs.splits_of("mimic-iv", [str(i) for i in range(20_000)]))
    for name, share in pairs.SPLIT_SHARES:
        assert counted[name] / 20_000 == pytest.approx(share, abs=0.012)


def test_families_split_apart():
    ids = [str(i) for i in range(1000)]
    same = np.mean([x == y for x, y in zip(pairs.splits_of("mimic-iv", ids), pairs.splits_of("cinc", ids), strict=True)])
    assert same == pytest.approx(0.7**2 + 0.1**2 + 0.2**2, abs=0.06)


def test_datasets_that_overlap_share_a_family():
    assert pairs.family_of("ptb_xl") == pairs.family_of("cinc2021") == pairs.family_of("chapman")
    assert pairs.family_of("mimic_iv") == pairs.family_of("symile_mimic")
    assert pairs.family_of("echonet_dynamic") != pairs.family_of("echonext")
    assert pairs.private_family("k1") != pairs.private_family("k2")


def test_an_official_split_wins_and_two_of_them_are_an_error():
    ids = [str(i) for i in range(50)]
    made = pairs.assign_splits("ptb", ids, [("7", "val"), ("8", "none"), ("7", "val")])
    assert made[7] == "val"
    assert made[8] == "none"
    assert made[:7] == pairs.splits_of("ptb", ids)[:7]
    with pytest.raises(UserError, match="leaks") as caught:
        pairs.assign_splits("ptb", ids, [("7", "val"), ("7", "train")])
    assert "'7'" not in str(caught.value)
    with pytest.raises(UserError, match="must be train, val, test, none"):
        pairs.assign_splits("ptb", ids, {"7": "dev"})


def write(path, family, subjects, **more):
    schema = SCHEMAS["subjects"]
    return catalog.write(
        path,
        root=path.parent,
        dataset="d",
        family=family,
        tables={"subjects": pa.Table.from_pylist([{"subject_id": s, "split": p} for s, p in subjects], schema), **more},
    )


def test_one_person_in_two_splits_of_two_catalogs_is_a_leak(tmp_path):
    one = write(tmp_path / "one", "f", [("a", "train"), ("b", "test")])
    two = write(tmp_path / "two", "f", [("b", "train"), ("c", "val")])
    elsewhere = write(tmp_path / "three", "g", [("b", "train")])
    assert pairs.check_together([one, elsewhere]) == []
    with pytest.raises(UserError, match="put 1 subjects into different splits") as caught:
        pairs.check_together([one, elsewhere, two])
    assert catalog.subject_tag("b") in str(caught.value)


def test_one_recording_in_two_splits_is_a_leak_though_its_people_have_other_names(tmp_path):
    def made(name, subject, split):
        ecgs = pa.table({"ecg_id": ["HR00001"], "subject_id": [subject], "path": ["x"]})
        subjects = pa.table({"subject_id": [subject], "split": [split]})
        tables = {"subjects": subjects, "ecgs": ecgs}
        return catalog.write(tmp_path / name, root=tmp_path, dataset=name, family="cinc", tables=tables)

    own, copy = made("ptb_xl", "ptbxl-7", "test"), made("challenge", "HR00001", "train")
    with pytest.raises(UserError, match="put 1 recordings of the same name into different splits: test and train"):
        pairs.check_together([own, copy])
    assert pairs.check_together([own, made("same", "HR00001", "test")]) == []


def test_two_keys_cannot_recognise_a_person_and_it_is_said(tmp_path):
    one = write(tmp_path / "one", "private:1", [("a", "train")])
    two = write(tmp_path / "two", "private:2", [("a", "test")])
    assert "different keys" in pairs.check_together([one, two])[0]
    assert pairs.check_together([one, one]) == []


@st.composite
def labelled(draw):
    ecgs, _, _ = draw(cohorts())
    labels = []
    for i in range(draw(st.integers(1, 8))):
        own = draw(st.sampled_from([None, None, *[e["ecg_id"] for e in ecgs]]))
        who = next((e["subject_id"] for e in ecgs if e["ecg_id"] == own), None) or draw(st.sampled_from(PEOPLE))
        labels.append(
            {"subject_id": who, "ecg_id": own, "time": draw(times), "name": "lvef", "value": float(i), "definition": f"d{i}"}
        )
    return ecgs, labels


@settings(max_examples=150, deadline=None)
@given(data=labelled(), window=st.sampled_from([1.0, 3.0]))
def test_the_label_of_an_ecg_equals_a_loop_over_all_labels(data, window):
    ecgs, labels = data
    match = pairs.labels_of(pa.Table.from_pylist(ecgs, SCHEMAS["ecgs"]), pa.Table.from_pylist(labels, SCHEMAS["labels"]), window)
    wanted = [e["ecg_id"] for e in ecgs]
    for ecg_id, value, definition in zip(wanted, match.values, match.definitions, strict=True):
        ecg = next(e for e in ecgs if e["ecg_id"] == ecg_id)
        own = [(0, i) for i, x in enumerate(labels) if x["ecg_id"] == ecg_id]
        near = [
            (abs(x["time"] - ecg["time"]), x["time"], i)
            for i, x in enumerate(labels)
            if x["ecg_id"] is None and x["subject_id"] == ecg["subject_id"] and x["time"] and ecg["time"]
        ]
        near = [n for n in near if n[0] <= timedelta(days=window)]
        expected = min(own or near, default=(None,))[-1]
        assert (definition is None) == (expected is None)
        assert np.isnan(value) if expected is None else (value, definition) == (float(expected), f"d{expected}")


def test_a_label_or_an_ecg_that_is_not_there_is_named(tmp_path):
    more = {
        "ecgs": pa.Table.from_pylist([{"ecg_id": "e", "subject_id": "a", "path": "p"}], SCHEMAS["ecgs"]),
        "labels": pa.Table.from_pylist([{"subject_id": "a", "name": "lvef", "value": 1.0}], SCHEMAS["labels"]),
    }
    made = write(tmp_path / "cat", "f", [("a", "train")], **more)
    with pytest.raises(UserError, match="Did you mean 'lvef'"):
        pairs.label_values(made, ["e"], "lvfe")
    with pytest.raises(UserError, match="no ECG 'x'"):
        pairs.label_values(made, ["e", "x"], "lvef")
    assert np.isnan(pairs.label_values(made, ["e"], "lvef")).all()  # neither has a time


def test_labels_come_in_the_order_in_which_the_ecgs_are_asked(tmp_path):
    ecgs = [{"ecg_id": f"e{i}", "subject_id": "a", "path": f"p{i}", "time": T0 + timedelta(days=100 * i)} for i in range(3)]
    labels = [{"subject_id": "a", "name": "lvef", "value": 10.0 * i, "time": T0 + timedelta(days=100 * i + 1)} for i in range(3)]
    more = {"ecgs": pa.Table.from_pylist(ecgs, SCHEMAS["ecgs"]), "labels": pa.Table.from_pylist(labels, SCHEMAS["labels"])}
    made = write(tmp_path / "cat", "f", [("a", "train")], **more)
    assert pairs.label_values(made, ["e2", "e0", "e2"], "lvef").tolist() == [20.0, 0.0, 20.0]
