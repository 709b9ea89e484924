"""Findings of an echo in a clinical note: what one is, where in a note it stands, and which one is of now.

`notes_rules.findings(text)` and `notes_server.ask(server, text)` give everything that is said of the heart, also of earlier
years, of relatives, and of plans. `current(found)` is what the note says of the echo of this stay, by a careful reader's rule:

1. Only what is said of now (`when`), without doubt (`certain`), and by echo (`echo`: no MRI, nuclear scan, ventriculogram,
   catheter, or ECG). What stands under a heading of earlier illness or family is not of now unless the sentence says so.
2. Of several places: results and imaging, before the hospital course and diagnoses, before the rest of the note, before the
   plans, before the presenting history. So an ejection fraction of the presenting history counts only where no other is given.
3. Within the best place, the last paragraph that speaks of it: studies of a stay stand in the order in which they were made.
4. Within that paragraph, a number with two ends or one before a mere bound, the first of equals; the worst of several grades;
   the thickest wall.

Grades: 0 none, 0.5 trace, 1 mild, 2 moderate, 3 severe.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

Form = Literal["exact", "range", "threshold", "grade", "present", "absent"]
When = Literal["now", "past", "plan", "family"]
Section = Literal["results", "course", "other", "plan", "presentation", "history", "family"]

NUMBERS: dict[str, tuple[str, float, float]] = {
    "lvef": ("%", 5, 90),
    "pasp_mmhg": ("mmHg", 10, 150),
    "wall_mm": ("mm", 4, 40),
    "lvedd_mm": ("mm", 20, 110),
}
"""Findings that are numbers: unit, and the lowest and highest that is believed; anything else is not that number."""
BOUNDS = {"lvef": (0.0, 100.0), "pasp_mmhg": (0.0, 200.0), "wall_mm": (0.0, 60.0), "lvedd_mm": (0.0, 150.0)}
"""The open end of a threshold: "> 55 %" is 55 to 100."""
GRADED = {
    "lv_function": "reduced left ventricular systolic function",
    "lvh": "left ventricular hypertrophy",
    "lv_dilation": "left ventricular dilation",
    "wall_motion": "a wall motion abnormality of the left ventricle, global or regional",
    "as": "aortic stenosis",
    "ar": "aortic regurgitation",
    "ms": "mitral stenosis",
    "mr": "mitral regurgitation",
    "ts": "tricuspid stenosis",
    "tr": "tricuspid regurgitation",
    "ps": "pulmonic stenosis",
    "pr": "pulmonic regurgitation",
    "valve_disease": "disease of any valve",
    "ph": "pulmonary hypertension",
    "rv_function": "reduced right ventricular systolic function",
    "rv_dilation": "right ventricular dilation",
    "effusion": "pericardial effusion",
    "diastolic": "diastolic dysfunction",
}
PRESENT = (0.5, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One statement: `name` is between `low` and `high`, in `unit` or as a grade."""

    name: str
    form: Form
    low: float
    high: float
    unit: str | None
    when: When = "now"
    certain: bool = True
    """False for what is possible, suspected or could not be seen."""
    echo: bool = True
    """False where another examination is named as its source."""
    op: str = ""
    """Of a threshold: >, >=, < or <=."""
    section: Section = "other"
    paragraph: int = 0
    span: tuple[int, int] = (0, 0)
    """Where it stands in the text."""

    @property
    def negated(self) -> bool:
        """Said not to be there."""
        return self.form == "absent"

    @property
    def value(self) -> float | None:
        """The middle of a range; of a threshold the whole number nearest to it that it allows; None without a grade."""
        if self.form == "present":
            return None
        if self.form == "threshold":
            return {">": math.floor(self.low) + 1.0, ">=": self.low, "<": math.ceil(self.high) - 1.0, "<=": self.high}[self.op]
        return (self.low + self.high) / 2


def current(found: Iterable[Finding]) -> dict[str, Finding]:
    """For each name what the note says of the echo of this stay, by the rule at the head of this file."""
    by_name: dict[str, list[Finding]] = {}
    for finding in found:
        if finding.when == "now" and finding.certain and finding.echo:
            by_name.setdefault(finding.name, []).append(finding)
    return {name: _choose(several) for name, several in by_name.items()}


_PLACES: tuple[Section, ...] = ("results", "course", "other", "plan", "presentation", "history", "family")


def _choose(several: list[Finding]) -> Finding:
    best = min(_PLACES.index(finding.section) for finding in several)
    several = [finding for finding in several if _PLACES.index(finding.section) == best]
    last = max(finding.paragraph for finding in several)
    several = [finding for finding in several if finding.paragraph == last]
    if several[0].name == "wall_mm":
        return max(several, key=lambda finding: finding.high)
    if several[0].name in NUMBERS:
        return min(several, key=lambda finding: (finding.form == "threshold", finding.span))
    graded = [finding for finding in several if finding.form not in ("present", "absent")]
    there = [finding for finding in several if finding.form != "absent"]
    return max(graded or there or several, key=lambda finding: (finding.low + finding.high, -finding.span[0]))


# ---- Places: sections and paragraphs


@dataclass(slots=True)
class Places:
    """Where in a note something stands: sections and paragraphs by position."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    paragraphs: list[int] = field(default_factory=list)

    def at(self, position: int) -> tuple[Section, int]:
        """Section and paragraph of a position."""
        row = bisect.bisect_right(self.starts, position) - 1
        return (self.sections[row], self.paragraphs[row]) if row >= 0 else ("other", 0)


_HEADINGS: tuple[tuple[Section, str], ...] = (
    (
        "history",
        r"(?:past |prior )?(?:medical|surgical|cardiac|cardiovascular|oncologic|medical/surgical"
        r"|medical and surgical) (?:history|hx)"
        r"|pmhx?|pmh/psh|psh|past history|cardiac risk factors|history",
    ),
    ("family", r"family (?:medical )?(?:history|hx)|fhx?|family"),
    (
        "presentation",
        r"history of (?:the )?present(?:ing)? illness|hpi|present illness|chief complaint|reason for admission|presentation",
    ),
    (
        "results",
        r"(?:pertinent |relevant |other |key )?(?:results|studies|imaging|data|labs|diagnostics)|laboratory data"
        r"|cardiac (?:imaging|studies)"
        r"|admission labs|discharge labs|microbiology|radiology|imaging/studies|reports",
    ),
    (
        "course",
        r"(?:brief )?(?:hospital course|summary)|hospital course by (?:problem|system)|assessment(?: and plan)?|a/p"
        r"|(?:active|acute|chronic) "
        r"(?:issues|problems|diagnoses)|(?:discharge|final|primary|secondary) diagnos[ei]s|impression",
    ),
    (
        "plan",
        r"(?:key )?transitional issues|follow-?up(?: instructions| issues| plan)?|plan|recommendations"
        r"|discharge (?:instructions|plan)"
        r"|instructions|to do",
    ),
    (
        "other",
        r"physical exam(?:ination)?|(?:admission|discharge) (?:physical )?exam|social (?:history|hx)|allergies|service"
        r"|attending"
        r"|(?:discharge )?medications(?: on admission)?|discharge (?:disposition|condition)"
        r"|(?:major )?surgical or invasive procedure"
        r"|major surgical or invasive procedure|facility|procedures?",
    ),
)
_HEADING = re.compile(r"[ \t#*=_-]{0,6}([A-Za-z][A-Za-z/&' -]{1,58}?)[ \t]{0,3}[:*=_-]", re.ASCII)
_HEADING_OF = [(section, re.compile(pattern)) for section, pattern in _HEADINGS]
_BULLET = re.compile(r"[ \t]{0,20}(?:[-*#+>~]|\d{1,2}[.)]|\[|[A-Za-z][A-Za-z /-]{1,28}:)")
_STUDY = re.compile(
    r"[ \t#*-]{0,6}(?:(?:prior|previous|old|last|repeat|osh|outside|baseline)\s)?(?:bedside |limited |formal |cardiac )?"
    r"(?:tte|tee|echo\w{0,12}|transthoracic|transesophageal|cardiac (?:imaging|mri)|cmr|stress|nuclear|p-?mibi"
    r"|cath\w{0,18}|ekg|ecg|cxr|cta?|mri)\b",
    re.IGNORECASE,
)
_WRAPPED = 50  # a line this long may go on in the next; the notes of MIMIC are broken at about 78 characters


def places(text: str) -> Places:
    """Lines of a note put together again where they were wrapped, with their sections and paragraphs."""
    found, section, paragraph = Places(), "other", 0
    position, before, fresh = 0, "", True
    for line in text.split("\n"):
        start, position = position, position + len(line) + 1
        bare = line.strip()
        if not bare:
            paragraph += not fresh
            fresh, before = True, ""
            continue
        heading = _heading(line)
        if heading is not None:
            section = heading
        study = bool(_STUDY.match(line))
        if (heading is not None or study) and not fresh:
            paragraph += 1
        fresh = False
        joined = (
            bool(before)
            and heading is None
            and not study
            and not _BULLET.match(line)
            and before[-1] not in ".:;"
            and (len(before) >= _WRAPPED or bare[0].islower() or bare[0] == "(" or (bare[0].isdigit() and before[-1].isalpha()))
        )
        if before and not joined and before[-1] == "." and heading is None and not study and not _BULLET.match(line):
            joined = len(before) >= _WRAPPED  # the sentence ends there all the same
        if joined:
            found.ends[-1] = start + len(line)
        else:
            found.starts.append(start)
            found.ends.append(start + len(line))
            found.sections.append(section)  # type: ignore[arg-type]
            found.paragraphs.append(paragraph)
        before = bare
    return found


def _heading(line: str) -> Section | None:
    match = _HEADING.match(line[:80])
    return None if match is None else _section_named(" ".join(match[1].lower().split()))


@lru_cache(4096)
def _section_named(title: str) -> Section | None:
    for section, pattern in _HEADING_OF:
        if pattern.fullmatch(title):
            return section
    return None
