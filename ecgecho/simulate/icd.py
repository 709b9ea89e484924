"""Diagnoses of a stay in hospital, coded as hospitals code: what the heart has, less what was forgotten, plus what came with it.

Codes without a dot, as hosp/diagnoses_icd has them; ICD-9 before October 2015, ICD-10 after. Codes follow bills, not hearts: a
failing ventricle goes without its code in one stay of seven, and "heart failure, unspecified" hides its kind in others.
"""

from __future__ import annotations

import numpy as np

from ecgecho.simulate.heart import Heart

ICD_10_FROM = 2016  # whole years here; 1 October 2015 in the United States
CODED = 0.86
"""Share of stays in which a diagnosis that is there gets its code."""

TITLES: dict[tuple[str, int], str] = {
    ("I5020", 10): "Unspecified systolic (congestive) heart failure",
    ("I5022", 10): "Chronic systolic (congestive) heart failure",
    ("I5023", 10): "Acute on chronic systolic (congestive) heart failure",
    ("I5032", 10): "Chronic diastolic (congestive) heart failure",
    ("I509", 10): "Heart failure, unspecified",
    ("42822", 9): "Chronic systolic heart failure",
    ("42823", 9): "Acute on chronic systolic heart failure",
    ("42832", 9): "Chronic diastolic heart failure",
    ("4280", 9): "Congestive heart failure, unspecified",
    ("I420", 10): "Dilated cardiomyopathy",
    ("I422", 10): "Other hypertrophic cardiomyopathy",
    ("4254", 9): "Other primary cardiomyopathies",
    ("42518", 9): "Other hypertrophic cardiomyopathy",
    ("I255", 10): "Ischemic cardiomyopathy",
    ("4148", 9): "Other specified forms of chronic ischemic heart disease",
    ("I252", 10): "Old myocardial infarction",
    ("412", 9): "Old myocardial infarction",
    ("I4891", 10): "Unspecified atrial fibrillation",
    ("I482", 10): "Chronic atrial fibrillation",
    ("42731", 9): "Atrial fibrillation",
    ("I350", 10): "Nonrheumatic aortic (valve) stenosis",
    ("4241", 9): "Aortic valve disorders",
    ("I340", 10): "Nonrheumatic mitral (valve) insufficiency",
    ("4240", 9): "Mitral valve disorders",
    ("I447", 10): "Left bundle-branch block, unspecified",
    ("4263", 9): "Other left bundle branch block",
    ("I4510", 10): "Unspecified right bundle-branch block",
    ("4264", 9): "Right bundle branch block",
    ("Z950", 10): "Presence of cardiac pacemaker",
    ("V4501", 9): "Cardiac pacemaker in situ",
    ("I2720", 10): "Pulmonary hypertension, unspecified",
    ("4168", 9): "Other chronic pulmonary heart diseases",
    ("I10", 10): "Essential (primary) hypertension",
    ("4019", 9): "Unspecified essential hypertension",
    ("I110", 10): "Hypertensive heart disease with heart failure",
    ("E785", 10): "Hyperlipidemia, unspecified",
    ("2724", 9): "Other and unspecified hyperlipidemia",
    ("E119", 10): "Type 2 diabetes mellitus without complications",
    ("25000", 9): "Diabetes mellitus without mention of complication, type II or unspecified type, not stated as uncontrolled",
    ("N179", 10): "Acute kidney failure, unspecified",
    ("5849", 9): "Acute kidney failure, unspecified",
    ("J189", 10): "Pneumonia, unspecified organism",
    ("486", 9): "Pneumonia, organism unspecified",
    ("R079", 10): "Chest pain, unspecified",
    ("78650", 9): "Chest pain, unspecified",
}
"""Of each code and version that is used: d_icd_diagnoses."""

_PAIRS = {
    "old infarct": ("412", "I252"),
    "stenosis": ("4241", "I350"),
    "mitral": ("4240", "I340"),
    "lbbb": ("4263", "I447"),
    "rbbb": ("4264", "I4510"),
    "paced": ("V4501", "Z950"),
    "pressure": ("4168", "I2720"),
    "hypertension": ("4019", "I10"),
    "lipids": ("2724", "E785"),
    "diabetes": ("25000", "E119"),
    "kidney": ("5849", "N179"),
    "pneumonia": ("486", "J189"),
    "chest pain": ("78650", "R079"),
}


def diagnoses(heart: Heart, year: int, rng: np.random.Generator) -> list[tuple[str, int]]:
    """(code, version) of one stay, the reason for it first."""
    version = 10 if year >= ICD_10_FROM else 9
    chance = iter(rng.random(24).tolist())

    def coded(present: bool, share: float = CODED) -> bool:
        return next(chance) < share and present

    def code(name: str) -> tuple[str, int]:
        return _PAIRS[name][version == 10], version

    first: list[tuple[str, int]] = []
    other: list[tuple[str, int]] = []
    failing, stiff = heart.lvef < 42, heart.lvef >= 50 and (heart.wall_mm > 13.5 or heart.la_ml / heart.bsa_m2 > 45)
    vague, acute = next(chance) < 0.2, next(chance) < 0.5
    failure = coded(failing)
    if failure:
        if vague:
            first.append(("I509", 10) if version == 10 else ("4280", 9))
        elif version == 10:
            first.append(("I5023" if acute else "I5022", 10))
        else:
            first.append(("42823" if acute else "42822", 9))
    elif coded(stiff, 0.35):
        first.append(("I5032", 10) if version == 10 else ("42832", 9))
        failure = True
    if coded(failing and heart.infarct != "none", 0.5):
        other.append(("I255", 10) if version == 10 else ("4148", 9))
    elif coded(failing and heart.infarct == "none", 0.45):
        other.append(("I420", 10) if version == 10 else ("4254", 9))
    if coded(heart.wall_mm >= 16 and heart.aortic_stenosis < 2, 0.3):
        other.append(("I422", 10) if version == 10 else ("42518", 9))
    if coded(heart.rhythm == "af"):
        other.append(("42731", 9) if version == 9 else ("I482", 10) if next(chance) < 0.4 else ("I4891", 10))
    for name, present, share in (
        ("old infarct", heart.infarct != "none", 0.75),
        ("stenosis", heart.aortic_stenosis >= 2, 0.8),
        ("mitral", heart.mitral_regurgitation >= 2, 0.55),
        ("lbbb", heart.conduction == "lbbb", 0.4),
        ("rbbb", heart.conduction == "rbbb", 0.25),
        ("paced", heart.rhythm == "paced", 0.95),
        ("pressure", heart.rvsp_mmhg > 50, 0.4),
    ):
        if coded(present, share):
            other.append(code(name))
    # Thick walls come with hypertension more often than thin ones, age with everything.
    if coded(True, min(0.25 + 0.05 * max(heart.wall_mm - 9, 0) + 0.006 * max(heart.age - 50, 0), 0.9)):
        other.append(("I110", 10) if version == 10 and failure else code("hypertension"))
    for name, share in (("lipids", 0.45), ("diabetes", 0.28), ("kidney", 0.12 + 0.15 * failing)):
        if coded(True, share):
            other.append(code(name))
    if not first:
        first.append(code("chest pain" if next(chance) < 0.6 else "pneumonia"))
    return first + other
