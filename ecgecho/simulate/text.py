"""What a machine prints under an ECG, and what a reader writes about an echo.

Machine lines follow from the electrical measurements with the misses and false alarms of criteria, so they hint at hypertrophy
and poor function without knowing them. The sentences of `echo_report` state the truth; the demo teacher learns from them.
`full_report` is a cardiologist's: sections, a reader's numbers, grades by the limits of Lang et al. 2015.
"""

from __future__ import annotations

import numpy as np

from ecgecho.simulate.ecg import Beats, Electro
from ecgecho.simulate.heart import F64, GRADES, Heart
from ecgecho.simulate.measurements import Reading
from ecgecho.simulate.rhythm import ATRIAL, VENTRICULAR

VIEW_NAMES = {
    "a4c": "apical four chamber view",
    "a2c": "apical two chamber view",
    "a3c": "apical long axis view",
    "plax": "parasternal long axis view",
    "psax": "parasternal short axis view",
    "subcostal": "subcostal view",
}
Said = dict[str, tuple[float, float]]
"""What a text states, by the names of `ecgecho.notes`: lowest and highest number, or grade from 0 none to 3 severe."""
SOME = (0.5, 3.0)
"""A finding that is stated without its grade."""
WALLS = {"anterior": "anterior wall and apex", "inferior": "inferior wall", "lateral": "lateral wall"}


def machine_lines(heart: Heart, electro: Electro, beats: Beats, axis_deg: float, rng: np.random.Generator) -> list[str]:
    """At most 18 lines of one ECG's report: rhythm, conduction, findings, verdict. `axis_deg` is the measured axis of the QRS."""
    if heart.rhythm == "paced":
        paced = "Ventricular-paced rhythm" if electro.pr_ms == 0 else "Atrial-sensed ventricular-paced rhythm"
        return (
            [paced, "Pacemaker rhythm - no further analysis"]
            if rng.random() < 0.7
            else ["Pacemaker rhythm - no further analysis"]
        )
    rhythm = _rhythm(heart, beats)
    said = _conduction(electro, heart, axis_deg, rng) + _findings(heart, electro, rng)
    return [*rhythm, *said, _verdict(heart, rhythm, said, rng)]


def _verdict(heart: Heart, rhythm: list[str], said: list[str], rng: np.random.Generator) -> str:
    """The last line, which knows all lines before it."""
    draw = rng.random()
    if rhythm == ["Sinus rhythm"] and not said:
        return "Normal ECG" if draw < 0.8 else "Within normal limits"
    sure = heart.rhythm == "af" or heart.conduction in ("lbbb", "rbbb") or len(said) > 1
    return "Abnormal ECG" if sure or (said and draw < 0.6) else "Borderline ECG"


def _rhythm(heart: Heart, beats: Beats) -> list[str]:
    kinds, rate = beats.inside_kinds, beats.hr_bpm
    ventricular, atrial = int((kinds == VENTRICULAR).sum()), int((kinds == ATRIAL).sum())
    if heart.rhythm == "af":
        lines = ["Atrial fibrillation with rapid ventricular response" if rate > 100 else "Atrial fibrillation"]
        return [*lines, "Ventricular premature complex" if ventricular == 1 else "Ventricular premature complexes"][
            : 1 + (ventricular > 0)
        ]
    sinus = "Sinus bradycardia" if rate < 55 else "Sinus tachycardia" if rate > 100 else "Sinus rhythm"
    if ventricular:
        return [f"{sinus} with {'frequent ' if ventricular > 2 else ''}PVC{'s' if ventricular > 1 else ''}"]
    if atrial:
        return [f"{sinus} with {'frequent ' if atrial > 2 else ''}PAC{'s' if atrial > 1 else ''}"]
    return [sinus]


def _conduction(electro: Electro, heart: Heart, axis_deg: float, rng: np.random.Generator) -> list[str]:
    lines = []
    if electro.pr_ms > 205:
        lines.append("Prolonged PR interval" if rng.random() < 0.5 else "with 1st degree A-V block")
    if heart.conduction == "lbbb" and electro.block > 0.6:
        lines.append("Left bundle branch block")
    elif heart.conduction == "rbbb":
        lines.append("Right bundle branch block" if electro.qrs_ms > 120 else "Incomplete right bundle branch block")
    elif electro.qrs_ms > 114 + 4 * rng.normal():
        lines.append("Nonspecific intraventricular conduction delay")
    if axis_deg < -28 + 4 * rng.normal():
        lines.append("Left axis deviation")
    elif axis_deg > 92:
        lines.append("Right axis deviation")
    return lines


def _findings(heart: Heart, electro: Electro, rng: np.random.Generator) -> list[str]:
    lines = []
    if electro.pr_ms and electro.p_terminal > 0.05 + 0.01 * rng.normal():
        lines.append("Possible left atrial abnormality")
    if electro.pr_ms and electro.p_right > 0.06 + 0.01 * rng.normal():
        lines.append("Possible right atrial abnormality")
    if electro.right > 0.35:
        lines.append("Possible right ventricular hypertrophy")
    inverted = electro.t_turn_deg > 88 + 8 * rng.normal()
    if heart.conduction != "lbbb":
        if electro.voltage > 1.48 + 0.08 * rng.normal():
            if electro.st_mv < -0.05 or inverted:
                lines.append("Left ventricular hypertrophy with repolarization abnormality")
            else:
                lines.append(
                    "Left ventricular hypertrophy" if electro.voltage > 1.65 else "Possible left ventricular hypertrophy"
                )
            inverted = False
        elif electro.voltage < 0.62:
            lines.append("Low QRS voltages in precordial leads")
        scarred = electro.infarct > 0.4 + 0.12 * rng.normal()
        if heart.infarct == "anterior" and scarred:
            lines.append(
                "Anterior infarct - age undetermined" if rng.random() < 0.7 else "Extensive anterior infarct - possibly acute"
            )
        elif electro.posterior > 0.34 + 0.06 * rng.normal():
            lines.append("Poor R wave progression" if rng.random() < 0.6 else "Possible anterior infarct - age undetermined")
        if heart.infarct == "inferior" and scarred:
            lines.append(
                "Inferior infarct - age undetermined" if rng.random() < 0.8 else "Possible inferior infarct - age undetermined"
            )
        if heart.infarct == "lateral" and scarred:
            lines.append("Lateral infarct - age undetermined")
        if inverted:
            lines.append("Lateral ST-T changes may be due to myocardial ischemia")
        elif electro.t_amplitude_mv < 0.17 or electro.t_turn_deg > 66:
            lines.append("Nonspecific T wave abnormalities" if rng.random() < 0.6 else "Lateral T wave changes are nonspecific")
    if electro.qtc_ms > 470 + 6 * rng.normal():
        lines.append("Prolonged QT interval")
    return lines


def echo_report(heart: Heart, view: str, rng: np.random.Generator) -> str:
    """A few sentences about one cine, in random wording and order."""
    sentences = [function_sentence(heart.lvef, rng)]
    if rng.random() < 0.75:
        sentences.append(wall_sentence(heart.wall_mm, rng))
    if rng.random() < 0.6:
        sentences.append(cavity_sentence(heart.edv_ml, rng))
    if rng.random() < 0.6:
        sentences.append(f"this is the {VIEW_NAMES[view]}" if rng.random() < 0.5 else VIEW_NAMES[view])
    if rng.random() < 0.35:
        sentences.append(atrium_sentence(heart, rng))
    if heart.infarct != "none" and heart.infarct_size > 0.3 and rng.random() < 0.6:
        sentences.append(motion_sentence(heart, rng))
    if rng.random() < 0.3:
        sentences.append(valve_sentence(heart, rng))
    if rng.random() < 0.25:
        sentences.append(rhythm_sentence(heart, rng))
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


def atrium_sentence(heart: Heart, rng: np.random.Generator) -> str:
    grade = _grade(heart.la_ml / heart.bsa_m2, (35, 42, 49))
    if grade == 0:
        return ("normal left atrial size", "the left atrium is normal in size")[int(rng.integers(2))]
    return (f"the left atrium is {GRADES[grade]}ly dilated", f"{GRADES[grade]} left atrial enlargement")[int(rng.integers(2))]


def motion_sentence(heart: Heart, rng: np.random.Generator) -> str:
    word = "akinesis" if heart.infarct_size > 0.6 else "hypokinesis"
    return (f"{word} of the {WALLS[heart.infarct]}", f"the {WALLS[heart.infarct]} is {word.replace('sis', 'tic')}")[
        int(rng.integers(2))
    ]


def valve_sentence(heart: Heart, rng: np.random.Generator) -> str:
    """About the worst valve."""
    grade, name = max(
        (heart.aortic_stenosis, "aortic stenosis"),
        (heart.mitral_regurgitation, "mitral regurgitation"),
        (heart.aortic_regurgitation, "aortic regurgitation"),
        (heart.tricuspid_regurgitation, "tricuspid regurgitation"),
        key=lambda pair: pair[0],
    )
    if grade == 0:
        return ("no significant valve disease", "the valves are normal")[int(rng.integers(2))]
    return (f"{GRADES[grade]} {name}", f"there is {GRADES[grade]} {name}")[int(rng.integers(2))]


def rhythm_sentence(heart: Heart, rng: np.random.Generator) -> str:
    names = {
        "sinus": ("sinus rhythm", "regular rhythm"),
        "af": ("atrial fibrillation", "irregular rhythm"),
        "paced": ("paced rhythm", "ventricular pacing"),
    }
    return names[heart.rhythm][int(rng.integers(2))]


def full_report(heart: Heart, reading: Reading, rng: np.random.Generator) -> str:
    """A transthoracic report with sections and a conclusion."""
    parts = [f"{name}: {body}" for name, body in findings(heart, reading, rng)]
    parts.append("CONCLUSION: " + " ".join(conclusion(heart, reading, rng)))
    return "\n".join(parts)


def findings(heart: Heart, reading: Reading, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(section, sentences), as far as this reader writes them."""
    return [(name, body) for name, body, _ in findings_said(heart, reading, rng)]


def findings_said(heart: Heart, reading: Reading, rng: np.random.Generator) -> list[tuple[str, str, Said]]:
    """`findings` with what each section states, by the hand that writes it."""
    chance = rng.random(16)
    thick, size = _grade(reading.wall_mm, (11.5, 13.5, 15.5)), _cavity(heart, reading)
    shape = "symmetric" if abs(reading.septal_mm - reading.posterior_mm) < 2 else "asymmetric septal"
    walls = (
        f"There is {GRADES[thick]} {shape} left ventricular hypertrophy" if thick else "Normal left ventricular wall thickness"
    )
    cavity = "normal cavity size" if size == 0 else f"{GRADES[size]} cavity dilation"
    left = [f"{walls}{' with' if chance[0] < 0.5 else '. There is'} {cavity}."]
    of_left: Said = {
        "lvh": (thick, thick),
        "lv_dilation": (size, size),
        "lv_function": (function_step(reading.lvef),) * 2,
        "lvef": (reading.lvef, reading.lvef_upper),
    }
    if heart.infarct != "none" and heart.infarct_size > 0.25:
        left.append(f"There is {'akinesis' if heart.infarct_size > 0.6 else 'hypokinesis'} of the {WALLS[heart.infarct]}.")
        of_left["wall_motion"] = SOME
    elif reading.lvef < 50 and chance[1] < 0.7:
        left.append("There is global hypokinesis.")
        of_left["wall_motion"] = SOME
    elif chance[1] < 0.4:
        left.append("No regional wall motion abnormality is seen.")
        of_left["wall_motion"] = (0, 0)
    left.append(
        f"Overall left ventricular systolic function is {function_grade(reading.lvef)} ({ejection_fraction(reading, rng)})."
    )
    if heart.rhythm == "af" and chance[2] < 0.5:
        left.append("Diastolic function could not be graded in atrial fibrillation.")
    atrium = _grade(reading.la_ml / heart.bsa_m2, (35, 42, 49))
    right, weak = _grade(reading.rv_mm, (41.5, 46, 51)), reading.tapse_mm < 16
    stenosis = heart.aortic_stenosis
    # "Structurally normal with good leaflet excursion" does not speak of stenosis.
    of_valve: Said = {} if stenosis == 0 and chance[3] >= 0.6 else {"as": (stenosis, stenosis)}
    found: list[tuple[str, str, Said]] = [
        ("LEFT ATRIUM", "Normal left atrial size." if atrium == 0 else f"The left atrium is {GRADES[atrium]}ly dilated.", {}),
        ("LEFT VENTRICLE", " ".join(left), of_left),
        (
            "RIGHT VENTRICLE",
            f"{'Normal' if right == 0 else 'Mildly dilated' if right == 1 else 'Dilated'} right ventricular cavity with "
            f"{'depressed' if weak else 'normal'} free wall motion.",
            ({"rv_dilation": (1, 1)} if right == 1 else {"rv_dilation": SOME} if right else {})
            | {"rv_function": SOME if weak else (0, 0)},
        ),
        ("AORTIC VALVE", _aortic(heart, reading, chance), of_valve | {"ar": (heart.aortic_regurgitation,) * 2}),
        ("MITRAL VALVE", _leak("mitral", heart.mitral_regurgitation, chance[5]), {"mr": (heart.mitral_regurgitation,) * 2}),
        (
            "TRICUSPID VALVE",
            _leak("tricuspid", heart.tricuspid_regurgitation, chance[6]),
            {"tr": (heart.tricuspid_regurgitation,) * 2},
        ),
        ("PULMONARY ARTERY", *_pressure(reading, chance[7])),
        (
            "PERICARDIUM",
            "There is no pericardial effusion." if chance[8] < 0.95 else "There is a trivial pericardial effusion.",
            {"effusion": (0, 0) if chance[8] < 0.95 else (0.5, 0.5)},
        ),
    ]
    shares = (0.9, 1.0, 0.9, 0.9, 0.95, 0.8, 0.8, 0.9)
    return [part for part, share, draw in zip(found, shares, rng.random(len(found)), strict=True) if draw < share]


def conclusion(heart: Heart, reading: Reading, rng: np.random.Generator) -> list[str]:
    """What the reader wants to be read, most important first."""
    return conclusion_said(heart, reading, rng)[0]


def conclusion_said(heart: Heart, reading: Reading, rng: np.random.Generator) -> tuple[list[str], Said]:
    """`conclusion` and what it states."""
    said: Said = {"lv_function": (function_step(reading.lvef),) * 2, "lvef": (reading.lvef, reading.lvef_upper)}
    lines = [
        f"{function_grade(reading.lvef).capitalize()} left ventricular systolic function, {ejection_fraction(reading, rng)}."
    ]
    thick, size = _grade(reading.wall_mm, (11.5, 13.5, 15.5)), _cavity(heart, reading)
    if thick:
        lines.append(f"{GRADES[thick].capitalize()} left ventricular hypertrophy.")
        said["lvh"] = (thick, thick)
    if size:
        lines.append(f"{GRADES[size].capitalize()} left ventricular dilation.")
        said["lv_dilation"] = (size, size)
    for grade, name, short in (
        (heart.aortic_stenosis, "aortic stenosis", "as"),
        (heart.aortic_regurgitation, "aortic regurgitation", "ar"),
        (heart.mitral_regurgitation, "mitral regurgitation", "mr"),
        (heart.tricuspid_regurgitation, "tricuspid regurgitation", "tr"),
    ):
        if grade >= 2 or (grade == 1 and rng.random() < 0.3):
            lines.append(f"{GRADES[grade].capitalize()} {name}.")
            said[short] = (grade, grade)
    if reading.rvsp_mmhg > 40:
        lines.append(f"Pulmonary hypertension, estimated systolic pressure {round(reading.rvsp_mmhg)} mmHg.")
        said |= {"ph": SOME, "pasp_mmhg": (round(reading.rvsp_mmhg),) * 2}
    return lines, said


def function_grade(lvef: int) -> str:
    return (
        "severely depressed"
        if lvef < 30
        else "moderately depressed"
        if lvef < 40
        else "mildly depressed"
        if lvef < 52
        else "normal"
    )


def function_step(lvef: int) -> int:
    """The number of `function_grade`."""
    return sum(lvef < limit for limit in (30, 40, 52))


def ejection_fraction(reading: Reading, rng: np.random.Generator) -> str:
    """A reader's number, or range, as it stands in a report."""
    if reading.lvef_upper > reading.lvef:
        return (f"LVEF {reading.lvef}-{reading.lvef_upper}%", f"LVEF= {reading.lvef} to {reading.lvef_upper} %")[
            int(rng.integers(2))
        ]
    return (f"LVEF= {reading.lvef} %", f"LVEF {reading.lvef}%", f"LVEF = {reading.lvef}%")[int(rng.integers(3))]


def _grade(value: float, limits: tuple[float, float, float]) -> int:
    return sum(value >= limit for limit in limits)


def _cavity(heart: Heart, reading: Reading) -> int:
    return _grade(reading.lvedd_mm - (5 if heart.sex == "M" else 0), (53.5, 57.5, 62.5))


def _aortic(heart: Heart, reading: Reading, chance: F64) -> str:
    if heart.aortic_stenosis == 0:
        stenosis = (
            "No aortic stenosis."
            if chance[3] < 0.6
            else "The aortic valve leaflets appear structurally normal with good leaflet excursion."
        )
    else:
        stenosis = (
            f"The aortic valve leaflets are thickened. There is {GRADES[heart.aortic_stenosis]} aortic stenosis"
            f" (peak velocity {reading.av_m_s:.1f} m/s, mean gradient {round(2.4 * reading.av_m_s**2)} mmHg)."
        )
    return f"{stenosis} {_leak('aortic', heart.aortic_regurgitation, chance[4])}"


def _leak(valve: str, grade: int, chance: float) -> str:
    if grade == 0:
        return f"No {valve} regurgitation." if chance < 0.7 else f"There is no {valve} regurgitation seen."
    amount = ("", "(1+)", "(2+)", "(3-4+)")[grade]
    return f"{GRADES[grade].capitalize()} {amount} {valve} regurgitation is seen."


def _pressure(reading: Reading, chance: float) -> tuple[str, Said]:
    if reading.rvsp_mmhg <= 36:
        if chance < 0.8:
            return "Normal pulmonary artery systolic pressure.", {"ph": (0, 0)}
        return "The pulmonary artery systolic pressure could not be determined.", {}
    step = 1 if reading.rvsp_mmhg < 45 else 2 if reading.rvsp_mmhg < 60 else 3
    mmhg = round(reading.rvsp_mmhg)
    return (
        f"There is {GRADES[step]} pulmonary artery systolic hypertension (estimated {mmhg} mmHg).",
        {"ph": (step, step), "pasp_mmhg": (mmhg, mmhg)},
    )
