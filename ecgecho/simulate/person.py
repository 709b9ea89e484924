"""One person of the cohort: the heart on day 0, what happens to it, and when it was looked at.

Echo visits, ECGs and admissions are events on one calendar; whatever is written about an event is a view of the heart on its day.
Everything is a pure function of (seed, number of the person).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from ecgecho.simulate.ecg import Beats, Body, Electro, draw_beats, draw_body, draw_electro
from ecgecho.simulate.heart import DAYS_PER_YEAR, Course, Heart, draw_course, draw_heart, heart_at, stream

TestType = Literal["tte", "stress", "tee"]

VISITS = 3  # at most, of one person
ADMISSIONS = 4  # at most, of one person
TEST_SHARES: tuple[tuple[TestType, float], ...] = (("tte", 0.87), ("stress", 0.08), ("tee", 0.05))
"""Of structured reports: 179,928 / 16,389 / 10,171 in MIMIC-IV-ECHO 1.0. The first visit is always a tte."""
FIRST_YEAR, LAST_YEAR = 2008, 2022  # of structured reports; cines are of 2017-2019
CINE_YEARS = (2017, 2019)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One echo visit."""

    item: int
    days: float
    time: datetime
    year: int
    """The true calendar year, which `time` hides: reporting systems changed with it."""
    test_type: TestType
    study_id: int
    measurement_id: int
    cines: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecg:
    """One recording."""

    item: int
    days: float
    time: datetime
    ecg_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """One stay in hospital; `visit` is the echo that was made during it, None without one."""

    item: int
    hadm_id: int
    admitted: datetime
    discharged: datetime
    days: float
    """Of the discharge, when the note is written."""
    year: int
    visit: Visit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person and all of their events, each in order of time."""

    seed: int
    index: int
    subject_id: int
    heart: Heart
    """On day 0, the first echo visit."""
    course: Course
    day_0: datetime
    year_0: int
    visits: tuple[Visit, ...]
    ecgs: tuple[Ecg, ...]
    admissions: tuple[Admission, ...]

    def heart_on(self, days: float) -> Heart:
        """The heart on another day; on day 0, the one that was drawn.

        Its age is MIMIC's: anchor_age + year of the event - anchor_year, as everyone computes it from the tables.
        """
        if days == 0:
            return self.heart
        age = self.heart.age + _clock(self.day_0, days).year - self.day_0.year
        return replace(heart_at(self.heart, self.course, days), age=age)

    def body(self) -> Body:
        """What all ECGs of this person have in common."""
        return draw_body(stream(self.seed, self.index, "ecg", 255))

    def electro(self, ecg: Ecg, heart: Heart, body: Body, *, difficulty: float) -> Electro:
        """How `heart` conducts on the day of an ECG."""
        return draw_electro(heart, body, stream(self.seed, self.index, "ecg", 32 + ecg.item), difficulty=difficulty)

    def beats(self, ecg: Ecg, heart: Heart, *, duration_s: float) -> Beats:
        """When it beats during an ECG."""
        return draw_beats(heart, stream(self.seed, self.index, "ecg", 64 + ecg.item), duration_s=duration_s)

    def noise(self, ecg: Ecg) -> np.random.Generator:
        """The stream that an ECG's recording, and so its artefacts, are drawn from."""
        return stream(self.seed, self.index, "ecg", ecg.item)


def draw_person(*, seed: int, index: int, start: int, enrich: bool, years: float, ecgs_per_subject: int, cines: bool) -> Person:
    """Person `index` of a seed whose identifiers begin at `start`; `years` is the time that the events spread over.

    One ECG lies within a day or so of the first visit, most others within weeks of some visit, the rest anywhere.
    """
    heart = draw_heart(stream(seed, index, "heart"), enrich=enrich)
    course = draw_course(heart, stream(seed, index, "course"))
    rng = stream(seed, index, "course", 1)
    year_0 = int(rng.integers(CINE_YEARS[0], CINE_YEARS[1] + 1)) if cines else int(rng.integers(FIRST_YEAR, LAST_YEAR + 1))
    shift = 93 + int(rng.integers(0, 90))  # MIMIC moves each person's dates by a whole number of years
    day_0 = datetime(year_0 + shift, 1, 1) + timedelta(minutes=int(rng.integers(0, 525_000)))
    span = years * DAYS_PER_YEAR

    draw, ill = rng.random(), 0.15 * heart.severity
    number = 1 if span < 1 else 3 if draw < 0.08 + ill else 2 if draw < 0.30 + 2 * ill else 1
    later: list[float] = np.sort(rng.uniform(min(20.0, span / 2), max(span, 1.0), number - 1)).tolist()
    visits = []
    for item, days in enumerate([0.0, *(round(day, 3) for day in later)]):
        draw, kind = rng.random(), TEST_SHARES[0][0]
        for name, share in TEST_SHARES:
            if draw < share:
                kind = name
                break
            draw -= share
        visits.append(
            Visit(
                item=item,
                days=days,
                time=_clock(day_0, days),
                year=(day_0 + timedelta(days=days)).year - shift,
                test_type=kind if item else "tte",
                study_id=90_000_000 + start + VISITS * index + item,
                measurement_id=50_000_000 + start + VISITS * index + item,
                cines=cines and (item == 0 or kind == "tte"),
            )
        )

    most = ecgs_per_subject
    number = most if most == 1 or rng.random() < 0.8 else int(rng.integers(1, most))
    when = []
    for item in range(number):
        if item == 0:
            days = rng.normal(0, 0.4)
        elif rng.random() < 0.75:
            days = visits[int(rng.integers(len(visits)))].days + rng.normal(0, 8.0)
        else:
            days = rng.uniform(-0.2 * span - 8, span + 8)
        when.append(round(float(days), 5))
    ecgs = tuple(
        Ecg(item=item, days=days, time=_clock(day_0, days), ecg_id=40_000_000 + start % 900_000 + 9 * index + item)
        for item, days in enumerate(sorted(when))
    )
    return Person(
        seed=seed,
        index=index,
        subject_id=10_000_000 + start + 7 * index,
        heart=heart,
        course=course,
        day_0=day_0,
        year_0=year_0,
        visits=tuple(visits),
        ecgs=ecgs,
        admissions=_admissions(
            visits, heart, rng, day_0=day_0, shift=shift, span=span, first_id=20_000_000 + start % 900_000 + ADMISSIONS * index
        ),
    )


def _admissions(
    visits: list[Visit], heart: Heart, rng: np.random.Generator, *, day_0: datetime, shift: int, span: float, first_id: int
) -> tuple[Admission, ...]:
    """Stays around some of the echo visits, and sometimes one without an echo; none overlap."""
    wanted: list[tuple[float, Visit | None]] = [
        (visit.days - float(rng.uniform(0.3, 3.0)), visit)
        for visit in visits
        if rng.random() < 0.3 + 0.35 * min(heart.severity, 1.0) and visit.test_type != "stress"
    ]
    if span > 0 and rng.random() < 0.2 + 0.2 * heart.severity:
        wanted.append((float(rng.uniform(0, span + 30)), None))
    found: list[Admission] = []
    for start, visit in sorted(wanted, key=lambda w: w[0]):
        days = (visit.days if visit is not None else start) + float(rng.uniform(0.8, 2 + 5 * rng.random()))
        admitted = _clock(day_0, start)
        if found and admitted <= found[-1].discharged:
            continue
        found.append(
            Admission(
                item=len(found),
                hadm_id=first_id + len(found),
                admitted=admitted,
                discharged=_clock(day_0, days),
                days=round(days, 3),
                year=(day_0 + timedelta(days=start)).year - shift,
                visit=visit,
            )
        )
    return tuple(found)


def _clock(day_0: datetime, days: float) -> datetime:
    return day_0 + timedelta(seconds=round(86_400 * days))
