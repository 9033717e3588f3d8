"""Files of zoomed pictures: every sample, and what the photograph told, as other programs read them."""

from __future__ import annotations

import cv2
import exifread
import numpy as np
import pytest
import tifffile
from PIL import Image
from synthetic import write_untrained

from srraw_model.picture_files import STRIP_ROWS, bits_of, write_picture
from srraw_model.zoom import prepare_zoom, zoom_photo
from srraw_tools.errors import UserError
from srraw_tools.exif import Exif, read_exif

EXIF = Exif(
    focal_mm=35.0,
    f_number=20.0,
    exposure_s=0.0125,
    iso=400.0,
    make="SONY",
    model="ILCE-7M3",
    lens="FE 24-240mm",
    taken_at="2026:02:03 04:05:06",
    orientation=6,
)
SIZE = (STRIP_ROWS * 2 + 21, 77)  # no whole number of strips


def written(path, bits, *, exif=EXIF, smooth=False):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 2**bits, (*SIZE, 3)).astype(np.dtype(f"u{bits // 8}"))
    if smooth:
        picture = cv2.GaussianBlur(picture, (0, 0), 5)
    strips = lambda: (picture[y : y + STRIP_ROWS] for y in range(0, SIZE[0], STRIP_ROWS))  # noqa: E731
    write_picture(path, path.suffix, strips, SIZE, bits, exif)
    return picture


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_sample_is_there(tmp_path, suffix, bits):
    path = tmp_path / f"a{suffix}"
    picture = written(path, bits)
    back = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(back[..., ::-1], picture)
    if suffix == ".tif":
        np.testing.assert_array_equal(tifffile.imread(path), picture)


def test_a_jpeg_looks_the_same(tmp_path):
    picture = written(tmp_path / "a.jpg", 8, smooth=True)
    back = cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1]
    assert np.abs(back.astype(int) - picture).mean() < 1.5


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_what_the_photograph_told_is_carried_over_and_the_picture_is_upright(tmp_path, name):
    written(tmp_path / name, 8)
    found = read_exif(tmp_path / name)
    for field in ("focal_mm", "f_number", "exposure_s", "iso", "make", "model"):
        assert getattr(found, field) == getattr(EXIF, field), field
    assert found.orientation in (None, 1)
    with open(tmp_path / name, "rb") as file:
        tags = exifread.process_file(file, details=False)
    assert str(tags["Image Software"]).startswith("srraw ")
    assert str(tags["Image DateTime"]) == EXIF.taken_at
    if name != "a.tif":
        assert str(tags["EXIF LensModel"]) == EXIF.lens
    with Image.open(tmp_path / name) as image:
        assert image.size == SIZE[::-1]
        assert image.getexif()[274] == 1


def test_a_photograph_that_tells_nothing_gives_a_file_all_the_same(tmp_path):
    for name in ("a.png", "a.tif", "a.jpg"):
        written(tmp_path / name, 8, exif=Exif())
        assert read_exif(tmp_path / name).make is None


def test_what_a_file_cannot_be_is_said():
    assert bits_of(path_of("a.TIF"), None, SIZE) == 16
    assert bits_of(path_of("a.png"), None, SIZE) == 8
    assert bits_of(path_of("a.png"), 16, SIZE) == 16
    for name, bits, size, says in (
        ("a.gif", None, SIZE, "no name of a picture"),
        ("a.jpg", 16, SIZE, "no 16 bits"),
        ("a.jpg", None, (100, 70000), "65500 pixels"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            bits_of(path_of(name), bits, size)
        assert caught.value.exit_code == 2


def path_of(name):
    from pathlib import Path

    return Path(name)


def test_a_photograph_in_sixteen_bits_is_finer_than_in_eight(shared_data, tmp_path):
    photo, model = shared_data / "raw/gopro_Hero6_GOPR0024.dng", write_untrained(tmp_path / "model.pt")
    pictures = {}
    for name, bits in (("a.png", 8), ("b.png", 16), ("c.tif", None)):
        job = prepare_zoom(
            photo, checkpoint=model, out=tmp_path / name, crop=(800, 600, 120, 90), tile=48, bits=bits
        )
        list(zoom_photo(job))
        pictures[name] = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(pictures["b.png"], pictures["c.tif"])
    assert pictures["b.png"].dtype == np.uint16
    assert np.abs(pictures["b.png"] / 257 - pictures["a.png"]).max() <= 0.51
    assert len(np.unique(pictures["b.png"])) > 256
    assert read_exif(tmp_path / "b.png").make == read_exif(photo).make
