"""One latent heart per subject: what every ECG, cine, report and measurement of the cohort is a view of.

Shapes of the distributions follow clinical common knowledge (a normal LVEF lies near 60 %, a normal wall near 9-10 mm), not a
fitted source. Each subject and purpose has its own Philox stream, so a subject is the same whatever the number of workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Rhythm = Literal["sinus", "af"]
Conduction = Literal["normal", "lbbb", "rbbb", "first_degree"]
Infarct = Literal["none", "anterior", "inferior"]
Purpose = Literal["heart", "ecg", "echo", "text", "measurement"]

F64 = npt.NDArray[np.float64]

_PURPOSES: tuple[Purpose, ...] = ("heart", "ecg", "echo", "text", "measurement")
REDUCED_SHARE = {False: 0.07, True: 0.155}
THICK_SHARE = {False: 0.05, True: 0.19}


@dataclass(frozen=True, slots=True, kw_only=True)
class Heart:
    """The truth about one subject."""

    age: int
    sex: Literal["F", "M"]
    lvef: float
    """Percent."""
    edv_ml: float
    septal_mm: float
    """End-diastolic thickness of the septum."""
    posterior_mm: float
    """End-diastolic thickness of the inferolateral wall."""
    hr_bpm: float
    rhythm: Rhythm
    conduction: Conduction
    infarct: Infarct

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


def stream(seed: int, subject: int, purpose: Purpose, item: int = 0) -> np.random.Generator:
    """The random stream of (seed, subject, purpose, item); items are the ECGs or clips of a subject."""
    key = np.array([seed, (subject << 16) | (_PURPOSES.index(purpose) << 8) | item], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def draw_heart(rng: np.random.Generator, *, enrich: bool) -> Heart:
    """A heart. `enrich` raises the shares of LVEF < 40 % and of walls >= 16 mm to about 15 % each (independently)."""
    age = int(np.clip(rng.normal(64, 14), 20, 91))
    sex: Literal["F", "M"] = "M" if rng.random() < 0.54 else "F"
    kind = rng.random()
    reduced = REDUCED_SHARE[enrich]
    mean, std = (29.0, 6.0) if kind < reduced else (46.0, 4.0) if kind < reduced + 0.12 else (61.0, 5.0)
    lvef = float(np.clip(rng.normal(mean, std), 12.0, 76.0))
    severity = min(max((55.0 - lvef) / 30.0, 0.0), 1.4)

    # Volume is nearly independent of LVEF, so that a small still picture of the cavity does not tell the function.
    edv_ml = math.exp(math.log(122.0 if sex == "M" else 102.0) + 0.24 * rng.normal() + 0.12 * severity)
    edv_ml = float(np.clip(edv_ml, 55.0, 290.0))

    kind = rng.random()
    thick = THICK_SHARE[enrich]
    mean, std = (17.8, 2.0) if kind < thick else (12.6, 1.2) if kind < thick + 0.2 else (9.4, 1.1)
    wall = float(np.clip(rng.normal(mean, std), 6.0, 26.0))
    other = max(wall - abs(rng.normal(0.7, 0.6)) - (0.12 * wall if kind < thick else 0.0), 5.5)
    septal_mm, posterior_mm = (wall, other) if rng.random() < 0.8 else (other, wall)

    rhythm: Rhythm = "af" if rng.random() < 0.07 + 0.08 * severity + 0.002 * max(age - 60, 0) else "sinus"
    draw = rng.random()
    lbbb = 0.02 + 0.16 * severity
    conduction: Conduction = "normal"
    if draw < lbbb:
        conduction = "lbbb"
    elif draw < lbbb + 0.05:
        conduction = "rbbb"
    elif draw < lbbb + 0.12 and rhythm == "sinus":
        conduction = "first_degree"
    draw = rng.random()
    anterior = 0.02 + 0.18 * severity
    infarct: Infarct = "anterior" if draw < anterior else "inferior" if draw < anterior + 0.05 + 0.06 * severity else "none"

    hr_bpm = float(np.clip(rng.normal(70, 11) + 5 * severity + (12 if rhythm == "af" else 0), 46, 128))
    return Heart(
        age=age,
        sex=sex,
        lvef=round(lvef, 1),
        edv_ml=round(edv_ml, 1),
        septal_mm=round(septal_mm, 1),
        posterior_mm=round(posterior_mm, 1),
        hr_bpm=round(hr_bpm, 1),
        rhythm=rhythm,
        conduction=conduction,
        infarct=infarct,
    )


def r_times(heart: Heart, rng: np.random.Generator, *, hr_bpm: float, start_s: float, stop_s: float) -> F64:
    """Times of the R waves, from the last one at or before `start_s` to the first one after `stop_s`."""
    mean_rr = 60.0 / hr_bpm
    std = 0.17 if heart.rhythm == "af" else 0.025
    time = start_s - rng.random() * mean_rr
    times = [time]
    while time <= stop_s:
        time += mean_rr * float(np.clip(1 + std * rng.normal(), 0.62, 1.45))
        times.append(time)
    return np.array(times)
