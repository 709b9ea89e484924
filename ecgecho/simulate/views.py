"""Six slices of the heart: outlines of tissue with their brightness, the cavity, and where each bit of muscle came from.

A plane has coordinates u, v in cm. In views that hold the long axis u runs from the apex to the mitral ring and v across it,
towards theta on the positive side; in the short axis u points to the lateral, v to the anterior wall. The two-chamber view is at
right angles to the four-chamber view here (60 degrees in a person), so that discs from both give the volume exactly.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from ecgecho.simulate.anatomy import LEVELS, PAPILLARY_DEG, Anatomy, Moment
from ecgecho.simulate.heart import F64

View = Literal["a4c", "a2c", "a3c", "plax", "psax", "subcostal"]
VIEWS: tuple[View, ...] = ("a4c", "a2c", "a3c", "plax", "psax", "subcostal")

THETA_DEG = {"a4c": 0.0, "a2c": 90.0, "a3c": 135.0, "plax": 135.0, "subcostal": 0.0}
"""Where positive v points."""
SHORT_AXIS_SHARE = 0.54
"""Height of the short-axis slice, of the end-diastolic long axis: at the papillary muscles. The plane stays, the heart moves."""

# Echo of tissues, dB below the brightest; blood last.
PERICARDIUM, VALVE, BORDER, SCAR, MUSCLE, LIVER, BEHIND, AROUND, BLOOD = (
    -9.0,
    -13.0,
    -21.0,
    -17.0,
    -24.0,
    -25.0,
    -26.0,
    -36.0,
    -57.0,
)

_CIRCLE = np.linspace(0, 2 * math.pi, 48, endpoint=False)


class Layer(NamedTuple):
    """A filled outline; later layers cover earlier ones."""

    points: F64
    """(P, 2) u, v in cm."""
    level_db: float


def slice_height(anatomy: Anatomy) -> float:
    """z of the short-axis plane, cm."""
    return SHORT_AXIS_SHARE * anatomy.length_ed


def cavity(anatomy: Anatomy, now: Moment, view: View) -> F64:
    """(P, 2) outline of the left ventricle's cavity in a view."""
    if view == "psax":
        theta = np.degrees(_CIRCLE)
        return _around((0.0, 0.0), anatomy.contour(now, slice_height(anatomy), theta))
    u, plus, minus = _sides(anatomy, now, view)
    return np.stack([np.concatenate([u[::-1], u[1:]]), np.concatenate([-minus[::-1], plus[1:]])], axis=1)


def layers(anatomy: Anatomy, now: Moment, view: View) -> list[Layer]:
    """All that is drawn in a view, from the back to the front."""
    if view == "psax":
        return _short_axis(anatomy, now)
    around = {"a4c": _four_chambers, "subcostal": _four_chambers, "a2c": _two_chambers, "a3c": _outflow, "plax": _outflow}[view]
    found = [_behind(anatomy, view), *around(anatomy, now, view)]
    found += _left_ventricle(anatomy, now, view)
    found += _valves(anatomy, now, view)
    return found


def came_from(anatomy: Anatomy, now: Moment, rest: Moment, view: View, u: F64, v: F64) -> tuple[F64, F64]:
    """Where the tissue that is at u, v now lay at end-diastole (`rest`)."""
    if view == "psax":
        rho, theta = np.hypot(u, v), np.degrees(np.arctan2(v, u))
        height = slice_height(anatomy)
        here = anatomy.contour(now, height, theta.ravel()).reshape(theta.shape)
        there = anatomy.contour(rest, height, theta.ravel()).reshape(theta.shape)
        factor = 1 + _pulled(rho, here, there) / np.maximum(rho, 0.1)
        return u * factor, v * factor
    theta_deg = THETA_DEG[view]
    s = np.clip(u / now.length, 0, 1)
    here, there = (
        np.where(
            v > 0,
            np.interp(s, LEVELS, anatomy.radius(moment, theta_deg)),
            np.interp(s, LEVELS, anatomy.radius(moment, theta_deg + 180)),
        )
        for moment in (now, rest)
    )
    beyond = np.maximum(u - now.length, 0)
    away = np.exp(-np.maximum(np.abs(v) - here, 0) / 2.5)
    descent = (rest.length - now.length) * np.clip(u / now.length, 0, 1) * np.exp(-beyond / 3.0) * (0.35 + 0.65 * away)
    return u + descent, v + np.sign(v) * _pulled(np.abs(v), here, there) * np.exp(-beyond / 1.5)


def _pulled(distance: F64, here: F64, there: F64) -> F64:
    """How far outward tissue at `distance` lay at rest, when the wall moved from `there` to `here`."""
    return (there - here) * np.minimum(distance / (here + 0.15), 1) * np.exp(-np.maximum(distance - here, 0) / 2.0)


def _sides(anatomy: Anatomy, now: Moment, view: View) -> tuple[F64, F64, F64]:
    theta = THETA_DEG[view]
    return LEVELS * now.length, anatomy.radius(now, theta), anatomy.radius(now, theta + 180)


def _left_ventricle(anatomy: Anatomy, now: Moment, view: View) -> list[Layer]:
    theta = THETA_DEG[view]
    inner = cavity(anatomy, now, view)
    wall = np.concatenate([anatomy.thickness(now, theta + 180)[::-1], anatomy.thickness(now, theta)[1:]])
    outer = inner + _normals(inner) * wall[:, None]
    half = len(inner) // 2
    found = [Layer(np.concatenate([outer, inner[::-1]]), MUSCLE)]
    scar = np.concatenate([anatomy.scar_towards(theta + 180)[::-1], anatomy.scar_towards(theta)[1:]])
    if scar.max() > 0.3:
        found += [
            Layer(np.stack([inner[i], outer[i], outer[i + 1], inner[i + 1]]), MUSCLE + (SCAR - MUSCLE) * float(scar[i]))
            for i in range(len(inner) - 1)
            if scar[i] > 0.3
        ]
    # Pericardium on the free walls; towards the right ventricle there is none.
    for side, direction in ((outer[half:], theta), (outer[: half + 1], theta + 180)):
        free = anatomy.right_ventricle(now, direction).max() == 0
        found.append(Layer(ribbon(side, 0.14 if free else 0.07), PERICARDIUM if free else BORDER))
    found.append(Layer(inner, BLOOD))
    # Endocardium, with the ridges of trabeculae towards the apex.
    ridges = (
        inner - _normals(inner) * (0.10 * np.abs(np.sin(np.arange(len(inner)) * 1.9)) * (np.abs(_across(inner)) < 0.9))[:, None]
    )
    found.append(Layer(ribbon(ridges, 0.11), BORDER))
    return found


def _behind(anatomy: Anatomy, view: View) -> Layer:
    """Tissue beyond the heart: below the atria in apical views, below the inferolateral wall in the others."""
    if view in ("a4c", "a2c", "a3c"):
        near = anatomy.fixed_roof + 1.0
        return Layer(
            np.array([[near + 0.4, -14], [near, -3], [near, 3], [near + 0.4, 14], [near + 2.6, 14], [near + 2.6, -14]]), BEHIND
        )
    far = anatomy.radius_ed + anatomy.heart.posterior_mm / 10 + 0.25
    sign = 1.0 if view == "subcostal" else -1.0
    return Layer(sign * np.array([[-14.0, far], [14.0, far], [14.0, far + 2.2], [-14.0, far + 2.2]]) * [sign, 1], BEHIND - 3)


def _across(inner: F64) -> F64:
    return np.linspace(-1.15, 1.15, len(inner))


def _four_chambers(anatomy: Anatomy, now: Moment, view: View) -> list[Layer]:
    u, _, minus = _sides(anatomy, now, view)
    septum = -(minus + anatomy.thickness(now, 180.0))
    depth = anatomy.right_ventricle(now, 180.0)
    free = septum - depth
    keep = LEVELS > 0.1
    wall = 0.42 + 0.25 * (anatomy.heart.rvsp_mmhg > 50)
    chamber = np.concatenate([np.stack([u, septum], 1)[keep], np.stack([u, free], 1)[keep][::-1]])
    shell = np.concatenate([np.stack([u, septum], 1)[keep], np.stack([u - 0.1, free - wall], 1)[keep][::-1]])
    found = [Layer(shell, MUSCLE - 2), Layer(ribbon(np.stack([u, free - wall], 1)[keep], 0.12), PERICARDIUM - 3)]
    centre, half, wide = anatomy.atrium(now)
    shift = 0.15
    left = _ellipse((centre, shift), (half, wide))
    right_half = half * 0.92
    right_wide = min(wide * 0.85 + 0.5 + 0.2 * anatomy.heart.tricuspid_regurgitation, 3.6)
    right_at = (centre - 0.1, shift - wide - 0.28 - right_wide)
    right = _ellipse(right_at, (right_half, right_wide))
    for outline, middle in ((left, (centre, shift)), (right, right_at)):
        found.append(Layer(_grown(outline, middle, 0.3), MUSCLE + 5))
    # Crux and septum between the atria: one bright line down from the septum.
    found.append(
        Layer(ribbon(np.array([[now.length - 0.4, septum[-1] + 0.5], [centre + half, shift - wide - 0.14]]), 0.34), BORDER - 2)
    )
    found += [Layer(left, BLOOD), Layer(right, BLOOD), Layer(chamber, BLOOD)]
    found.append(Layer(ribbon(np.stack([u, free], 1)[keep], 0.1), BORDER - 3))
    # Moderator band and the tricuspid valve, a little nearer to the apex than the mitral one.
    level = now.length - 0.45
    opening = math.sqrt(now.mitral)
    root, base = septum[-1] - 0.05, free[-1]
    middle = (root + base) / 2
    for start, sign in ((root, 1.0), (base, -1.0)):
        tip = np.array([level - 0.35 - 1.0 * opening, middle + sign * (0.05 + 0.75 * opening)])
        found.append(
            Layer(ribbon(np.array([[level, start], [level - 0.3 - 0.4 * opening, (start + tip[1]) / 2], tip]), 0.14), VALVE - 2)
        )
    k = int(np.searchsorted(LEVELS, 0.36))
    found.append(Layer(ribbon(np.array([[u[k], septum[k]], [u[k] + 0.5, free[k]]]), 0.22), MUSCLE))
    return found


def _two_chambers(anatomy: Anatomy, now: Moment, view: View) -> list[Layer]:
    centre, half, wide = anatomy.atrium(now)
    left = _ellipse((centre, -0.1), (half, wide * 1.05))
    return [
        Layer(_grown(left, (centre, -0.1), 0.3), MUSCLE + 5),
        Layer(_ellipse((now.length + 0.3, wide + 0.7), (0.45, 0.6)), BORDER),
        Layer(left, BLOOD),
        Layer(_ellipse((now.length + 0.35, wide + 0.75), (0.28, 0.42)), BLOOD),
    ]


def _outflow(anatomy: Anatomy, now: Moment, view: View) -> list[Layer]:
    """Three-chamber plane: right ventricle's outflow, aortic root, left atrium, and the descending aorta behind it."""
    u, plus, minus = _sides(anatomy, now, view)
    septum = plus + anatomy.thickness(now, 135.0)
    depth = anatomy.right_ventricle(now, 135.0)
    base = np.stack([u, septum], 1)[LEVELS > 0.15]
    top = np.stack([u, septum + depth], 1)[LEVELS > 0.15]
    # The outflow tract goes on over the aorta.
    base = np.concatenate([base, [[now.length + 1.5, septum[-1] + 0.9], [now.length + 3.2, septum[-1] + 1.5]]])
    top = np.concatenate([top, [[now.length + 1.8, top[-1, 1] + 0.4], [now.length + 3.4, top[-1, 1] + 0.6]]])
    found = [
        Layer(np.concatenate([base, (top + [0, 0.4])[::-1]]), MUSCLE - 2),
        Layer(ribbon(top + [0, 0.42], 0.14), PERICARDIUM - 2),
        Layer(np.concatenate([base, top[::-1]]), BLOOD),
        Layer(ribbon(top, 0.09), BORDER - 2),
    ]
    centre, half, wide = anatomy.atrium(now)
    at = (centre + 0.2, -0.75)
    atrium = _ellipse(at, (half, wide))
    found += [
        Layer(_grown(atrium, at, 0.25), MUSCLE + 5),
        Layer(ribbon(_grown(atrium, at, 0.3)[20:44], 0.14), PERICARDIUM),
    ]
    behind = (now.length + 0.9, -float(minus[-1]) - 2.6)
    found += [Layer(_ellipse(behind, (1.2, 1.2)), BORDER), Layer(_ellipse(behind, (1.05, 1.05)), BLOOD), Layer(atrium, BLOOD)]
    low, high = _root(anatomy, now, view)
    found += [
        Layer(np.concatenate([low, high[::-1]]), BLOOD),
        Layer(ribbon(low, 0.2), VALVE - 3),
        Layer(ribbon(high, 0.2), VALVE - 3),
    ]
    return found


def _root(anatomy: Anatomy, now: Moment, view: View) -> tuple[F64, F64]:
    """The two walls of the aortic root, (P, 2): lower (towards the mitral valve) and upper."""
    ring = float(anatomy.radius(now, THETA_DEG[view])[-1])
    low, high = -0.05 * ring, ring - 0.1
    z = now.length - 0.25
    swing = 0.25
    lower = np.array(
        [[z, low], [z + 0.6, low - 0.25], [z + 1.3, low - 0.18], [z + 2.0, low + 0.2], [z + 4.6, low + 0.2 + 2.6 * swing]]
    )
    upper = np.array(
        [[z, high], [z + 0.6, high + 0.4], [z + 1.3, high + 0.5], [z + 2.0, high + 0.4], [z + 4.6, high + 0.4 + 2.6 * swing]]
    )
    return lower, upper


def _valves(anatomy: Anatomy, now: Moment, view: View) -> list[Layer]:
    heart = anatomy.heart
    theta = THETA_DEG[view]
    left, right = -float(anatomy.radius(now, theta + 180)[-1]), float(anatomy.radius(now, theta)[-1])
    found: list[Layer] = []
    if view in ("a3c", "plax"):
        low, high = _root(anatomy, now, view)
        right = float(low[0, 1])
        found.append(
            Layer(
                np.array([[now.length - 0.5, right], [now.length + 0.3, right], *(high[:1] + [0.4, -0.2]), high[0] - [0.4, 0.2]]),
                BLOOD,
            )
        )
        stiff = heart.aortic_stenosis / 3
        opening = now.aortic * (1 - 0.85 * stiff)
        thick = 0.10 + 0.16 * stiff
        for hinge, sign in ((low[0], 1.0), (high[0], -1.0)):
            gap = abs(float(high[0, 1] - low[0, 1])) / 2
            tip = hinge + [0.75 + 0.35 * opening, sign * gap * (0.97 - 0.80 * opening)]
            belly = hinge + [0.25 + 0.25 * opening, sign * gap * (0.62 - 0.5 * opening)]
            found.append(Layer(ribbon(np.stack([hinge, belly, tip]), thick), VALVE + 5 * stiff))
        # A papillary muscle on the inferolateral wall, with its cord.
        k = int(np.searchsorted(LEVELS, 0.5))
        foot = np.array([LEVELS[k] * now.length, -float(anatomy.radius(now, theta + 180)[k])])
        found.append(Layer(_ellipse((foot[0], foot[1] + 0.25), (0.85, 0.42)), MUSCLE + 1))
    middle, ring = (left + right) / 2, (right - left) / 2
    opening = math.sqrt(now.mitral)
    z = now.length
    # The anterior leaflet is long, the posterior one short.
    anterior = 1.0 if view in ("a3c", "plax") else -1.0
    for sign in (-1.0, 1.0):
        long = 1.25 if sign == anterior else 0.8
        meet = -0.25 * anterior * ring
        hinge = middle + sign * ring
        tip = np.array([z - ring * (0.42 + 0.72 * long * opening), middle + meet + sign * ring * (0.03 + 0.55 * opening)])
        belly = np.array([z - ring * (0.3 + 0.4 * long * opening), (hinge + tip[1]) / 2 + sign * 0.12 * ring * opening])
        found.append(Layer(ribbon(np.stack([[z, hinge], belly, tip]), 0.15), VALVE))
        found.append(Layer(_ellipse((z, hinge), (0.2, 0.2)), PERICARDIUM - 3))
    return found


def _short_axis(anatomy: Anatomy, now: Moment) -> list[Layer]:
    height = slice_height(anatomy)
    theta = np.degrees(_CIRCLE)
    inner = anatomy.contour(now, height, theta)
    level = height / now.length
    thickness = np.array([np.interp(level, LEVELS, anatomy.thickness(now, angle)) for angle in theta])
    depth = np.array([np.interp(level, LEVELS, anatomy.right_ventricle(now, angle)) for angle in theta])
    outer = inner + thickness
    order = np.argsort((theta - 165 + 180) % 360)
    found: list[Layer] = []
    crescent = order[depth[order] > 0]
    angles = _CIRCLE[crescent]
    free = (outer + depth)[crescent]
    found.append(Layer(np.concatenate([_polar(angles, outer[crescent]), _polar(angles, free + 0.42)[::-1]]), MUSCLE - 2))
    found.append(Layer(ribbon(_polar(angles, free + 0.45), 0.14), PERICARDIUM - 2))
    found.append(Layer(_polar(_CIRCLE, outer), MUSCLE))
    scar = np.array([np.interp(level, LEVELS, anatomy.scar_towards(angle)) for angle in theta])
    for i in np.flatnonzero(scar > 0.3):
        both = _CIRCLE[[i, (i + 1) % len(_CIRCLE)]]
        j = (i + 1) % len(_CIRCLE)
        found.append(
            Layer(
                np.concatenate([_polar(both, inner[[i, j]]), _polar(both, outer[[i, j]])[::-1]]),
                MUSCLE + (SCAR - MUSCLE) * float(scar[i]),
            )
        )
    lung = order[depth[order] == 0]
    lung = lung[np.argsort((theta[lung] + 90) % 360)]
    found.append(Layer(ribbon(_polar(_CIRCLE[lung], outer[lung]), 0.16), PERICARDIUM))
    found.append(Layer(np.concatenate([_polar(angles, outer[crescent]), _polar(angles, free)[::-1]]), BLOOD))
    found.append(Layer(ribbon(_polar(angles, outer[crescent]), 0.08), BORDER))
    found.append(Layer(ribbon(_polar(angles, free), 0.09), BORDER - 2))
    found.append(Layer(_polar(_CIRCLE, inner), BLOOD))
    for angle in PAPILLARY_DEG:
        radius = float(anatomy.contour(now, height, np.array([angle]))[0])
        size = 0.42 + 0.1 * now.emptied
        foot = max(radius - 0.75 * size, 0.0)
        centre = (foot * math.cos(math.radians(angle)), foot * math.sin(math.radians(angle)))
        found.append(Layer(_ellipse(centre, (size, size)), MUSCLE + 2))
    found.append(Layer(ribbon(_polar(np.append(_CIRCLE, 0.0), np.append(inner, inner[0])), 0.1), BORDER))
    return found


def ribbon(line: F64, width: float) -> F64:
    """(P, 2) -> the outline of a band of `width` cm along it."""
    normal = _normals(line) * (width / 2)
    return np.concatenate([line + normal, (line - normal)[::-1]])


def _normals(line: F64) -> F64:
    """Unit normals, on the side to which the line's own left hand points when it runs from -v over the apex to +v: outward."""
    step = np.gradient(line, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1)
    return np.asarray(normal / np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-9)[:, None])


def _ellipse(centre: tuple[float, float], half: tuple[float, float]) -> F64:
    return np.stack([centre[0] + half[0] * np.cos(_CIRCLE), centre[1] + half[1] * np.sin(_CIRCLE)], axis=1)


def _grown(outline: F64, centre: tuple[float, float], by: float) -> F64:
    away = outline - centre
    return np.asarray(outline + by * away / np.maximum(np.hypot(away[:, 0], away[:, 1]), 1e-9)[:, None])


def _around(centre: tuple[float, float], radius: F64) -> F64:
    return np.asarray(_polar(_CIRCLE, radius) + np.asarray(centre))


def _polar(angle: F64, radius: F64) -> F64:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
