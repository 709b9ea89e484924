"""HL7 annotated ECG (`AnnotatedECG`, the FDA's XML) -> EcgRecord.

component/series/component/sequenceSet/component/sequence: one sequence is the time (TIME_ABSOLUTE or TIME_RELATIVE, a GLIST_TS or
GLIST_PQ with `increment`), the others are leads (MDC_ECG_LEAD_*), SLIST_PQ with value = origin + scale * digit. A representative
beat is a derivedSeries, or a series of code REPRESENTATIVE_BEAT.

Source: HL7 aECG Implementation Guide, final of 2005-03-21, as ECGDataKit 2.0.3 reads it (facts only).
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element  # noqa: S405  # a type

import numpy as np

from ecgecho.io import xml
from ecgecho.io.leads import MAX_LEADS, canonical_lead, is_ecg_lead, lead_or_channel, mv_per, near_integer, rate, record_of
from ecgecho.types import F32, EcgRecord, EcgSource, ItemError

_SECONDS_PER = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_LEAD = "MDC_ECG_LEAD_"


def read(path: Path, root: Element, source: EcgSource) -> EcgRecord:
    """The rhythm series in mV."""
    series = [found for part in xml.named(root, "component") for found in xml.named(part, "series")]
    series = [one for one in series if _code(one) != "REPRESENTATIVE_BEAT"]
    sets = [found for one in series for part in xml.named(one, "component") for found in xml.named(part, "sequenceSet")]
    strips = [strip for strip in ([found for part in xml.named(one, "component") for found in xml.named(part, "sequence")]
                                  for one in sets) if any(_is_lead(_code(one)) for one in strip)]  # fmt: skip
    if len(strips) != 1:
        code = "unsupported_format" if strips else "no_rhythm"
        raise ItemError(code, f"{path.name} has {len(strips)} sets of rhythm sequences; one is read")
    times = [one for one in strips[0] if _code(one).startswith("TIME_")]
    parts = [one for one in strips[0] if _is_lead(_code(one))]
    if len(times) != 1 or len(parts) > MAX_LEADS:
        raise ItemError("damaged_header", f"{path.name}: {len(times)} times and {len(parts)} leads")
    step = xml.child(times[0], "value/increment")
    seconds = _number(step, "value") * _SECONDS_PER.get(step.get("unit", "") if step is not None else "", 0.0)
    if not seconds > 0:
        raise ItemError("damaged_header", f"{path.name}: the time between its samples is not told")
    leads = [lead_or_channel(_code(part), place + 1) for place, part in enumerate(parts)]
    rows = [_lead(part, lead, path, source) for part, lead in zip(parts, leads, strict=True)]
    return record_of(path, leads, rows, rate(near_integer(1.0 / seconds), path))


def _lead(part: Element, lead: str, path: Path, source: EcgSource) -> F32:
    value = xml.child(part, "value")
    origin, scale = xml.child(value, "origin"), xml.child(value, "scale")
    if scale is None or not _number(scale, "value") > 0:
        raise ItemError("unit_unknown", f"{path.name}: lead {lead} has no scale")
    per_step = mv_per(scale.get("unit", ""), silent=source.unit)
    zero = 0.0 if origin is None else _number(origin, "value", 0.0)
    per_zero = mv_per(origin.get("unit", ""), silent=source.unit) if origin is not None and zero else per_step
    if per_step is None or per_zero is None:
        raise ItemError("unit_unknown", f"{path.name}: lead {lead} is in a unit that is no voltage")
    digits = xml.integers(xml.text(value, "digits"), None, path)
    return (digits * (_number(scale, "value") * per_step) + zero * per_zero).astype(np.float32)


def _is_lead(code: str) -> bool:
    """MDC_ECG_LEAD_II, or plainly II, as some writers have it."""
    return code.startswith(_LEAD) or is_ecg_lead(canonical_lead(code))


def _code(element: Element) -> str:
    found = xml.child(element, "code")
    return "" if found is None else found.get("code", "").strip().upper()


def _number(element: Element | None, name: str, default: float = float("nan")) -> float:
    found = xml.number(element.get(name, "")) if element is not None else None
    return default if found is None else found
