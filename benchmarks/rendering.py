"""What the mosaic has that a rendering of it has not: Ours, Ours-png, and png of an imitated camera JPEG.

    python benchmarks/rendering.py --folder DIR --photos PHOTOS --weights DIR

DIR holds what `paper.py data` made. For every ISO all scenes are shot again with the exposure left as it is:
at four times the ISO there is a fourth of the light. What was made or trained before is not made again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from paper import OURS, RATES, SENSOR, STEPS, evaluate, make_data, train

from srraw_tools import shards
from srraw_tools.raw import decode_srgb, mosaic_light
from srraw_tools.simulate.sensor import FULL_WELL_ISO100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of at least 12 photographs")
    parser.add_argument("--weights", type=Path, help="a folder of public weights, for LPIPS")
    parser.add_argument("--isos", type=int, nargs="+", default=[SENSOR.iso])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    compare_renderings(**vars(arguments))


def compare_renderings(
    folder: Path, photos: Path, weights: Path | None, isos: list[int], steps: int, jobs: int
) -> None:
    """Measure, train and evaluate at every ISO."""
    runs: dict[int, list[tuple[Path, Path, tuple[str, ...]]]] = {}
    for iso in isos:
        data = folder if iso == SENSOR.iso else folder / "rendering" / f"{iso}-data"
        out = folder / "rendering" / str(iso)
        out.mkdir(parents=True, exist_ok=True)
        if not (data / "srraw.h5").exists():
            data.mkdir(exist_ok=True)
            make_data(data, photos, jobs, replace(SENSOR, iso=iso))
        print(f"ISO {iso}: {what_rendering_loses(data / 'srraw.h5')}")
        if not (out / "jpeg.h5").exists():
            with_camera_jpegs(data / "srraw.h5", out / "jpeg.h5", iso)
        rate = ("--learning-rate", str(RATES[0]))
        files = {"raw": data / "srraw.h5", "png": data / "srraw.h5", "jpeg": out / "jpeg.h5"}
        runs[iso] = [
            (file, out / name, (*OURS["raw" if name == "raw" else "png"], *rate))
            for name, file in files.items()
        ]
    train([run for of_iso in runs.values() for run in of_iso], steps, jobs)
    for iso, ((data, raw, _), (_, png, _), (jpegs, jpeg, _)) in runs.items():
        for file, other in ((data, png), (jpegs, jpeg)):
            tables = folder / "rendering" / str(iso) / f"tables-{other.name}"
            tables.mkdir(exist_ok=True)
            models = [raw / "model.pt", other / "model.pt"]
            evaluate(file, models, tables, weights, protocols=("registered",))


def what_rendering_loses(path: Path) -> str:
    """How far the test pairs' 8-bit renderings, brought back to sensor light, lie from their mosaics."""
    departures, lost = [], []
    with shards.open(path) as reader:
        for pair in reader.select(zoom=4, split="test"):
            data = reader.read(pair, None, ("raw", "rgb"))
            light = mosaic_light(data.raw, pair.black_level, pair.white_level)
            linear = decode_srgb(data.rgb.astype(np.float32) / 255)
            camera = linear @ np.linalg.inv(pair.color_matrix).T / np.asarray(pair.rgb_wb)
            electrons = FULL_WELL_ISO100 * 100 / pair.iso
            noise = np.sqrt(np.maximum(light, 0) / electrons + (SENSOR.read_noise_e / electrons) ** 2)
            inside = ((data.rgb > 0) & (data.rgb < 255)).all(axis=2)
            # The median square of a normal variable is 0.4549 of its variance: what AHD replaced is rare.
            squares = np.square((mosaic_of(camera, pair.cfa) - light) / noise)[inside]
            departures.append(np.sqrt(np.median(squares) / 0.4549))
            lost.append(1 - inside.mean())
    return (
        f"inside the range, the rendering departs from the mosaic by {np.median(departures):.2f} of the "
        f"noise's deviation; {np.mean(lost):.1%} of the pixels are at 0 or 255 in a channel."
    )


def mosaic_of(image: np.ndarray, cfa: str) -> np.ndarray:
    """(H, W, 3) under a colour filter array."""
    mosaic = np.empty(image.shape[:2], image.dtype)
    for place, colour in enumerate(cfa):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        mosaic[rows, columns] = image[rows, columns, "RGB".index(colour)]
    return mosaic


def with_camera_jpegs(source: Path, out: Path, iso: int) -> None:
    """The same pairs, but for `rgb`, which is what a camera might have made of the shot."""
    with shards.open(source) as reader, shards.new_shard(out, {"zooms": [4], "compression": "none"}) as add:
        for pair in reader.select(zoom=4):
            data = reader.read(pair)
            add(pair, replace(data, rgb=camera_jpeg(data.rgb, 3 * np.sqrt(iso / 400))))


def camera_jpeg(rgb: np.ndarray, strength: float) -> np.ndarray:
    """An imitation of a camera's JPEG; its strengths are guesses, and were not tuned.

    Noise reduction by non-local means, sharpening, an S-shaped tone curve, JPEG of quality 90 with half the
    colour resolution.

    Args:
        rgb: (H, W, 3) uint8 sRGB.
        strength: of the noise reduction, in 8-bit values.
    """
    smooth = cv2.fastNlMeansDenoisingColored(rgb, None, strength, strength, 5, 15)
    sharp = cv2.addWeighted(smooth, 1.5, cv2.GaussianBlur(smooth, (0, 0), 1.0), -0.5, 0)
    x = np.linspace(0, 1, 256)
    toned = cv2.LUT(sharp, np.rint(255 * (0.7 * x + 0.3 * (3 * x**2 - 2 * x**3))).astype(np.uint8))
    half_colour = int(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    options = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, half_colour]
    _, coded = cv2.imencode(".jpg", toned[..., ::-1], options)
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]


if __name__ == "__main__":
    main()
