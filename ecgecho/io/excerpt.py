"""Which samples of a recording are meant by an EcgSource."""

from __future__ import annotations

from ecgecho.types import EcgSource, ItemError


def is_excerpt(source: EcgSource | None) -> bool:
    """False where all of a recording is meant."""
    return source is not None and (source.start_s > 0 or source.duration_s is not None)


def samples_of(source: EcgSource | None, fs_hz: float, num_samples: int, name: str) -> tuple[int, int, tuple[str, ...]]:
    """First sample, one past the last, and defects: "excerpt_short" where the recording ends before the excerpt does.

    Both ends are rounded to samples, so that excerpts which meet in time neither overlap nor leave a sample out.
    """
    if source is None or not is_excerpt(source):
        return 0, num_samples, ()
    length_s = num_samples / fs_hz
    first = round(source.start_s * fs_hz) if source.start_s <= length_s else num_samples
    if first >= num_samples:
        raise ItemError("excerpt_outside", f"{name} lasts {length_s:.3f} s; an excerpt from {source.start_s:g} s is not in it")
    if source.duration_s is None:
        return first, num_samples, ()
    end_s = source.start_s + source.duration_s
    last = round(end_s * fs_hz) if end_s <= length_s + 1 else num_samples + 1
    if last <= first:
        raise ItemError("excerpt_outside", f"{name}: an excerpt of {source.duration_s} s holds no sample at {fs_hz:g} Hz")
    return first, min(last, num_samples), ("excerpt_short",) if last > num_samples else ()
