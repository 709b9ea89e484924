"""What a machine prints under an ECG, and what a reader writes about an echo.

Machine lines follow from the electrical measurements with the misses and false alarms of criteria, so they hint at hypertrophy
and poor function without knowing them. Echo sentences state the truth; the demo teacher learns from them.
"""

from __future__ import annotations

import numpy as np

from ecgecho.simulate.ecg import Electro
from ecgecho.simulate.heart import Heart

VIEW_NAMES = {"a4c": "apical four chamber view", "plax": "parasternal long axis view"}


def machine_lines(heart: Heart, electro: Electro, hr_bpm: float, rng: np.random.Generator) -> list[str]:
    """At most 18 lines of one ECG's report, rhythm first most of the time."""
    return _rhythm(heart, hr_bpm) + _conduction(electro, heart, rng) + _findings(heart, electro, rng)


def _rhythm(heart: Heart, hr_bpm: float) -> list[str]:
    if heart.rhythm == "af":
        return ["Atrial fibrillation with rapid ventricular response" if hr_bpm > 100 else "Atrial fibrillation"]
    if hr_bpm < 55:
        return ["Sinus bradycardia"]
    return ["Sinus tachycardia" if hr_bpm > 100 else "Sinus rhythm"]


def _conduction(electro: Electro, heart: Heart, rng: np.random.Generator) -> list[str]:
    lines = []
    if electro.pr_ms > 205:
        lines.append("Prolonged PR interval" if rng.random() < 0.5 else "with 1st degree A-V block")
    if heart.conduction == "lbbb":
        lines.append("Left bundle branch block")
    elif heart.conduction == "rbbb":
        lines.append("Right bundle branch block" if electro.qrs_ms > 125 else "Incomplete right bundle branch block")
    elif electro.qrs_ms > 112 + 4 * rng.normal():
        lines.append("Nonspecific intraventricular conduction delay")
    if electro.axis_deg < -28 + 4 * rng.normal():
        lines.append("Left axis deviation")
    elif electro.axis_deg > 92:
        lines.append("Right axis deviation")
    return lines


def _findings(heart: Heart, electro: Electro, rng: np.random.Generator) -> list[str]:
    lines = []
    if electro.pr_ms and electro.p_terminal > 0.12 + 0.02 * rng.normal():
        lines.append("Possible left atrial abnormality")
    inverted = electro.t_turn_deg > 88 + 8 * rng.normal()
    if heart.conduction != "lbbb":
        if electro.voltage > 1.42 + 0.08 * rng.normal():
            if electro.st_mv < -0.05 or inverted:
                lines.append("Left ventricular hypertrophy with repolarization abnormality")
            else:
                lines.append("Left ventricular hypertrophy" if electro.voltage > 1.6 else "Possible left ventricular hypertrophy")
            inverted = False
        elif electro.voltage < 0.62:
            lines.append("Low QRS voltages in precordial leads")
        if heart.infarct == "anterior" and electro.infarct > 0.4 + 0.15 * rng.normal():
            lines.append(
                "Anterior infarct - age undetermined" if rng.random() < 0.7 else "Extensive anterior infarct - possibly acute"
            )
        elif electro.posterior > 0.34 + 0.06 * rng.normal():
            lines.append("Poor R wave progression" if rng.random() < 0.6 else "Possible anterior infarct - age undetermined")
        if heart.infarct == "inferior" and electro.infarct > 0.4 + 0.15 * rng.normal():
            lines.append("Inferior infarct - age undetermined")
        if inverted:
            lines.append("Lateral ST-T changes may be due to myocardial ischemia")
        elif electro.t_amplitude_mv < 0.2 or electro.t_turn_deg > 62:
            lines.append("Nonspecific T wave abnormalities" if rng.random() < 0.6 else "Lateral T wave changes are nonspecific")
    if electro.qtc_ms > 470 + 6 * rng.normal():
        lines.append("Prolonged QT interval")
    if lines or heart.rhythm == "af" or heart.conduction in ("lbbb", "rbbb"):
        return [*lines, "Abnormal ECG" if len(lines) > 1 or rng.random() < 0.6 else "Borderline ECG"]
    return ["Normal ECG" if rng.random() < 0.8 else "Within normal limits"]


def echo_report(heart: Heart, view: str, rng: np.random.Generator) -> str:
    """A few sentences about one cine, in random wording and order."""
    sentences = [function_sentence(heart.lvef, rng)]
    if rng.random() < 0.75:
        sentences.append(wall_sentence(heart.wall_mm, rng))
    if rng.random() < 0.6:
        sentences.append(cavity_sentence(heart.edv_ml, rng))
    if rng.random() < 0.6:
        sentences.append(f"this is the {VIEW_NAMES[view]}" if rng.random() < 0.5 else VIEW_NAMES[view])
    return ". ".join(sentences[int(i)] for i in rng.permutation(len(sentences))) + "."


def function_sentence(lvef: float, rng: np.random.Generator) -> str:
    """The ejection fraction as a number, as a grade, or both."""
    percent = round(lvef)
    number = (
        f"ejection fraction is {percent} percent",
        f"left ventricular ejection fraction is {percent} percent",
        f"the lvef is {percent} %",
        f"ejection fraction of {percent} percent",
        f"ef {percent} %",
    )[int(rng.integers(5))]
    grade = (
        "severely reduced" if lvef < 30 else "moderately reduced" if lvef < 40 else "mildly reduced" if lvef < 52 else "normal"
    )
    word = (
        f"{grade} left ventricular systolic function",
        f"left ventricular systolic function is {grade}",
        f"{grade} systolic function",
        f"{grade} ejection fraction",
    )[int(rng.integers(4))]
    if lvef < 40 and rng.random() < 0.3:
        word = (
            "reduced left ventricular systolic function",
            "reduced ejection fraction",
            "left ventricular dysfunction",
            "heart failure",
        )[int(rng.integers(4))]
    elif lvef >= 52 and rng.random() < 0.3:
        word = ("preserved ejection fraction", "preserved left ventricular systolic function")[int(rng.integers(2))]
    choice = rng.random()
    return number if choice < 0.4 else word if choice < 0.75 else f"{word}. {number}"


def wall_sentence(wall_mm: float, rng: np.random.Generator) -> str:
    grade = "severe" if wall_mm >= 16 else "moderate" if wall_mm >= 14 else "mild" if wall_mm >= 12 else "no"
    return (
        f"{grade} left ventricular hypertrophy",
        f"{grade} concentric hypertrophy",
        f"wall thickness is {round(wall_mm)} mm",
        f"{'normal' if grade == 'no' else grade + 'ly increased'} wall thickness",
    )[int(rng.integers(4))]


def cavity_sentence(edv_ml: float, rng: np.random.Generator) -> str:
    grade = "severely dilated" if edv_ml > 185 else "dilated" if edv_ml > 150 else "small" if edv_ml < 80 else "normal sized"
    return (
        f"the left ventricle is {grade}",
        f"{grade} left ventricular cavity",
        f"end diastolic volume is {round(edv_ml / 10) * 10} ml",
    )[int(rng.integers(3))]
