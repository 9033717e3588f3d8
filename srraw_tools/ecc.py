"""Refine a map between two images by the enhanced correlation coefficient.

Evangelidis & Psarakis, "Parametric Image Alignment Using Enhanced Correlation Coefficient Maximization", PAMI
2008, in a forward compositional form: an update is composed on the right,
template_to_image <- template_to_image @ exp(sum p_k G_k), with the generators G_k of a group of motions, so
that the map never leaves the group.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from srraw_tools import geometry
from srraw_tools.geometry import Matrix

Image = npt.NDArray[np.float32]

WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
MAX_ITERATIONS = 50
CONVERGED_PX = 1e-3  # movement of the template's corners below which an iteration was the last


def _generator(**entries: float) -> Matrix:
    """A 3x3 matrix of zeros but for the entries named by row and column: m02=1 moves along x."""
    matrix = np.zeros((3, 3))
    for name, value in entries.items():
        matrix[int(name[1]), int(name[2])] = value
    return matrix


_SHIFTS = (_generator(m02=1), _generator(m12=1))
_TURN = _generator(m01=-1, m10=1)
_SCALE = _generator(m00=1, m11=1)
_STRETCHES = (_generator(m00=1, m11=-1), _generator(m01=1, m10=1))
_TILTS = (_generator(m20=1), _generator(m21=1))
# The tangent directions of each group of motions; composing their exponentials never leaves the group.
GENERATORS: dict[str, tuple[Matrix, ...]] = {
    "translation": _SHIFTS,
    "euclidean": (*_SHIFTS, _TURN),
    "similarity": (*_SHIFTS, _TURN, _SCALE),
    "affine": (*_SHIFTS, _TURN, _SCALE, *_STRETCHES),
    "homography": (*_SHIFTS, _TURN, _SCALE, *_STRETCHES, *_TILTS),
}


def maximise(
    template: Image,
    template_seen: Image,
    image: Image,
    image_seen: Image,
    start: Matrix,
    motion: str,
    *,
    pixel: tuple[float, float] = (1.0, 1.0),
) -> tuple[Matrix, float]:
    """Refine the map from template to image pixels, from a start that is off by a few pixels at most.

    With zero-mean template t, warped image i and Jacobian G, the step is (G'G)^-1 G' (lambda t - i), where
    lambda is that of Evangelidis & Psarakis 2008, Eq. 21.

    Args:
        template: (h, w) float32, normalised to a local mean of 0.
        image: (H, W) float32, likewise.
        template_seen: (h, w), 1 where a pixel may be compared, else 0.
        image_seen: (H, W), likewise.
        motion: a key of GENERATORS.
        pixel: width and height of a template pixel in the frame in which the motion is meant. An image that
            was reduced to whole pixels has them not quite square, and there a rotation is none.

    Returns:
        The map, and the correlation coefficient over what both see (-1 where that is next to nothing).
    """
    generators = GENERATORS[motion]
    height, width = template.shape
    # Coordinates about the centre, in units of the half diagonal, condition the normal equations.
    half_diagonal = np.hypot(height * pixel[1], width * pixel[0]) / 2
    units = half_diagonal / pixel[0], half_diagonal / pixel[1]  # in template pixels
    centred_to_low = geometry.translation((width - 1) / 2, (height - 1) / 2) @ np.diag([*units, 1])
    x = ((np.arange(width, dtype=np.float32) - (width - 1) / 2) / units[0])[None, :]
    y = ((np.arange(height, dtype=np.float32) - (height - 1) / 2) / units[1])[:, None]
    corners = geometry.frame_corners(template.shape)
    best, best_score = start, -1.0
    current = start
    for _ in range(MAX_ITERATIONS):
        moving, mask = warped(template_seen, image, image_seen, current)
        inside = mask > 0
        if inside.sum() < 64:
            break
        t = template[inside]
        i = moving[inside]
        t = t - t.mean()
        i = i - i.mean()
        norms = float(np.linalg.norm(t) * np.linalg.norm(i))
        score = float(t @ i) / norms if norms > 0 else -1.0
        if score > best_score:
            best, best_score = current, score
        elif score < best_score - 1e-3:
            break  # a step that made it worse: the last good one stands
        jacobian = _jacobian(moving, x, y, units, generators)[:, inside]
        step = _step(jacobian, t, i)
        if step is None:
            break
        move = exponential(np.tensordot(step, np.array(generators), 1))
        updated = current @ centred_to_low @ move @ np.linalg.inv(centred_to_low)
        if not np.all(np.isfinite(updated)):
            break
        moved = np.abs(geometry.apply(updated, corners) - geometry.apply(current, corners)).max()
        current = updated
        if moved < CONVERGED_PX:
            break
    return best, best_score


def warped(
    template_seen: Image, image: Image, image_seen: Image, template_to_image: Matrix
) -> tuple[Image, Image]:
    """The image on the template's grid, and a mask of what both see, with a margin for the borders."""
    size = template_seen.shape[::-1]
    # Not reflected at the border: OpenCV reflects a coordinate far off step by step, for minutes.
    moving = cv2.warpPerspective(image, template_to_image, size, flags=WARP, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpPerspective(image_seen, template_to_image, size, flags=WARP)
    return moving, seen_by_both(template_seen, seen)


def seen_by_both(template_seen: Image, seen: Image) -> Image:
    """1 where two images on one grid may be compared, else 0, with a margin for the borders."""
    mask = ((seen > 0.999) & (template_seen > 0)).astype(np.uint8)
    return cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0).astype(np.float32)


def gradients(image: Image) -> tuple[Image, Image]:
    """Central differences of an image along x and y, per pixel."""
    difference, here = np.float32([-0.5, 0, 0.5]), np.float32([1])
    return (
        cv2.sepFilter2D(image, cv2.CV_32F, difference, here),
        cv2.sepFilter2D(image, cv2.CV_32F, here, difference),
    )


def _jacobian(
    image: Image, x: Image, y: Image, units: tuple[float, float], generators: tuple[Matrix, ...]
) -> Image:
    """Derivative of the warped image along each generator, (parameters, H, W)."""
    gx, gy = (g * np.float32(unit) for g, unit in zip(gradients(image), units, strict=True))
    planes = []
    for g in generators:
        u = g[0, 0] * x + g[0, 1] * y + g[0, 2] - x * (g[2, 0] * x + g[2, 1] * y)
        v = g[1, 0] * x + g[1, 1] * y + g[1, 2] - y * (g[2, 0] * x + g[2, 1] * y)
        planes.append(gx * u.astype(np.float32) + gy * v.astype(np.float32))
    return np.stack(planes)


def _step(jacobian: Image, t: Image, i: Image) -> npt.NDArray[np.float64] | None:
    """The increment of the parameters; None where the image does not determine them."""
    j = jacobian - jacobian.mean(axis=1, keepdims=True)
    hessian = (j @ j.T).astype(np.float64)
    if not np.all(np.isfinite(hessian)) or np.linalg.cond(hessian) > 1e12:
        return None
    jt, ji = (j @ t).astype(np.float64), (j @ i).astype(np.float64)
    solved_t, solved_i = np.linalg.solve(hessian, jt), np.linalg.solve(hessian, ji)
    numerator = float(i @ i) - ji @ solved_i
    denominator = float(t @ i) - jt @ solved_i
    if denominator <= 0:
        return None
    return (numerator / denominator) * solved_t - solved_i


def exponential(matrix: Matrix) -> Matrix:
    """exp of a small 3x3 matrix by its series."""
    total = term = np.eye(3)
    for k in range(1, 12):
        term = term @ matrix / k
        total = total + term
    return total
