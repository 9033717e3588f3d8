"""One shot of a scene: the light that every pixel of the mosaic collects, rendered afresh in bands of rows.

Shapes are drawn as labels at 4 x 4 samples a pixel through the exact map of the lens; labels become light in
the sensor's colours; the point spread and the aperture weigh the samples of every pixel.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from srraw_tools import geometry
from srraw_tools.simulate import lens, objects, photograph
from srraw_tools.simulate.lens import Imaging
from srraw_tools.simulate.photograph import Photograph
from srraw_tools.simulate.physics import Optics, Sensor
from srraw_tools.simulate.raster import Polygons, fill_leaves, fill_polygons, join, leaf_outlines
from srraw_tools.simulate.scene import (
    FINEST_PX,
    Octave,
    Plane,
    Scene,
    leaves_within,
    soft_light,
    unresolved,
)
from srraw_tools.simulate.sensor import aperture_kernel, camera_from_srgb

SAMPLES = 4  # per pixel, along x and along y
BAND_SAMPLES = 2**23  # drawn at once
STRIP_ROWS = 32  # whose pixels are looked up at once, in the processor's cache
EDGE_PX = 16  # with distortion, longer edges are divided so that they bend
BIG_LEAF_PX = 24  # with distortion, leaves in larger cells are drawn as polygons


def render_light(
    scene: Scene, photo: Photograph | None, optics: Optics, sensor: Sensor, shot: Imaging
) -> npt.NDArray[np.float32]:
    """The light (H, W) that the pixels of the mosaic collect, in units of the scene's radiance."""
    height, width = shot.size
    light = np.empty((height, width), np.float32)
    rows = max(2, BAND_SAMPLES // (SAMPLES**2 * width) // 2 * 2)
    for start in range(0, height, rows):
        band = slice(start, min(start + rows, height))
        light[band] = _render_band(scene, photo, optics, sensor, shot, band)
    return light


def _render_band(
    scene: Scene, photo: Photograph | None, optics: Optics, sensor: Sensor, shot: Imaging, rows: slice
) -> npt.NDArray[np.float32]:
    site_colour = np.array(["RGB".index(c) for c in sensor.cfa]).reshape(2, 2)
    site_colour = np.roll(site_colour, -(rows.start % 2), axis=0)
    colours = (objects.palette() @ camera_from_srgb().T).astype(np.float32)
    height, width = rows.stop - rows.start, shot.size[1]
    channel = np.tile(site_colour, (height // 2 + 1, width // 2 + 1))[:height, :width]
    light = np.zeros((height, width), np.float32)
    for number, plane in enumerate(scene.planes):
        kernels = [
            aperture_kernel(SAMPLES, lens.blur_sigma_px(optics, shot, plane.distance_m, c), sensor)
            for c in range(3)
        ]
        margin = math.ceil(max(len(kernel) for kernel in kernels) / 2 / SAMPLES)
        labels = _draw(scene if number == 0 else None, plane, photo, shot, rows, margin)
        seen = None
        if number == 0 and photo is not None:
            seen = _photo_light(photo, plane, shot, rows, margin, labels)
        collected = np.empty_like(light)
        covered = np.ones_like(light)
        for c in range(3):
            values = colours[:, c][labels]
            if seen is not None:
                np.copyto(values, seen[..., c], where=labels == objects.PHOTO)
            opaque = (labels != objects.EMPTY).astype(np.float32) if number else None
            for dy, dx in np.argwhere(site_colour == c):
                site = (slice(dy, None, 2), slice(dx, None, 2))
                shape = light[site].shape
                collected[site] = _collect(values, kernels[c], margin, dy, dx, shape)
                if opaque is not None:
                    covered[site] = _collect(opaque, kernels[c], margin, dy, dx, shape)
        if number == 0:
            _soften(scene, photo, shot, rows, channel, collected)
            light = collected
        else:  # a nearer plane covers what lies behind it, pixel by pixel
            light = light * (1 - covered) + collected
    return light * lens.transmission(shot, rows)


def _draw(
    scene: Scene | None, plane: Plane, photo: Photograph | None, shot: Imaging, rows: slice, margin: int
) -> npt.NDArray[np.uint16]:
    """Draw a plane's labels for some rows of pixels and a margin around them; leaves if a scene is given."""
    shape = ((rows.stop - rows.start + 2 * margin) * SAMPLES, (shot.size[1] + 2 * margin) * SAMPLES)
    labels = np.full(shape, objects.EMPTY, np.uint16)
    to_samples = geometry.scaling(SAMPLES) @ geometry.translation(margin, margin - rows.start)

    def fill(polygons: Polygons) -> None:
        if len(polygons.points):
            fill_polygons(labels, _image_of(polygons, plane, shot, to_samples))

    octaves = list(scene.octaves) if scene is not None else []
    for largest, polygons in plane.stages:
        while octaves and octaves[0].cell > largest:
            _draw_leaves(labels, scene, octaves.pop(0), plane, shot, rows, margin, to_samples)
        fill(polygons)
    for octave in octaves:
        _draw_leaves(labels, scene, octave, plane, shot, rows, margin, to_samples)
    if scene is not None and photo is not None:
        fill(join([([photo.outline], objects.PHOTO)]))
    else:
        fill(plane.front)
    return labels


def _draw_leaves(
    labels: npt.NDArray[np.uint16],
    scene: Scene,
    octave: Octave,
    plane: Plane,
    shot: Imaging,
    rows: slice,
    margin: int,
    to_samples: geometry.Matrix,
) -> None:
    """Draw the leaves of an octave that some rows of pixels, and a margin around them, see."""
    cell_px = octave.cell * shot.focal_px
    if cell_px < FINEST_PX:
        return
    border = _border(rows, shot.size[1], margin)
    seen = lens.pixels_to_scene(shot, border, plane.distance_m)
    low = np.maximum(seen.min(axis=0) - octave.cell, -octave.reach)
    high = np.minimum(seen.max(axis=0) + octave.cell, octave.reach)
    for leaves in leaves_within(scene, octave, low, high):
        if shot.k1 and cell_px > BIG_LEAF_PX:
            fill_polygons(labels, _image_of(leaf_outlines(*leaves), plane, shot, to_samples))
            continue
        centres = geometry.apply(to_samples, lens.scene_to_pixels(shot, leaves.centres, plane.distance_m))
        scene_to_samples = SAMPLES * lens.jacobian(shot, leaves.centres, plane.distance_m)
        samples_to_leaf = leaves.scene_to_leaf @ np.linalg.inv(scene_to_samples)
        fill_leaves(labels, centres, samples_to_leaf, leaves.lit, leaves.shaded)


def _border(rows: slice, width: int, margin: int) -> npt.NDArray[np.float64]:
    """Points (n, 2) around some rows of pixels and a margin."""
    low = np.array([-0.5 - margin, rows.start - 0.5 - margin])
    high = np.array([width - 0.5 + margin, rows.stop - 0.5 + margin])
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    around = np.concatenate([np.linspace(a, b, 33) for a, b in pairwise(corners)])
    return low + (high - low) * around


def _image_of(polygons: Polygons, plane: Plane, shot: Imaging, to_samples: geometry.Matrix) -> Polygons:
    """Polygons of the scene in samples; long edges divided where distortion bends them."""
    if shot.k1:
        polygons = _divided(polygons, EDGE_PX / shot.focal_px)
    pixels = lens.scene_to_pixels(shot, polygons.points, plane.distance_m)
    return replace(polygons, points=geometry.apply(to_samples, pixels))


def _divided(polygons: Polygons, longest: float) -> Polygons:
    """The same polygons with edges no longer than `longest` (up to 512 parts an edge)."""
    start = polygons.points
    along = polygons.points[polygons.next_point] - start
    parts = np.clip(np.ceil(np.linalg.norm(along, axis=1) / longest), 1, 512).astype(np.int64)
    first = np.cumsum(parts) - parts
    edge = np.repeat(np.arange(len(start)), parts)
    step = (np.arange(parts.sum()) - first[edge]) / parts[edge]
    following = np.arange(1, parts.sum() + 1)
    following[first + parts - 1] = first[polygons.next_point]
    return Polygons(
        start[edge] + along[edge] * step[:, None], following, polygons.polygon[edge], polygons.labels
    )


def _collect(
    values: npt.NDArray[np.float32],
    kernel: npt.NDArray[np.float64],
    margin: int,
    dy: int,
    dx: int,
    shape: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """Weigh the samples around every second pixel, from (dy, dx) on, along y and then along x."""
    height, width = shape
    step = 2 * SAMPLES
    row = (margin + dy) * SAMPLES + SAMPLES // 2 - len(kernel) // 2
    column = (margin + dx) * SAMPLES + SAMPLES // 2 - len(kernel) // 2
    kernel = kernel.astype(np.float32)
    down = sum(w * values[row + k :: step][:height] for k, w in enumerate(kernel))
    return sum(w * down[:, column + k :: step][:, :width] for k, w in enumerate(kernel))


def _soften(
    scene: Scene,
    photo: Photograph | None,
    shot: Imaging,
    rows: slice,
    channel: npt.NDArray[np.int64],
    light: npt.NDArray[np.float32],
) -> None:
    """Add to the farthest plane what varies little within a pixel: leaves too small to draw, soft light."""
    for start in range(rows.start, rows.stop, STRIP_ROWS):
        y, x = np.mgrid[start : min(start + STRIP_ROWS, rows.stop), : shot.size[1]]
        points = lens.pixels_to_scene(shot, np.stack([x.ravel(), y.ravel()], axis=1))
        strip = light[start - rows.start :][: len(y)].reshape(-1)  # a view
        site = channel[start - rows.start :][: len(y)].reshape(-1)
        if photo is not None:
            free = ~photograph.covers(photo, points)
            points, site = points[free], site[free]
        own = strip if photo is None else strip[free]
        small = unresolved(scene, points, FINEST_PX / shot.focal_px)
        if small is not None:
            cover, colour = small
            mean = np.take_along_axis(colour @ camera_from_srgb().T, site[:, None], axis=1)[:, 0]
            own = own * (1 - cover) + mean * cover
        own = own * soft_light(scene, points)
        if photo is None:
            strip[:] = own
        else:
            strip[free] = own


def _photo_light(
    photo: Photograph,
    plane: Plane,
    shot: Imaging,
    rows: slice,
    margin: int,
    labels: npt.NDArray[np.uint16],
) -> npt.NDArray[np.float32] | None:
    """The photograph's light (h, w, 3) in the sensor's colours at the samples of a band."""
    if not (labels == objects.PHOTO).any():
        return None
    samples_to_pixels = geometry.translation(-margin, rows.start - margin) @ geometry.scaling(1 / SAMPLES)
    if shot.k1 == 0:
        ideal_to_scene = np.linalg.inv(lens.scene_to_ideal(shot, plane.distance_m))
        rgb = photograph.sample(photo, ideal_to_scene @ samples_to_pixels, labels.shape)
    else:
        y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
        pixels = geometry.apply(samples_to_pixels, np.stack([x, y], axis=-1))
        points = lens.pixels_to_scene(shot, pixels, plane.distance_m)
        rgb = photograph.sample_at(photo, points, 1 / (shot.focal_px * SAMPLES))
    to_camera = (camera_from_srgb().T / 65535).astype(np.float32)
    return rgb.astype(np.float32) @ to_camera
