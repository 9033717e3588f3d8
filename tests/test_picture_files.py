"""Pictures as files: other programs read the same values and settings back, of every format."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from srraw_model import picture_files
from srraw_model.picture_files import STRIP_ROWS, chosen_bits, write_picture
from srraw_tools.errors import UserError
from srraw_tools.exif import Exif, read_exif

SHOT = Exif(
    focal_mm=35.2,
    f_number=2.8,
    exposure_s=1 / 250,
    iso=400.0,
    make="SONY",
    model="ILCE-7RM2",
    lens="FE 24-240mm",
    serial="12345",
    taken_at="2019-06-16T12:00:01.25",
    orientation=6,
)


def written(path, picture, **settings):
    strips = (picture[y : y + STRIP_ROWS] for y in range(0, len(picture), STRIP_ROWS))
    options = {"bits": 8 * picture.itemsize, "exif": SHOT, "quality": 95, **settings}
    write_picture(path, strips, picture.shape[:2], **options)
    return path


def random_picture(bits, size=(2 * STRIP_ROWS + 9, 70)):
    return np.random.default_rng(0).integers(0, 2**bits, (*size, 3)).astype(f"u{bits // 8}")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF"])
def test_values_come_back_exactly(tmp_path, name, bits):
    picture = random_picture(bits)
    path = written(tmp_path / name, picture)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:, :, ::-1], picture)
    if "tif" in name.lower():
        np.testing.assert_array_equal(tifffile.imread(path), picture)


@pytest.mark.parametrize("size", [(1, 1), (STRIP_ROWS, 3), (STRIP_ROWS + 1, 1)])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_pictures_of_a_pixel_and_of_whole_strips(tmp_path, name, size):
    picture = random_picture(16, size)
    path = written(tmp_path / name, picture)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:, :, ::-1], picture)


def test_a_tiff_beyond_four_gigabytes_is_a_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_files, "TIFF_MOST", 100)
    picture = random_picture(16)
    path = written(tmp_path / "a.tif", picture)
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
        assert file.pages[0].tags[34665].value["FocalLength"] == (176, 5)
        np.testing.assert_array_equal(file.asarray(), picture)


def test_a_jpeg_is_near_and_nearer_at_a_higher_quality(tmp_path):
    smooth = cv2.resize(random_picture(8, (6, 4)), (70, 150), interpolation=cv2.INTER_CUBIC)
    errors = []
    for quality in (30, 95):
        path = written(tmp_path / "a.jpg", smooth, quality=quality)
        errors.append(np.abs(cv2.imread(str(path))[:, :, ::-1].astype(float) - smooth).mean())
    assert errors[1] < 1.5
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_two_readers_find_the_settings_of_the_shot(tmp_path, name):
    path = written(tmp_path / name, random_picture(8))
    read = read_exif(path)
    assert read == Exif(**{**vars(SHOT), "serial": None, "orientation": 1, "color_space": 1})
    with Image.open(path) as image:
        tags = image.getexif()
        shot = tags.get_ifd(34665)
    assert tags[305].startswith("srraw ")
    assert (float(shot[37386]), float(shot[33437]), shot[34855]) == (35.2, 2.8, 400)
    assert (shot[33434].numerator, shot[33434].denominator) == (1, 250)
    assert shot[42036] == "FE 24-240mm"
    assert 42033 not in shot, "who publishes a picture need not publish the camera's serial number"


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_what_is_not_known_is_not_stated(tmp_path, name):
    path = written(tmp_path / name, random_picture(8), exif=Exif())
    assert read_exif(path) == Exif(orientation=1, color_space=1)


def test_the_same_picture_is_the_same_bytes(tmp_path):
    for suffix in ("png", "tif", "jpg"):
        one, two = (written(tmp_path / f"{n}.{suffix}", random_picture(8)) for n in "ab")
        assert one.read_bytes() == two.read_bytes()


def test_what_a_format_cannot_hold_is_said_in_a_sentence(tmp_path):
    assert chosen_bits(tmp_path / "a.png", None, (9, 9)) == 16
    assert chosen_bits(tmp_path / "a.JPG", None, (9, 65500)) == 8
    for name, bits, size, says in (
        ("a.webp", None, (9, 9), r"\.png, \.tif or \.jpg"),
        ("a.jpg", 16, (9, 9), "can have 8 bits, not 16"),
        ("a.tif", 12, (9, 9), "can have 8 or 16 bits, not 12"),
        ("a.jpg", None, (9, 65501), "65501 x 9 does not go into .* at most 65500"),
    ):
        with pytest.raises(UserError, match=says):
            chosen_bits(tmp_path / name, bits, size)
