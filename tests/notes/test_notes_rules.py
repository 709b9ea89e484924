"""Laws of the rules that take echo findings out of notes. The held-out passages are in `held_out.py`."""

from __future__ import annotations

import random

import pytest
from held_out import ABSENT, CASES, MILD, MODERATE, PRESENT, SEVERE, TRACE

from ecgecho.notes import GRADED, NUMBERS, Finding, current
from ecgecho.notes_rules import MAX_SENTENCE, findings

Ends = dict[str, tuple[float, float]]


def now(text: str) -> Ends:
    return {name: (finding.low, finding.high) for name, finding in current(findings(text)).items()}


def only(text: str, name: str = "lvef") -> Finding:
    (finding,) = [finding for finding in findings(text) if finding.name == name]
    return finding


NUMBER_FORMS = [
    ("LVEF 40%", "exact", (40, 40), 40),
    ("EF 35-40%", "range", (35, 40), 37.5),
    ("EF = 30 to 35 %", "range", (30, 35), 32.5),
    ("LVEF of 25 percent", "exact", (25, 25), 25),
    ("EF 37.5 %", "exact", (37.5, 37.5), 37.5),
    ("EF (>55%)", "threshold", (55, 100), 56),
    ("EF>=50%", "threshold", (50, 100), 50),
    ("EF < 40%", "threshold", (0, 40), 39),
    ("EF <= 20 %", "threshold", (0, 20), 20),
    ("EF at least 50%", "threshold", (50, 100), 50),
    ("EF \u2265 55 %", "threshold", (55, 100), 55),
    ("EF 30\u201335%", "range", (30, 35), 32.5),
    ("LVEF\n35 %", "exact", (35, 35), 35),
    ("ejection fraction 40-45\n%", "range", (40, 45), 42.5),
    ("EF in the low 30s", "range", (30, 33), 31.5),
]


@pytest.mark.parametrize(("text", "form", "ends", "value"), NUMBER_FORMS)
def test_a_number_keeps_its_form_its_ends_and_its_place(text: str, form: str, ends: tuple[float, float], value: float) -> None:
    finding = only(text)
    assert (finding.form, (finding.low, finding.high), finding.value, finding.unit) == (form, ends, value, "%")
    assert text[slice(*finding.span)].startswith(text[0])


@pytest.mark.parametrize(
    "text",
    ["EF 120%", "EF 2", "EF 3 days", "EF 35/60", "EF slope 80 mm/s", "RVEF 40%", "right ventricular ejection fraction 45%"],
)
def test_a_number_that_is_no_ejection_fraction_is_not_taken(text: str) -> None:
    assert "lvef" not in now(text)


@pytest.mark.parametrize(
    ("text", "millimetres"),
    [
        ("septal wall thickness 1.4 cm", 14),
        ("septal wall thickness 14 mm", 14),
        ("wall thickness of 14", 14),
        ("IVS 1.4 cm", 14),
        ("posterior wall thickness: 1,3 cm", 13),
    ],
)
def test_lengths_come_out_in_millimetres_whatever_they_went_in(text: str, millimetres: float) -> None:
    assert now(text) == {"wall_mm": (millimetres, millimetres)}


def test_a_wall_of_fourteen_centimetres_is_a_slip_and_no_label() -> None:
    assert now("septal wall thickness 14 cm") == {}


TIMES = [
    ("last known EF 30%", "past"),
    ("prior TTE ___ with LVEF 42%", "past"),
    ("remote echo at OSH, EF 35% per pt report", "past"),
    ("EF 55% in ___", "past"),
    ("EF 55% in 2014", "past"),
    ("echo 3 years ago with EF 60%", "past"),
    ("Past Medical History:\n1. CHF (EF 30%)", "past"),
    ("if EF remains <35% consider ICD", "plan"),
    ("goal EF >50%", "plan"),
    ("Repeat TTE to see whether EF is above 40%", "plan"),
    ("Father with cardiomyopathy, EF 25%", "family"),
    ("Family History:\nEF 20% in an uncle", "family"),
    ("TTE this morning: EF 45%", "now"),
    ("consider ICD given EF 25%", "now"),
    ("TTE to evaluate EF showed EF 25%", "now"),
    ("Previously healthy man. EF 30%", "now"),
    ("Past Medical History:\nTTE this admission with EF 45%", "now"),
]


@pytest.mark.parametrize(("text", "when"), TIMES)
def test_a_finding_knows_when_it_was_so(text: str, when: str) -> None:
    assert {finding.when for finding in findings(text) if finding.name == "lvef"} == {when}


@pytest.mark.parametrize(
    ("text", "past", "present"),
    [
        ("EF decreased from 55% to 30%", 55, 30),
        ("EF 25% -> 45%", 25, 45),
        ("EF improved to 45% from 20%", 20, 45),
        ("EF 45% (was 20% in ___)", 20, 45),
        ("EF previously 25%, now 40%", 25, 40),
        ("Baseline EF 35%. TTE now with EF 20%.", 35, 20),
    ],
)
def test_a_change_has_a_value_before_and_one_now(text: str, past: float, present: float) -> None:
    found = {finding.when: finding.low for finding in findings(text) if finding.name == "lvef"}
    assert found == {"past": past, "now": present}


PASSAGES: list[tuple[str, Ends]] = [
    ("no evidence of systolic dysfunction", {"lv_function": ABSENT}),
    ("preserved EF (>55%)", {"lvef": (55, 100), "lv_function": ABSENT}),
    ("TTE w/ nl biventricular fxn, no WMA", {"lv_function": ABSENT, "rv_function": ABSENT, "wall_motion": ABSENT}),
    ("TTE w/ mildly depressed LV systolic fxn, 2+ MR.", {"lv_function": MILD, "mr": MODERATE}),
    ("Cardiac imaging: echo w/ LVEF 30%. 2+ mr, mod as, pasp 52.",
     {"lvef": (30, 30), "mr": MODERATE, "as": MODERATE, "pasp_mmhg": (52, 52)}),
    ("Moderate AS and severe MR.", {"as": MODERATE, "mr": SEVERE}),
    ("No AS, mild MR", {"as": ABSENT, "mr": MILD}),
    ("No MR. Mild TR is seen.", {"mr": ABSENT, "tr": MILD}),
    ("no more than mild TR on echo", {"tr": (0, 1)}),
    ("no severe aortic stenosis", {"as": (0, 2)}),
    ("at least moderate MR", {"mr": (2, 3)}),
    ("moderate-to-severe AS", {"as": (2, 3)}),
    ("normal LV/RV size and function",
     {"lv_dilation": ABSENT, "rv_dilation": ABSENT, "lv_function": ABSENT, "rv_function": ABSENT}),
    ("PRE-BYPASS: LVEF 30%. POST-BYPASS: LVEF 45%.", {"lvef": (45, 45)}),
    ("Moderate RV free wall hypokinesis.", {"rv_function": MODERATE}),
    ("The LV inflow pattern suggests impaired relaxation.", {"diastolic": MILD}),
    ("No WMA or significant valvular disease.", {"wall_motion": ABSENT, "valve_disease": (0, 1)}),
    ("EF improved from baseline 30% to 50%", {"lvef": (50, 50)}),
    ("mild AS/AR", {"as": MILD, "ar": MILD}),
    ("Severe (3-4+) mitral regurgitation is seen.", {"mr": SEVERE}),
    ("mitral regurgitation is moderate to severe.", {"mr": (2, 3)}),
    ("There is no aortic stenosis, aortic regurgitation or pericardial effusion.",
     {"as": ABSENT, "ar": ABSENT, "effusion": ABSENT}),
    ("Mitral valve: trace regurgitation.", {"mr": TRACE}),
    ("RV free wall hypokinesis.", {"rv_function": PRESENT}),
    ("The pulmonary artery systolic pressure could not be determined.", {}),
    ("Diastolic function could not be graded in atrial fibrillation.", {}),
    ("Mildly dilated right ventricular cavity with normal free wall motion.", {"rv_dilation": MILD, "rv_function": ABSENT}),
    ("There is mild pulmonary artery systolic hypertension (estimated 42 mmHg).", {"ph": MILD, "pasp_mmhg": (42, 42)}),
    ("TR Gradient (+ RA = PASP): *38 mm Hg <= 25 mm Hg", {}),
    ("heart failure with preserved ejection fraction", {}),
    ("possible mild LVH", {}),
    ("Mother with severe aortic stenosis.", {}),
    ("Mr. ___ has MR.", {}),
    ("Echo in [**2190-3-2**] with EF 60% and mild MR.", {}),
    ("The left ventricle is normal in size. RV normal size and function.",
     {"lv_dilation": ABSENT, "rv_dilation": ABSENT, "rv_function": ABSENT}),
    ("Cardiac catheterization showed severe AS and an EF of 30%.", {}),
    ("Wall motion: normal. Aortic valve: no stenosis or regurgitation.", {"wall_motion": ABSENT, "as": ABSENT, "ar": ABSENT}),
    ("no renal artery stenosis; normal liver function", {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), PASSAGES)
def test_grades_negations_and_other_meanings(text: str, wanted: Ends) -> None:
    assert now(text) == wanted


def test_results_go_before_the_course_and_both_before_the_presenting_history() -> None:
    story = "History of Present Illness:\nEcho with EF 60%.\n"
    course = "Brief Hospital Course:\nTTE with EF 40%.\n"
    results = "Pertinent Results:\nTTE: EF 20%.\n"
    assert now(story)["lvef"] == (60, 60)
    assert now(story + course)["lvef"] == (40, 40)
    assert now(story + results + course)["lvef"] == (20, 20)
    assert now(course + results + story)["lvef"] == (20, 20)


def test_of_two_studies_of_a_stay_the_later_counts_and_a_number_goes_before_a_bound() -> None:
    assert now("Pertinent Results:\nTTE ___: EF 20%.\n\nTTE ___: EF 45%.")["lvef"] == (45, 45)
    assert now("TTE: normal EF>55%. By biplane EF 61%.")["lvef"] == (61, 61)
    assert now("TTE: mild MR at rest, severe MR with exertion.")["mr"] == SEVERE
    assert now("septal wall thickness 1.6 cm, posterior wall thickness 1.1 cm")["wall_mm"] == (16, 16)


def test_other_examinations_are_found_and_do_not_count() -> None:
    for text in (
        "MIBI: LVEF 45%",
        "LV gram with EF 35%",
        "EKG: LVH",
        "CT chest: small pericardial effusion",
        "EF 50% by cardiac MRI",
    ):
        (finding,) = findings(text)
        assert not finding.echo, text
        assert current([finding]) == {}
    assert now("MIBI without ischemia. TTE: EF 45%")["lvef"] == (45, 45)


def test_a_wrapped_line_is_one_sentence_and_a_list_is_not() -> None:
    wrapped = "There is no evidence on this study of regional wall motion abnormality or of any\naortic stenosis."
    assert now(wrapped) == {"wall_motion": ABSENT, "as": ABSENT}
    assert now("- no AS\n- LVH on echo") == {"as": ABSENT, "lvh": PRESENT}


def test_the_whole_note_is_read() -> None:
    """EchoingECG's extraction reads the first thousand words of a note."""
    filler = "Patient was seen and examined at the bedside by the team.\n" * 1000
    assert now(filler + "TTE: EF 35%")["lvef"] == (35, 35)


def test_every_passage_of_the_held_out_set_is_read_as_a_person_reads_it() -> None:
    """Since its first run (docs/notes.md) the set guards what is reached."""
    wrong = {text: now(text) for text, wanted in CASES if now(text) != {n: (float(a), float(b)) for n, (a, b) in wanted.items()}}
    assert wrong == {}
    assert len(CASES) >= 60


PHRASES = (
    "ef lvef ejection fraction 35 % - to from was prior no not mild mod severe 2+ ( ) , ; : . AS MR mitral aortic and "
    "regurgitation stenosis normal left ventricular wall thickness cavity size systolic function is dilated pulmonary "
    "artery pressure 45 mmhg in ___ if father TTE possible cm 1.2 septum diastolic grade ii \u0130 \u2264 \u2013"
)
WORDS = [*PHRASES.split(), "\n", "\n\n", "\nFamily History:\n", "\nPertinent Results:\n"]


def test_any_words_in_any_order_give_findings_inside_the_text_and_inside_their_bounds() -> None:
    draw = random.Random(3)
    seen = 0
    for _ in range(60):
        text = " ".join(draw.choice(WORDS) for _ in range(400))
        for finding in findings(text):
            seen += 1
            assert 0 <= finding.span[0] < finding.span[1] <= len(text)
            assert finding.name in NUMBERS or finding.name in GRADED
            assert finding.low <= finding.high
            if finding.name in GRADED:
                assert 0 <= finding.low <= finding.high <= 3
            assert (finding.op != "") == (finding.form == "threshold")
            assert finding.negated == (finding.form == "absent")
    assert seen > 300


HOSTILE = [
    "ef ",
    "ef 35% ",
    "(",
    " ",
    "\n",
    "1-",
    "mild mr ",
    "ef = (",
    "pulmonary hypertension ",
    "lv dilated ",
    "aortic and ",
    "a",
    "#:",
    "mild-",
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_note_takes_time_by_its_length_alone(piece: str) -> None:
    findings((piece * 6_000)[:6_000])


def test_longer_sentences_are_cut_between_words_and_still_read() -> None:
    text = "and so on " * (MAX_SENTENCE // 5) + "EF 35% " + "and so on " * 50
    assert now(text)["lvef"] == (35, 35)


def test_texts_of_other_kinds_are_no_error() -> None:
    for text in ("", " ", "\x00\x01", "\ud800 EF 35%", "\u0130\u0130\u0130 EF 35%", "E F", "\r\nEF 35%\r\n"):
        for finding in findings(text):
            assert text[slice(*finding.span)].lower().startswith("ef")
