"""One exposure for a whole zoom sequence: as long as it may be without clipping at any focal length."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from srraw_tools.camera import Camera, number_of
from srraw_tools.camera_settings import apply_settings, name_of
from srraw_tools.checks import Expected, setting_text
from srraw_tools.errors import UserError
from srraw_tools.exif import RAW_FORMATS, file_format
from srraw_tools.raw import RawImage, mosaic_light, read_raw
from srraw_tools.rig import Rig

SMALLEST_F = 20.0  # paper, section 3.1: f/20 or smaller, for depth of field
ISO_RANGE = (100.0, 400.0)
LONGEST_S = 30.0  # libgphoto2 gives a Sony body's shot up at 35 s
SHARE = 0.001  # of a colour's pixels that may be brighter: glints
MARGIN_EV = 1 / 3  # light may drift by 0.15 EV, and a zoom passes less light at one focal length than another
WHITE = 0.98  # of the range, from which a pixel may be clipped: nobody knows how bright it was
STEP_EV = 2.0  # by which an exposure is shortened where all that is known is that it is too long
MOST_EV = 6.0  # by which one is lengthened at once: what was measured there was little more than noise
MOST_SHOTS = 8  # at one focal length
LATE_S = 5.0  # silence after which a raw file will not come any more


@dataclass(frozen=True)
class Metered:
    """What metering found: the settings for the sequence, and how many shots it took."""

    expected: Expected
    shots: int


def headroom_ev(raw: RawImage, fields: tuple[float, ...] = (1.0,)) -> float:
    """By how many stops the exposure may grow before a colour clips, MARGIN_EV kept.

    The long shots see only the middle of the short one, where what is bright fills more of the frame; so each
    of their fields counts as a picture of its own.

    Args:
        fields: sides of centred fields, as fractions of the frame's.

    Returns:
        Stops; negative where the exposure must shrink, -STEP_EV where it is clipped and must by more than is
        known.
    """
    height, width = raw.size
    found = []
    for side in fields:
        # Even borders keep the pattern.
        top, left = (round(length * (1 - side) / 4) * 2 for length in (height, width))
        for position in range(4):
            row, column = divmod(position, 2)
            values = raw.mosaic[top + row : height - top : 2, left + column : width - left : 2]
            found.append(_brightest(values, raw.black_level[position], raw.white_level))
    most = max(found)
    if most >= WHITE:
        return -STEP_EV
    return min(MOST_EV, -math.log2(max(most, 1e-6)) - MARGIN_EV)


def _brightest(values: npt.NDArray[np.uint16], black: float, white: float) -> float:
    """The light, black 0 and white 1, that SHARE of the pixels exceed, and at least one pixel does."""
    rank = max(1, math.floor(SHARE * values.size))
    light = mosaic_light(values, (black,) * 4, white)
    return float(np.partition(light, -rank, axis=None)[-rank])


def find_exposure(
    camera: Camera,
    rig: Rig,
    focal_mm: tuple[float, ...],
    expected: Expected,
    turn_ring: Callable[[float], object],
    tell: Callable[[str], None] = lambda said: None,
) -> Metered:
    """Find one aperture, exposure time and ISO by test shots at the shortest and the longest focal length.

    The shortest one sees the whole scene; in its picture the fields of all other focal lengths are looked at
    one by one. Small lights are resolved only by the longest one, which may still shorten the exposure. The
    test shots stay on the card, and go nowhere else.

    Args:
        expected: what was asked for; where nothing was, the widest aperture that is f/20 or smaller, and the
            lowest ISO from 100 to 400 that does with LONGEST_S at most.
        turn_ring: called with a focal length; returns when the lens is there.
        tell: called with a sentence about each test shot.

    Raises:
        UserError: the camera does not let its exposure be set, an aperture wider than f/20 was asked for, the
            scene is too bright, or the light changes; CameraLost where the camera is gone.
    """
    shutter = name_of(camera, rig, "exposure_s")
    times = _numbers(camera, shutter, most=LONGEST_S)
    if len(times) < 2:
        raise UserError(
            "The camera does not let a computer set its exposure time.",
            "Set it to manual exposure (M), or meter by hand and give --exposure.",
        )
    isos = _numbers(camera, name_of(camera, rig, "iso"), *ISO_RANGE) if expected.iso is None else ()
    settings = replace(
        expected, f_number=_aperture(camera, rig, expected), iso=expected.iso or min(isos, default=None)
    )
    present = number_of(camera.value(shutter) or "") or times[len(times) // 2]
    start = min(times, key=lambda time: abs(math.log(time / present)))
    shots = 0

    def stops_left(focal: float, fields: tuple[float, ...], time_s: float) -> float:
        nonlocal shots
        shots += 1
        stops = headroom_ev(_test_shot(camera, rig, replace(settings, exposure_s=time_s)), fields)
        left = "clipped" if stops == -STEP_EV else f"{stops:+.1f} EV left"
        tell(f"{focal:g} mm, {setting_text('exposure_s', time_s)}: {left}")
        return stops

    shortest, longest = min(focal_mm), max(focal_mm)
    turn_ring(shortest)
    fields = tuple(sorted({shortest / focal for focal in focal_mm}))
    time_s, stops = _search(times, start, lambda time: stops_left(shortest, fields, time))
    if time_s == times[-1]:  # no longer time there is
        fitting = [iso for iso in isos if math.log2(iso / settings.iso) <= stops]
        settings = replace(settings, iso=max(fitting, default=settings.iso))
    if longest != shortest:
        turn_ring(longest)
        shorter = tuple(time for time in times if time <= time_s)
        time_s, _ = _search(shorter, time_s, lambda time: stops_left(longest, (1.0,), time))
    return Metered(replace(settings, exposure_s=time_s), shots)


def _search(
    times: tuple[float, ...], time_s: float, stops_left: Callable[[float], float]
) -> tuple[float, float]:
    """The longest of the exposure times that leaves no less than nothing, and how much it leaves.

    Args:
        times: rising; `time_s` is the one to begin with.
        stops_left: makes a test shot.
    """
    good: dict[float, float] = {}
    too_long, clipped = math.inf, 0
    for _ in range(MOST_SHOTS):
        stops = stops_left(time_s)
        if stops == -STEP_EV:  # by how much, nobody knows: larger and larger steps
            stops *= 2**clipped
            clipped += 1
        if stops < 0:
            too_long = min(too_long, time_s)
        else:
            good[time_s] = stops
        fitting = [time for time in times if time < too_long and time <= time_s * 2**stops * 1.001]
        if not fitting and times[0] < too_long:
            fitting = [times[0]]
        following = max(fitting + [time for time in good if time < too_long], default=None)
        if following is None:
            raise UserError(
                f"The scene is too bright: even {setting_text('exposure_s', times[0])} would clip.",
                "Use a smaller aperture (--f-number) or a grey filter, or wait for less light.",
            )
        if following in good:
            return following, good[following]
        time_s = following
    raise UserError(
        f"No exposure was found in {MOST_SHOTS} shots: the light changes, or the camera does not follow its "
        "setting.",
        "Wait for steady light, or meter by hand and give --exposure.",
    )


def _aperture(camera: Camera, rig: Rig, expected: Expected) -> float | None:
    """The aperture to shoot with: as asked, else the widest that is f/20 or smaller."""
    if expected.f_number is not None and expected.f_number < SMALLEST_F * 0.97:
        raise UserError(
            f"--meter is for f/{SMALLEST_F:g} or smaller, not f/{expected.f_number:g}.",
            "Give --exposure instead.",
            wrong_use=True,
        )
    choices = _numbers(camera, name_of(camera, rig, "f_number"), least=SMALLEST_F * 0.97)
    return expected.f_number or (choices[0] if choices else None)


def _numbers(
    camera: Camera, name: str | None, least: float = 0.0, most: float = math.inf
) -> tuple[float, ...]:
    """The choices of a setting that are numbers between two, rising; none where it has no such setting."""
    if name is None:
        return ()
    found = {number_of(choice) for choice in camera.choices(name)}
    return tuple(sorted(number for number in found if number and least <= number <= most * 1.03))


def _test_shot(camera: Camera, rig: Rig, settings: Expected) -> RawImage:
    """Shoot, and read what the camera made from a folder that is gone afterwards."""
    apply_settings(camera, rig, settings)
    with tempfile.TemporaryDirectory(prefix="srraw-meter-") as home:
        for files in (camera.shoot(rig.settle_s, rig.files), None):
            for number, file in enumerate(camera.new_files(LATE_S) if files is None else files):
                path = Path(home) / f"{number}"
                camera.download(file, path)
                if _is_raw(path):
                    return read_raw(path)
    raise UserError(
        "The camera made no raw file.", "Set its image quality to RAW, or RAW and JPEG, and meter again."
    )


def _is_raw(path: Path) -> bool:
    try:
        return file_format(path) in RAW_FORMATS
    except UserError:  # a sound note or a film, say
        return False
