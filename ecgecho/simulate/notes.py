"""Discharge notes: sections, blanks where names and dates were, an echo paragraph, and what leads a careless reader astray.

A note states the ejection fraction of the echo made during the stay, in one of many forms, or none. Beside it stand traps: values
of earlier echoes, of relatives, of plans and thresholds. `Note.stated` is what a careful reader takes from it, `Note.said` the
same of all findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ecgecho.simulate import text
from ecgecho.simulate.heart import F64, Heart
from ecgecho.simulate.measurements import Reading
from ecgecho.simulate.text import Said

BLANK = "___"
ECHO_SHARE = 0.92
"""Of notes of a stay with an echo that mention its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A note and what it says of the ejection fraction now."""

    text: str
    stated: tuple[int, int] | None
    """Lowest and highest percent; None where it says nothing, or only words."""
    said: Said = field(default_factory=dict)
    """All that it states of the heart now, the ejection fraction too, as far as it is known to the hand that writes it."""


def discharge_note(
    heart: Heart,
    now: Reading | None,
    before: Sequence[Reading],
    rng: np.random.Generator,
    *,
    failing: bool,
) -> Note:
    """The note of one stay: `heart` at discharge, the reading of the echo made during it, readings of earlier ones.

    `failing` says that heart failure was the reason of the stay.
    """
    chance = rng.random(24)
    reduced, thick = heart.lvef < 45, heart.wall_mm >= 14
    title = "Mr." if heart.sex == "M" else "Ms."
    stated: tuple[int, int] | None = None
    said: Said = {}
    paragraph, course = "", ""
    if now is not None and rng.random() < ECHO_SHARE:
        paragraph, stated, said = _echo(heart, now, rng)
        course = _course(now, stated, failing, chance[0])
    history = _history(heart, before, rng)
    complaint = "Dyspnea on exertion" if failing else ("Chest pain", "Palpitations", "Fall", "Fever")[int(chance[1] * 4)]
    age, person = min(heart.age, 89), "man" if heart.sex == "M" else "woman"
    vitals = (
        f"VS: T 98.{int(chance[5] * 9)}, HR {round(heart.hr_bpm)}, BP {int(105 + 40 * chance[6])}/{int(58 + 25 * chance[7])}, "
        f"RR {int(14 + 8 * chance[8])}, O2 sat {int(93 + 7 * chance[9])}% RA"
    )
    pulse = "irregularly irregular" if heart.rhythm == "af" else "RRR"
    advice = (
        "Weigh yourself every morning, call MD if weight goes up more than 3 lbs."
        if failing
        else "Please see your doctor next week."
    )
    stay = [course or "Symptoms resolved with supportive care."]
    if heart.rhythm == "af":
        stay.append("# AF: rate controlled, on anticoagulation.")
    if thick:
        stay.append("# HTN: continued home meds.")
    illness = _presentation(heart, before, failing, chance)
    sections = [
        f"Name:  {BLANK}                     Unit No:   {BLANK}",
        f"Admission Date:  {BLANK}              Discharge Date:   {BLANK}",
        f"Date of Birth:  {BLANK}             Sex:   {heart.sex}",
        f"Service: {'CARDIOLOGY' if failing else 'MEDICINE'}",
        f"Allergies: \n{'No Known Allergies / Adverse Drug Reactions' if chance[2] < 0.7 else 'Penicillins'}",
        f"Attending: {BLANK}.",
        f"Chief Complaint:\n{complaint}",
        f"Major Surgical or Invasive Procedure:\n{'None' if chance[3] < 0.8 else 'Cardiac catheterization ' + BLANK}",
        f"History of Present Illness:\n{title} {BLANK} is a {age} year old {person} {illness}",
        f"Past Medical History:\n{history}",
        f"Social History:\n{BLANK}",
        f"Family History:\n{_family(chance[4], int(rng.integers(15, 36)))}",
        f"Physical Exam:\n{vitals}\nCARDIAC: {pulse}, nl S1/S2, {_murmur(heart)}\n"
        f"LUNGS: {'crackles at bases b/l' if failing else 'CTAB'}\nEXT: {'2+ pitting edema b/l' if failing else 'wwp, no edema'}",
        f"Pertinent Results:\n{_labs(failing, chance)}" + (f"\n\n{paragraph}" if paragraph else ""),
        "Brief Hospital Course:\n" + "\n".join(stay),
        f"TRANSITIONAL ISSUES:\n{_plans(now, reduced, rng)}",
        f"Medications on Admission:\n1. {'Metoprolol Succinate XL' if reduced else 'Amlodipine'} {BLANK} mg PO DAILY\n"
        "2. Aspirin 81 mg PO DAILY",
        f"Discharge Medications:\n1. {'Furosemide 40 mg PO DAILY' if failing else 'Aspirin 81 mg PO DAILY'}\n"
        "2. Atorvastatin 40 mg PO QPM",
        "Discharge Disposition:\nHome",
        f"Discharge Diagnosis:\n{_diagnosis(heart, failing)}",
        "Discharge Condition:\nMental Status: Clear and coherent.\nActivity Status: Ambulatory - Independent.",
        f"Discharge Instructions:\nDear {title} {BLANK},\nIt was a pleasure taking care of you. {advice}",
        f"Followup Instructions:\n{BLANK}",
    ]
    return Note(text=" \n" + "\n \n".join(sections) + "\n", stated=stated, said=said | ({"lvef": stated} if stated else {}))


def _echo(heart: Heart, now: Reading, rng: np.random.Generator) -> tuple[str, tuple[int, int] | None, Said]:
    """The paragraph about the echo of this stay, the ejection fraction that it states, and what else."""
    low, high = now.lvef, now.lvef_upper
    exact = f"{low}-{high}%" if high > low else f"{low}%"
    kind = int(rng.integers(6))
    if kind == 0:
        parts = text.findings_said(heart, now, rng)
        told: Said = {}
        for _, _, part in parts:
            told |= part
        return f"TTE ({BLANK}): " + " ".join(body for _, body, _ in parts), (low, high), told
    if kind == 1:
        lines, told = text.conclusion_said(heart, now, rng)
        return f"ECHO {BLANK}:\nConclusions: " + " ".join(lines), (low, high), told
    aside, beside = _aside(heart, now)
    if kind == 2:
        low, high = 5 * (low // 5), 5 * (low // 5) + 5
        return f"TTE showed EF {low}-{high}%, {aside}.", (low, high), beside
    if kind == 3:
        ends = (
            f"EF {exact}",
            f"LVEF {exact}",
            f"LV EF of {exact}",
            f"EF = {low} %" if high == low else f"EF = {low} to {high} %",
        )
        return f"TTE {BLANK} - {ends[int(rng.integers(4))]}, {aside}.", (low, high), beside
    if kind == 4 and low >= 52:
        words = ("no evidence of systolic dysfunction", "nl biventricular fxn", "preserved EF (>55%)", "LV systolic function wnl")
        pick = int(rng.integers(4))
        stated = (55, 100) if pick == 2 and low >= 55 else None
        if pick == 2 and low < 55:
            pick = 0
        good: Said = {"lv_function": (0, 0), "wall_motion": (0, 0), "effusion": (0, 0)}
        both: Said = {"rv_function": (0, 0)} if pick == 1 else {}
        return f"TTE w/ {words[pick]}, no WMA, no pericardial effusion.", stated, good | both
    if kind == 4:
        step = text.function_step(low)
        return f"TTE w/ {text.function_grade(low)} LV systolic fxn, {aside}.", None, beside | {"lv_function": (step, step)}
    return f"Cardiac imaging: echo {BLANK} w/ LVEF {exact}. {aside.capitalize()}.", (low, high), beside


def _aside(heart: Heart, now: Reading) -> tuple[str, Said]:
    """What else is mentioned, and what it states."""
    found: list[str] = []
    said: Said = {}
    if now.wall_mm >= 13.5:
        found.append("LVH")
        said["lvh"] = text.SOME
    if heart.infarct != "none" and heart.infarct_size > 0.3:
        found.append(f"{heart.infarct} hypokinesis")
        said["wall_motion"] = text.SOME
    if heart.mitral_regurgitation >= 2:
        found.append("2+ MR" if heart.mitral_regurgitation == 2 else "severe MR")
        said["mr"] = (heart.mitral_regurgitation,) * 2
    if heart.aortic_stenosis >= 2:
        found.append("mod AS" if heart.aortic_stenosis == 2 else "severe AS")
        said["as"] = (heart.aortic_stenosis,) * 2
    if now.rvsp_mmhg > 40:
        found.append(f"PASP {round(now.rvsp_mmhg)}")
        said["pasp_mmhg"] = (round(now.rvsp_mmhg),) * 2
    if found:
        return ", ".join(found), said
    return "no significant valvular disease", {"valve_disease": (0, 1)}


def _course(now: Reading, stated: tuple[int, int] | None, failing: bool, chance: float) -> str:
    if not failing:
        return "Telemetry without events. TTE obtained as above." if chance < 0.5 else "Echo as above."
    words = (
        f"EF {now.lvef}%"
        if stated is not None and now.lvef == now.lvef_upper and stated == (now.lvef, now.lvef)
        else "TTE as above"
    )
    return f"# Acute on chronic heart failure: {words}. Diuresed with IV Lasix with good effect."


def _presentation(heart: Heart, before: Sequence[Reading], failing: bool, chance: F64) -> str:
    known = f"with h/o {'AF' if heart.rhythm == 'af' else 'CAD' if heart.infarct != 'none' else 'HTN'}"
    if before and chance[10] < 0.4:
        known += f", last known EF {before[-1].lvef}%"
    why = "who presents with worsening DOE, orthopnea and PND" if failing else "who presents for evaluation"
    return f"{known} {why}. {'Denies chest pain or syncope.' if chance[11] < 0.6 else 'No fevers, chills.'}"


def _history(heart: Heart, before: Sequence[Reading], rng: np.random.Generator) -> str:
    """Earlier diagnoses, with values of earlier echoes."""
    lines = []
    for reading in before:
        value = f"{reading.lvef}-{reading.lvef_upper}%" if reading.lvef_upper > reading.lvef else f"{reading.lvef}%"
        form = (
            f"CHF (EF {value} in {BLANK})",
            f"prior TTE {BLANK} with LVEF {value}",
            f"echo {BLANK}: EF {value}",
        )[int(rng.integers(3))]
        lines.append(form if reading.lvef < 50 else form.replace("CHF", "HFpEF"))
    if not before and rng.random() < 0.08:
        lines.append(f"remote echo at OSH, EF {5 * int(rng.integers(4, 14))}% per pt report")
    if heart.infarct != "none":
        lines.append(f"CAD s/p {heart.infarct} MI {BLANK}")
    if heart.rhythm == "af":
        lines.append("Atrial fibrillation on warfarin")
    if heart.rhythm == "paced":
        lines.append(f"s/p PPM {BLANK}")
    if heart.aortic_stenosis >= 2:
        lines.append("Aortic stenosis")
    lines += ["Hypertension", "Hyperlipidemia"][: 1 + int(rng.integers(2))]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


def _family(chance: float, percent: int) -> str:
    if chance < 0.12:
        return f"Father with cardiomyopathy, EF {percent}%. Mother alive and well."
    if chance < 0.5:
        return "No family history of early MI, arrhythmia, cardiomyopathies, or sudden cardiac death."
    return "Mother with hypertension." if chance < 0.8 else "Non-contributory."


def _plans(now: Reading | None, reduced: bool, rng: np.random.Generator) -> str:
    lines = ["- Follow up with PCP in 1 week"]
    draw = rng.random()
    if now is not None and reduced:
        lines.append(
            "- Repeat TTE in 3 months on GDMT; if EF remains <35% consider ICD"
            if draw < 0.5
            else "- Uptitrate beta blocker as tolerated"
        )
    elif draw < 0.15:
        lines.append(
            "- Outpatient TTE to evaluate EF (not done this admission)"
            if now is None
            else "- Repeat echo in 1 year, goal EF >50%"
        )
    return "\n".join(lines)


def _murmur(heart: Heart) -> str:
    if heart.aortic_stenosis >= 2:
        return f"{heart.aortic_stenosis + 1}/6 systolic murmur at RUSB"
    return "holosystolic murmur at apex" if heart.mitral_regurgitation >= 2 else "no m/r/g"


def _labs(failing: bool, chance: F64) -> str:
    peptide = int((2500 if failing else 150) * (0.5 + 2 * chance[12]))
    return (
        f"{BLANK} 07:00AM BLOOD WBC-{4 + 7 * chance[13]:.1f} Hgb-{10 + 5 * chance[14]:.1f} Plt {BLANK}\n"
        f"{BLANK} 07:00AM BLOOD Creat-{0.7 + 0.9 * chance[15]:.1f} Na-{int(134 + 9 * chance[16])} "
        f"K-{3.5 + 1.3 * chance[17]:.1f}\n"
        f"{BLANK} 07:00AM BLOOD proBNP-{peptide}"
    )


def _diagnosis(heart: Heart, failing: bool) -> str:
    found = []
    if failing:
        found.append(
            "HFrEF exacerbation" if heart.lvef < 42 else "HFpEF exacerbation" if heart.lvef >= 50 else "Congestive heart failure"
        )
    if heart.rhythm == "af":
        found.append("Atrial fibrillation")
    if heart.infarct != "none":
        found.append("Coronary artery disease")
    return "\n".join(found or ["Chest pain, noncardiac"])
