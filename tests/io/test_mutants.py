"""Damaged files of every kind that is read: each becomes a row with a reason; nothing crashes, hangs or eats memory.

Of each kind of file one mutant of each kind of damage; benchmarks/mutants.py makes ten thousand.
"""

import mutants
import pytest

EACH = 9  # kinds of damage


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    place = tmp_path_factory.mktemp("seeds")
    return place, list(mutants.write_seeds(place))


def test_every_seed_is_sound(seeds, monkeypatch):
    place, kinds = seeds
    monkeypatch.setattr(mutants, "damage", lambda data, number: data)
    for kind in kinds:
        mutants.read_mutant(mutants.Task(str(place), kind, 0))


def test_damage_is_told_by_its_number_and_nearly_always_changes_the_file():
    data = bytes(range(256)) * 40
    made = [mutants.damage(data, number) for number in range(200)]
    assert made == [mutants.damage(data, number) for number in range(200)]
    assert sum(mutant != data for mutant in made) > 180


def test_each_mutant_is_accepted_or_refused_with_a_reason_and_none_ends_its_worker(seeds):
    place, kinds = seeds
    outcomes = list(mutants.run(kinds, place, EACH, workers=2))
    assert len(outcomes) == EACH * len(kinds)
    assert [outcome for outcome in outcomes if outcome.result.startswith("!")] == []
