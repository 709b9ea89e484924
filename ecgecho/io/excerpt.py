"""Which samples of a recording are meant by an EcgSource."""

from __future__ import annotations

from ecgecho.types import EcgSource, ItemError


def samples_of(source: EcgSource | None, fs_hz: float, num_samples: int, name: str) -> tuple[int, int, tuple[str, ...]]:
    """First sample, one past the last, and defects: "excerpt_short" where the recording ends before the excerpt does.

    Both ends are rounded to samples, so that excerpts which meet in time neither overlap nor leave a sample out.
    """
    if source is None or (source.start_s == 0 and source.duration_s is None):
        return 0, num_samples, ()
    first = round(source.start_s * fs_hz)
    last = num_samples if source.duration_s is None else round((source.start_s + source.duration_s) * fs_hz)
    if first >= num_samples:
        raise ItemError(
            "excerpt_outside", f"{name} lasts {num_samples / fs_hz:.3f} s; an excerpt from {source.start_s:g} s is not in it"
        )
    if last <= first:
        raise ItemError("excerpt_outside", f"{name}: an excerpt of {source.duration_s} s holds no sample at {fs_hz:g} Hz")
    return first, min(last, num_samples), ("excerpt_short",) if last > num_samples else ()
