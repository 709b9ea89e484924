"""The simulated cohort: one latent heart per subject, seen by ECGs, echo cines, reports and measurements in real file formats.

`simulate(out, subjects=300, seed=7)` writes it; `draw_heart`, `cine` and `record` make its parts in memory.
"""

from ecgecho.simulate.cohort import USER_SEEDS, Plan, simulate
from ecgecho.simulate.ecg import Beats, draw_beats, draw_electro, record
from ecgecho.simulate.echo import VIEWS, Cine, Geometry, Shot, cine, disc_volume_ml
from ecgecho.simulate.heart import Heart, draw_heart, stream

__all__ = [
    "USER_SEEDS",
    "VIEWS",
    "Cine",
    "Geometry",
    "Heart",
    "Plan",
    "Shot",
    "Beats",
    "cine",
    "disc_volume_ml",
    "draw_beats",
    "draw_electro",
    "draw_heart",
    "record",
    "simulate",
    "stream",
]
