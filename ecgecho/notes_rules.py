"""Findings of an echo in a note, by rules: numbers, ranges, grades, negations, and when and by what they were found.

The whole note is read. Every pattern looks at a bounded stretch of text, so time grows with the length of the note alone.
Numbers: 5 to 90 % are believed of an ejection fraction, see `notes.NUMBERS`; 1+ is mild, 2+ moderate, 3+ between, 4+ severe.
What a cue ("prior", "if", "father", "no") reaches ends with its sentence, or with a word that turns it ("now", "showed").
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ecgecho.notes import BOUNDS, GRADED, NUMBERS, PRESENT, Finding, Form, Section, When, places
from ecgecho.types import ItemError

VERSION = 1
"""Raised when the same text would give other findings."""
MAX_SENTENCE = 1500
"""Longer ones are cut: no sentence of a person is, and patterns need a bound."""
MAX_NOTE = 1 << 19
"""Characters of a note."""
MAX_FINDINGS = 2000
"""Findings of a note: each is looked at with its whole sentence, so a list of nothing else would take long."""


def findings(text: str) -> list[Finding]:
    """All that is said of the heart in `text`, in its order; an `ItemError` for a text that nobody's note can be."""
    if len(text) > MAX_NOTE:
        raise ItemError("too_long", f"a note of more than {MAX_NOTE} characters")
    found: list[Finding] = []
    for sentence in _sentences(text):
        found += _of_sentence(sentence)
        if len(found) > MAX_FINDINGS:
            raise ItemError("too_many_findings", f"a note with more than {MAX_FINDINGS} findings")
    return sorted(found, key=lambda finding: finding.span)


# ---- Sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sentence:
    text: str
    """Line ends and tabs are spaces; as long as what stands in the note."""
    low: str
    """The same in lower case and as long."""
    start: int
    section: Section
    paragraph: int
    about: str
    """The paragraph up to here, its last 300 characters: which examination it speaks of."""
    past: bool
    """The paragraph begins as one about an earlier examination."""


_PAST_STUDY = re.compile(
    r"[ \t#*-]{0,6}(?:prior(?! to\b)|previous|old|last|remote|osh|outside(?: hospital)?|baseline"
    r"|most recent prior)\s[^:.\n]{0,30}"
    r"(?:tte|tee|echo|transthoracic|imaging|stud)",
    re.IGNORECASE,
)
_MARK = re.compile(
    r"\b(?=[abcdefhilmnprstvw])(?:[lr]v|ef\b|hf\w{1,3}ef\b|eject|ej\b|systolic|ventric|bivent|hypertroph|dilat|non-?dilat"
    r"|enlarge|(?:hypo|a|dys)kine[st]"
    r"|s?[rf]?wma|wall|stenosis|regurg|insuffic|valv|e?pasp|spap|pap|pulm|pah|pericard|diastolic|sept|ivsd?\b"
    r"|interventric|intraventric|relaxation|pseudonorm|p?phtn"
    r"|(?:as|ar|ai|mr|ms|tr|ts|pr|pi|ps|ph|pa)\b|infero|posterior|restrictive|cavity|chamber|thick|fxn)"
)
_STOP = re.compile(r"[.!?](?=\s)|;(?=\s)")
_NO_STOP = re.compile(
    r"\b(?:Dr|Mr|Mrs|Ms|vs|approx|est|mod|Mod|sev|Sev|incl|a\.m|p\.m|i\.e"
    r"|e\.g)\.$"
)  # "MR." may end a sentence


def _sentences(text: str) -> Iterator[_Sentence]:
    """Sentences that may speak of the heart."""
    plain = _BLANK.sub(lambda match: "_" * len(match[0]), text).translate(_PLAIN)
    low = plain.lower()
    if len(low) != len(plain):  # some capitals become two letters
        low = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in plain)
    where = places(text)
    paragraphs = where.paragraphs
    marks = [match.start() for match in _MARK.finditer(low)]
    after = 0
    for mark in marks:
        if mark < after:
            continue
        row = bisect.bisect_right(where.starts, mark) - 1
        head = bisect.bisect_left(paragraphs, paragraphs[row])
        begin = where.starts[head]
        past = _PAST_STUDY.match(plain, begin, begin + 80) is not None
        after = where.ends[row]
        for a, b in _cut(plain, where.starts[row], after):
            if bisect.bisect_left(marks, a) < bisect.bisect_left(marks, b):
                yield _Sentence(
                    text=plain[a:b],
                    low=low[a:b],
                    start=a,
                    section=where.sections[row],
                    paragraph=paragraphs[row],
                    about=low[max(begin, a - 300) : a],
                    past=past,
                )


_BLANK = re.compile(r"\[\*\*[^\]\n]{0,60}\*\*\]")
"""How MIMIC-II and -III blank names and dates; MIMIC-IV writes ___."""
_PLAIN = {ord(letter): " " for letter in "\n\r\t\f\v\xa0"} | {
    ord(letter): plain for letters, plain in (("–—−‐‑", "-"), ("’‘", "'")) for letter in letters
}


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    begin = start
    for stop in _STOP.finditer(text, start, end):
        if stop[0] == "." and _NO_STOP.search(text, max(begin, stop.end() - 12), stop.end()):
            continue
        yield from _pieces(text, begin, stop.end())
        begin = stop.end()
    yield from _pieces(text, begin, end)


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > MAX_SENTENCE:
        space = text.rfind(" ", start + MAX_SENTENCE // 2, start + MAX_SENTENCE)
        cut = space if space > 0 else start + MAX_SENTENCE
        yield start, cut
        start = cut
    if start < end:
        yield start, end


# ---- Words: grades and states

_WORD = (
    r"(?:\b(?:trace|trivial|tiny|minimal(?:ly)?|physiologic(?:al)?|mild(?:ly)?|mod(?:erate(?:ly)?)?|severe(?:ly)?|sev"
    r"|marked(?:ly)?"
    r"|critical(?:ly)?|profound(?:ly)?|significant(?:ly)?|hemodynamically significant|small|large|massive|torrential)\b\.?"
    r"|(?<![\d.])[1-4]\s?(?:-\s?[1-4]\s?)?\+)"
)
_GRADE = rf"{_WORD}(?:\s{{0,2}}(?:-to-|-|/|to\b|or\b|and\b)\s{{0,2}}(?:at\smost\s)?{_WORD})?(?:\s{{0,2}}\(\s?(?:{_WORD})\s?\))?"
_STEPS = {
    "trace": (0.5, 0.5), "trivial": (0.5, 0.5), "tiny": (0.5, 0.5), "minimal": (0.5, 0.5), "physiologic": (0.5, 0.5),
    "mild": (1.0, 1.0), "small": (1.0, 1.0), "mod": (2.0, 2.0), "sev": (3.0, 3.0), "marked": (3.0, 3.0),
    "critical": (3.0, 3.0), "profound": (3.0, 3.0), "large": (3.0, 3.0), "massive": (3.0, 3.0),
    "torrential": (3.0, 3.0), "significant": (2.0, 3.0), "hemodynamically": (2.0, 3.0),
}  # fmt: skip
_STEP = re.compile("|".join(_STEPS))
_PLUS = re.compile(r"([1-4])\s?(?:-\s?([1-4])\s?)?\+")
_PLUS_STEPS = {1: (1.0, 1.0), 2: (2.0, 2.0), 3: (2.0, 3.0), 4: (3.0, 3.0)}
# Words that may stand between a grade and what it grades.
_BETWEEN = (
    r"(?:\s|-|,(?=\s(?:eccentric|central|concentric|symmetric|global|regional|functional|primarily))"
    r"|\([^()]{0,25}\)|\b(?:eccentric(?:ally)?|central|concentric|symmetric(?:al)?|asymmetric(?:al)?|global|regional"
    r"|focal|diffuse|degenerative"
    r"|functional|calcific|rheumatic|residual|resting|secondary|primary|of|the|degree|amount|in|jet|directed|posteriorly"
    r"|anteriorly|low"
    r"|flow|gradient|paradoxical|circumferential|sized|valvular|native|left|ventricular|lv|septal|basal|estimated"
    r"|isolated|chronic"
    r"|and|rv|right|free|wall|normal-flow|apparent|inducible|overall|resting)\b){0,10}"
)
_GRADE_BEFORE = re.compile(rf"(?P<least>\bat least\s+)?(?P<grade>{_GRADE})(?P<between>{_BETWEEN})$")
_GRADE_AFTER = re.compile(
    rf"\s{{0,2}}(?:[(:=-]|--)?\s{{0,2}}(?:(?:is|was|are|were|appears?|remains?|that is|graded?(?: as)?|now|to be|jet"
    rf"|judged|considered)\s){{0,3}}"
    rf"(?P<least>at least\s)?(?P<grade>{_GRADE})(?=\s{{0,2}}(?:$|[.,;)\]/]|\(|(?:and|by|in|with|on|but|at|per|overall|now"
    rf"|which|although)\b))"
)


def _steps(words: str) -> tuple[float, float] | None:
    """The grade that words or plus signs mean; words go before plus signs."""
    steps = [_STEPS[match[0]] for match in _STEP.finditer(words)]
    if not steps:
        for match in _PLUS.finditer(words):
            steps += [_PLUS_STEPS[int(digit)] for digit in match.groups() if digit is not None]
    return (min(low for low, _ in steps), max(high for _, high in steps)) if steps else None


def is_graded_by_words(words: str) -> bool:
    """Whether a passage holds a word, a plus sign or a numeral for a grade."""
    low = words.lower()
    return _steps(low) is not None or _BY_NUMERAL.search(low) is not None


_BY_NUMERAL = re.compile(
    r"\b(?:(?:grade|stage|type)\s?(?:iii|ii|iv|i|[0-4])|impaired|delayed|pseudonormal|restrictive|normal|borderline)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hit:
    """A finding inside its sentence, before its context is known."""

    name: str
    form: Form
    low: float
    high: float
    start: int
    """Where the phrase begins, with its grade."""
    end: int
    asked: int
    """Up to where earlier words of the sentence may change its time (the number's place, for numbers)."""
    op: str = ""
    when: When | None = None
    """Set where the phrase itself says it."""


def _graded(sentence: _Sentence, name: str, start: int, end: int, *, grade: tuple[float, float] | None = None) -> _Hit | None:
    """A condition named at start:end with the grade and the negation that stand around it."""
    low = sentence.low
    begin, finish = start, end
    given = grade
    if given is None:
        before = _last_grade(low, start)
        if before is not None:
            begin, given = before
        elif after := _GRADE_AFTER.match(low, end, min(end + 60, len(low))):
            finish, given = after.end("grade"), _steps(after["grade"])
            if given is not None and after["least"]:
                given = (given[0], 3.0)
    if _ABSENT_AFTER.match(low, end, min(end + 60, len(low))):
        return _Hit(name=name, form="absent", low=0, high=0, start=begin, end=finish, asked=begin)
    denied = _denied(low, begin, given is not None)
    if denied == "":
        if given is None:
            return _Hit(name=name, form="present", low=PRESENT[0], high=PRESENT[1], start=begin, end=finish, asked=begin)
        form: Form = "grade" if given[0] == given[1] else "range"
        return _Hit(name=name, form=form, low=given[0], high=given[1], start=begin, end=finish, asked=begin)
    if given is None:
        return _Hit(name=name, form="absent", low=0, high=0, start=begin, end=finish, asked=begin)
    top = given[1] if denied == "more than" else 0.0 if given[0] < 1 else max(given[0] - 1, 0.0)
    return _Hit(name=name, form="range" if top else "absent", low=0, high=top, start=begin, end=finish, asked=begin)


def _last_grade(low: str, start: int) -> tuple[int, tuple[float, float]] | None:
    """Where the grade before `start` begins, and what it is."""
    left = max(start - 70, 0)
    for match in _GRADE_HEAD.finditer(low, left, start):
        whole = _GRADE_BEFORE.match(low[match.start() : start])
        if whole is not None:
            steps = _steps(whole["grade"])
            if steps is None:
                return None
            if whole["least"]:
                steps = (steps[0], 3.0)
            return match.start(), steps
    return None


_GRADE_HEAD = re.compile(rf"\bat least\s|{_WORD}")

_DENY = re.compile(
    r"(?:\b(?:no|not|without|w/o|denies|denied|absence of|absent|negative for|free of|never|neither|nor|lacks?)\b|\bw/out\b)"
)
_DENY_ENDS = re.compile(
    r"\b(?:but|however|although|though|except|which|has|have|had|shows?|showed|showing|revealed|is|are|was|were|there"
    r"|normal|preserved"
    r"|with|now|found|noted|remains?)\b|[:()]|\d"
)
_MORE_THAN = re.compile(r"^\s{0,2}(?:more|greater|worse|higher) than\s{0,2}$")
_ABSENT_AFTER = re.compile(
    r"\s{0,2}(?:[:=(-]\s{0,2})?(?:(?:is|was|are|were|has|have|been|had)\s){0,2}"
    r"(?:none\b|absent\b|not (?:seen|present|identified|appreciated|noted|detected|found|demonstrated|visualized"
    r"|observed)\b|ruled out\b|resolved\b|negative\b"
    r"|no longer\b)"
)


def _denied(low: str, start: int, graded: bool) -> str:
    """'' where the phrase at `start` stands as said; 'no' where it is denied; 'more than' for "no more than"."""
    last = None
    for match in _DENY.finditer(low, max(start - 130, 0), start):
        last = match
    if last is None:
        return ""
    gap = low[last.end() : start]
    if _MORE_THAN.match(gap):
        return "more than"
    if last[0] == "not" and len(gap.split()) > 2:
        return ""
    if _DENY_ENDS.search(gap):
        return ""
    # "no AS, mild MR" denies the first alone, "no AS or significant MR" both.
    if graded and ("," in gap or " and " in gap) and not gap.rstrip().endswith(" or"):
        return ""
    return "no"


# ---- The findings


def _of_sentence(sentence: _Sentence) -> list[Finding]:
    hits: list[_Hit] = []
    low = sentence.low
    if "ef" in low or "eject" in low:
        hits += _fractions(sentence)
    if "function" in low or "fxn" in low or "ef" in low or "eject" in low or "free wall" in low:
        hits += _functions(sentence)
    if "normal" in low or "nl " in low:
        hits += _normal_lists(sentence)
    if "diastolic" in low or "relax" in low or "pseudo" in low or "restrictive" in low:
        hits += _diastole(sentence)
    if "hypertroph" in low or "lvh" in low or "thick" in low:
        hits += _hypertrophy(sentence)
    if "dilat" in low or "enlarg" in low:
        hits += _dilation(sentence)
    if "kine" in low or "wma" in low or "motion" in low:
        hits += _motion(sentence)
    hits += _valves(sentence)
    if "pulm" in low or "pasp" in low or "rvsp" in low or "pressure" in low or "ph" in low or "papsp" in low:
        hits += _pressure(sentence)
    if "pericardial" in low:
        hits += [_need(_graded(sentence, "effusion", m.start(), m.end())) for m in _EFFUSION.finditer(low)]
    if (
        "thick" in low
        or "ivs" in low
        or "sept" in low
        or "lvpw" in low
        or "pwt" in low
        or "dimension" in low
        or "diameter" in low
        or "lv" in low
    ):
        hits += _lengths(sentence)
    if not hits:
        return []
    masked = _MASKED.sub(lambda match: "." * len(match[0]), low)
    return [_placed(hit, sentence, masked) for hit in _apart(hits)]


def _need(hit: _Hit | None) -> _Hit:
    assert hit is not None
    return hit


_EFFUSION = re.compile(r"\bpericardial\s{1,3}effusions?\b")


def _apart(hits: list[_Hit]) -> list[_Hit]:
    """Of overlapping hits of one name the first found."""
    kept: list[_Hit] = []
    for hit in hits:
        if not any(other.name == hit.name and other.start < hit.end and hit.start < other.end for other in kept):
            kept.append(hit)
    return kept


_NUMBER = r"(?:0?\.\d{2}|\d{1,2}(?:\.\d{1,2})?)"
_PERCENT = r"\s{0,2}(?:%|percent\b|per cent\b|pct\b)"
_OP = (
    r"(?:>\s?/?=|<\s?/?=|>|<|\u2265|\u2264|greater than(?: or equal to)?|more than|less than(?: or equal to)?|at least"
    r"|above|below|under|over|at most)"
)
_VALUE = (
    rf"(?P<op>{_OP})?\s{{0,2}}~?\s?(?<![\d.])(?P<a>{_NUMBER})(?P<p1>{_PERCENT})?"
    rf"(?:\s{{0,2}}(?P<sep>-{{1,2}}>?|to|through|and)\s{{0,2}}(?P<b>{_NUMBER})(?![\d])(?P<p2>{_PERCENT})?)?"
    r"(?![\d])(?!\.\d)(?!\s?/)(?!\s?(?:mm|cm|ml|bpm|mg|years?|y/?o|yo|days?|weeks?|wks?|months?|hours?|l\b|lbs?|kg|g\b"
    r"|am\b|pm\b|:\d|'?s\b))"
)
_LINK = (
    r"(?:[\s(:=~,*\[)-]|\b(?:is|was|of|at|about|around|approximately|approx|roughly|estimated|est|calculated|measured"
    r"|visually|visual"
    r"|quantitative|biplane|simpson's|simpsons|method|by|on|to|be|now|currently|today|remains|remained|still|only|in|the"
    r"|range|between|has|had|have|been"
    r"|severely|moderately|mildly|markedly|depressed|reduced|preserved|normal|decreased|improved|increased|recovered"
    r"|dropped|fell"
    r"|declined|worsened|unchanged|stable|low|lower|higher|from|down|up|as|noted|found|this|admission|tte|echo|repeat"
    r"|lvef|ef|per|with|an|a|than|prior"
    r"|previously|previous|new|newly|global|borderline|mild|severe|moderate|likely|confirmed|remaining|which|falls?"
    r"|drops?|drop|rises?|stays?|persistently|again"
    r"|last|year|baseline)\b\.?|_{2,60}|\d{1,2}/\d{1,2}(?:/\d{2,4})?(?![\d%])|\b(?:19|20|21)\d\d\b){0,24}?"
)
_FRACTION_NAME = (
    r"(?<![a-z])(?:(?:lv|left ventricular)[\s-]{0,2})?(?:lvef|ef|ejection[\s-]{1,2}fr\w{0,3}tion"
    r"|ej(?:ect)?\.? fr(?:action|xn)?)(?![a-z])(?!\s?slope)"
)
_FRACTION = re.compile(rf"(?P<name>{_FRACTION_NAME})(?P<link>{_LINK}){_VALUE}")
_FRACTION_LATER = re.compile(rf"{_VALUE}\s{{0,2}}{_FRACTION_NAME}")
_DECADE = re.compile(
    rf"(?P<name>{_FRACTION_NAME})(?P<link>{_LINK})(?P<part>low|mid|high|upper)?[\s-]{{0,2}}(?P<tens>[1-7])0'?s\b%?"
)
_HF_FRACTION = re.compile(rf"\bhf(?:r|p|mr|imp|rec)ef\s{{0,2}}[(,:]\s{{0,2}}(?:lvef\s|ef\s)?{_VALUE}")
_RIGHT_BEFORE = re.compile(r"(?:right ventricular|\brv|\brvef|left atrial|\bla)[\s-]{0,2}$")
_LATER_VALUE = re.compile(
    r"\s{0,2}[,(;]?\s{0,2}(?P<cue>now|currently|today|improved to|decreased to|recovered to|dropped to|down to|up to"
    r"|increased to|->|to"
    r"|decreased from|improved from|down from|up from|from|previously|prev|prior|was|formerly|compared (?:to|with)|vs\.?"
    r"|versus|which was"
    r"|(?:prior|previous|baseline|old|last))\s{0,2}(?:(?:lvef|ef|previously|prior|baseline|of|at|was|is|to be|about|a|an"
    r"|~)\s{0,2}){0,3}" + _VALUE
)
_CUES_OF_NOW = (
    "now",
    "currently",
    "today",
    "improved to",
    "decreased to",
    "recovered to",
    "dropped to",
    "down to",
    "up to",
    "increased to",
    "->",
    "to",
)


def _fractions(sentence: _Sentence) -> list[_Hit]:
    low, found = sentence.low, []
    for match in _FRACTION.finditer(low):
        if not _RIGHT_BEFORE.search(low, max(match.start() - 24, 0), match.start()):
            found += _fraction(
                low,
                match,
                match.start(),
                re.search(r"\b(?:from|than|previous|prior|previously|last)\b", match["link"]) is not None,
            )
    for match in _DECADE.finditer(low):
        if not _RIGHT_BEFORE.search(low, max(match.start() - 24, 0), match.start()):
            tens = 10.0 * int(match["tens"])
            a, b = {"low": (0, 3), "mid": (4, 6), "high": (7, 9), "upper": (7, 9)}.get(match["part"] or "", (0, 9))
            found.append(
                _Hit(
                    name="lvef",
                    form="range",
                    low=tens + a,
                    high=tens + b,
                    start=match.start(),
                    end=match.end(),
                    asked=match.start("tens"),
                )
            )
    for match in _HF_FRACTION.finditer(low):
        found += _fraction(low, match, match.start(), False)
    for match in _FRACTION_LATER.finditer(low):
        if match["p1"] or match["p2"]:
            found += _fraction(low, match, match.start(), False)
    return found


def _fraction(low: str, match: re.Match[str], start: int, earlier: bool) -> list[_Hit]:
    """The value of a match, and one that follows it as the value before or after."""
    ends = _percents(match)
    if ends is None:
        return []
    a, b = ends
    sep = match["sep"] or ""
    at, end = match.start("a"), match.end()
    if b is not None and (sep == "->" or (sep == "to" and (earlier or a > b))):  # a change, not a range
        upper = _UPPER.match(low, end)
        top = float(upper["c"]) if upper is not None else None
        change = _number("lvef", b, top, "", match.start("b"), end if upper is None else upper.end(), match.start("b"), "now")
        return [_number("lvef", a, None, "", start, match.end("a"), at, "past"), change]
    if sep == "and" and (b is None or "between" not in match[0]):
        b, end = None, match.end("p1") if match["p1"] else match.end("a")
    hits = [_number("lvef", a, b, match["op"] or "", start, end, at)]
    if (
        earlier
        and re.search(r"\b(?:previous|prior|previously|from|last)\b[^0-9]{0,20}$", low[start:at])
        and "now" not in low[start:at]
    ):
        hits[0] = _number("lvef", a, b, match["op"] or "", start, end, at, "past")
    later = _LATER_VALUE.match(low, end, min(end + 60, len(low)))
    if later is not None and (match["p1"] or match["p2"] or later["p1"] or later["p2"]):
        second = _percents(later)
        cue = later["cue"]
        if second is not None and not (cue == "to" and not earlier):
            is_now = cue in _CUES_OF_NOW
            hits.append(
                _number(
                    "lvef",
                    *second,
                    later["op"] or "",
                    later.start("cue"),
                    later.end(),
                    later.start("a"),
                    "now" if is_now else "past",
                )
            )
            if is_now:
                hits[0] = _number("lvef", a, b, match["op"] or "", start, end, at, "past")
    return hits


_UPPER = re.compile(r"\s?-\s?(?P<c>[1-8]\d)\s?(?:%|percent)")


def _percents(match: re.Match[str]) -> tuple[float, float | None] | None:
    """One or two believable percents."""
    _, least, most = NUMBERS["lvef"]
    values = []
    for name in ("a", "b"):
        if match[name] is None:
            continue
        value = float(match[name])
        values.append(round(100 * value, 1) if value < 1 else value)
    if not least <= values[0] <= most:
        return None
    return values[0], values[1] if len(values) > 1 and least <= values[1] <= most else None


_OPS = {
    ">": ">", "<": "<", ">=": ">=", "<=": "<=", ">/=": ">=", "</=": "<=", "\u2265": ">=", "\u2264": "<=",
    "greater than": ">", "more than": ">", "less than": "<", "at least": ">=", "above": ">", "below": "<", "under": "<",
    "over": ">", "at most": "<=", "greater than or equal to": ">=", "less than or equal to": "<=",
}  # fmt: skip


def _number(name: str, a: float, b: float | None, op: str, start: int, end: int, asked: int, when: When | None = None) -> _Hit:
    """One value, two ends, or a bound."""
    if b is not None and a != b:
        return _Hit(name=name, form="range", low=min(a, b), high=max(a, b), start=start, end=end, asked=asked, when=when)
    sign = _OPS.get(re.sub(r"\s(?=[/=])", "", op), "")
    if not sign:
        return _Hit(name=name, form="exact", low=a, high=a, start=start, end=end, asked=asked, when=when)
    least, most = BOUNDS[name]
    low, high = (a, most) if sign[0] == ">" else (least, a)
    return _Hit(name=name, form="threshold", low=low, high=high, start=start, end=end, asked=asked, op=sign, when=when)


_WHO = (
    r"(?:left|right|ventricular|ventricle|lv|rv|biventricular|bi-?v|global|regional|overall|systolic|contractile"
    r"|cardiac|pump|and|segmental|resting|rest|diastolic|&|/|,|\s|-)"
)
_NOUN = r"(?:function|fxn|fn|dysfunction|dysfxn|ef|lvef|rvef|ejection fraction)\b"
_GOOD = (
    r"(?:low[\s-]normal|normal|nl|wnl|within normal limits|preserved|intact|good|hyperdynamic|vigorous|hyper-dynamic"
    r"|unremarkable)\b"
)
_POOR = r"(?:reduced|depressed|decreased|impaired|diminished|low|poor|abnormal|compromised)\b"
_FUNCTION_BEFORE = re.compile(
    rf"(?:(?P<good>\b{_GOOD})|(?:(?P<grade>{_GRADE})\s{{1,2}})?\b(?P<poor>{_POOR})"
    rf"|(?P<only>{_GRADE}))(?P<who>{_WHO}{{1,14}}?)(?P<noun>\b{_NOUN})"
)
_FUNCTION_BARE = re.compile(
    rf"(?P<who>\b(?:lv|rv|left ventricular|right ventricular|biventricular"
    rf"|systolic)\b{_WHO}{{0,8}}?)(?P<noun>\b(?:dysfunction|dysfxn)\b)"
)
_FUNCTION_AFTER = re.compile(
    rf"(?P<noun>\b(?:function|fxn|fn|ef|lvef|ejection fraction|free wall motion)\b)\s{{0,2}}(?:\([^()]{{0,30}}\)\s{{0,2}})?"
    rf"(?:[:=,-]\s{{0,2}})?(?:(?:is|was|are|were|appears?|appeared|remains?|remained|to be|now|still|overall|both"
    rf"|also)\s{{1,2}}){{0,4}}"
    rf"(?:(?P<good>{_GOOD})|(?:(?P<grade>{_GRADE})\s{{1,2}})?(?P<poor>{_POOR}))"
)
_FREE_WALL = re.compile(
    rf"(?:(?P<good>\b{_GOOD})|(?:(?P<grade>{_GRADE})\s{{1,2}})?\b(?P<poor>{_POOR}))\s{{1,2}}(?:rv\s"
    rf"|right ventricular\s)?free wall (?:motion|function|contractility)"
)
_VENTRICLES = re.compile(
    r"\b(?:(?P<both>biventricular|bi-?v)|(?P<right>right ventric\w*|rv(?:ef)?)|(?P<left>left ventric\w*|lv(?:ef)?))\b"
)
_OF_HEART = re.compile(
    r"\b(?:systolic|lv|rv|(?:left|right) ventric|biventric|bi-?v\b|contractile|pump|ventricular|ef\b|lvef|ejection)"
)
_DIAGNOSIS_BEFORE = re.compile(r"(?:failure|hf|chf|cardiomyopathy)\s{1,3}(?:with|w/)\s{0,3}(?:a\s)?$")
_GOOD_STEPS = {"low normal": (0.0, 1.0), "low-normal": (0.0, 1.0)}


def _functions(sentence: _Sentence) -> list[_Hit]:
    """Systolic function of either ventricle in words."""
    low, found = sentence.low, []
    for pattern in (_FUNCTION_BEFORE, _FUNCTION_AFTER, _FREE_WALL, _FUNCTION_BARE):
        for match in pattern.finditer(low):
            words = match.groupdict()
            if _DIAGNOSIS_BEFORE.search(low, max(match.start() - 40, 0), match.start()):
                continue
            noun = words.get("noun") or "free wall motion"
            dysfunction = noun.startswith("dys")
            if words.get("only") and not dysfunction:
                continue  # "severe ... function" says nothing
            if words.get("good") and dysfunction:
                continue
            names = ("rv_function",) if noun.startswith("free") else _whose(low, match)
            if words.get("good"):
                a, b = _GOOD_STEPS.get(words["good"], (0.0, 0.0))
                hit = _Hit(
                    name="",
                    form="range" if b else "absent",
                    low=a,
                    high=b,
                    start=match.start(),
                    end=match.end(),
                    asked=match.start(),
                )
            else:
                grade = _steps(words.get("grade") or words.get("only") or "")
                at = match.start("noun") if pattern is _FUNCTION_AFTER else match.start()
                hit = _stated(low, grade, at, match.end())
            found += [_renamed(hit, name) for name in names]
    return found


def _stated(low: str, grade: tuple[float, float] | None, start: int, end: int) -> _Hit:
    """Dysfunction with its grade, unless denied."""
    denied = _denied(low, start, grade is not None)
    if denied:
        if grade is None or denied != "more than" and grade[0] <= 1:
            return _Hit(name="", form="absent", low=0, high=0, start=start, end=end, asked=start)
        top = grade[1] if denied == "more than" else grade[0] - 1
        return _Hit(name="", form="range", low=0, high=top, start=start, end=end, asked=start)
    if grade is None:
        return _Hit(name="", form="present", low=PRESENT[0], high=PRESENT[1], start=start, end=end, asked=start)
    form: Form = "grade" if grade[0] == grade[1] else "range"
    return _Hit(name="", form=form, low=grade[0], high=grade[1], start=start, end=end, asked=start)


def _renamed(hit: _Hit, name: str) -> _Hit:
    return _Hit(name=name, form=hit.form, low=hit.low, high=hit.high, start=hit.start, end=hit.end, asked=hit.asked)


def _whose(low: str, match: re.Match[str]) -> tuple[str, ...]:
    """Which ventricle's systolic function a phrase speaks of; none where it may be the kidney's."""
    phrase = match[0]
    words = match.groupdict()
    near = low[max(match.start() - 45, 0) : match.end()]
    if "diastolic" in phrase and "systolic" not in phrase:
        return ()
    if re.search(r"diastolic\W{0,2}$", low[max(match.start() - 12, 0) : match.start()]):
        return ()
    if not _OF_HEART.search(phrase):
        tail = low[max(match.start() - 30, 0) : match.start()]
        if not _OF_HEART.search(tail) or re.search(
            r"\b(?:renal|kidney|liver|hepatic|thyroid|node|cognitive|lung|pulmonary|diastolic|atrial)\b", tail
        ):
            return ()
    if "ef" in (words.get("noun") or "") or "ejection" in (words.get("noun") or ""):
        return (
            ("rv_function",)
            if _RIGHT_BEFORE.search(low, max(match.start() - 24, 0), match.start("noun")) or "rvef" in phrase
            else ("lv_function",)
        )
    last = _last(_VENTRICLES, near)
    if last is None:
        last = _last(_VENTRICLES, low, 0, match.start())
    if last is None or last["left"]:
        return ("lv_function",)
    return ("lv_function", "rv_function") if last["both"] else ("rv_function",)


_ITEM = (
    r"(?:left|ventricular|ventricle|lv|biventricular|bi-?v|wall|thickness(?:es)?|cavity|chamber|sizes?|dimensions?"
    r"|regional|global|overall|systolic|diastolic"
    r"|function|fxn|motion|and|with|segmental|normal|right|rv|free|biatrial)"
)
_ITEMS = rf"(?:[\s,/&-]{{1,3}}{_ITEM}\b){{1,20}}"
_NORMAL_BEFORE = re.compile(rf"\b(?:normal|nl){_ITEMS}")
_NORMAL_AFTER = re.compile(
    rf"\b{_ITEM}{_ITEMS}(?:\s{{1,2}}(?:is|are|was|were|appears?)|\s?:)\s(?:all\s|both\s|within\s|grossly\s){{0,2}}normal"
)
_NORMAL_SIZE = re.compile(
    r"\b(?P<which>left ventric\w*|lv|right ventric\w*|rv)(?:\s(?:cavity|chamber))?(?:\ssize)?\s(?:(?:is|was|appears"
    r"|has)\s)?(?:of\s)?"
    r"normal(?:\sin)?[\s-]sized?(?P<function>\s(?:and|with)\s(?:normal\s)?(?:systolic\s)?(?:function|fxn))?"
)
_PARTS = re.compile(
    r"(?P<thick>wall\s(?:thickness|thicknesses)\b)|(?P<free>free wall motion)|(?P<motion>wall motion)|(?P<size>(?:cavity"
    r"|chamber|ventricular|lv|rv)\s(?:chamber\s|cavity\s)?(?:sizes?|dimensions?))"
    r"|(?P<function>(?<!diastolic )(?:function|fxn)\b)|(?P<diastolic>diastolic (?:function|fxn))"
)


def _normal_lists(sentence: _Sentence) -> list[_Hit]:
    """Wall thickness, cavity size and function that are normal together, with the word in front or behind."""
    low, found = sentence.low, []
    for pattern in (_NORMAL_BEFORE, _NORMAL_AFTER):
        for match in pattern.finditer(low):
            if low[: match.start()].rstrip().endswith(("not", "no")):
                continue
            for part in _PARTS.finditer(low, match.start(), match.end()):
                for name in _part_names(low, match, part):
                    place = (part.start(), part.end())
                    found.append(_Hit(name=name, form="absent", low=0, high=0, start=place[0], end=place[1], asked=match.start()))
    for match in _NORMAL_SIZE.finditer(low):
        side = "rv" if match["which"].startswith("r") else "lv"
        for name in (f"{side}_dilation", f"{side}_function") if match["function"] else (f"{side}_dilation",):
            place = (match.start(), match.end())
            found.append(_Hit(name=name, form="absent", low=0, high=0, start=place[0], end=place[1], asked=place[0]))
    return found


def _part_names(low: str, match: re.Match[str], part: re.Match[str]) -> list[str]:
    """What a part of such a list is of, by the ventricle that was named last, or by both."""
    begin = max(match.start() - 60, 0)
    side = _last(_VENTRICLES, low, begin, part.end())
    right = side is not None and side["right"] is not None
    both = (side is not None and side["both"] is not None) or _BOTH_SIDES.search(low, begin, part.end()) is not None
    sides = ["lv", "rv"] if both else ["rv"] if right else ["lv"]
    if part["thick"]:
        return ["lvh"] if "lv" in sides else []
    if part["free"]:
        return ["rv_function"]
    if part["motion"]:
        return ["rv_function"] if sides == ["rv"] else ["wall_motion"]
    if part["size"]:
        return [f"{each}_dilation" for each in sides]
    if part["diastolic"]:
        return ["diastolic"]
    heart = side is not None or "systolic" in match[0] or "global" in match[0] or "regional" in match[0]
    return [f"{each}_function" for each in sides] if heart else []


_BOTH_SIDES = re.compile(r"\b(?:lv|left)\s?(?:/|and|&)\s?(?:rv|right)\b|\b(?:rv|right)\s?(?:/|and|&)\s?(?:lv|left)\b")


_DIASTOLE = re.compile(
    r"\bdiastolic\s(?P<dys>dysfunction|dysfxn)\b|\b(?:impaired|delayed|abnormal)\s(?:lv\s"
    r"|left ventricular\s)?(?P<relax>relaxation)\b"
    r"|\b(?P<pseudo>pseudonormal\w{0,8})\b|\b(?P<restrict>restrictive\s(?:filling|physiology|pattern|diastolic))\b"
    r"|\bdiastolic\s(?P<func>function|fxn)\b"
)
_ROMAN_BEFORE = re.compile(
    r"\b(?:grade|stage|type)\s(?P<n>iii|ii|iv|i|[1-4])[ab]?\s(?:\([^()]{0,20}\)\s)?(?:lv\s|left ventricular\s)?$"
)
_ROMAN_AFTER = re.compile(r"\s{0,2}[,(:-]?\s{0,2}(?:grade|stage|type)\s(?P<n>iii|ii|iv|i|[1-4])[ab]?\b")
_ROMANS = {"i": 1.0, "ii": 2.0, "iii": 3.0, "iv": 3.0, "1": 1.0, "2": 2.0, "3": 3.0, "4": 3.0}
_STATE_AFTER = re.compile(
    rf"\s{{0,2}}(?:is|was|appears?|:)\s{{0,2}}(?:(?P<good>{_GOOD})|(?:(?P<grade>{_GRADE})\s)?(?P<poor>{_POOR}))"
)


def _diastole(sentence: _Sentence) -> list[_Hit]:
    low, found = sentence.low, []
    for match in _DIASTOLE.finditer(low):
        grade = None
        start = match.start()
        if roman := _ROMAN_BEFORE.search(low, max(start - 50, 0), start):
            grade, start = (_ROMANS[roman["n"]],) * 2, roman.start()
        elif roman := _ROMAN_AFTER.match(low, match.end()):
            grade = (_ROMANS[roman["n"]],) * 2
        elif match["relax"]:
            grade = (1.0, 1.0)
        elif match["pseudo"]:
            grade = (2.0, 2.0)
        elif match["restrict"]:
            grade = (3.0, 3.0)
        if match["func"]:
            before = re.search(
                rf"\b(?:(?P<good>{_GOOD})|(?P<poor>{_POOR}))\s(?:lv\s|left ventricular\s)?$", low[max(start - 40, 0) : start]
            )
            after = before or _STATE_AFTER.match(low, match.end())
            if after is None:
                continue
            if after["good"]:
                found.append(_Hit(name="diastolic", form="absent", low=0, high=0, start=start, end=match.end(), asked=start))
                continue
        hit = _graded(sentence, "diastolic", start, match.end(), grade=grade)
        found.append(_need(hit))
    return found


_HYPERTROPHY = re.compile(
    r"\b(?P<lvh>c?lvh)\b|(?P<words>(?:\b(?:left ventricular|left ventricle|lv|septal|ventricular|concentric|eccentric"
    r"|asymmetric(?:al)?|symmetric(?:al)?)\s{1,3}){1,4})hypertrophy\b"
)
_THICKNESS = re.compile(
    r"\b(?:wall|septal|septum)\s{1,3}(?:thickness(?:es)?|thickening)\b|\bthickened\s(?:left ventricular|lv)\s(?:walls?"
    r"|septum)\b"
)
_INCREASED = re.compile(
    rf"\s{{0,2}}(?:is|are|was|were|appears?|:)?\s{{0,2}}(?:(?P<grade>{_GRADE})\s)?(?P<up>increased|thickened)\b"
)
_INCREASED_BEFORE = re.compile(
    rf"(?:(?P<grade>{_GRADE})\s)?\b(?P<up>increased)\s(?:left ventricular\s|lv\s|septal\s|relative\s){{0,3}}$"
)
_OTHER_WALL = re.compile(
    r"\b(?:rv|right ventricular|right ventricle|free|gallbladder|bladder|bowel|gastric|colonic|esophageal|chest|airway"
    r"|bronchial|aortic|arterial|intestinal)\s{0,3}$"
)


_NORMAL_THICKNESS = re.compile(r"\b(?:septum|posterior wall|lv walls?)\b[^.;:]{0,40}\bnormal\s(?:wall\s)?thickness")


def _hypertrophy(sentence: _Sentence) -> list[_Hit]:
    low, found = sentence.low, []
    for match in _HYPERTROPHY.finditer(low):
        if not re.search(r"\bright\s{0,3}$", low[max(match.start() - 8, 0) : match.start()]) and not (
            match["words"] or ""
        ).startswith("right"):
            found.append(_need(_graded(sentence, "lvh", match.start(), match.end())))
    for match in _NORMAL_THICKNESS.finditer(low):
        if _OTHER_WALL.search(low, max(match.start() - 24, 0), match.start()) is None:
            place = (match.start(), match.end())
            found.append(_Hit(name="lvh", form="absent", low=0, high=0, start=place[0], end=place[1], asked=place[0]))
    for match in _THICKNESS.finditer(low):
        if _OTHER_WALL.search(low, max(match.start() - 24, 0), match.start()):
            continue
        if "thickened" in match[0]:
            found.append(_need(_graded(sentence, "lvh", match.start(), match.end())))
            continue
        before = None
        for start in range(max(match.start() - 60, 0), match.start()):
            if (start == 0 or not low[start - 1].isalnum()) and (before := _INCREASED_BEFORE.match(low[start : match.start()])):
                break
        said = before or _INCREASED.match(low, match.end(), min(match.end() + 60, len(low)))
        if said is not None:
            begin = match.start() if before is None else start
            hit = _stated(low, _steps(said["grade"] or ""), begin, match.end() if before else said.end())
            found.append(_renamed(hit, "lvh"))
    return found


_DILATION = re.compile(r"\b(?P<not>non-?\s?)?(?P<word>dilated|dilation|dilatation|enlarged|enlargement)\b")
_CHAMBER = re.compile(
    r"\b(?:(?P<both>biventricular|both ventricles)|(?P<left>left ventric\w*|lv)|(?P<right>right ventric\w*|rv)"
    r"|(?P<other>left atri\w*|right atri\w*|la|ra|biatrial|atri\w*|aort\w*|root|ascending|ivc|vena|arter\w*|sinus\w*"
    r"|pupils?|bowel|loops?|ducts?|biliary|annul\w*|heart|cardiomyopathy|cardiac"
    r"|esophagus|veins?|colon|prostate|thyroid|lymph\w*|nodes?|liver|spleen|ventricles|kidneys?|ureter\w*|renal|pelvis"
    r"|pulmonary)|(?P<cavity>cavity|chamber))\b"
)


def _dilation(sentence: _Sentence) -> list[_Hit]:
    low, found = sentence.low, []
    for match in _DILATION.finditer(low):
        chamber = None
        if match["word"] in ("dilated", "enlarged"):
            chamber = _CHAMBER.match(low, min(match.end() + 1, len(low)), min(match.end() + 24, len(low)))
        beside = None
        if chamber is None:
            chamber = _last(_CHAMBER, low, max(match.start() - 70, 0), match.start())
            beside = chamber
            if chamber is not None and chamber["cavity"]:
                for side in _CHAMBER.finditer(low, 0, chamber.start()):
                    if side["left"] or side["right"]:
                        chamber = side
        if chamber is None or chamber["other"]:
            continue
        names = ("lv_dilation", "rv_dilation") if chamber["both"] else ("rv_dilation",) if chamber["right"] else ("lv_dilation",)
        start = match.start()
        if beside is not None and not low[beside.end() : start].strip() and match["word"] not in ("dilated", "enlarged"):
            start = beside.start()  # "mild LV dilation": the grade stands before the chamber
        for name in names:
            if match["not"]:
                found.append(_Hit(name=name, form="absent", low=0, high=0, start=start, end=match.end(), asked=start))
            else:
                found.append(_need(_graded(sentence, name, start, match.end())))
    return found


_MOTION = re.compile(
    r"\b(?:hypo|a|dys)(?:kinesis|kinetic)\b|\bs?[rf]?wmas?\b|\bwall[\s-]motion\sabnormalit(?:y|ies)\b"
    r"|\babnormal\s(?:septal\s)?wall\smotion\b"
    r"|\b(?:inferior|anterior|lateral|septal|apical|posterior|basal|global|regional|wall|diffuse)\s(?:hypo|a|dys)kinesia\b"
)


def _motion(sentence: _Sentence) -> list[_Hit]:
    low, found = sentence.low, []
    for match in _MOTION.finditer(low):
        side = _last(_VENTRICLES, low, max(match.start() - 50, 0), match.start())
        right = (side is not None and side["right"] is not None) or low[
            max(match.start() - 12, 0) : match.start()
        ].rstrip().endswith("free wall")
        found.append(_need(_graded(sentence, "rv_function" if right else "wall_motion", match.start(), match.end())))
    return found


_VALVE = r"(?:aortic|mitral|tricuspid|pulmonic|pulmonary)(?:\s{1,2}valve|\s{1,2}valvular)?"
_LESION = r"(?:stenosis|regurgitation|regurg|insufficiency|incompetence)\b"
_VALVE_LIST = re.compile(
    rf"\b(?P<first>{_VALVE})(?P<more>(?:\s{{0,2}}(?:,|and|or|/|&|,\sand"
    rf"|,\sor)\s{{0,2}}(?:{_GRADE}\s{{1,2}})?{_VALVE}){{0,3}})\s{{1,2}}(?P<lesion>{_LESION})"
    rf"(?:\s{{0,2}}(?:and|or|/|&)\s{{0,2}}(?:{_GRADE}\s{{1,2}})?(?P<second>{_LESION}))?"
)
_VALVE_HEADED = re.compile(
    rf"\b(?P<first>(?:aortic|mitral|tricuspid|pulmonic) valve)\s?[:-]\s(?P<gap>[^.;:]{{0,60}}?)\b(?P<lesion>{_LESION})"
    rf"(?:\s(?:and|or)\s(?:{_GRADE}\s)?(?P<second>{_LESION}))?"
)
_ONE_VALVE = re.compile(r"aortic|mitral|tricuspid|pulmon(?:ic|ary)")
_LETTER = {"aortic": "a", "mitral": "m", "tricuspid": "t", "pulmonic": "p", "pulmonary": "p"}
_SHORT = re.compile(r"(?<![A-Za-z'-])(?:AS|AR|AI|MR|MS|TR|TS|PR|PI|PS|TI|MI|AoS)(?![A-Za-z'])(?=$|[^\w-]|-\s)")
_SHORT_LOOSE = re.compile(r"\b(?:as|ar|ai|mr|ms|tr|ts|pr)\b(?=\s{0,2}(?:$|[.,;)/]|\(|and\b|&))")
_SHORT_NAMES = {"ai": "ar", "pi": "pr", "aos": "as"}
_SHORT_SAFE = {"as", "ar", "mr", "tr"}
_NOT_SHORT_AFTER = re.compile(
    r"\s{0,2}(?:per|tolerated|needed|above|well|outpatient|below|follows|directed|prescribed|of the|brain|head|spine"
    r"|angio\w*|imaging|gradient|velocity|peak|contin|interval|segment|above|soon|part|an?\b|the\b)",
)
_VALVE_DISEASE = re.compile(
    r"(?<!other )(?<!other significant )\b(?:valv(?:e|ular)|valvular heart)\s{1,2}(?:disease|abnormalit(?:y|ies)"
    r"|dysfunction|pathology|lesions?|dz|dysfxn"
    r"|defects?)\b|\bvalvulopathy\b|\bvalvular (?:stenosis|regurgitation)\b"
)
_ECHOISH = re.compile(
    r"\b(?:echo\w{0,12}|tte|tee|lvef|ef|lvh|pasp|rvsp|wma)\b|ejection|regurg|stenosis|hypokin|akine|ventric|valv"
    r"|pericardial effusion|systolic (?:fxn|function|dysf)|diastolic dys"
)


def _valves(sentence: _Sentence) -> list[_Hit]:
    low, found = sentence.low, []
    if "steno" in low or "regurg" in low or "insuff" in low or "incompet" in low:
        for match in _VALVE_LIST.finditer(low):
            found += _valve_list(sentence, match)
        for match in _VALVE_HEADED.finditer(low):
            for lesion in ("lesion", "second") if match["second"] else ("lesion",):
                name = _valve_name(match["first"], match[lesion])
                found.append(_need(_graded(sentence, name, match.start(lesion), match.end(lesion))))
    if "valv" in low:
        found += [_need(_graded(sentence, "valve_disease", m.start(), m.end())) for m in _VALVE_DISEASE.finditer(low)]
    return found + _short_valves(sentence)


def _valve_name(valve: str, lesion: str) -> str:
    letter = next(letter for word, letter in _LETTER.items() if word in valve)
    return letter + ("s" if lesion.startswith("steno") else "r")


def _valve_list(sentence: _Sentence, match: re.Match[str]) -> list[_Hit]:
    low = sentence.low
    found: list[_Hit] = []
    valves = list(_ONE_VALVE.finditer(low, match.start("first"), match.start("lesion")))
    lesions = [match["lesion"]] + ([match["second"]] if match["second"] else [])
    single = len(valves) == 1
    shared: tuple[float, float] | None = None
    for valve in valves:
        for place, lesion in enumerate(lesions):
            end = match.end("lesion") if single and place == 0 else match.end("second") if single else valve.end()
            start = valve.start() if place == 0 else match.start("second")
            hit = _need(_graded(sentence, _valve_name(valve[0], lesion), start, end if single else match.end("lesion")))
            if not single and valve is not valves[-1]:
                # Only what stands before a valve of a list is its own; what follows belongs to the whole.
                before = _last_grade(low, valve.start())
                hit = (
                    hit
                    if before or hit.form == "absent"
                    else _need(_graded(sentence, hit.name, start, match.end("lesion"), grade=shared))
                )
            if hit.form == "present" and shared is not None:
                hit = _Hit(
                    name=hit.name,
                    form="grade" if shared[0] == shared[1] else "range",
                    low=shared[0],
                    high=shared[1],
                    start=hit.start,
                    end=hit.end,
                    asked=hit.asked,
                )
            if hit.form in ("grade", "range"):
                shared = (hit.low, hit.high)
            found.append(
                _Hit(name=hit.name, form=hit.form, low=hit.low, high=hit.high, start=hit.start, end=hit.end, asked=hit.asked)
            )
    return found


def _short_valves(sentence: _Sentence) -> list[_Hit]:
    """AS, MR, ... : words of two letters that mean other things too; alone they count only beside other words of an echo."""
    low, found = sentence.low, []
    echoish: bool | None = None
    shared: tuple[int, tuple[float, float]] | None = None
    matches = [(m.start(), m.end(), True) for m in _SHORT.finditer(sentence.text)]
    taken = {start for start, _, _ in matches}
    matches += [(m.start(), m.end(), False) for m in _SHORT_LOOSE.finditer(low) if m.start() not in taken]
    for start, end, capitals in sorted(matches):
        word = low[start:end]
        name = _SHORT_NAMES.get(word, word)
        if name not in GRADED or _NOT_SHORT_AFTER.match(low, end, min(end + 20, len(low))):
            continue
        hit = _need(_graded(sentence, name, start, end))
        before = _last_grade(low, start)
        if not capitals and before is None:
            continue
        if hit.form == "present" and shared is not None and re.fullmatch(r"\s?(?:/|&|and|\+)\s?", low[shared[0] : start]):
            grade = shared[1]
            hit = _Hit(
                name=name,
                form="grade" if grade[0] == grade[1] else "range",
                low=grade[0],
                high=grade[1],
                start=start,
                end=end,
                asked=start,
            )
        if hit.form == "present" or (hit.form == "absent" and name not in _SHORT_SAFE):
            if echoish is None:
                rest = low[:start] + " " + low[end:]
                echoish = bool(_ECHOISH.search(rest) or _ECHO_HEAD.search(sentence.about))
            title = low.startswith(".", end) and word in ("mr", "ms")
            if not echoish or title or (name not in _SHORT_SAFE and hit.form == "present"):
                continue
        if hit.form in ("grade", "range"):
            shared = (end, (hit.low, hit.high))
        found.append(hit)
    return found


_ECHO_HEAD = re.compile(r"\b(?:tte|tee|echo\w{0,12}|transthoracic)\b")
_HYPERTENSION = re.compile(
    r"\b(?:pulm(?:onary)?\.?\s{1,2}(?:arter(?:y|ial)\s{1,2})?(?:systolic\s{1,2})?(?:hypertension|htn)|phtn|pah)\b"
    r"|\bph\b(?=\s{0,2}(?:$|[.,;)]|\())"
)
_ARTERY_PRESSURE = (
    r"(?:(?:pa|rv|pulm(?:onary)?\.?\s{0,2}(?:arter(?:y|ial))?|right ventricular)\s{1,2}(?:peak\s)?(?:systolic\s)?pressures?)"
)
_NORMAL_PRESSURE = re.compile(
    rf"\bnormal\s{{1,2}}(?:estimated\s)?(?:{_ARTERY_PRESSURE}|pasp|rvsp)\b|\b(?:{_ARTERY_PRESSURE}|pasp|rvsp)\s(?:is|are"
    rf"|was|appears)\s(?:within\s)?normal"
)
_PASP_NAME = (
    r"\b(?:e?pasp|rvsp|spap|paps|(?:pa|rv|pulm(?:onary)?\.?\s{0,2}(?:arter(?:y|ial))?"
    r"|right ventricular)\s{1,2}(?:peak\s)?systolic\s{1,2}pressures?)\b"
)
_PASP_VALUE = (
    rf"(?P<op>{_OP})?\s{{0,2}}~?(?<![\d.])(?P<a>\d{{2,3}})(?P<u1>\s?mm\s?hg)?(?:\s{{0,2}}(?:-"
    rf"|to)\s{{0,2}}(?P<b>\d{{2,3}}))?(?P<unit>\s{{0,2}}mm\s?\s?hg)?(?![\d%/])(?!\.\d)(?!\s?(?:%|/|cm|ml))"
)
_PASP = re.compile(
    rf"{_PASP_NAME}(?P<gap>(?:[\s:=()~*,-]|\b(?:is|was|of|at|about|approximately|approx|estimated|elevated|increased|to"
    rf"|the|be|in|range|moderately|mildly|severely|now|measured|peak|between|high|up|as|calculated)\b){{0,16}}?){_PASP_VALUE}"
)
_PASP_OF_HYPERTENSION = re.compile(rf"\b(?:hypertension|htn|phtn)\b(?P<gap>[^.;\d]{{0,60}}?){_PASP_VALUE}")


def _pressure(sentence: _Sentence) -> list[_Hit]:
    low, found = sentence.low, []
    for match in _HYPERTENSION.finditer(low):
        hit = _need(_graded(sentence, "ph", match.start(), match.end()))
        if match[0] != "ph" or hit.form in ("grade", "range"):
            found.append(hit)
    for match in _NORMAL_PRESSURE.finditer(low):
        found.append(_Hit(name="ph", form="absent", low=0, high=0, start=match.start(), end=match.end(), asked=match.start()))
    for pattern in (_PASP, _PASP_OF_HYPERTENSION):
        for match in pattern.finditer(low):
            if pattern is _PASP_OF_HYPERTENSION and (
                not (match["unit"] or match["u1"])
                or "pulm" not in low[max(match.start() - 40, 0) : match.start() + 4] + match[0][:5]
            ):
                continue
            if low[max(match.start() - 4, 0) : match.start()].rstrip().endswith("="):
                continue  # "TR Gradient (+ RA = PASP): 38 mm Hg" is the gradient, not the pressure
            _, least, most = NUMBERS["pasp_mmhg"]
            a = float(match["a"])
            b = float(match["b"]) if match["b"] else None
            if least <= a <= most and (b is None or least <= b <= most):
                found.append(_number("pasp_mmhg", a, b, match["op"] or "", match.start(), match.end(), match.start("a")))
    return found


_LENGTH = (
    r"(?<![\d.,/])(?P<op>[<>]=?\s?)?(?P<a>\d{1,3}(?:[.,]\d{1,2})?)(?P<u1>\s{0,2}(?:cm|mm)\b)?(?:\s{0,2}(?:-"
    r"|to)\s{0,2}(?P<b>\d{1,3}(?:[.,]\d{1,2})?)(?P<u2>\s{0,2}(?:cm|mm)\b))?(?![\d%/])(?!\s?(?:%|/|mmhg|mm hg|ml|m2|kg))"
)
_LENGTH_LINK = (
    r"(?:[\s:=()~*,-]|\b(?:is|was|of|at|about|measures?|measured|measuring|approximately|up|to|increased"
    r"|normal|enlarged|dilated|mildly|moderately|severely|are|were|the|maximal|estimated|diastole|in|d)\b){0,16}?"
)
_WALL = re.compile(
    rf"\b(?P<name>(?:interventricular septum|intraventricular septum|septum|ivsd?|lvpwd?|pwtd?|pwd|(?:posterior"
    rf"|inferolateral|inferior|septal|septum|lv|left ventricular|ventricular|basal septal|wall|lateral|anterior)"
    rf"(?:\swall)?\sthickness(?:es)?|infero-?lateral thickness|wall thickness(?:es)?))\b(?P<link>{_LENGTH_LINK}){_LENGTH}"
)
_CAVITY = re.compile(
    rf"\b(?P<name>lvedd|lvidd|lvid-?d|lvdd|lvedd|lvid \(?d\)?|(?:lv|left ventricular"
    rf"|left ventricle)(?:\s-)?\s(?:internal\s)?(?:end[\s-]?)?diastolic\s(?:internal\s)?(?:dimension|diameter"
    rf"|dim))\b(?P<link>{_LENGTH_LINK}){_LENGTH}"
)


def _lengths(sentence: _Sentence) -> list[_Hit]:
    low, found = sentence.low, []
    for name, pattern in (("wall_mm", _WALL), ("lvedd_mm", _CAVITY)):
        for match in pattern.finditer(low):
            if name == "wall_mm" and _OTHER_WALL.search(low, max(match.start() - 24, 0), match.start()):
                continue
            unit = (match["u2"] or match["u1"] or "").strip()
            a = _millimetres(name, match["a"], unit)
            b = _millimetres(name, match["b"], unit) if match["b"] else None
            if a is None or (match["b"] and b is None):
                continue
            if not unit and ("septum" in match["name"] or match["name"] in ("ivs", "pwd")):
                continue  # without a unit too little says that it is a length
            found.append(_number(name, a, b, match["op"] or "", match.start(), match.end(), match.start("a")))
    return found


def _millimetres(name: str, text: str, unit: str) -> float | None:
    """A length in mm; without a unit small numbers are cm. None where no heart is so."""
    value = float(text.replace(",", "."))
    _, least, most = NUMBERS[name]
    centimetres = unit == "cm" if unit else value < (4 if name == "wall_mm" else 12)
    value = round(10 * value if centimetres else value, 2)
    return value if least <= value <= most else None


# ---- Context: when, how sure, by what

_MASKED = re.compile(
    r"\b(?:compared?|comparison|relative|similar|unchanged|improved|improvement|worse|worsened|decreased|increased"
    r"|reduced|changed?|change|new|different|stable|seen)"
    r"\s(?:to|with|from|since|compared to|compared with|on|in)\s(?:the\s|his\s|her\s|their\s"
    r"|a\s){0,1}(?:most recent\s)?(?:prior|previous|last|baseline|old|outside)\b(?:\s(?:study|studies|echo\w{0,12}|tte"
    r"|report|exam|findings|imaging)){0,2}"
    r"|\b(?:no|without)\s(?:known\s)?(?:prior|previous|old)\b|\bprior to\b|\bpreviously (?:healthy|well)\b"
)
_DATE = (
    r"(?:_{2,60}|\d{1,2}/(?:\d{1,2}/)?\d{2,4}\b|(?:19|20|21)\d\d\b|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov"
    r"|dec)[a-z]{0,6}\b)"
)
_PAST = re.compile(
    r"\b(?:prior|previous(?:ly)?|last known|known|old|remote|h/o|hx of|history of|past|baseline|formerly|osh"
    r"|outside hospital|outside|most recent prior"
    r"|(?:\d{1,3}|_{2,60})\s?-?(?:year[s]?|yr)[- ]old|y/?o|last (?:tte|echo|ef|lvef|year|month|week|admission|measured"
    r"|checked|documented)|in the past|(?:years|months|weeks) ago"
    r"|at that time|initially|old records|pre-?\s?(?:bypass|cpb))\b"
    rf"|\b(?:in|from|since|as of|dated|dating from)\s(?:early\s|late\s|mid-?)?{_DATE}"
)
_NOW = re.compile(
    r"\b(?:now|currently|today|during (?:this|the) (?:admission|stay|hospitali[sz]ation)|(?:on"
    r"|this) (?:this )?(?:admission|hospitali[sz]ation|stay)|repeat|who presents?|presents?|presenting"
    r"|presented|p/w|here|found to|admitted|but|however|subsequent(?:ly)?|current|inpatient|post-?\s?(?:bypass|cpb))\b|;"
)
_HERE = re.compile(r"\b(?:(?:this|current) (?:admission|stay|hospitali[sz]ation)|today|on admission|inpatient)\b")
_PAST_AFTER = re.compile(
    rf"\b(?:in|from|since|as of|back in|on last|on prior|at osh|at outside|at (?:an )?outside hospital|at baseline"
    rf"|previously|per osh|per outside|by report|per (?:pt|patient) report|last (?:year|month|week)"
    rf"|ago|on previous)(?:\s(?:early\s|late\s)?{_DATE}|\b)"
)
_NEEDS_DATE = ("in", "from", "since", "as of", "back in")
_PLAN = re.compile(
    r"\b(?:if|unless|until|once|whether|should (?:the |his |her )?(?:lv)?ef|when (?:the |his |her )?(?:lv)?ef|goal|target"
    r"|to (?:re-?evaluate|evaluate|re-?assess|assess|monitor|re-?check|check|determine|look for"
    r"|rule out|r/o|document|confirm|quantify|see|follow)|for (?:evaluation|assessment|reassessment|re-?evaluation"
    r"|monitoring|follow[- ]?up|further evaluation) of|evaluat(?:e|ion) (?:for|of)|assess(?:ment)? (?:for|of|lv|ef)"
    r"|rule[- ]?out|r/o|pending|will need|would need|needs|should (?:have|get|undergo|be)|recommend\w*"
    r"|plan(?:ned)? (?:for|to)|consider\w*|follow[- ]?up (?:tte|echo)|f/u (?:tte|echo)|repeat (?:tte|echo\w*) (?:in|to"
    r"|for|as|at|within)"
    r"|outpatient (?:tte|echo)|in order to|threshold|cut-?off|at risk (?:for|of)|criteria|(?:patients?|pts|those|people"
    r"|individuals) with|will (?:get|obtain|have|undergo|check|order)|indicated (?:for|if)|eligible)\b"
)
_PLAN_ENDS = re.compile(
    r"\b(?:which|that|showed|shows|showing|revealed|reveals|revealing|demonstrated|demonstrates|demonstrating|found"
    r"|finding|notable|significant for|given|because|due to|since|in (?:the )?setting of|now|remarkable for"
    r"|with (?:an )?(?:lv)?ef of|as (?:lv)?ef|had|was|were)\b|;"
)
_PLAN_AFTER = re.compile(
    r"\b(?:goal|is the (?:goal|target)|(?:is|are) (?:an? )?(?:indications?|criteri\w+|targets?)|would (?:warrant|qualify"
    r"|prompt|require)|not done|not performed|not obtained|pending|benefit from|should (?:get|have|be|receive))\b"
)
_RELATIVE = re.compile(
    r"\b(?:father|mother|brother|sister|uncle|aunt|grandfather|grandmother|grandparents?|cousin|son|daughter|siblings?"
    r"|family history|fhx?|parents?|dad|mom|maternal|paternal|nephew|niece)(?:'s)?\b"
)
_NOT_RELATIVE = re.compile(
    r"\b(?:per|with|by|from|lives with|accompanied by|and)\s(?:(?:his|her|the|patient's|pt's|their)\s)?(?:father|mother"
    r"|brother|sister|son|daughter|family|parents?)\b"
    r"|\b(?:father|mother|brother|sister|son|daughter)(?:\s(?:who|also))?\s(?:reports?|reported|states?|stated|notes?"
    r"|noted|says|said|called|brought|is (?:his|her|the) (?:hcp|proxy))\b"
)
_RELATIVE_ENDS = re.compile(r"\b(?:patient|pt|he himself|she herself|tte here|his echo|her echo)\b")
_DOUBT = re.compile(
    r"\b(?:possibl[ey]|probabl[ey]|cannot (?:be )?(?:exclude|excluded|assess|rule out)|can ?not exclude|can't (?:exclude"
    r"|rule out)|could not exclude|suspect(?:ed)?|concern(?:ing)? for|question of|questionable|\?|may (?:be|have)"
    r"|might (?:be|have)"
    r"|worrisome for|suggest(?:s|ive|ing)?(?: of)?|equivocal)(?=\W|$)|\?\s?(?=[a-z])"
)
_DOUBT_ENDS = re.compile(r"\b(?:but|however|showed|shows|revealed|found|with)\b|;")
_DOUBT_AFTER = re.compile(
    r"\s{0,2}(?:(?:is|was|are|were|severity|grade|function|could|can|be|has)\s){0,3}(?:cannot|can not|could not|couldn't"
    r"|can't|not (?:be )?(?:well )?(?:assessed|determined|graded|evaluated|estimated|well seen|able)|unable to"
    r"|not adequately|indeterminate|suspected|cannot be|difficult to|\?)"
)
_OTHER_SOURCE = {
    "lvef": re.compile(r"\b(?:nuclear|p-?mibi|mibi|spect|pet|muga|cmr|(?:cardiac )?mri|cardiac mr|ventriculogra\w+"
    r"|lv ?gram|left ventriculography|stress mibi|perfusion (?:study|imaging)|gated|catheterization report"
    r"|cath\w*\b[^.;]{0,40}\b(?:revealed|showed|shows|demonstrated))\b"),
    "lvh": re.compile(r"\b(?:ekg|ecg|electrocardiogram|voltage|strain pattern|st-t|cmr|mri|tele(?:metry)?)\b"),
    "pasp_mmhg": re.compile(r"\b(?:rhc|right heart cath\w*|cath\w*|swan|wedge|pcwp)\b"),
    "ph": re.compile(r"\b(?:rhc|right heart cath\w*|cta?\b|cath\w*)\b"),
    "effusion": re.compile(r"\b(?:cta?|cxr|mri|x-?ray)\b"),
    "lv_dilation": re.compile(r"\b(?:cta?|cxr|mri|cmr|x-?ray|nuclear|mibi|ekg|ecg)\b"),
    "rv_dilation": re.compile(r"\b(?:cta?|cxr|mri|cmr|x-?ray)\b"),
}  # fmt: skip
_OTHER_SOURCE |= {name: _OTHER_SOURCE["lvef"] for name in ("lv_function", "wall_motion", "rv_function", "as", "mr")}
_STRESS = re.compile(r"\b(?:post[- ]?stress|peak[- ]?stress|stress|peak|exercise|post[- ]exercise)\s{0,2}(?:lv)?$")
_ECHO_SOURCE = re.compile(r"\b(?:tte|tee|echo\w{0,12}|transthoracic|transesophageal|ultrasound)\b")
_STRAIN_AFTER = re.compile(r"\s{0,2}(?:with|w/|by|and)\s{0,2}(?:strain|voltage|repol|ecg|ekg|lvh criteria)")


def _placed(hit: _Hit, sentence: _Sentence, masked: str) -> Finding:
    unit = NUMBERS[hit.name][0] if hit.name in NUMBERS else None
    start = sentence.start
    return Finding(
        name=hit.name,
        form=hit.form,
        low=hit.low,
        high=hit.high,
        unit=unit,
        when=_when(hit, sentence, masked),
        certain=_is_certain(hit, sentence),
        echo=_by_echo(hit, sentence),
        op=hit.op,
        section=sentence.section,
        paragraph=sentence.paragraph,
        span=(start + hit.start, start + hit.end),
    )


def _when(hit: _Hit, sentence: _Sentence, low: str) -> When:
    """`low` is the sentence without the comparisons with earlier studies that say nothing of its own time."""
    before, after = low[: hit.asked], low[hit.end : hit.end + 60]
    if sentence.section == "family" or _about_a_relative(low, hit):
        return "family"
    if _last_cue(_PLAN, _PLAN_ENDS, before) or _next_cue(_PLAN_AFTER, after):
        return "plan"
    if hit.when is not None and sentence.section != "history":
        return hit.when
    here = _HERE.search(low) is not None
    if sentence.section == "history" or sentence.past:
        return "now" if here and hit.when != "past" else "past"
    if _last_cue(_PAST, _NOW, before) or _past_follows(after):
        return "past"
    if sentence.section == "presentation" and _DATED.search(before[-40:]) and not here:
        return "past"
    return "now"


_DATED = re.compile(rf"\b(?:tte|echo\w{{0,12}}|tee)\s(?:on\s|done\s|\()?{_DATE}")


def _about_a_relative(low: str, hit: _Hit) -> bool:
    said = _NOT_RELATIVE.sub(lambda match: "." * len(match[0]), low[: hit.asked])
    return _last_cue(_RELATIVE, _RELATIVE_ENDS, said)


def _last(pattern: re.Pattern[str], text: str, start: int = 0, end: int = MAX_SENTENCE * 2) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text, start, end):
        found = match
    return found


def _last_cue(cue: re.Pattern[str], ends: re.Pattern[str], before: str) -> bool:
    """The last cue before a finding reaches it: no word that ends its reach stands between."""
    last = _last(cue, before)
    return last is not None and ends.search(before, last.end()) is None


def _next_cue(cue: re.Pattern[str], after: str) -> bool:
    match = cue.search(after)
    return match is not None and not re.search(r"[;,(]|\d\s?%", after[: match.start()])


def _past_follows(after: str) -> bool:
    for match in _PAST_AFTER.finditer(after):
        if match[0] in _NEEDS_DATE or _VALUE_NEXT.match(after, match.end()):
            continue
        return not re.search(
            r";|\d\s?%|\b(?:tte|echo|lvef|ef|now|with|and|but)\b|,.{12}",
            after[: match.start()].replace("on tte", "").replace("on echo", "").replace("by tte", "").replace("by echo", ""),
        )
    return False


_VALUE_NEXT = re.compile(r"\W{0,2}(?:of |at |was |about )?[<>~]?\d{1,2}(?:\.\d)?\s?(?:%|-|percent)")


def _is_certain(hit: _Hit, sentence: _Sentence) -> bool:
    low = sentence.low
    before = low[max(hit.start - 80, 0) : hit.start]
    if hit.name == "diastolic":  # "inflow pattern suggests impaired relaxation" is how it is stated
        before = before.replace("suggests", "shows   ")
    if _last_cue(_DOUBT, _DOUBT_ENDS, before):
        return False
    return _DOUBT_AFTER.match(low, hit.end, min(hit.end + 80, len(low))) is None


def _by_echo(hit: _Hit, sentence: _Sentence) -> bool:
    """False where the last examination named before the finding, in its paragraph, is another one, or the next word says so."""
    pattern = _OTHER_SOURCE.get(hit.name)
    low = sentence.low
    if hit.name in ("lvef", "lv_function") and _STRESS.search(low, max(hit.start - 24, 0), hit.start):
        return False
    if pattern is None:
        return True
    said = sentence.about + low[: hit.asked]
    other = echo = -1
    for match in pattern.finditer(said):
        other = match.start()
    for match in _ECHO_SOURCE.finditer(said):
        echo = match.start()
    if other > echo:
        return False
    after = low[hit.end : hit.end + 40]
    if hit.name == "lvh" and _STRAIN_AFTER.match(after):
        return False
    follows = re.match(r"\s{0,2}(?:on|by|per|via)\s(?:(?:the|a|his|her)\s)?", after)
    return follows is None or pattern.match(after, follows.end()) is None
