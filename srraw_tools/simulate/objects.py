"""What stands in a procedural scene: hills, walls, printed text, test charts, murals, balls, branches.

Each maker returns shapes in painter's order, in tangent coordinates (y downwards), of a given size at a given
place. A shape is a list of contours filled by the even-odd rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Colour = tuple[float, float, float]  # log2 of green, log2 red/green, log2 blue/green

GREEN_STEPS, RED_STEPS, BLUE_STEPS = 358, 14, 13
GREEN_RANGE = (-10.0, 4.0)
RED_LIMIT, BLUE_LIMIT = 4.0, 3.5  # EV from grey that paints reach
HUES = RED_STEPS * BLUE_STEPS
EMPTY, PHOTO = 0, 65535  # labels that are no colour
LEAF_PART = 0.2
LETTERS = "ABCDEFGHIJKLMNOPRSTUVWXYZabcdefghijklmnoprstuvwxyz0123456789"


class Material(NamedTuple):
    """A surface: its colour, and the leaves that grow on it (their colours, shapes and directions)."""

    green: float
    red: float
    blue: float
    spread: float = 0.0  # EV, of the leaves' brightness
    hue_spread: float = 0.0  # EV of red/green
    density: float = 0.0  # part of the cells that bear a leaf
    aspect: float = 0.4  # width over length of a leaf
    angle: float = 0.0
    angle_spread: float = math.pi
    largest: float = 0.0  # the largest cell, in tangent units


@dataclass(frozen=True)
class Shape:
    """Contours (n, 2) each, their label, the number of the object they belong to (its material)."""

    contours: list[Points]
    label: int
    number: int
    front: bool = False


def label_of(green: npt.ArrayLike, red: npt.ArrayLike, blue: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """The labels of colours given by log2 of green, of red/green and of blue/green: the nearest there are."""
    tone = _nearest(green, np.linspace(*GREEN_RANGE, GREEN_STEPS))
    hue = _nearest(red, _hues(RED_LIMIT, RED_STEPS)) * BLUE_STEPS + _nearest(
        blue, _hues(BLUE_LIMIT, BLUE_STEPS)
    )
    return ((tone + 1) * HUES + hue).astype(np.uint16)


def palette() -> npt.NDArray[np.float64]:
    """Linear sRGB radiance (65536, 3) of every label; no light for those that are no colour."""
    tone, hue = np.divmod(np.arange(HUES, (GREEN_STEPS + 1) * HUES), HUES)
    green = 2.0 ** np.linspace(*GREEN_RANGE, GREEN_STEPS)[tone - 1]
    red = green * 2.0 ** _hues(RED_LIMIT, RED_STEPS)[hue // BLUE_STEPS]
    blue = green * 2.0 ** _hues(BLUE_LIMIT, BLUE_STEPS)[hue % BLUE_STEPS]
    rgb = np.zeros((65536, 3))
    rgb[HUES : (GREEN_STEPS + 1) * HUES] = np.stack([red, green, blue], axis=1)
    return rgb


def _hues(limit: float, steps: int) -> npt.NDArray[np.float64]:
    """EV from grey: fine steps where natural surfaces lie, coarse ones out to the purest paints."""
    return np.sinh(np.linspace(-1, 1, steps) * math.asinh(limit))


def _nearest(values: npt.ArrayLike, among: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.searchsorted((among[1:] + among[:-1]) / 2, values)


def far_objects(
    rng: np.random.Generator, extent: tuple[float, float], smallest: float, kinds: tuple[str, ...]
) -> tuple[list[tuple[float, list[Shape]]], list[Material]]:
    """The farthest plane: sky, ground and objects of all sizes, smaller ones ever nearer to the axis.

    Args:
        extent: half-size (x, y) of the scene.
        smallest: size of the smallest objects.
        kinds: which of KINDS there are.

    Returns:
        (size, shapes) from large to small, and the materials by object number. No leaf on an object is
        larger than a LEAF_PART of its size.
    """
    shapes: list[Shape] = []
    materials: list[Material] = []
    _sky_and_ground(rng, extent, shapes, materials)
    stages = [(2 * extent[1], shapes)]
    makers = [KINDS[kind] for kind in kinds]
    chances = np.array([chance for _, chance in makers])
    size = extent[0]
    while size > smallest:
        shapes = []
        for _ in range(rng.integers(9, 13)):
            centre = rng.uniform(-1, 1, 2) * np.minimum((3.2 * size, 2.2 * size), extent)
            maker, _ = makers[rng.choice(len(makers), p=chances / chances.sum())]
            maker(rng, centre, size * rng.uniform(0.55, 1.0), shapes, materials)
        stages.append((size, shapes))
        size *= 0.62
    return stages, materials


def near_objects(rng: np.random.Generator, extent: tuple[float, float], smallest: float) -> list[Shape]:
    """A nearer plane: branches, posts and signs with much room between them."""
    shapes: list[Shape] = []
    size = extent[0] * 0.8
    while size > smallest:
        for maker in (_branch, _branch, _post, _sign):
            if rng.random() < 0.7:
                centre = rng.uniform(-1, 1, 2) * np.minimum((2.6 * size, 1.8 * size), extent)
                maker(rng, centre, size * rng.uniform(0.5, 0.8), shapes, [])
        size *= 0.5
    return shapes


def _sky_and_ground(
    rng: np.random.Generator, extent: tuple[float, float], shapes: list[Shape], materials: list[Material]
) -> None:
    x, y = extent
    red, blue = rng.uniform(-0.6, 0.1), rng.uniform(0.2, 0.8)
    materials.append(Material(0.5, red, blue))
    edges = np.linspace(-3 * y, 3 * y, 97)
    for k, (top, bottom) in enumerate(pairwise(edges)):
        shapes.append(
            Shape([_box(0, (top + bottom) / 2, 3 * x, bottom - top)], _label(0.2 + k * 0.012, red, blue), 0)
        )
    horizon = rng.uniform(-0.35, 0.35) * y
    for k in range(3):
        level = horizon + 0.12 * y * k
        along = np.linspace(-2.6 * x, 2.6 * x, 600)
        height = level + 0.25 * y / (k + 1) * _fractal(rng, len(along), 1.6)
        ridge = np.stack([along, height], axis=1)
        outline = np.concatenate([ridge, [[2.6 * x, 4 * y], [-2.6 * x, 4 * y]]])
        _add(shapes, materials, [outline], _growth(rng, 2 * y))


def _hill(
    rng: np.random.Generator, centre: Points, size: float, shapes: list[Shape], materials: list[Material]
) -> None:
    """A bush, a rock, a heap: a ragged outline with something growing on it."""
    around = np.linspace(0, 2 * math.pi, 240, endpoint=False)
    radius = size / 2 * np.exp(0.45 * _fractal(rng, len(around), 1.5))
    stretch = rng.uniform(0.5, 1.0)
    outline = centre + np.stack([radius * np.cos(around), radius * stretch * np.sin(around)], axis=1)
    _cast(shapes, materials, outline, size)
    _add(shapes, materials, [outline], _growth(rng, size))


def _wall(
    rng: np.random.Generator, centre: Points, size: float, shapes: list[Shape], materials: list[Material]
) -> None:
    """A house front: plaster or brick, with rows of windows."""
    height = size * rng.uniform(0.5, 1.3)
    place = _placed(centre, rng.normal(0, 0.03))
    colour = _mineral(rng)
    plaster = Material(*colour, spread=0.15, hue_spread=0.1, density=0.5, aspect=0.8, largest=size / 60)
    _cast(shapes, materials, place(_box(0, 0, size, height)), size)
    _add(shapes, materials, [place(_box(0, 0, size, height))], plaster)
    number = shapes[-1].number
    if rng.random() < 0.6:  # brick: the joints are lighter or darker lines
        course = size / rng.integers(25, 70)
        rows = np.arange(-height / 2 + course, height / 2, course)
        joints = [_box(0, row, size, course * 0.16) for row in rows]
        for k, row in enumerate(rows[:-1]):
            columns = np.arange(-size / 2 + course * (0.8 + k % 2), size / 2, course * 2.2)
            joints += [_box(column, row + course / 2, course * 0.16, course * 0.84) for column in columns]
        tone = colour[0] + rng.choice([-0.9, 0.6])
        shapes.append(Shape([place(joint) for joint in joints], _label(tone, *colour[1:]), number))
    columns, rows = rng.integers(2, 7), rng.integers(1, 6)
    width, rise = size / columns * rng.uniform(0.4, 0.7), height / rows * rng.uniform(0.45, 0.75)
    spots = [
        ((i + 0.5) * size / columns - size / 2, (j + 0.5) * height / rows - height / 2)
        for i in range(columns)
        for j in range(rows)
    ]
    frames = [place(_box(x, y, width * 1.12, rise * 1.08)) for x, y in spots]
    _bare(materials, shapes, frames, _label(rng.uniform(-1.5, 0.6), 0.05, -0.05))
    number = shapes[-1].number
    for x, y in spots:
        glass = rng.uniform(-5.0, -1.8)
        panes = [
            _box(x + side * width / 4, y + part * rise / 4, width * 0.44, rise * 0.46)
            for side in (-1, 1)
            for part in (-1, 1)
        ]
        shapes.append(Shape([place(pane) for pane in panes], _label(glass, -0.2, 0.3), number))


def _sign(
    rng: np.random.Generator, centre: Points, size: float, shapes: list[Shape], materials: list[Material]
) -> None:
    """A board with lines of text, each smaller than the one above, like an optician's chart."""
    place = _placed(centre, rng.normal(0, 0.06))
    dark_on_light = rng.random() < 0.6
    paper = (rng.uniform(-0.3, 0.7), rng.uniform(-0.1, 0.3), rng.uniform(-0.5, 0.1))
    ink = (rng.uniform(-5.0, -3.0), rng.uniform(-0.3, 0.9), rng.uniform(-0.6, 0.6))
    if not dark_on_light:
        paper, ink = _paint(rng), paper
    height = size * rng.uniform(0.5, 0.9)
    rim = _box(0, 0, size * 1.04, height + size * 0.04)
    _cast(shapes, materials, place(rim), size)
    _bare(materials, shapes, [place(rim)], _label(paper[0] - 2, *paper[1:]))
    _bare(materials, shapes, [place(_box(0, 0, size, height))], _label(*paper))
    number = shapes[-1].number
    line, top = height * rng.uniform(0.18, 0.4), -height / 2
    while line > size / 60 and top + 1.4 * line < height / 2:
        text = "".join(rng.choice(list(LETTERS + "    "), 60))
        glyphs, advance = _text(text, line, size * 0.92)
        offset = np.array([-advance / 2, top + 1.15 * line])
        if glyphs:
            shapes.append(Shape([place(glyph + offset) for glyph in glyphs], _label(*ink), number))
        top += 1.4 * line
        line *= 0.72


def _chart(
    rng: np.random.Generator, centre: Points, size: float, shapes: list[Shape], materials: list[Material]
) -> None:
    """A test chart: bars of growing frequency, or a Siemens star."""
    place = _placed(centre, rng.uniform(0, math.pi))
    light, dark = rng.uniform(-0.2, 0.7), rng.uniform(-4.5, -2.0)
    tint = (rng.normal(0, 0.15), rng.normal(0, 0.15))
    _bare(materials, shapes, [place(_box(0, 0, size, size * 0.7))], _label(light, *tint))
    number = shapes[-1].number
    if rng.random() < 0.5:
        spokes = int(rng.integers(24, 72))
        edge = (np.arange(2 * spokes) + 0.5) * math.pi / spokes
        rim = np.stack([np.cos(edge), np.sin(edge)], axis=1) * size * 0.33
        wedges = [place(np.array([[0, 0], rim[k], rim[k + 1]])) for k in range(0, 2 * spokes, 2)]
        shapes.append(Shape(wedges, _label(dark, *tint), number))
        return
    bars, width, x = [], size / 16, -size * 0.47
    while width > size / 700 and x + 2 * width < size * 0.47:
        bars.append(place(_box(x + width / 2, 0, width, size * 0.6)))
        x += 2 * width
        width *= 0.95
    shapes.append(Shape(bars, _label(dark, *tint), number))


def _mural(
    rng: np.random.Generator, centre: Points, size: float, shapes: list[Shape], materials: list[Material]
) -> None:
    """Rows of painted figures in pure colours on another, each row smaller than the one above."""
    place = _placed(centre, rng.normal(0, 0.1))
    height = size * rng.uniform(0.5, 0.9)
    _cast(shapes, materials, place(_box(0, 0, size, height)), size)
    _bare(materials, shapes, [place(_box(0, 0, size, height))], _label(*_paint(rng)))
    number = shapes[-1].number
    around = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    disc = np.stack([np.cos(around), np.sin(around)], axis=1) / 2
    diamond = np.array([[0.0, -0.5], [0.5, 0.0], [0.0, 0.5], [-0.5, 0.0]])
    row, top = height * rng.uniform(0.2, 0.45), -height / 2
    while row > size / 120 and top + row < height / 2:
        paints = [_label(*_paint(rng)) for _ in range(2)]
        shapes.append(Shape([place(_box(0, top + row / 2, size, row))], paints[0], number))
        figure = (disc, diamond, _box(0, 0, 0.5, 1.0))[rng.integers(3)]
        spots = np.arange(-size / 2 + row / 2, size / 2 - row / 2 + 1e-9, row * rng.uniform(0.9, 1.2))
        figures = [place(figure * row * 0.9 + (x, top + row / 2)) for x in spots]
        shapes.append(Shape(figures, paints[1], number))
        top += row
        row *= rng.uniform(0.6, 0.9)


def _ball(
    rng: np.random.Generator, centre: Points, size: float, shapes: list[Shape], materials: list[Material]
) -> None:
    """A smooth, softly shaded body."""
    colour = (_mineral, _leafy, _paint)[rng.integers(3)](rng)
    around = np.linspace(0, 2 * math.pi, 90, endpoint=False)
    circle = np.stack([np.cos(around), np.sin(around) * rng.uniform(0.6, 1)], axis=1) * size / 2
    _cast(shapes, materials, centre + circle, size)
    _bare(materials, shapes, [centre + circle], _label(colour[0] - 1.6, *colour[1:]))
    number = shapes[-1].number
    towards = np.array([-0.3, -0.35]) * size / 2
    for k in np.linspace(0, 1, 60)[1:]:
        disc = centre + towards * k + circle * (1 - k) ** 0.6
        shapes.append(Shape([disc], _label(colour[0] - 1.6 + 2.2 * k, *colour[1:]), number))


def _post(
    rng: np.random.Generator, centre: Points, size: float, shapes: list[Shape], materials: list[Material]
) -> None:
    """A railing or a mast with wires, in front of the leaves."""
    colour = (rng.uniform(-4.5, 0.0), rng.uniform(-0.1, 0.4), rng.uniform(-0.5, 0.1))
    place = _placed(centre, rng.normal(0, 0.03))
    number = len(materials) - 1
    bars = int(rng.integers(1, 16))
    width = size / rng.integers(60, 160)
    posts = [_box(x, 0, width, size) for x in np.linspace(-size / 2, size / 2, bars)]
    wires = []
    for level in rng.uniform(-0.5, 0.4, rng.integers(1, 4)):
        x = np.linspace(-size * 0.7, size * 0.7, 24)
        sag = size * (level - 0.15 * np.cos(x / size * 2))
        wires.append(np.concatenate([np.stack([x, sag], 1), np.stack([x, sag + width * 0.4], 1)[::-1]]))
    shapes += [Shape([place(line)], _label(*colour), number, front=True) for line in posts + wires]


def _branch(
    rng: np.random.Generator, centre: Points, size: float, shapes: list[Shape], materials: list[Material]
) -> None:
    """A twig that forks and forks again, with a few leaves at its ends, in front of everything."""
    wood = (rng.uniform(-5.0, -2.0), rng.uniform(0.1, 0.6), rng.uniform(-0.8, -0.2))
    leaf = _leafy(rng)
    number = len(materials) - 1
    has_leaves = rng.random() < 0.6

    def grow(start: Points, angle: float, length: float, width: float, depth: int) -> None:
        forward = np.array([math.cos(angle), math.sin(angle)])
        side = np.array([-forward[1], forward[0]]) * width / 2
        end = start + forward * length
        limb = np.array([start - side, start + side, end + side * 0.7, end - side * 0.7])
        shapes.append(Shape([limb], _label(*wood), number, front=True))
        if depth == 0:
            if has_leaves:
                u = np.linspace(-1, 1, 13)
                blade = np.stack([np.concatenate([u, u[::-1]]), np.concatenate([1 - u**2, u**2 - 1])], 1)
                blade *= length * np.array([rng.uniform(0.25, 0.45), rng.uniform(0.1, 0.2)])
                tone = leaf[0] + rng.normal(0, 0.4)
                placed = _placed(end, rng.uniform(0, math.pi))(blade)
                shapes.append(Shape([placed], _label(tone, *leaf[1:]), number, front=True))
            return
        for turn in rng.normal((-0.5, 0.5), 0.25):
            grow(end, angle + turn, length * rng.uniform(0.6, 0.9), width * 0.7, depth - 1)

    grow(centre, rng.uniform(0, 2 * math.pi), size / 4, size / 60, 6)


KINDS = {  # what draws them, and how often
    "hill": (_hill, 0.5),
    "wall": (_wall, 0.12),
    "sign": (_sign, 0.08),
    "chart": (_chart, 0.05),
    "mural": (_mural, 0.06),
    "ball": (_ball, 0.06),
    "post": (_post, 0.05),
    "branch": (_branch, 0.08),
}


def _growth(rng: np.random.Generator, size: float) -> Material:
    """A natural surface: foliage, grass, gravel, flowers, bark, or next to nothing."""
    kind = rng.choice(6, p=(0.3, 0.2, 0.16, 0.08, 0.1, 0.16))
    largest = size * LEAF_PART / rng.uniform(1, 6)
    if kind == 0:  # foliage
        return Material(
            *_leafy(rng), 0.9, 0.3, rng.uniform(0.6, 0.95), rng.uniform(0.3, 0.6), largest=largest
        )
    if kind == 1:  # grass and straw
        upright = rng.normal(math.pi / 2, 0.2)
        return Material(*_leafy(rng), 0.8, 0.2, 0.9, rng.uniform(0.07, 0.2), upright, 0.5, largest)
    if kind == 2:  # gravel
        return Material(*_mineral(rng), 0.6, 0.15, 0.8, rng.uniform(0.6, 0.9), largest=largest)
    if kind == 3:  # flowers
        return Material(*_paint(rng), 1.1, 1.2, 0.6, rng.uniform(0.4, 0.9), largest=largest)
    if kind == 4:  # bark and planks
        grain = rng.uniform(0, math.pi)
        return Material(*_mineral(rng), 0.5, 0.15, 0.8, 0.1, grain, 0.12, largest)
    return Material(*_mineral(rng), 0.12, 0.1, 0.4, 0.7, largest=largest)  # smooth


def _leafy(rng: np.random.Generator) -> Colour:
    return rng.uniform(-3.4, -0.9), rng.uniform(-0.9, 0.5), rng.uniform(-1.9, -0.4)


def _mineral(rng: np.random.Generator) -> Colour:
    warmth = rng.normal(0, 0.3)
    return rng.uniform(-3.0, 0.3), 0.15 + warmth, -0.2 - 1.2 * warmth


def _paint(rng: np.random.Generator) -> Colour:
    """A dye, a lacquer, a petal: any hue, from white to pure."""
    hue, purity = rng.uniform(0, 3), 1 - rng.uniform() ** 2
    # Along the edge of the gamut from red over green and blue back to red.
    edge = np.array([max(0.0, 1 - min(abs(hue - k), 3 - abs(hue - k))) for k in range(3)])
    light = 2.0 ** rng.uniform(-3.0, 0.3) * (1 - purity + purity * edge / edge.max())
    red, green, blue = np.log2(np.maximum(light, 2.0**-9))
    return float(green), float(red - green), float(blue - green)


def _cast(shapes: list[Shape], materials: list[Material], outline: Points, size: float) -> None:
    """The shadow of an object on what lies behind it, in which something dark still grows."""
    _add(
        shapes,
        materials,
        [outline + np.array([0.03, 0.04]) * size],
        Material(-4.6, 0.0, -0.2, 0.7, 0.2, 0.5, 0.4, largest=size / 20),
    )


def _add(shapes: list[Shape], materials: list[Material], contours: list[Points], look: Material) -> None:
    """Add an object that is one shape in the colour of its material."""
    materials.append(look)
    shapes.append(Shape(contours, _label(look.green, look.red, look.blue), len(materials) - 1))


def _bare(materials: list[Material], shapes: list[Shape], contours: list[Points], label: int) -> None:
    """Add a shape on which nothing grows."""
    materials.append(Material(0, 0, 0))
    shapes.append(Shape(contours, label, len(materials) - 1))


def _label(green: float, red: float, blue: float) -> int:
    return int(label_of(green, red, blue))


def _box(x: float, y: float, width: float, height: float) -> Points:
    """A rectangle about its centre."""
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, height / 2) + (x, y)


class _placed:
    """Turns points by an angle and moves them to a place."""

    def __init__(self, centre: Points, angle: float) -> None:
        cos, sin = math.cos(angle), math.sin(angle)
        self.turn = np.array([[cos, sin], [-sin, cos]])
        self.centre = centre

    def __call__(self, points: Points) -> Points:
        return points @ self.turn + self.centre


def _fractal(rng: np.random.Generator, count: int, slope: float) -> npt.NDArray[np.float64]:
    """Periodic noise of `count` values whose amplitude falls with frequency to the power of -slope."""
    waves = np.arange(1, count // 4)
    amplitude = waves**-slope * rng.standard_normal(len(waves))
    phase = rng.uniform(0, 2 * math.pi, len(waves))
    turn = 2 * math.pi * np.arange(count)[:, None] / count
    return (amplitude * np.cos(turn * waves + phase)).sum(axis=1)


def _text(text: str, height: float, width: float) -> tuple[list[Points], float]:
    """Outlines of as much of a text as fits into a width, letters `height` tall, and the width it takes."""
    em = 48  # pixels of the drawing from which the outlines are traced
    scale = height / em
    image = np.zeros((2 * em, int(width / scale) + 1), np.uint8)
    cv2.putText(image, text, (2, int(1.5 * em)), cv2.FONT_HERSHEY_DUPLEX, em / 22, 255, 3)
    # Whole letters only: cut at the last empty column.
    empty = np.flatnonzero(~image.any(axis=0))
    if not len(empty):
        return [], 0.0
    image[:, empty[-1] :] = 0
    traced, _ = cv2.findContours(image, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outlines = [cv2.approxPolyDP(contour, 0.6, True)[:, 0].astype(np.float64) for contour in traced]
    glyphs = [(outline - (0, 1.5 * em)) * scale for outline in outlines if len(outline) > 2]
    return glyphs, float(empty[-1] * scale)
