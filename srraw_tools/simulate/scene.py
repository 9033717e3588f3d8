"""A procedural scene: radiance in tangent-plane coordinates, the same for every shot, of unlimited detail.

After the dead-leaves model (Lee, Mumford & Huang 2001), whose power-law sizes give images the statistics of
nature: objects of all sizes, larger ones first, and on their surfaces leaves (blades, pebbles, bark) in
octaves of size down to a pixel of the longest focal length. Small things exist only near the optical axis,
where the long shots look. Leaves are not stored: each is a hash of its cell, the same for any shot.

Colours are (log2 of green, log2 red/green, log2 blue/green) in linear sRGB, quantised into one 16-bit label.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from srraw_tools.simulate import objects
from srraw_tools.simulate.objects import Material, Shape
from srraw_tools.simulate.raster import Polygons, fill_polygons, join

FINEST_PX = 0.6  # the cell of the smallest leaves that a shot draws one by one, in its pixels
MARGIN = 1.3  # the scene reaches this far beyond the nominal frame of the shortest focal length
MAP_SIZE = (512, 768)
CELLS_AT_ONCE = 2**15  # so that what is computed for them stays in the processor's cache
NOISE_CELLS = 6  # leaves' brightness varies over this many cells
LIT_EV, SHADED_EV = 0.25, -0.35  # the two halves of a leaf


class Octave(NamedTuple):
    """Leaves of one size: a lattice of square cells with one candidate each."""

    cell: float  # tangent units
    reach: float  # exists where |x| < reach (and |y| in proportion)
    key: int


@dataclass(frozen=True)
class Plane:
    """Objects at one distance.

    Attributes:
        stages: (largest leaf cell, polygons), large objects first. Leaves of an octave are drawn after the
            objects that may bear them and before smaller ones.
        front: what stands in front of objects and leaves.
    """

    distance_m: float
    stages: tuple[tuple[float, Polygons], ...]
    front: Polygons


@dataclass(frozen=True)
class Scene:
    """All that there is to see.

    Attributes:
        planes: the farthest first; it alone carries leaves.
        extent: (x, y) half-size of the scene in tangent units.
        object_maps: (levels, h, w) uint16, the object at each place of the farthest plane; every level
            covers half the extent of the one before.
        materials: the objects' materials, every field an array (objects,).
        mean_gain: (objects,) mean radiance of an object's leaves against that of their mean tone.
        octaves: the coarsest first.
        light: (waves, 4) soft light and shade: frequency x and y, phase, amplitude in EV.
    """

    planes: tuple[Plane, ...]
    extent: tuple[float, float]
    object_maps: npt.NDArray[np.uint16]
    materials: Material
    mean_gain: npt.NDArray[np.float64]
    octaves: tuple[Octave, ...]
    light: npt.NDArray[np.float64]


class Leaves(NamedTuple):
    """Leaves of one octave in tangent coordinates."""

    centres: npt.NDArray[np.float64]  # (n, 2)
    scene_to_leaf: npt.NDArray[np.float64]  # (n, 2, 2): a distance to (u, v), see raster.fill_leaves
    lit: npt.NDArray[np.uint16]
    shaded: npt.NDArray[np.uint16]


def build_scene(
    rng: np.random.Generator,
    *,
    shortest_mm: float,
    longest_mm: float,
    size: tuple[int, int],
    sensor_width_mm: float,
    near_m: tuple[float, ...] = (),
    kinds: tuple[str, ...] = tuple(objects.KINDS),
) -> Scene:
    """Make up a scene for shots of (height, width) between two focal lengths, of some kinds of objects.

    The same generator state gives the same scene.
    """
    half_width = sensor_width_mm / shortest_mm / 2
    extent = (half_width * MARGIN, half_width * MARGIN * size[0] / size[1])
    pixel = sensor_width_mm / longest_mm / size[1]  # of the longest focal length
    stages, materials = objects.far_objects(rng, extent, 16 * pixel, kinds)
    planes = [_plane(stages, math.inf)]
    planes += [
        _plane([(0.0, objects.near_objects(rng, extent, 16 * pixel))], distance)
        for distance in sorted(near_m, reverse=True)
    ]

    octaves = []
    cell = FINEST_PX * pixel * 1.4
    while cell < half_width / 12:
        octaves.append(Octave(cell, size[1] / 2 * MARGIN * cell / FINEST_PX, int(rng.integers(2**32))))
        cell *= 2
    wavelengths = half_width * 2.0 ** np.arange(1.5, -2, -0.5)
    direction = rng.uniform(0, 2 * math.pi, len(wavelengths))
    light = np.stack(
        [
            2 * math.pi * np.cos(direction) / wavelengths,
            2 * math.pi * np.sin(direction) / wavelengths,
            rng.uniform(0, 2 * math.pi, len(wavelengths)),
            0.3 * rng.random(len(wavelengths)) * np.sqrt(wavelengths / wavelengths[0]),
        ],
        axis=1,
    )
    levels = max(1, math.ceil(math.log2(longest_mm / shortest_mm)) + 1)
    return Scene(
        planes=tuple(planes),
        extent=extent,
        object_maps=_object_maps(stages, extent, levels),
        materials=Material(*np.array(materials, np.float64).T),
        mean_gain=np.array([_mean_gain(material.spread) for material in materials]),
        octaves=tuple(reversed(octaves)),
        light=light,
    )


def object_at(scene: Scene, points: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """The number of the object at points (n, 2) of the farthest plane, below the leaves."""
    levels, height, width = scene.object_maps.shape
    x, y = points[:, 0] / scene.extent[0], points[:, 1] / scene.extent[1]
    away = np.clip(np.maximum(np.abs(x), np.abs(y)), 2.0**-levels, 0.999)
    level = np.minimum(-np.frexp(away)[1], levels - 1)
    column = np.clip((np.ldexp(x, level) + 1) * (width / 2), 0, width - 1).astype(np.int64)
    row = np.clip((np.ldexp(y, level) + 1) * (height / 2), 0, height - 1).astype(np.int64)
    return scene.object_maps.reshape(-1)[(level * height + row) * width + column]


def leaves_within(
    scene: Scene, octave: Octave, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> Iterator[Leaves]:
    """The leaves of an octave whose cells touch the rectangle low <= (x, y) <= high, in portions."""
    first = np.floor(low / octave.cell).astype(np.int64) - 1
    last = np.floor(high / octave.cell).astype(np.int64) + 2
    columns = np.arange(first[0], last[0])
    at_once = max(1, CELLS_AT_ONCE // len(columns))
    for top in range(first[1], last[1], at_once):
        rows = np.arange(top, min(top + at_once, last[1]))
        yield _leaves_of(scene, octave, np.tile(columns, len(rows)), np.repeat(rows, len(columns)))


def _leaves_of(scene: Scene, octave: Octave, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> Leaves:
    """The leaves that grow in the cells (i, j)."""
    place = _hash(i, j, octave.key)
    across, down = _halves(place)
    centres = np.stack([(i + across) * octave.cell, (j + down) * octave.cell], axis=1)
    number = object_at(scene, centres)
    chosen, shape = _halves(_scramble(place ^ np.uint32(0x5BD1E995)))
    grows = np.flatnonzero(chosen < _density(scene, octave, centres, number))
    place, centres, number, shape = place[grows], centres[grows], number[grows], shape[grows]

    turned, tone = _halves(_scramble(place ^ np.uint32(0x2C1B3C6D)))
    hue, stretch = _halves(_scramble(place ^ np.uint32(0x297A2D39)))
    look = Material(*(field[number] for field in scene.materials))
    half_length = octave.cell * (0.35 + 0.35 * shape)
    half_width = half_length * look.aspect * (0.7 + 0.6 * stretch)
    angle = look.angle + (2 * turned - 1) * look.angle_spread
    cos, sin = np.cos(angle), np.sin(angle)
    scene_to_leaf = np.stack(
        [cos / half_length, sin / half_length, -sin / half_width, cos / half_width], axis=1
    ).reshape(-1, 2, 2)
    noise = _value_noise(centres / (octave.cell * NOISE_CELLS), octave.key)
    green = look.green + look.spread * _brightness(2 * tone - 1, noise)
    red = look.red + look.hue_spread * (2 * hue - 1)
    return Leaves(
        centres,
        scene_to_leaf,
        objects.label_of(green + LIT_EV, red, look.blue),
        objects.label_of(green + SHADED_EV, red, look.blue),
    )


def unresolved(
    scene: Scene, points: npt.NDArray[np.float64], finest: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """What leaves too small to be drawn one by one add on average.

    Args:
        points: (n, 2) tangent coordinates.
        finest: the smallest cell that is drawn.

    Returns:
        The fraction (n,) of the surface that they cover, and their mean colour (n, 3) in linear sRGB; None
        where there are none.
    """
    small = [octave for octave in scene.octaves if octave.cell < finest]
    if not small:
        return None
    number = object_at(scene, points)
    look = Material(*(field[number] for field in scene.materials))
    bare = np.ones(len(points))
    for octave in small:
        # Mean area of |v| <= 1 - u^2 with half-lengths uniform in [0.35, 0.7] cells: 8/3 E[a b].
        area = 8 / 3 * look.aspect * (0.35**2 + 0.35 * 0.7 + 0.7**2) / 3
        bare *= np.exp(-area * _density(scene, octave, points, number))
    halves = (2.0**LIT_EV + 2.0**SHADED_EV) / 2
    green = 2.0**look.green * scene.mean_gain[number] * halves
    colour = np.stack([green * 2.0**look.red, green, green * 2.0**look.blue], axis=1)
    return 1 - bare, colour


def soft_light(scene: Scene, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The factor (n,) by which soft light and shade change the radiance at points (n, 2)."""
    points = points.astype(np.float32)
    ev = np.zeros(len(points), np.float32)
    for x, y, phase, amplitude in scene.light.astype(np.float32):
        ev += amplitude * np.cos(points[:, 0] * x + points[:, 1] * y + phase)
    return np.exp2(ev)


@lru_cache(maxsize=64)
def _mean_gain(spread: float) -> float:
    """Mean of 2 ** (spread * brightness) over leaves: their mean radiance against that of the mean tone."""
    rng = np.random.default_rng(0)
    tone = rng.uniform(-1, 1, 20000)
    x, y = rng.random((2, 20000))
    a, b, c, d = rng.uniform(-1, 1, (4, 20000))
    noise = (a * (1 - x) + b * x) * (1 - y) + (c * (1 - x) + d * x) * y
    return float(np.mean(2.0 ** (spread * _brightness(tone, noise))))


def _brightness(tone: npt.NDArray[np.float64], noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A leaf's brightness of its own and of its surroundings, both in [-1, 1]."""
    return 0.7 * tone + 1.1 * noise


def _density(
    scene: Scene,
    octave: Octave,
    points: npt.NDArray[np.float64],
    number: npt.NDArray[np.uint16],
) -> npt.NDArray[np.float64]:
    """The probability that a cell at `points`, on objects of these numbers, bears a leaf."""
    density, largest = scene.materials.density[number], scene.materials.largest[number]
    away = np.maximum(np.abs(points[:, 0]), np.abs(points[:, 1]) * (scene.extent[0] / scene.extent[1]))
    fade = np.clip((octave.reach - away) / (0.2 * octave.reach), 0, 1)
    # Finer leaves are sparser, or they would hide the coarser ones below them.
    relative = octave.cell / np.maximum(largest, octave.cell)
    return density * fade * (octave.cell <= largest) * (0.35 + 0.65 * np.sqrt(relative))


def _plane(stages: list[tuple[float, list[Shape]]], distance_m: float) -> Plane:
    below = [
        (size * objects.LEAF_PART, join([(s.contours, s.label) for s in shapes if not s.front]))
        for size, shapes in stages
    ]
    front = join([(s.contours, s.label) for _, shapes in stages for s in shapes if s.front])
    return Plane(distance_m, tuple(below), front)


def _object_maps(
    stages: list[tuple[float, list[Shape]]], extent: tuple[float, float], levels: int
) -> npt.NDArray[np.uint16]:
    """Draw the objects below the leaves, by number, at every level."""
    height, width = MAP_SIZE
    numbered = join([(s.contours, s.number) for _, shapes in stages for s in shapes if not s.front])
    maps = np.zeros((levels, height, width), np.uint16)
    for level in range(levels):
        samples = (numbered.points * 2**level / extent + 1) * (width / 2, height / 2) - 0.5
        fill_polygons(maps[level], replace(numbered, points=samples))
    return maps


def _value_noise(points: npt.NDArray[np.float64], key: int) -> npt.NDArray[np.float64]:
    """Smooth noise in [-1, 1]: random values on the integer lattice, bilinearly joined."""
    cell = np.floor(points).astype(np.int64)
    x, y = (points - cell).T
    corner = [
        [_hash(cell[:, 0] + dx, cell[:, 1] + dy, key ^ 0x3C6EF372).astype(np.float64) for dx in (0, 1)]
        for dy in (0, 1)
    ]
    rows = [left * (1 - x) + right * x for left, right in corner]
    return (rows[0] * (1 - y) + rows[1] * y) * 2.0**-31 - 1


def _hash(i: npt.NDArray[np.int64], j: npt.NDArray[np.int64], key: int) -> npt.NDArray[np.uint32]:
    """32 random bits for every lattice point (i, j)."""
    mixed = i.astype(np.uint32) * np.uint32(0x9E3779B1) + np.uint32(key)
    return _scramble(_scramble(mixed) ^ (j.astype(np.uint32) * np.uint32(0x85EBCA77)))


def _scramble(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Mix 32 bits so that each depends on all (two rounds of multiply and xor-shift)."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
    return bits ^ (bits >> np.uint32(16))


def _halves(bits: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Two uniform numbers in [0, 1) of 16 bits each."""
    return (bits & np.uint32(0xFFFF)) * 2.0**-16, (bits >> np.uint32(16)) * 2.0**-16
