"""ecgecho: teach ECG students from echo studies that were decoded and embedded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgecho.embed import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`ecgecho.load(run)`, without torch until it is asked for."""
    if name == "load":
        from ecgecho.embed import load

        return load
    raise AttributeError(f"module 'ecgecho' has no attribute {name!r}")
