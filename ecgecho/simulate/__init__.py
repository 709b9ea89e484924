"""The simulated cohort: one latent heart per subject, seen by ECGs, echo cines, notes and measurements in real file formats.

`simulate(out, subjects=300, seed=7)` writes it; `draw_heart`, `draw_person`, `cine` and `record` make its parts in memory.
"""

from ecgecho.simulate.cohort import USER_SEEDS, simulate
from ecgecho.simulate.ecg import Beats, draw_beats, draw_body, draw_electro, frank, record
from ecgecho.simulate.echo import VIEWS, Cine, Geometry, Shot, cine, disc_volume_ml
from ecgecho.simulate.heart import Heart, draw_heart, stream
from ecgecho.simulate.layouts import Plan
from ecgecho.simulate.person import Person, draw_person

__all__ = [
    "USER_SEEDS",
    "VIEWS",
    "Beats",
    "Cine",
    "Geometry",
    "Heart",
    "Person",
    "Plan",
    "Shot",
    "cine",
    "disc_volume_ml",
    "draw_beats",
    "draw_body",
    "draw_electro",
    "draw_heart",
    "draw_person",
    "frank",
    "record",
    "simulate",
    "stream",
]
