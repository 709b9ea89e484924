"""Laws of what is written about a simulated heart: machine lines, reports, notes, measurements, codes."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest

from ecgecho.simulate import VIEWS, draw_heart, draw_person, icd, measurements, notes, stream, text
from ecgecho.simulate.ecg import axes_deg
from ecgecho.simulate.heart import Heart

YEARS = range(2008, 2023)


def hearts(number: int, *, seed: int = 5) -> list[Heart]:
    return [draw_heart(stream(seed, i, "heart"), enrich=True) for i in range(number)]


def person(index: int, *, seed: int = 5, years: float = 3.0):
    return draw_person(seed=seed, index=index, start=77, enrich=True, years=years, ecgs_per_subject=3, cines=False)


def lines_of(index: int) -> tuple[Heart, list[str]]:
    who = person(index)
    ecg = who.ecgs[0]
    heart = who.heart_on(ecg.days)
    electro = who.electro(ecg, heart, who.body(), difficulty=0.5)
    beats = who.beats(ecg, heart, duration_s=10)
    return heart, text.machine_lines(heart, electro, beats, axes_deg(heart, electro)[1], stream(5, index, "text"))


def test_machine_lines_name_the_rhythm_and_the_block_and_only_hint_at_the_wall() -> None:
    counts: Counter[str] = Counter()
    for index in range(600):
        heart, lines = lines_of(index)
        said = " | ".join(lines)
        assert 1 <= len(lines) <= 18
        assert ("Atrial fibrillation" in said) == (heart.rhythm == "af")
        assert ("paced" in said or "Pacemaker" in said) == (heart.rhythm == "paced")
        if heart.rhythm != "paced" and "Left bundle branch block" in said:
            assert heart.conduction == "lbbb"
        thick = heart.wall_mm >= 15
        counts[f"thick {thick}"] += 1
        counts[f"said {thick}"] += "ventricular hypertrophy" in said and heart.conduction != "lbbb"
    assert counts["said True"] / counts["thick True"] > 1.5 * counts["said False"] / counts["thick False"]
    assert counts["said True"] < counts["thick True"]


def test_a_machine_calls_an_ecg_normal_only_where_it_says_nothing_but_sinus_rhythm() -> None:
    normal = 0
    for index in range(600):
        _, lines = lines_of(index)
        if {"Normal ECG", "Within normal limits"} & set(lines):
            normal += 1
            assert lines[:-1] == ["Sinus rhythm"]
    assert normal > 30


@pytest.mark.parametrize("view", VIEWS)
def test_a_short_report_can_name_its_view_and_never_another(view: str) -> None:
    heart = hearts(1)[0]
    said = [text.echo_report(heart, view, stream(5, i, "text")) for i in range(60)]
    assert any(text.VIEW_NAMES[view] in line for line in said)
    assert not any(name in line for line in said for other, name in text.VIEW_NAMES.items() if other != view)


def test_a_full_report_states_the_readers_ejection_fraction_and_the_stenosis_that_is_there() -> None:
    for index, heart in enumerate(hearts(200)):
        reading = measurements.read(heart, stream(5, index, "measurement"))
        report = text.full_report(heart, reading, stream(5, index, "text"))
        found = {
            tuple(int(n) for n in re.findall(r"\d+", match))
            for match in re.findall(r"LVEF ?=? ?(\d+(?: ?(?:-|to) ?\d+)?) ?%", report)
        }
        wanted = (reading.lvef,) if reading.lvef == reading.lvef_upper else (reading.lvef, reading.lvef_upper)
        assert found == {wanted}, report
        if heart.aortic_stenosis >= 2:
            assert "aortic stenosis" in report
        assert "LEFT VENTRICLE" in report
        assert "CONCLUSION" in report


def test_a_reading_is_the_heart_within_its_error() -> None:
    people = hearts(400)
    readings = [measurements.read(heart, stream(5, i, "measurement")) for i, heart in enumerate(people)]
    biplane = np.array([r.biplane - h.lvef for r, h in zip(readings, people, strict=True)])
    assert abs(biplane.mean()) < 0.3
    assert 1.0 < biplane.std() < 2.0
    wall = np.array([r.wall_mm - h.wall_mm for r, h in zip(readings, people, strict=True)])
    assert np.abs(wall).max() < 2.5
    jet = np.array([r.av_m_s for r, h in zip(readings, people, strict=True) if h.aortic_stenosis == 0])
    tight = np.array([r.av_m_s for r, h in zip(readings, people, strict=True) if h.aortic_stenosis == 3])
    assert tight.min() > jet.max()


def rows_of_years() -> list[tuple[int, str, list[list[object]]]]:
    found = []
    for index, heart in enumerate(hearts(240)):
        year = YEARS[index % len(YEARS)]
        rng = stream(5, index, "measurement")
        kind = ("tte", "tte", "stress", "tee")[index % 4]
        found.append((year, kind, measurements.rows(heart, measurements.read(heart, rng), kind, year, rng)))
    return found


def test_what_is_measured_beside_lvef_does_not_give_it_away() -> None:
    """Equal hearts are read differently, every number of them."""
    heart = dataclasses.replace(hearts(1)[0], aortic_stenosis=2)
    readings = [measurements.read(heart, stream(5, i, "measurement")) for i in range(200)]
    assert 12 < np.std([r.e_decel_ms for r in readings]) < 28
    assert 0.05 < np.std([r.av_area_cm2 for r in readings]) < 0.3


def test_a_full_report_leaves_sections_out_each_on_its_own_and_never_the_left_ventricle() -> None:
    heart = hearts(1)[0]
    reading = measurements.read(heart, stream(5, 0, "measurement"))
    said = [{name for name, _ in text.findings(heart, reading, stream(5, i, "text"))} for i in range(300)]
    counts = Counter(name for names in said for name in names)
    assert counts["LEFT VENTRICLE"] == 300
    assert all(200 < count < 300 for name, count in counts.items() if name != "LEFT VENTRICLE")
    assert len({frozenset(names) for names in said}) > 8


def test_all_seven_names_of_lvef_occur_and_stress_only_in_stress_tests() -> None:
    found = rows_of_years()
    names = {str(row[0]) for _, _, rows in found for row in rows}
    assert set(measurements.LVEF_NAMES) <= names
    for _, kind, rows in found:
        mine = {str(row[0]) for row in rows}
        assert any(name in mine for name in measurements.LVEF_NAMES)
        assert ("stress_lvef" in mine) == (kind == "stress")
        assert kind == "stress" or not any(name.startswith("rest_lvef") for name in mine)
        assert all(isinstance(row[2], str) for row in rows)


def test_units_drift_with_the_year_and_the_number_always_tells_which() -> None:
    by_era: dict[bool, list[float]] = {True: [], False: []}
    fast: dict[bool, list[float]] = {True: [], False: []}
    for year, _, rows in rows_of_years():
        for name, _, result, unit in rows:
            if name == "septal_thickness":
                by_era[year >= measurements.WALLS_IN_MM_FROM].append(float(str(result)))
                assert unit in ("cm", "mm", "")
            elif name == "mv_peak_e":
                assert (unit == "cm/s") == (year >= measurements.VELOCITIES_IN_CM_S_FROM)
                fast[unit == "cm/s"].append(float(str(result)))
    assert np.median(by_era[True]) > 3 > np.median(by_era[False])
    assert min(fast[True]) > 10 > max(fast[False])


def note_of(index: int) -> tuple[Heart, measurements.Reading | None, notes.Note]:
    heart = hearts(index + 1, seed=9)[index] if index < 3 else draw_heart(stream(9, index, "heart"), enrich=True)
    rng = stream(9, index, "note")
    now = measurements.read(heart, rng) if index % 3 else None
    earlier = dataclasses.replace(heart, lvef=min(heart.lvef + 14, 70))
    before = [measurements.read(earlier, rng)] if index % 2 else []
    return heart, now, notes.discharge_note(heart, now, before, rng, failing=heart.lvef < 40)


def test_a_note_states_the_echo_of_its_stay_and_nothing_else_as_now() -> None:
    stated = 0
    for index in range(400):
        _, now, note = note_of(index)
        if now is None:
            assert note.stated is None
        if note.stated is not None:
            stated += 1
            low, high = note.stated
            assert low - 0.5 <= now.lvef <= high + 0.5
            assert str(low) in note.text
        for section in (
            "Chief Complaint:",
            "Past Medical History:",
            "Pertinent Results:",
            "Discharge Diagnosis:",
            "Family History:",
        ):
            assert section in note.text
        assert "___" in note.text
    assert stated > 120


def test_notes_hold_ranges_negations_abbreviations_and_values_that_are_not_now() -> None:
    texts = [note_of(index)[2].text for index in range(400)]
    joined = "\n".join(texts)
    assert re.search(r"EF \d\d-\d\d%", joined)
    assert re.search(r"[Nn]o evidence of|[Dd]enies|[Nn]o family history", joined)
    for word in ("TTE", "LVEF", "w/", "s/p", "CTAB"):
        assert word in joined
    traps = (
        r"CHF \(EF \d+",
        r"Father with cardiomyopathy, EF \d+%",
        r"if EF remains <35%",
        r"last known EF \d+%",
        r"prior TTE ___ with LVEF",
    )
    for trap in traps:
        assert re.search(trap, joined), trap
    assert re.search(r"\d\d:\d\dAM", joined), "times of laboratories stand there, dates do not"
    assert not re.search(r"\b(19|20|21)\d\d\b", re.sub(r"BNP-\d+", "", joined))


def test_codes_follow_the_heart_with_omissions_and_change_with_the_year() -> None:
    failing = total = 0
    for index, heart in enumerate(hearts(800)):
        for year in (2012, 2020):
            codes = icd.diagnoses(heart, year, stream(5, index, "note"))
            names = {code for code, _ in codes}
            assert {version for _, version in codes} == {9 if year == 2012 else 10}
            assert all(code in icd.TITLES for code in codes)
            assert len(names) == len(codes)
            if names & {"I4891", "I482", "42731"}:
                assert heart.rhythm == "af"
            if names & {"Z950", "V4501"}:
                assert heart.rhythm == "paced"
            if names & {"I5022", "I5023", "42822", "42823"}:
                assert heart.lvef < 42
            if heart.lvef < 40:
                total += 1
                failing += any("eart failure" in icd.TITLES[code] for code in codes)
    assert 0.78 < failing / total < 0.97


def test_a_person_over_no_years_is_seen_once_and_over_years_changes() -> None:
    assert all(len(person(i, years=0).visits) == 1 for i in range(40))
    people = [person(i, seed=13) for i in range(200)]
    for who in people:
        assert [ecg.days for ecg in who.ecgs] == sorted(ecg.days for ecg in who.ecgs)
        assert [ecg.item for ecg in who.ecgs] == list(range(len(who.ecgs)))
        for event in (*who.ecgs, *who.visits):
            # As everyone computes it from the tables: anchor_age + year - anchor_year.
            assert who.heart_on(event.days).age == who.heart.age + event.time.year - who.day_0.year
    assert {len(who.visits) for who in people} == {1, 2, 3}
    for who in people:
        assert [visit.days for visit in who.visits] == sorted(visit.days for visit in who.visits)
        assert who.visits[0].days == 0
        assert who.heart_on(0) == who.heart
        for stay, following in zip(who.admissions, who.admissions[1:], strict=False):
            assert stay.discharged < following.admitted
        for stay in who.admissions:
            assert stay.admitted < stay.discharged
            assert stay.visit is None or stay.admitted < stay.visit.time < stay.discharged
    assert any(who.heart_on(who.visits[-1].days).lvef != who.heart.lvef for who in people)
