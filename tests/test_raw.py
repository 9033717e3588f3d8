"""Raw files: what is read, what is rendered, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srraw_tools import libraw
from srraw_tools.dng import write_dng
from srraw_tools.errors import UserError
from srraw_tools.exif import file_format, read_exif
from srraw_tools.raw import (
    BAYER_PATTERNS,
    SRGB_TO_XYZ,
    decode_srgb,
    encode_srgb,
    half_size_rgb,
    luminance,
    matrix_from_xyz,
    mosaic_light,
    read_raw,
    render_srgb,
    to_uint8,
)

WB = (2.0, 1.0, 1.5)


def grey_mosaic(level, cfa, size=(48, 64)):
    """Sensor values of an even grey of `level` (balanced, 1 is white) under a pattern, black 512."""
    mosaic = np.empty(size, np.uint16)
    for i, colour in enumerate(cfa):
        value = 512 + level / WB["RGB".index(colour)] * (16383 - 512)
        mosaic[i // 2 :: 2, i % 2 :: 2] = round(value)
    return mosaic


@pytest.mark.parametrize("cfa", BAYER_PATTERNS)
def test_grey_is_grey_under_every_pattern(tmp_path, cfa):
    path = tmp_path / "grey.dng"
    write_dng(path, grey_mosaic(0.3, cfa), cfa=cfa, camera_wb=WB)
    raw = read_raw(path, demosaic=True)
    assert raw.cfa == cfa
    np.testing.assert_allclose(luminance(raw), 0.3, atol=2e-4)
    np.testing.assert_allclose(half_size_rgb(raw), 0.3, atol=2e-4)
    light = raw.camera_rgb / np.float32(65535)
    np.testing.assert_allclose(light * np.float32(WB), 0.3, atol=3e-4)
    np.testing.assert_allclose(render_srgb(light, raw.rgb_wb, raw.color_matrix), encode_srgb(0.3), atol=1e-3)


def test_demosaicing_keeps_the_sensor_values_where_they_were_measured(tmp_path):
    rng = np.random.default_rng(0)
    mosaic = rng.integers(512, 12000, (64, 96)).astype(np.uint16)
    write_dng(tmp_path / "a.dng", mosaic, camera_wb=WB)
    raw = read_raw(tmp_path / "a.dng", demosaic=True)
    scale = 65535 / (16383 - 512)
    for i, channel in ((0, 0), (3, 2)):
        measured = (mosaic[i // 2 :: 2, i % 2 :: 2].astype(float) - 512) * scale
        found = raw.camera_rgb[i // 2 :: 2, i % 2 :: 2, channel].astype(float)
        assert np.abs(found - measured).max() <= 4


@pytest.mark.parametrize("black", [(500, 800, 500, 800), (100, 130, 160, 190), (0, 0, 0, 512)])
@pytest.mark.parametrize("level", [0.02, 0.5])
def test_unequal_black_levels_leave_an_even_grey_even(tmp_path, black, level):
    path, mosaic = tmp_path / "a.dng", np.empty((48, 64), np.uint16)
    for i, (colour, dark) in enumerate(zip("RGGB", black, strict=True)):
        value = dark + level / WB["RGB".index(colour)] * (65000 - dark)
        mosaic[i // 2 :: 2, i % 2 :: 2] = round(value)
    write_dng(path, mosaic, black_level=black, white_level=65000, camera_wb=WB)
    raw = read_raw(path, demosaic=True)
    assert raw.black_level == black
    np.testing.assert_array_equal(raw.mosaic, mosaic)
    light = mosaic_light(raw.mosaic, raw.black_level, raw.white_level)
    packed = [light[i // 2 :: 2, i % 2 :: 2].mean() * wb for i, wb in enumerate(raw.camera_wb)]
    target = raw.camera_rgb.mean(axis=(0, 1)) / 65535 * WB
    for found in (packed, half_size_rgb(raw).mean(axis=(0, 1)), luminance(raw).mean(), target):
        np.testing.assert_allclose(found, level, rtol=2e-3)
    assert np.ptp(raw.camera_rgb, axis=(0, 1)).max() <= 0.002 * level * 65535  # no maze of two greens


def test_a_crop_keeps_its_own_black_levels():
    black, light = (100.0, 200.0, 300.0, 400.0), np.full((6, 8), 0.25, np.float32)
    mosaic = np.empty((6, 8), np.uint16)
    for i, level in enumerate(black):
        mosaic[i // 2 :: 2, i % 2 :: 2] = level + 0.25 * (16400 - level)
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        found = mosaic_light(mosaic[y:, x:], black, 16400, origin=(x, y))
        np.testing.assert_allclose(found, light[y:, x:], atol=1e-4)


@given(st.floats(0, 1))
def test_the_srgb_curve_and_its_inverse(value):
    assert decode_srgb(encode_srgb(value)) == pytest.approx(value, abs=1e-5)
    assert encode_srgb(value) >= value - 1e-6


def test_a_blown_highlight_is_white_and_not_magenta():
    white = render_srgb(np.ones((1, 3)), (2.0, 1.0, 1.6), np.eye(3))
    np.testing.assert_array_equal(to_uint8(white), 255)


def test_white_stays_white_through_a_matrix_of_libraws_table():
    # Sony ILCE-7SM2 as in LibRaw's table, XYZ to camera.
    xyz_to_camera = np.array(
        [[0.5838, -0.1430, -0.0246], [-0.4497, 1.2618, 0.2108], [-0.0770, 0.1680, 0.6575]]
    )
    matrix = matrix_from_xyz(xyz_to_camera)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    # A colour that the camera sees by this table comes back.
    srgb = np.array([0.2, 0.5, 0.7])
    to_camera = xyz_to_camera @ SRGB_TO_XYZ
    balanced = (to_camera @ srgb) / (to_camera @ np.ones(3))
    np.testing.assert_allclose(matrix @ balanced, srgb, atol=1e-12)


def test_the_colour_matrix_is_the_files_own_then_the_tables_then_none():
    own, table = np.diag([1.5, 1.4, 1.3, 1.0])[:3], np.vstack([np.diag([0.9, 1.0, 0.8]), np.zeros(3)])
    none, notes = np.zeros((3, 4)), []
    both = SimpleNamespace(color_matrix=own, rgb_xyz_matrix=table)
    np.testing.assert_array_equal(libraw._color_matrix(both, notes), own[:, :3])
    second = SimpleNamespace(color_matrix=none, rgb_xyz_matrix=table)
    np.testing.assert_array_equal(libraw._color_matrix(second, notes), matrix_from_xyz(table[:3]))
    assert notes == []
    third = SimpleNamespace(color_matrix=none, rgb_xyz_matrix=np.zeros((4, 3)))
    np.testing.assert_array_equal(libraw._color_matrix(third, notes), np.eye(3))
    assert "no colour matrix" in notes[0]


@pytest.mark.parametrize(
    ("values", "cfa", "balance", "noted"),
    [
        ([2.0, 1.0, 0.0, 1.5], "RGGB", (2.0, 1.0, 1.0, 1.5), False),  # a zero second green is the first
        ([1024, 2048, 1024, 1536], "GRBG", (1.0, 2.0, 1.0, 1.5), False),
        ([0.0, 1.0, 1.0, 1.5], "RGGB", (1.0,) * 4, True),
        ([0.0] * 4, "RGGB", (1.0,) * 4, True),
    ],
)
def test_the_balance_is_divided_by_green_and_zeros_are_told(values, cfa, balance, noted):
    notes = []
    assert libraw._balance(values, cfa, notes) == balance
    assert bool(notes) == noted


def test_what_is_no_raw_is_named_with_the_remedy(tmp_path):
    text, truncated, xtrans = tmp_path / "a.ARW", tmp_path / "b.dng", tmp_path / "c.dng"
    text.write_text("no raw at all " * 100)
    write_dng(truncated, grey_mosaic(0.3, "RGGB", (400, 600)))
    truncated.write_bytes(truncated.read_bytes()[:200_000])
    write_dng(xtrans, np.full((60, 60), 1000, np.uint16), cfa="GGRGGBGGBGGRBRGRBGGGBGGRGGRGGBRBGBRG")
    for path, says, status in (
        (tmp_path / "nowhere.ARW", "does not exist", 2),
        (tmp_path, "is a folder", 2),
        (text, "not a raw file", 1),
        (truncated, "truncated or damaged", 1),
        (xtrans, "2x2 Bayer", 1),
    ):
        with pytest.raises(UserError, match=says) as caught:
            read_raw(path)
        assert caught.value.exit_code == status
        assert str(path) in str(caught.value)


def test_formats_are_told_by_content(tmp_path):
    path = tmp_path / "camera.jpg"
    write_dng(path, grey_mosaic(0.3, "RGGB"))
    assert file_format(path) == "dng"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(40))
    assert file_format(path) == "JPG"
    path.write_text("text")
    with pytest.raises(UserError, match="neither a raw file nor a picture"):
        file_format(path)


def test_exif_without_a_focal_length_says_none(tmp_path):
    write_dng(tmp_path / "a.dng", grey_mosaic(0.3, "RGGB"), focal_mm=None, exposure_s=0.02, iso=200)
    exif = read_exif(tmp_path / "a.dng")
    assert exif.focal_mm is None
    assert (exif.exposure_s, exif.iso) == (pytest.approx(0.02), 200)


@pytest.mark.parametrize("name", ["gopro_Fusion_GPBK7066.dng", "gopro_Hero6_GOPR0024.dng"])
def test_real_gopro_raws_have_natural_colours(shared_data, name):
    raw = read_raw(shared_data / "raw" / name, demosaic=True)
    assert (raw.cfa, raw.black_level, raw.white_level) == ("RGGB", (0,) * 4, 16383)
    light = raw.camera_rgb[::8, ::8] / np.float32(65535)
    picture = render_srgb(light, raw.rgb_wb, raw.color_matrix)
    means = picture.reshape(-1, 3).mean(axis=0)
    assert means.max() - means.min() < 0.1  # no cast over a whole daylight scene
    assert 0.1 < means.mean() < 0.6
