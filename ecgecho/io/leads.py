"""Lead names as files spell them -> as the package spells them."""

from __future__ import annotations

import re

from ecgecho.types import STANDARD_LEADS

FRANK_LEADS = ("X", "Y", "Z")
_CANONICAL = {name.lower(): name for name in (*STANDARD_LEADS, *FRANK_LEADS)} | {"vx": "X", "vy": "Y", "vz": "Z"}


def canonical_lead(name: str) -> str:
    """ "avr", "AVR", "Lead aVR" -> "aVR"; "vx" -> "X"; an unknown name is kept, trimmed."""
    trimmed = name.strip()
    short = re.sub(r"\s*\(.*\)$", "", trimmed)
    short = re.sub(r"^(lead|ecg)[\s_:]+", "", short, flags=re.IGNORECASE)
    return _CANONICAL.get(short.lower(), trimmed)


def is_ecg_lead(name: str) -> bool:
    """True for a canonical name of the 12 leads or the Frank leads."""
    return name in STANDARD_LEADS or name in FRANK_LEADS
