"""A DNG is read back by LibRaw, exifread and tifffile exactly as it was meant."""

import subprocess
from datetime import datetime
from fractions import Fraction
from shutil import which

import exifread
import numpy as np
import pytest
import rawpy
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srraw_tools.dng import write_dng
from srraw_tools.errors import UserError
from srraw_tools.raw import BAYER_PATTERNS, read_raw

MATRIX = np.array([[1.7, -0.6, -0.1], [-0.2, 1.5, -0.3], [0.02, -0.5, 1.48]])
XTRANS = "GGRGGBGGBGGRBRGRBGGGBGGRGGRGGBRBGBRG"


def noise(height=44, width=66, seed=0):
    return np.random.default_rng(seed).integers(0, 65536, (height, width)).astype(np.uint16)


@pytest.mark.parametrize("cfa", BAYER_PATTERNS)
def test_libraw_reads_every_value_and_the_pattern(tmp_path, cfa):
    mosaic = noise()
    write_dng(tmp_path / "a.dng", mosaic, cfa=cfa, black_level=300, white_level=4095)
    raw = read_raw(tmp_path / "a.dng")
    np.testing.assert_array_equal(raw.mosaic, mosaic)
    assert (raw.cfa, raw.black_level, raw.white_level) == (cfa, (300,) * 4, 4095)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(red=st.floats(0.4, 4), blue=st.floats(0.4, 4), crosstalk=st.floats(0, 0.25))
def test_libraw_reads_the_balance_and_the_matrix_that_were_meant(tmp_path, red, blue, crosstalk):
    matrix = np.linalg.inv((1 - 3 * crosstalk) * np.eye(3) + crosstalk)
    write_dng(tmp_path / "a.dng", noise(), camera_wb=(red, 1, blue), camera_to_srgb=matrix)
    raw = read_raw(tmp_path / "a.dng")
    np.testing.assert_allclose(raw.rgb_wb, (red, 1, blue), rtol=2e-5)
    np.testing.assert_allclose(raw.color_matrix, matrix, atol=2e-5)
    assert raw.notes == ()


def test_a_grey_card_comes_out_neutral_from_an_ordinary_converter(tmp_path):
    balance = np.array([2.1, 1.0, 1.4])
    mosaic = np.empty((44, 66), np.uint16)
    for y, x, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[y::2, x::2] = round(512 + 6000 / balance[channel])
    write_dng(tmp_path / "grey.dng", mosaic, camera_wb=tuple(balance), camera_to_srgb=MATRIX)
    with rawpy.imread(str(tmp_path / "grey.dng")) as raw:
        rendered = raw.postprocess(use_camera_wb=True, no_auto_bright=True).astype(int)
    assert np.ptp(rendered.reshape(-1, 3), axis=0).max() <= 1
    assert np.ptp(rendered.mean(axis=(0, 1))) <= 1
    assert 100 < rendered.mean() < 200


def test_exif_says_how_the_shot_was_taken(tmp_path):
    write_dng(
        tmp_path / "a.dng",
        noise(),
        focal_mm=156.7,
        f_number=22,
        exposure_s=1 / 80,
        iso=400,
        camera_make="Maker",
        camera_model="Body 1",
        serial_number="007",
        lens_model="24-240 mm",
        taken_at=datetime(2019, 6, 16, 9, 5, 7, 123456),
    )
    with open(tmp_path / "a.dng", "rb") as file:
        tags = exifread.process_file(file)
    assert tags["EXIF FocalLength"].tag == 37386
    assert tags["EXIF FocalLength"].values[0] == Fraction(1567, 10)
    assert tags["EXIF FNumber"].values[0] == 22
    assert tags["EXIF ExposureTime"].values[0] == Fraction(1, 80)
    assert tags["EXIF ISOSpeedRatings"].values[0] == 400
    assert str(tags["EXIF DateTimeOriginal"]) == "2019:06:16 09:05:07"
    assert str(tags["EXIF SubSecTimeOriginal"]) == "123456"
    assert str(tags["Image Make"]) == "Maker"
    assert str(tags["Image Model"]) == "Body 1"
    assert str(tags["EXIF BodySerialNumber"]) == "007"
    assert str(tags["EXIF LensModel"]) == "24-240 mm"
    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        assert raw.other.focal_length == pytest.approx(156.7)
        assert raw.other.iso_speed == 400


def test_no_focal_length_leaves_none_in_the_file(tmp_path):
    write_dng(tmp_path / "a.dng", noise(), focal_mm=None)
    assert read_raw(tmp_path / "a.dng").exif.focal_mm is None


def test_the_file_is_a_sound_tiff(tmp_path):
    mosaic = noise()
    write_dng(tmp_path / "a.dng", mosaic, camera_wb=(2, 1, 1.5), focal_mm=24)
    with tifffile.TiffFile(tmp_path / "a.dng") as tiff:
        np.testing.assert_array_equal(tiff.asarray(), mosaic)
        tags = tiff.pages[0].tags
        assert bytes(tags["DNGVersion"].value) == bytes((1, 4, 0, 0))
        assert tags["AsShotNeutral"].value == (1, 2, 1, 1, 2, 3)
        assert tags["ExifTag"].value["FocalLength"] == (24, 1)


@pytest.mark.skipif(which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_finds_nothing_wrong(tmp_path):
    write_dng(tmp_path / "a.dng", noise(), camera_to_srgb=MATRIX, focal_mm=24, lens_model="24-240 mm")
    said = subprocess.run(
        ["exiftool", "-validate", "-warning", "-s3", tmp_path / "a.dng"], capture_output=True, text=True
    )
    assert said.stdout.strip() == "OK"


def test_the_same_shot_gives_the_same_bytes(tmp_path):
    for name in ("a.dng", "b.dng"):
        write_dng(tmp_path / name, noise(), focal_mm=35)
    assert (tmp_path / "a.dng").read_bytes() == (tmp_path / "b.dng").read_bytes()


def test_an_xtrans_pattern_is_written_and_refused_by_what_needs_bayer(tmp_path):
    write_dng(tmp_path / "x.dng", noise(), cfa=XTRANS)
    with rawpy.imread(str(tmp_path / "x.dng")) as raw:
        assert raw.raw_pattern.shape == (6, 6)
    with pytest.raises(UserError, match="X-Trans"):
        read_raw(tmp_path / "x.dng")


def test_what_is_no_pattern_or_no_mosaic_is_refused(tmp_path):
    with pytest.raises(ValueError, match="pattern"):
        write_dng(tmp_path / "a.dng", noise(), cfa="RGB")
    with pytest.raises(ValueError, match="uint16"):
        write_dng(tmp_path / "a.dng", noise().astype(float))
    assert not list(tmp_path.iterdir())
