from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_cache import Plan, StoreError, make_plan
from embed_cache.plan import default_part_rows

GROUPS = st.lists(st.integers(0, 9), min_size=1, max_size=60)


@given(GROUPS, st.integers(0, 5), st.integers(1, 9))
def test_every_group_is_one_run_with_its_items_in_the_given_order(numbers, seed, part_rows):
    ids = [f"i{k}" for k in range(len(numbers))]
    groups = [f"g{k}" for k in numbers]
    plan = make_plan(ids, groups, seed=seed, part_rows=part_rows)
    assert sorted(plan.ids) == sorted(ids)
    for group in set(groups):
        places = [k for k, name in enumerate(plan.groups) if name == group]
        assert places == list(range(places[0], places[-1] + 1))
        assert [plan.ids[k] for k in places] == [i for i, g in zip(ids, groups, strict=True) if g == group]


@given(GROUPS, st.integers(1, 9))
def test_parts_cover_every_row_once(numbers, part_rows):
    plan = make_plan([f"i{k}" for k in range(len(numbers))], [f"g{k}" for k in numbers], seed=0, part_rows=part_rows)
    rows = [row for part in range(plan.num_parts) for row in range(plan.num_rows)[plan.part(part)]]
    assert rows == list(range(plan.num_rows))


@settings(max_examples=20)
@given(st.permutations([f"g{k}" for k in range(12)]))
def test_the_order_depends_on_the_groups_not_on_the_order_they_came_in(groups):
    reference = make_plan([f"g{k}" for k in range(12)], [f"g{k}" for k in range(12)], seed=3)
    assert make_plan(groups, groups, seed=3).groups == reference.groups


def test_another_seed_gives_another_order_and_the_order_is_not_the_input_order():
    names = [f"g{k:03d}" for k in range(100)]
    first, second = (make_plan(names, names, seed=seed).groups for seed in (0, 1))
    assert first != second
    assert abs(np.corrcoef([int(name[1:]) for name in first], range(100))[0, 1]) < 0.4


@pytest.mark.parametrize(("rows", "expected"), [(1, 4), (240, 4), (1500, 16), (20_000, 256), (525_422, 1024)])
def test_part_rows_is_by_default_the_power_of_two_nearest_a_64th(rows, expected):
    assert default_part_rows(rows) == expected


def test_a_plan_uses_the_default_unless_told():
    names = [f"g{k}" for k in range(1000)]
    assert make_plan(names, names, seed=0).part_rows == 16
    assert make_plan(names, names, seed=0, part_rows=5).part_rows == 5


@pytest.mark.parametrize(
    ("ids", "groups", "message"),
    [
        ([], [], "empty"),
        (["a", "a"], ["g", "g"], "twice"),
        (["a"], ["g", "h"], "1 ids but 2 groups"),
        (["a" * 65], ["g"], "65 bytes"),
        (["a\0"], ["g"], "NUL"),
        ([""], ["g"], "empty id"),
        (["a"], [""], "empty group"),
        (["\ud800"], ["g"], "UTF-8"),
    ],
)
def test_what_cannot_be_stored_faithfully_is_refused(ids, groups, message):
    with pytest.raises(StoreError, match=message):
        make_plan(ids, groups, seed=0)


def test_a_plan_whose_groups_are_torn_apart_is_refused():
    with pytest.raises(StoreError, match="not consecutive"):
        Plan(ids=("a", "b", "c"), groups=("g", "h", "g"), part_rows=4, seed=0)
