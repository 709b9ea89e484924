"""The plan: which row holds which item, fixed before the first value is computed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from embed_cache.errors import StoreError

MAX_ID_BYTES = 64
MIN_PART_ROWS, MAX_PART_ROWS = 4, 1024  # of the default only; a caller may ask for any
LARGEST_PART_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """Row r holds item `ids[r]` of study `groups[r]`; a part is `part_rows` consecutive rows, the last one may be shorter."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    part_rows: int
    seed: int

    def __post_init__(self) -> None:
        if not self.ids:
            raise StoreError("there are no items to store: the list of ids is empty. Check the catalog or the input folder.")
        if len(self.ids) != len(self.groups):
            raise StoreError(f"{len(self.ids)} ids but {len(self.groups)} groups; give every id the name of its group.")
        if not 1 <= self.part_rows <= LARGEST_PART_ROWS:
            raise StoreError(f"part_rows is {self.part_rows}; it must be from 1 to {LARGEST_PART_ROWS}.")
        if not 0 <= self.seed < 1 << 63:
            raise StoreError(f"seed is {self.seed}; it must be from 0 to 2^63 - 1.")
        # Erased rows have neither id nor group.
        runs = [name for name, _ in itertools.groupby(filter(None, self.groups))]
        ids = [name for name in self.ids if name]
        _check_names(ids, "id")
        _check_names(runs, "group")
        twice = _first_repeated(ids)
        if twice is not None:
            raise StoreError(f"id {twice!r} is listed twice; ids must be unique within a store.")
        torn = _first_repeated(runs)
        if torn is not None:
            raise StoreError(f"the rows of group {torn!r} are not consecutive; build plans with make_plan.")

    @property
    def num_rows(self) -> int:
        """Rows of the segment."""
        return len(self.ids)

    @property
    def num_parts(self) -> int:
        """Parts of the segment."""
        return -(-len(self.ids) // self.part_rows)

    def part(self, number: int) -> slice:
        """The rows of part `number`, within the segment."""
        if not 0 <= number < self.num_parts:
            raise StoreError(f"there is no part {number}; the plan has parts 0 to {self.num_parts - 1}.")
        return slice(number * self.part_rows, min((number + 1) * self.part_rows, len(self.ids)))


def make_plan(ids: Sequence[str], groups: Sequence[str], *, seed: int, part_rows: int | None = None) -> Plan:
    """Groups in seeded random order, the items of a group consecutive in the given order.

    The order is that of sha256("seed:group"), so it depends on the set of groups alone, not on their order, the
    machine or the version of any library. `part_rows` is by default the power of two nearest N/64 in [4, 1024].
    """
    if len(ids) != len(groups):
        raise StoreError(f"{len(ids)} ids but {len(groups)} groups; give every id the name of its group.")
    for names, what in ((ids, "id"), (groups, "group")):
        if not all(names):
            encode_name("", what)
    members: dict[str, list[str]] = {}
    for name, group in zip(ids, groups, strict=True):
        members.setdefault(group, []).append(name)
    order = sorted(members, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode(errors="surrogatepass")).digest())
    return Plan(
        ids=tuple(name for group in order for name in members[group]),
        groups=tuple(group for group in order for _ in members[group]),
        part_rows=default_part_rows(len(ids)) if part_rows is None else part_rows,
        seed=seed,
    )


def default_part_rows(num_rows: int) -> int:
    """The power of two nearest num_rows / 64, within 4 and 1,024."""
    powers = [1 << k for k in range(MIN_PART_ROWS.bit_length() - 1, MAX_PART_ROWS.bit_length())]
    return min(powers, key=lambda power: abs(power - num_rows / 64))


def encode_name(name: str, what: str, limit: int = MAX_ID_BYTES) -> bytes:
    """UTF-8 bytes of an id, group, reason or fingerprint; what cannot be stored faithfully is refused."""
    if what in ("id", "group") and not name:
        raise StoreError(f"an empty {what} was given; every item needs one.")
    try:
        data = name.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"{what} {name!r} is not valid text (UTF-8); rename the item.") from error
    if len(data) > limit or b"\0" in data:
        raise StoreError(f"{what} {name!r} has {len(data)} bytes; at most {limit} and no NUL byte can be stored. Shorten it.")
    return data


def _check_names(names: Sequence[str], what: str) -> None:
    """`encode_name` of every name that is not plainly harmless: half a million ids take a tenth of a second."""
    for name in names:
        if not name or len(name) > MAX_ID_BYTES or not name.isascii() or "\0" in name:
            encode_name(name, what)


def _first_repeated(names: Sequence[str]) -> str | None:
    if len(set(names)) == len(names):
        return None
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
