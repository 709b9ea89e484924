"""XML of a hospital -> elements, through defusedxml: no entities, no internal DTD, bounded depth, count and tag size.

Messages hold a place (line, column), never a word of the document.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET  # noqa: S405  # types and the error class; parsing is defusedxml's
from xml.parsers import expat

import numpy as np
import numpy.typing as npt
from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import DefusedXMLParser  # type: ignore[import-untyped]

from ecgecho.io.files import read_bytes, size_of
from ecgecho.types import ItemError

MAX_XML_BYTES = 32 << 20
"""A 10 s recording is 0.2 to 1 MiB; an aECG with samples as text for half an hour of 12 leads fits."""
MAX_NUMBERS_BYTES = 8 << 20
"""Of one lead written as numbers; a million samples of eight characters."""
MAX_ELEMENTS = 200_000
MAX_DEPTH = 64
MAX_TAG_BYTES = 1 << 20
_CHUNK = 1 << 16
_ENCODING_ERRORS = {
    expat.errors.codes[text]
    for text in (
        expat.errors.XML_ERROR_INVALID_TOKEN,
        expat.errors.XML_ERROR_UNKNOWN_ENCODING,
        expat.errors.XML_ERROR_INCORRECT_ENCODING,
    )
}


def looks_like_xml(head: bytes) -> bool:
    """True where the first bytes of a file are those of a markup document, in UTF-8 or UTF-16."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return head[2:4].strip(b"\0") == b"<" or b"<" in head[2:64]
    return head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith((b"<", b"\x00<"))


def parse(path: Path, roots: Collection[str]) -> ET.Element:
    """The root element, tags without namespaces; ItemError("not_ecg") where its name, in small letters, is not in `roots`.

    A document that is not in the encoding it declares is read once more as UTF-8, then as Latin-1: what we need of it is ASCII.
    """
    if size_of(path) > MAX_XML_BYTES:
        raise ItemError("too_large", f"{path.name} is larger than the {MAX_XML_BYTES >> 20} MiB of XML that a reader takes")
    data = read_bytes(path, size=MAX_XML_BYTES)
    for encoding in (None, "utf-8", "iso-8859-1"):
        try:
            return _parse(data, path, roots, encoding)
        except ET.ParseError as err:
            line, column = err.position
            if err.code not in _ENCODING_ERRORS or encoding == "iso-8859-1":
                raise ItemError("damaged_header", f"{path.name}: its XML breaks off or is damaged at {line}:{column}") from None
        except DefusedXmlException:
            raise ItemError("unsafe_xml", f"{path.name} declares entities or refers to other documents") from None
        except LookupError:  # an encoding that Python does not know either
            continue
        except ValueError as err:
            if isinstance(err, ItemError):
                raise
            raise ItemError("damaged_header", f"{path.name}: its XML cannot be read") from None
    raise ItemError("damaged_header", f"{path.name}: its XML is in no encoding that can be read")


def _parse(data: bytes, path: Path, roots: Collection[str], encoding: str | None) -> ET.Element:
    tree = _Tree(path, roots)
    parser = DefusedXMLParser(target=tree, encoding=encoding, forbid_dtd=False, forbid_entities=True, forbid_external=True)

    def doctype(name: str, system: str | None, public: str | None, has_internal_subset: int) -> None:
        # MUSE names its DTD, which is not read; a subset inside the document could give attributes of any size.
        if has_internal_subset:
            raise ItemError("unsafe_xml", f"{path.name} brings a DTD of its own")

    parser.parser.StartDoctypeDeclHandler = doctype
    silent = 0
    for start in range(0, len(data), _CHUNK):
        before = tree.events
        parser.feed(data[start : start + _CHUNK])
        silent = 0 if tree.events != before else silent + _CHUNK
        if silent > MAX_TAG_BYTES:
            raise ItemError("too_large", f"{path.name}: a tag or comment of more than {MAX_TAG_BYTES >> 20} MiB")
    root: ET.Element = parser.close()
    return root


class _Tree(ET.TreeBuilder):
    """Elements without namespaces, no more than the bounds."""

    def __init__(self, path: Path, roots: Collection[str]) -> None:
        super().__init__()
        self.path, self.roots = path, roots
        self.events = self.elements = self.depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> ET.Element:
        self.events += 1
        self.elements += 1
        self.depth += 1
        tag = tag.rpartition("}")[2]
        if self.elements == 1 and tag.lower() not in self.roots:
            raise ItemError("not_ecg", f"{self.path.name} is XML, but of no kind of ECG file that is known")
        if self.elements > MAX_ELEMENTS or self.depth > MAX_DEPTH:
            raise ItemError("too_large", f"{self.path.name}: more than {MAX_ELEMENTS} elements, or {MAX_DEPTH} within each other")
        return super().start(tag, {name.rpartition("}")[2]: value for name, value in attrs.items()})

    def data(self, data: str) -> None:
        self.events += 1
        super().data(data)

    def end(self, tag: str) -> ET.Element:
        self.events += 1
        self.depth -= 1
        return super().end(tag.rpartition("}")[2])


def named(element: ET.Element, name: str) -> Iterator[ET.Element]:
    """Children of that name, whatever its case."""
    return (child for child in element if child.tag.lower() == name.lower())


def child(element: ET.Element | None, way: str) -> ET.Element | None:
    """The first child of a child ... by names with "/" between them; None where one is missing."""
    for name in way.split("/"):
        if element is None:
            return None
        element = next(named(element, name), None)
    return element


def text(element: ET.Element | None, way: str = "") -> str:
    """Trimmed text of the element below `way`, or "" where there is none."""
    found = child(element, way) if way else element
    return (found.text or "").strip() if found is not None else ""


def number(words: str) -> float | None:
    """A number with a decimal point or a decimal comma; None for anything else, infinities included."""
    words = words.strip()
    if len(words) > 40 or not words.isascii() or "_" in words:
        return None
    if words.count(",") == 1 and "." not in words:
        words = words.replace(",", ".")
    try:
        value = float(words)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def base64_bytes(words: str, path: Path) -> bytes:
    """Decoded; white space is allowed between the letters."""
    try:
        return base64.b64decode("".join(words.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ItemError("undecodable", f"{path.name}: a waveform is not base64") from None


def integers(words: str, separator: str | None, path: Path) -> npt.NDArray[np.int64]:
    """Whole numbers as text, between commas or white space (None)."""
    if len(words) > MAX_NUMBERS_BYTES:
        raise ItemError("too_large", f"{path.name}: a lead of more than {MAX_NUMBERS_BYTES >> 20} MiB of text")
    try:
        values = np.array([int(word) for word in words.split(separator)], np.int64) if words.strip() else np.empty(0, np.int64)
    except (ValueError, OverflowError):
        raise ItemError("undecodable", f"{path.name}: a sample is no whole number") from None
    if values.size and np.abs(values).max() > np.iinfo(np.int32).max:
        raise ItemError("undecodable", f"{path.name}: a sample is larger than 32 bits")
    return values
