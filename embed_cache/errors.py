"""What can go wrong with a store. Every message says what, where, and what to do."""

from __future__ import annotations


class StoreError(ValueError):
    """Something about a store that the user can mend."""


class StaleStore(StoreError):
    """The store was made from other inputs than this run has; the message names each field that differs."""


class IncompleteStore(StoreError):
    """The store has no head yet: it must not be read."""


class DamagedStore(StoreError):
    """Bytes on disk are not what the head says."""
