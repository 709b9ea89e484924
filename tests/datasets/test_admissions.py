"""The stay that holds a moment, against a loop over all stays."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgecho.datasets._admissions import Admissions

PEOPLE = ("a", "b", "c")


def table(stays):
    columns = {
        "subject_id": pa.array([s[0] for s in stays], pa.string()),
        "admission_id": pa.array([s[1] for s in stays], pa.string()),
        "begin": pa.array([s[2] for s in stays], pa.timestamp("us")),
        "end": pa.array([s[3] for s in stays], pa.timestamp("us")),
    }
    return pa.table(columns)


@st.composite
def hospitals(draw):
    stays = []
    for number in range(draw(st.integers(0, 8))):
        begin = draw(st.integers(0, 20))
        stays.append((draw(st.sampled_from(PEOPLE)), f"h{number}", begin, begin + draw(st.integers(0, 12))))
    return draw(st.permutations(stays))


@settings(max_examples=400, deadline=None)
@given(
    stays=hospitals(), asked=st.lists(st.tuples(st.sampled_from((*PEOPLE, "x")), st.none() | st.integers(-2, 34)), max_size=12)
)
def test_a_moment_belongs_to_the_stay_that_holds_it_and_began_last(stays, asked):
    made = Admissions.of(table(stays))
    found = made.at(pa.array([who for who, _ in asked], pa.string()), pa.array([t for _, t in asked], pa.timestamp("us")))
    expected = []
    for who, time in asked:
        hold = [(begin, name) for owner, name, begin, end in stays if owner == who and time is not None and begin <= time <= end]
        expected.append(max(hold)[1] if hold else None)
    assert found.to_pylist() == expected


@settings(max_examples=200, deadline=None)
@given(stays=hospitals())
def test_overlaps_are_stays_that_begin_before_an_earlier_one_has_ended(stays):
    order = sorted(stays, key=lambda s: (s[0], s[2], s[1]))
    expected = sum(any(one[0] == two[0] and one[3] > two[2] for one in order[:number]) for number, two in enumerate(order))
    assert Admissions.of(table(stays)).overlapping == expected


def test_many_moments_are_asked_at_once():
    """A loop over rows would be noticed."""
    rng = np.random.default_rng(0)
    n = 300_000
    who = rng.integers(0, 60_000, n).astype(str)
    begin = rng.integers(0, 10**15, n)
    stays = pa.table(
        {
            "subject_id": who,
            "admission_id": np.arange(n).astype(str),
            "begin": pa.array(begin, pa.timestamp("us")),
            "end": pa.array(begin + 10**12, pa.timestamp("us")),
        }
    )
    rows = rng.permutation(n)
    found = Admissions.of(stays).at(pa.array(who[rows]), pa.array(begin[rows], pa.timestamp("us")))
    assert found.null_count == 0
    assert np.mean(np.array(found.to_pylist()).astype(int) == rows) > 0.99
