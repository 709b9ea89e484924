"""What a reader measured at one echo visit: the heart with measurement error, and the rows of structured-measurement.csv.

Errors: an eyeballed LVEF lies within about 4 points (two thirds of the time 2), biplane 2, three-dimensional 1; lengths within a
millimetre or so. Those are the errors of one good laboratory; between laboratories they are larger (Lang et al. 2015).
Names, graded texts and units that drift with the year: the dataset card of MIMIC-IV-ECHO 1.0. Which year a unit changed is not
known; the years here are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ecgecho.simulate.heart import RIGHT_ATRIAL_MMHG, Heart
from ecgecho.simulate.person import TestType

Row = list[object]

LVEF_NAMES = ("lvef", "lvef_upper", "biplane_lvef", "lvef_3d", "rest_lvef", "rest_biplane_lvef", "rest_lvef_upper", "stress_lvef")
WALLS_IN_MM_FROM = 2015
VELOCITIES_IN_CM_S_FROM = 2013
RANGE_SHARE = 0.10
"""Of readers who give the LVEF as a range of five points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One visit as a reader found it; notes and reports quote it."""

    lvef: int
    lvef_upper: int
    """Equal to `lvef`, or the upper end of a range that begins with it."""
    biplane: int
    three_d: int
    stress: int
    septal_mm: float
    posterior_mm: float
    lvedd_mm: float
    lvesd_mm: float
    la_mm: float
    la_ml: float
    rv_mm: float
    tapse_mm: float
    tr_mmhg: float
    av_m_s: float
    e_m_s: float
    a_m_s: float
    """0 without an atrial kick."""
    septal_e_m_s: float
    lateral_e_m_s: float
    e_decel_ms: float
    av_area_cm2: float
    lvot_cm: float
    vti_cm: float
    hr_bpm: int

    @property
    def wall_mm(self) -> float:
        return max(self.septal_mm, self.posterior_mm)

    @property
    def rvsp_mmhg(self) -> float:
        return self.tr_mmhg + RIGHT_ATRIAL_MMHG


def read(heart: Heart, rng: np.random.Generator) -> Reading:
    """One reading of a heart."""
    z = rng.normal(size=22)
    lvef = round(heart.lvef + float(np.clip(2.0 * z[0], -5, 5)))
    low, high = lvef, lvef
    if rng.random() < RANGE_SHARE:
        low = 5 * math.floor(lvef / 5)
        high = low + 5
    ill = heart.severity
    stroke = heart.edv_ml * heart.lvef / 100
    lvot = 2.05 + 0.12 * z[1] + (0.1 if heart.sex == "M" else -0.1)
    old = max(heart.age - 50, 0)
    septal_e = max(9.0 - 0.06 * old - 2.6 * ill - 0.15 * max(heart.wall_mm - 11, 0) + 1.3 * z[2], 2.5) / 100
    return Reading(
        lvef=low,
        lvef_upper=high,
        biplane=round(heart.lvef + float(np.clip(1.5 * z[3], -4, 4))),
        three_d=round(heart.lvef + float(np.clip(1.0 * z[4], -3, 3))),
        stress=round(min(heart.lvef + max(8 - 9 * ill - 9 * heart.infarct_size, -8) + 3 * z[5], 82)),
        septal_mm=max(heart.septal_mm + 0.5 * z[6], 5.0),
        posterior_mm=max(heart.posterior_mm + 0.5 * z[7], 5.0),
        lvedd_mm=heart.lvedd_mm + 1.5 * z[8],
        lvesd_mm=0.88 * 49.0 * (heart.esv_ml / 120) ** (1 / 3) + 1.5 * z[9],
        la_mm=float(np.clip(14 + 7.4 * heart.la_ml ** (1 / 3) + 2.0 * z[10], 22, 75)),
        la_ml=heart.la_ml * math.exp(0.06 * z[11]),
        rv_mm=heart.rv_mm + 1.2 * z[12],
        tapse_mm=float(np.clip(22 - 4 * ill - 0.12 * max(heart.rvsp_mmhg - 35, 0) + 2 * z[13], 8, 32)),
        tr_mmhg=float(np.clip(heart.tr_mmhg + 2 * z[14], 9, 95)),
        av_m_s=float(np.clip(heart.aortic_velocity_m_s * math.exp(0.08 * z[15]), 0.8, 5.8)),
        e_m_s=float(np.clip(heart.e_velocity_m_s + 0.14 * z[16], 0.35, 1.8)),
        a_m_s=float(np.clip(heart.a_velocity_m_s + 0.12 * z[17], 0.2, 1.3)) if heart.atrium_beats else 0.0,
        septal_e_m_s=septal_e,
        lateral_e_m_s=septal_e + max(0.022 + 0.012 * z[18], 0.0),
        e_decel_ms=float(np.clip(210 - 45 * ill + 20 * z[21], 100, 320)),
        # By continuity: errors of the jet's velocity divide it, those of the outflow tract multiply it.
        av_area_cm2=(3.0, 1.7, 1.2, 0.8)[heart.aortic_stenosis] * math.exp(0.06 * z[1] - 0.08 * z[15] + 0.06 * z[19]),
        lvot_cm=float(lvot),
        vti_cm=float(np.clip(stroke / (math.pi / 4 * lvot**2) * math.exp(0.06 * z[19]), 6, 40)),
        hr_bpm=round(heart.hr_bpm + 2 * z[20]),
    )


def rows(heart: Heart, reading: Reading, test_type: TestType, year: int, rng: np.random.Generator) -> list[Row]:
    """measurement, measurement_description, result, unit of one visit, in the order of a report."""
    chance = rng.random(64).tolist()
    kept = iter(chance)
    found: list[Row] = []

    def take(name: str, title: str, value: str, unit: str, share: float) -> None:
        if next(kept) < share:
            found.append([name, title, value, unit])

    percent = "%" if next(kept) < 0.02 else ""
    ejection = "Left ventricular ejection fraction"
    prefix, when = ("rest_", ", rest") if test_type == "stress" else ("", "")
    eyeballed = next(kept) > 0.05 or test_type == "tee"
    if eyeballed:
        found.append([prefix + "lvef", ejection + when, f"{reading.lvef}{percent}", "%"])
        if reading.lvef_upper > reading.lvef:
            found.append([prefix + "lvef_upper", f"{ejection}{when}, upper value", f"{reading.lvef_upper}{percent}", "%"])
    if test_type != "tee":
        take(f"{prefix}biplane_lvef", f"{ejection}{when}, biplane", str(reading.biplane), "%", 0.3 if eyeballed else 1.0)
    if test_type == "tte":
        take("lvef_3d", f"{ejection}, 3D", str(reading.three_d), "%", 0.06)
    if test_type == "stress":
        found.append(["stress_lvef", f"{ejection}, stress", str(reading.stress), "%"])

    millimetres = (year >= WALLS_IN_MM_FROM) != (next(kept) < 0.02)
    unit = "mm" if millimetres else "cm"
    # The unit is missing in a few reports, and wrong in fewer: the number then tells.
    draw = next(kept)
    said = "" if draw < 0.03 else ("cm" if millimetres else "mm") if draw < 0.04 else unit

    def length(value_mm: float) -> str:
        return str(round(value_mm)) if unit == "mm" else f"{value_mm / 10:.1f}"

    def velocity(name: str, title: str, value_m_s: float, share: float, digits: int = 2) -> None:
        cm = year >= VELOCITIES_IN_CM_S_FROM
        take(
            name,
            title,
            f"{100 * value_m_s:.{max(digits - 2, 0)}f}" if cm else f"{value_m_s:.{digits}f}",
            "cm/s" if cm else "m/s",
            share,
        )

    if test_type != "tee":
        take("septal_thickness", "Septal wall thickness", length(reading.septal_mm), said, 0.97)
        take("inf_lat_thickness", "Inferolateral wall thickness", length(reading.posterior_mm), said, 0.96)
        take("lvedd", "Left ventricular end-diastolic dimension", f"{reading.lvedd_mm / 10:.1f}", "cm", 0.96)
        take("lvesd", "Left ventricular end-systolic dimension", f"{reading.lvesd_mm / 10:.1f}", "cm", 0.7)
        take("fs", "Fractional shortening", f"{max(1 - reading.lvesd_mm / reading.lvedd_mm, 0.02):.2f}", "", 0.4)
        take("la_dimen", "Left atrial dimension, long axis", f"{reading.la_mm / 10:.1f}", "cm", 0.85)
        take("la_vol", "Left atrial volume", str(round(reading.la_ml)), "ml", 0.35)
        take("rv_diam", "Right ventricular basal diameter", f"{reading.rv_mm / 10:.1f}", "cm", 0.4)
        take("tapse", "Tricuspid annular plane systolic excursion", length(reading.tapse_mm), said, 0.45)
        take(
            "tr_mmhg",
            "Tricuspid regurgitation gradient",
            str(round(reading.tr_mmhg)),
            "mmHg",
            0.65 if heart.tricuspid_regurgitation else 0.3,
        )
        velocity("tr_velocity", "Tricuspid regurgitation velocity", math.sqrt(reading.tr_mmhg / 4), 0.3, 1)
        velocity("av_pk_vel", "Aortic valve peak velocity", reading.av_m_s, 0.8, 1)
        take(
            "av_pk_grad",
            "Aortic valve peak gradient",
            str(round(4 * reading.av_m_s**2)),
            "mmHg",
            0.3 + 0.2 * heart.aortic_stenosis,
        )
        if heart.aortic_stenosis:
            take("av_mean_grad", "Aortic valve mean gradient", str(round(2.4 * reading.av_m_s**2)), "mmHg", 0.85)
            take("av_area_continuity", "Aortic valve area, continuity", f"{reading.av_area_cm2:.1f}", "cm2", 0.8)
        take("lvot_diam", "LVOT diameter", f"{reading.lvot_cm:.1f}", "cm", 0.5)
        take("lvot_vti", "LVOT velocity time integral", str(round(reading.vti_cm)), "cm", 0.5)
        velocity("mv_peak_e", "Mitral E velocity", reading.e_m_s, 0.75, 1 if year < VELOCITIES_IN_CM_S_FROM else 2)
        if reading.a_m_s:
            velocity("mv_peak_a", "Mitral A velocity", reading.a_m_s, 0.72, 1 if year < VELOCITIES_IN_CM_S_FROM else 2)
            take("mv_peak_e_a", "Mitral E/A ratio", f"{reading.e_m_s / reading.a_m_s:.2f}", "", 0.7)
        take("mv_e_decel", "Mitral E deceleration time", str(round(reading.e_decel_ms)), "ms", 0.5)
        velocity("sept_e_prime", "Septal e'", reading.septal_e_m_s, 0.55)
        velocity("lat_e_prime", "Lateral e'", reading.lateral_e_m_s, 0.55)
        take("height_cm", "Height", str(round(heart.height_cm)), "cm", 0.5)
    take("resting_hr", "Resting heart rate", str(reading.hr_bpm), "bpm", 0.98)
    found += [[name, title, value, ""] for name, title, value in _graded(heart, reading) if next(kept) < 0.6]
    return found


def _graded(heart: Heart, reading: Reading) -> list[tuple[str, str, str]]:
    """Fields that hold a text; one that is not recorded is not "none": its row is blank or missing."""
    wall, size = reading.wall_mm, reading.lvedd_mm - (4 if heart.sex == "M" else 0)
    pressure = reading.tr_mmhg
    atrium = reading.la_ml / heart.bsa_m2
    leak = ("", "Mild (1+)", "Moderate (2+)", "Severe (4+)")
    ventricle = ("Nl RV function", "Mild global hypo", "Mod global hypo", "Severe global hypo")
    grade = 0 if reading.tapse_mm >= 17 else 1 if reading.tapse_mm >= 14 else 2 if reading.tapse_mm >= 11 else 3
    return [
        (
            "lv_wall_thickness",
            "Left ventricular wall thickness",
            _step(wall, (11.5, 13.5, 15.5), ("Normal", "Mild LVH", "Moderate LVH", "Severe LVH")),
        ),
        (
            "lv_chamber_size",
            "Left ventricular cavity size",
            _step(size, (54, 58, 64), ("Normal", "Mildly dilated", "Moderately dilated", "Severely dilated")),
        ),
        (
            "la_size",
            "Left atrial size",
            _step(atrium, (35, 42, 49), ("Normal", "Mildly enlarged", "Moderately enlarged", "Severely enlarged")),
        ),
        (
            "rv_chamber_size",
            "Right ventricular size",
            _step(reading.rv_mm, (41.5, 46, 51), ("Normal", "Mildly dilated", "Moderately dilated", "Severely dilated")),
        ),
        ("rv_function", "Right ventricular function", ventricle[grade]),
        (
            "phtn_severity",
            "Pulmonary hypertension",
            _step(
                pressure,
                (26, 36.5, 60.5),
                ("Normal (TR<26mmHg)", "Mild (TR 26-36mmHg)", "Mod (TR 37-60mmHg)", "Severe (TR >60mmHg)"),
            ),
        ),
        ("aortic_stenosis", "Aortic stenosis", ("", "Mild", "Moderate", "Severe")[heart.aortic_stenosis]),
        ("aortic_regurg", "Aortic regurgitation", leak[heart.aortic_regurgitation]),
        ("mitral_regurg", "Mitral regurgitation", leak[heart.mitral_regurgitation]),
        ("tricuspid_regurg", "Tricuspid regurgitation", leak[heart.tricuspid_regurgitation]),
        (
            "diastolic_grade",
            "Diastolic function",
            ""
            if heart.rhythm != "sinus"
            else _step(100 * reading.septal_e_m_s, (4, 6, 8), ("Grade III", "Grade II", "Grade I", "Normal")),
        ),
    ]


def _step(value: float, limits: tuple[float, ...], words: tuple[str, ...]) -> str:
    return words[sum(value >= limit for limit in limits)]
