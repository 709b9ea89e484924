"""One latent heart per subject and how it changes: every ECG, cine, report, note and measurement of the cohort is a view of it.

`draw_heart` gives the heart on day 0 (the first echo visit), `draw_course` what happens to it, `heart_at` the heart on any day.
Each subject and purpose has its own Philox stream, so a subject is the same whatever the number of workers.

Sources of the shapes: normal volumes, LVEF and walls by sex, Lang et al. 2015 (ASE/EACVI chamber quantification), tables 2 and 3;
valve disease by age, Nkomo et al. 2006; atrial fibrillation by age, Go et al. 2001 (ATRIA), raised for people who are sent to an
echo; bundle branch block in systolic failure about one in four, Baldasseroni et al. 2002; LV mass, Devereux et al. 1986.
Mixture weights of disease are chosen for an echo laboratory's patients, not fitted.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Rhythm = Literal["sinus", "af", "paced"]
Ectopy = Literal["none", "atrial", "ventricular"]
Conduction = Literal["normal", "lbbb", "rbbb", "first_degree"]
Infarct = Literal["none", "anterior", "inferior", "lateral"]
Purpose = Literal["heart", "ecg", "echo", "text", "measurement", "note", "course"]

F64 = npt.NDArray[np.float64]

_PURPOSES: tuple[Purpose, ...] = ("heart", "ecg", "echo", "text", "measurement", "note", "course")
REDUCED_SHARE = {False: 0.07, True: 0.155}
THICK_SHARE = {False: 0.05, True: 0.19}
DAYS_PER_YEAR = 365.25
RIGHT_ATRIAL_MMHG = 8.0
PACED_AF_LA_ML_M2 = 40.0
"""Left atrial volume index above which a pacemaker works beneath fibrillation; ours, it stands for the rhythm's cause."""
GRADES = ("none", "mild", "moderate", "severe")
"""Of valve disease: a grade is a place in this list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heart:
    """The truth about one subject on one day."""

    age: int
    sex: Literal["F", "M"]
    height_cm: float
    weight_kg: float
    lvef: float
    """Percent."""
    edv_ml: float
    septal_mm: float
    """End-diastolic thickness of the septum."""
    posterior_mm: float
    """End-diastolic thickness of the inferolateral wall."""
    la_ml: float
    """Left atrium, end-systolic volume."""
    rv_mm: float
    """Right ventricle, basal diameter at end-diastole."""
    rvsp_mmhg: float
    """Right ventricular systolic pressure."""
    hr_bpm: float
    rhythm: Rhythm
    ectopy: Ectopy
    ectopy_share: float
    """Of all beats; 0 without ectopy."""
    conduction: Conduction
    """Of beats that are not paced."""
    infarct: Infarct
    infarct_size: float
    """0 without, 1 large and transmural: the share of the segment's inward motion that is lost."""
    aortic_stenosis: int
    aortic_regurgitation: int
    mitral_regurgitation: int
    tricuspid_regurgitation: int
    """0 to 3, see `GRADES`."""

    @property
    def esv_ml(self) -> float:
        return self.edv_ml * (1 - self.lvef / 100)

    @property
    def wall_mm(self) -> float:
        return max(self.septal_mm, self.posterior_mm)

    @property
    def severity(self) -> float:
        """0 at an LVEF of 55 % and above, 1 at 25 %."""
        return min(max((55.0 - self.lvef) / 30.0, 0.0), 1.4)

    @property
    def atrium_beats(self) -> bool:
        """P waves in the ECG and in the burned-in trace, an A wave, a late step of filling: all or none of them."""
        return self.rhythm == "sinus" or (self.rhythm == "paced" and self.la_ml / self.bsa_m2 <= PACED_AF_LA_ML_M2)

    @property
    def tr_mmhg(self) -> float:
        """Gradient between right ventricle and right atrium, of which the tricuspid jet tells."""
        return min(max(self.rvsp_mmhg - RIGHT_ATRIAL_MMHG, 9.0), 95.0)

    @property
    def tr_velocity_m_s(self) -> float:
        """Of the tricuspid jet: 4 v^2 is the gradient."""
        return math.sqrt(self.tr_mmhg / 4)

    @property
    def aortic_velocity_m_s(self) -> float:
        """Peak of the aortic jet by the grade of stenosis; a failing ventricle drives less."""
        return (1.25, 2.3, 3.4, 4.4)[self.aortic_stenosis] * (1 - 0.12 * self.severity)

    @property
    def e_velocity_m_s(self) -> float:
        """Peak of early mitral inflow."""
        return 0.72 + 0.12 * max(self.mitral_regurgitation - 1, 0) + 0.12 * self.severity

    @property
    def a_velocity_m_s(self) -> float:
        """Peak of the mitral inflow that the atrium drives; 0 where it does not beat."""
        return 0.55 + 0.006 * max(self.age - 50, 0) - 0.12 * self.severity if self.atrium_beats else 0.0

    @property
    def lvedd_mm(self) -> float:
        """Inner diameter of the left ventricle at its widest, end-diastole: hearts grow in proportion."""
        return float(49.0 * (self.edv_ml / 120) ** (1 / 3))

    @property
    def bsa_m2(self) -> float:
        """Du Bois 1916."""
        return float(0.007184 * self.height_cm**0.725 * self.weight_kg**0.425)

    @property
    def mass_g(self) -> float:
        """Left ventricular mass by the cube formula (Devereux 1986)."""
        inner = self.lvedd_mm / 10
        outer = inner + (self.septal_mm + self.posterior_mm) / 10
        return float(0.8 * 1.04 * (outer**3 - inner**3) + 0.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a heart changes. Days are counted from day 0 and may lie before it; infinity is never."""

    lvef_per_year: float
    wall_mm_per_year: float
    af_from_days: float
    paced_from_days: float
    infarct_from_days: float
    conduction_from_days: float


def stream(seed: int, subject: int, purpose: Purpose, item: int = 0) -> np.random.Generator:
    """The random stream of (seed, subject, purpose, item); items are the ECGs or clips of a subject."""
    assert 0 <= item < 65_536
    key = np.array([seed, (subject << 24) | (_PURPOSES.index(purpose) << 16) | item], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def draw_heart(rng: np.random.Generator, *, enrich: bool) -> Heart:
    """A heart. `enrich` raises the shares of LVEF < 40 % and of walls >= 16 mm to about 15 % each (independently)."""
    age = int(np.clip(rng.normal(64, 14), 20, 91))
    sex: Literal["F", "M"] = "M" if rng.random() < 0.54 else "F"
    height_cm = float(np.clip(rng.normal(175 if sex == "M" else 162, 7), 140, 205))
    weight_kg = float(np.clip(rng.normal(27.5, 5), 17, 48) * (height_cm / 100) ** 2)
    kind = rng.random()
    reduced = REDUCED_SHARE[enrich]
    mean, std = (29.0, 6.0) if kind < reduced else (46.0, 4.0) if kind < reduced + 0.12 else (62.0, 5.0)
    lvef = round(float(np.clip(rng.normal(mean, std), 12.0, 76.0)), 1)
    severity = min(max((55.0 - lvef) / 30.0, 0.0), 1.4)

    valve = _valves(age, severity, rng)
    stenosis, leak, mitral, tricuspid = valve
    # A failing or leaking ventricle is large; most of the spread is the body's size and chance.
    size = 0.22 * rng.normal() + 0.28 * severity + 0.10 * max(leak - 1, 0) + 0.07 * max(mitral - 1, 0)
    edv_ml = float(np.clip((120.0 if sex == "M" else 98.0) * math.exp(size), 52.0, 320.0))

    kind = rng.random()
    thick = THICK_SHARE[enrich]
    mean, std = (17.8, 2.0) if kind < thick else (12.6, 1.2) if kind < thick + 0.2 else (9.3 if sex == "M" else 8.7, 1.1)
    wall = float(np.clip(rng.normal(mean, std) + 0.8 * max(stenosis - 1, 0), 6.0, 26.0))
    other = max(wall - abs(rng.normal(0.7, 0.6)) - (0.12 * wall if kind < thick else 0.0), 5.5)
    septal_mm, posterior_mm = (wall, other) if rng.random() < 0.8 else (other, wall)

    fibrillates = 0.03 + 0.10 * severity + 0.0035 * max(age - 55, 0) + 0.05 * max(mitral - 1, 0)
    kind = rng.random()
    paced = 0.012 + 0.03 * severity + 0.0006 * max(age - 60, 0)
    rhythm: Rhythm = "af" if kind < fibrillates else "paced" if kind < fibrillates + paced else "sinus"
    draw = rng.random()
    lbbb = 0.02 + 0.20 * severity
    conduction: Conduction = "normal"
    if draw < lbbb:
        conduction = "lbbb"
    elif draw < lbbb + 0.05:
        conduction = "rbbb"
    elif draw < lbbb + 0.12 and rhythm == "sinus":
        conduction = "first_degree"
    draw = rng.random()
    site: tuple[tuple[Infarct, float], ...] = (
        ("anterior", 0.015 + 0.17 * severity),
        ("inferior", 0.03 + 0.08 * severity),
        ("lateral", 0.01 + 0.04 * severity),
    )
    infarct: Infarct = "none"
    for name, share in site:
        if draw < share:
            infarct = name
            break
        draw -= share
    # A large scar and a normal ejection fraction exclude each other.
    most = min(0.25 + 0.75 * severity + 0.1, 1.0)
    infarct_size = 0.0 if infarct == "none" else round(most * float(rng.uniform(0.55, 1.0)), 2)

    draw, often = rng.random(), 0.06 + 0.09 * severity
    ectopy: Ectopy = "ventricular" if draw < often else "atrial" if draw < often + 0.05 else "none"
    ectopy_share = 0.0 if ectopy == "none" else round(float(np.clip(rng.exponential(0.09), 0.02, 0.4)), 3)

    bsa = 0.007184 * height_cm**0.725 * weight_kg**0.425
    filling = 0.10 * severity + 0.22 * (rhythm == "af") + 0.14 * max(mitral - 1, 0) + 0.012 * max(wall - 11, 0)
    la_ml = float(np.clip(26 * bsa * math.exp(0.2 * rng.normal() + filling), 22, 230))
    rvsp = float(np.clip(rng.normal(27, 5) + 9 * severity * abs(rng.normal(1, 0.6)) + 7 * max(tricuspid - 1, 0), 16, 95))
    rv_mm = float(np.clip(rng.normal(34, 3.5) + 0.14 * max(rvsp - 35, 0) + 2.5 * max(tricuspid - 1, 0), 24, 62))
    hr_bpm = float(np.clip(rng.normal(70, 11) + 5 * severity + (12 if rhythm == "af" else 0), 46, 128))
    if rhythm == "paced":
        hr_bpm = float(np.clip(hr_bpm, 60, 90))
    return Heart(
        age=age,
        sex=sex,
        height_cm=round(height_cm, 1),
        weight_kg=round(weight_kg, 1),
        lvef=lvef,
        edv_ml=round(edv_ml, 1),
        septal_mm=round(septal_mm, 1),
        posterior_mm=round(posterior_mm, 1),
        la_ml=round(la_ml, 1),
        rv_mm=round(rv_mm, 1),
        rvsp_mmhg=round(rvsp, 1),
        hr_bpm=round(hr_bpm, 1),
        rhythm=rhythm,
        ectopy=ectopy,
        ectopy_share=ectopy_share,
        conduction=conduction,
        infarct=infarct,
        infarct_size=infarct_size,
        aortic_stenosis=stenosis,
        aortic_regurgitation=leak,
        mitral_regurgitation=mitral,
        tricuspid_regurgitation=tricuspid,
    )


def _valves(age: int, severity: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Grades of aortic stenosis, aortic, mitral and tricuspid regurgitation: rare before 55, one in eight beyond 75."""
    old = max(age - 55, 0) / 20

    def grade(mild: float, significant: float) -> int:
        draw = rng.random()
        if draw < 0.3 * significant:
            return 3
        return 2 if draw < significant else int(draw < significant + mild)

    return (
        grade(0.03 + 0.06 * old, 0.006 + 0.025 * old),
        grade(0.08 + 0.06 * old, 0.006 + 0.015 * old),
        grade(0.25, 0.01 + 0.05 * old + 0.14 * severity),
        grade(0.30, 0.01 + 0.04 * old + 0.08 * severity),
    )


def draw_course(heart: Heart, rng: np.random.Generator) -> Course:
    """What happened to a heart and what will: most change little, a few suddenly."""
    never = math.inf
    ill = heart.severity > 0.3
    drift = rng.normal(1.5 if ill and rng.random() < 0.4 else -0.4, 2.0 if ill else 0.8)
    past, future = -float(rng.exponential(500)), float(rng.exponential(6000))
    onset = {
        name: (past * float(rng.uniform(0.2, 3)) if here else later)
        for name, here, later in (
            ("af", heart.rhythm == "af", future if heart.age > 60 else never),
            ("paced", heart.rhythm == "paced", never),
            ("infarct", heart.infarct != "none", never),
            ("conduction", heart.conduction != "normal", never),
        )
    }
    return Course(
        lvef_per_year=round(float(drift), 2),
        wall_mm_per_year=round(float(abs(rng.normal(0, 0.12))), 3),
        af_from_days=onset["af"],
        paced_from_days=onset["paced"],
        infarct_from_days=onset["infarct"],
        conduction_from_days=onset["conduction"],
    )


def heart_at(heart: Heart, course: Course, days: float) -> Heart:
    """The heart of day 0 on another day: earlier it may have had no infarct, no block, no fibrillation and a better LVEF."""
    years = days / DAYS_PER_YEAR
    infarct = heart.infarct if days >= course.infarct_from_days else "none"
    spared = 10.0 * heart.infarct_size if infarct != heart.infarct else 0.0
    change = float(np.clip(course.lvef_per_year * years, -12, 12))
    lvef = round(float(np.clip(heart.lvef + spared + change, 10.0, 78.0)), 1)
    wall = float(np.clip(course.wall_mm_per_year * years, -1.5, 1.5))
    rhythm: Rhythm = "sinus"
    if days >= course.paced_from_days:
        rhythm = "paced"
    elif days >= course.af_from_days:
        rhythm = "af"
    conduction = heart.conduction if days >= course.conduction_from_days else "normal"
    if conduction == "first_degree" and rhythm == "af":
        conduction = "normal"
    # The end-systolic volume takes half of the change, the cavity the other half.
    size = math.exp(-0.007 * (lvef - heart.lvef))
    return dataclasses.replace(
        heart,
        age=heart.age + math.floor(years),
        lvef=lvef,
        edv_ml=round(heart.edv_ml * size, 1),
        septal_mm=round(max(heart.septal_mm + wall, 5.5), 1),
        posterior_mm=round(max(heart.posterior_mm + wall, 5.5), 1),
        rhythm=rhythm,
        conduction=conduction,
        infarct=infarct,
        infarct_size=heart.infarct_size if infarct != "none" else 0.0,
    )


def r_times(heart: Heart, rng: np.random.Generator, *, hr_bpm: float, start_s: float, stop_s: float) -> F64:
    """Times of the R waves, from the last one at or before `start_s` to the first one after `stop_s`."""
    mean_rr = 60.0 / hr_bpm
    std = {"sinus": 0.025, "af": 0.17, "paced": 0.002}[heart.rhythm]
    time = start_s - rng.random() * mean_rr
    times = [time]
    while time <= stop_s:
        time += mean_rr * float(np.clip(1 + std * rng.normal(), 0.62, 1.45))
        times.append(time)
    return np.array(times)
