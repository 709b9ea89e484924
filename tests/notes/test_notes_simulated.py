"""The simulator's notes: what they state is known from the hand that writes them, and the rules read it back."""

from __future__ import annotations

import dataclasses
import hashlib

from ecgecho.notes import current
from ecgecho.notes_rules import findings
from ecgecho.simulate import draw_heart, measurements, notes, stream


def note_of(index: int, seed: int = 33) -> notes.Note:
    heart = draw_heart(stream(seed, index, "heart"), enrich=True)
    rng = stream(seed, index, "note")
    now = measurements.read(heart, rng) if index % 3 else None
    earlier = dataclasses.replace(heart, lvef=min(heart.lvef + 14, 70))
    before = [measurements.read(earlier, rng)] if index % 2 else []
    return notes.discharge_note(heart, now, before, rng, failing=heart.lvef < 40)


def test_what_a_note_says_holds_its_ejection_fraction_and_nothing_where_there_was_no_echo() -> None:
    names: set[str] = set()
    for index in range(300):
        note = note_of(index)
        assert note.said.get("lvef") == note.stated
        if index % 3 == 0:
            assert note.said == {}
        for low, high in note.said.values():
            assert low <= high
        names |= set(note.said)
    assert {"lvef", "lvh", "lv_dilation", "lv_function", "wall_motion", "as", "ar", "mr", "tr", "ph", "pasp_mmhg"} <= names
    assert {"effusion", "rv_function", "valve_disease"} <= names


def test_notes_have_the_bytes_that_they_had_before_they_said_what_they_state() -> None:
    whole = hashlib.sha256()
    for index in range(200):
        whole.update(note_of(index, seed=9).text.encode())
    assert whole.hexdigest() == BYTES


BYTES = "b87846a24a92cbce72455f7d51a7a9d812af85d707f1a127dda471367c969d2d"


def test_rules_read_back_what_the_notes_say() -> None:
    right = wrong = missed = 0
    for index in range(300):
        note = note_of(index)
        found = {name: (finding.low, finding.high) for name, finding in current(findings(note.text)).items()}
        right += sum(found.get(name) == tuple(map(float, ends)) for name, ends in note.said.items())
        missed += sum(name not in found for name in note.said)
        wrong += sum(found[name] != tuple(map(float, note.said.get(name, ()))) for name in found)
    assert right > 600
    assert wrong <= 0.01 * right
    assert missed <= 0.01 * right
