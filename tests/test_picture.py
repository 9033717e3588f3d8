"""JPEG and PNG as shots: what is read, what is refused, and how pairs of them are aligned and packed."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from srraw_tools import geometry, picture, shards
from srraw_tools.align import align_sequence
from srraw_tools.alignment import read_alignment
from srraw_tools.cli import main
from srraw_tools.errors import UserError
from srraw_tools.files import read_json, sha256_of, write_json
from srraw_tools.pack import pack_sequences, plan_packing
from srraw_tools.picture import read_picture
from srraw_tools.raw import decode_srgb, read_raw, render_srgb, to_uint8
from srraw_tools.sequence import find_sequences, read_sequence


def write_picture(path, rgb, *parameters):
    """Write (H, W[, C]) values, red first, as OpenCV does by the name's suffix."""
    image = rgb[..., [2, 1, 0, *range(3, rgb.shape[2])]] if rgb.ndim == 3 else rgb
    assert cv2.imwrite(str(path), image, parameters)


def exif_segment(orientation, color_space):
    """An APP1 segment of a JPEG that states both; EXIF 2.32, section 4.5."""
    exif_at = 8 + 2 + 2 * 12 + 4
    tiff = b"II*\0" + (8).to_bytes(4, "little") + (2).to_bytes(2, "little")
    for tag, kind, value in ((274, 3, orientation), (34665, 4, exif_at)):
        tiff += tag.to_bytes(2, "little") + kind.to_bytes(2, "little")
        tiff += (1).to_bytes(4, "little") + value.to_bytes(4, "little")
    tiff += bytes(4) + (1).to_bytes(2, "little") + (40961).to_bytes(2, "little") + (3).to_bytes(2, "little")
    tiff += (1).to_bytes(4, "little") + color_space.to_bytes(4, "little") + bytes(4)
    return b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_is_read_as_it_was_written_and_its_light_is_linear(tmp_path, dtype):
    rng, most = np.random.default_rng(0), np.iinfo(dtype).max
    srgb = rng.integers(0, most + 1, (7, 10, 3)).astype(dtype)
    write_picture(tmp_path / "a.png", srgb)
    shot = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(shot.srgb, srgb)
    light = decode_srgb(srgb / most)
    np.testing.assert_allclose(picture.luminance(shot), light @ [0.25, 0.5, 0.25], atol=1e-6)
    blocks = light[:6].reshape(3, 2, 5, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(picture.half_size_rgb(shot), blocks, atol=1e-6)
    np.testing.assert_allclose(picture.linear_light(shot) / 65535, light, atol=1e-5)


def test_a_jpeg_lies_as_it_is_stored_whatever_its_orientation_flag(tmp_path):
    srgb = np.full((40, 60, 3), (200, 50, 20), np.uint8)
    write_picture(tmp_path / "a.jpg", srgb, cv2.IMWRITE_JPEG_QUALITY, 95)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.JPG").write_bytes(content[:2] + exif_segment(6, 65535) + content[2:])
    first, second = (read_picture(tmp_path / name) for name in ("a.jpg", "b.JPG"))
    assert (first.size, second.size) == ((40, 60), (40, 60))
    assert (first.exif.orientation, second.exif.orientation) == (None, 6)
    assert np.abs(second.srgb.astype(int) - srgb).max() <= 3
    assert (first.notes, second.notes) == ((), (picture.OTHER_SPACE,))


def test_grey_opaque_and_palette_pictures_are_rgb(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    write_picture(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png").srgb, np.stack([grey] * 3, axis=-1))
    opaque = np.dstack([grey, grey + 1, grey + 2, np.full_like(grey, 255)])
    write_picture(tmp_path / "opaque.png", opaque)
    np.testing.assert_array_equal(read_picture(tmp_path / "opaque.png").srgb, opaque[..., :3])
    write_picture(
        tmp_path / "black_and_white.png", np.tile(grey % 2 * 255, (1, 1)), cv2.IMWRITE_PNG_BILEVEL, 1
    )
    assert set(np.unique(read_picture(tmp_path / "black_and_white.png").srgb)) == {0, 255}


def test_what_is_no_picture_is_one_sentence(tmp_path, capfd):
    write_picture(tmp_path / "whole.jpg", np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8))
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    write_picture(tmp_path / "clear.png", np.full((4, 4, 4), 100, np.uint8))
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    for name, says in (
        ("half.jpg", "truncated or damaged"),
        ("clear.png", "partly transparent"),
        ("phone.heic", "is a HEIC file"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            read_picture(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    assert capfd.readouterr() == ("", "")


def as_picture(folder, file, suffix):
    """Put a rendering of a shot in the place of its raw, as a phone would have given it."""
    raw = read_raw(folder / file, demosaic=True)
    srgb = to_uint8(render_srgb(raw.camera_rgb / np.float32(65535), raw.rgb_wb, raw.color_matrix))
    name = file.removesuffix(".dng") + suffix
    write_picture(folder / name, srgb, *([cv2.IMWRITE_JPEG_QUALITY, 97] if suffix == ".JPG" else []))
    (folder / file).unlink()
    record = read_json(folder / "sequence.json")
    for shot in record["shots"]:
        if shot["file"] == file:
            shot |= {"file": name, "sha256": sha256_of(folder / name)}
    write_json(folder / "sequence.json", record)
    return srgb


def errors_px(folder):
    truth = {(p["low"], p["high"]): p["low_to_high"] for p in read_json(folder / "truth.json")["pairs"]}
    return [
        geometry.corner_error_px(p.low_to_high, truth[p.low[:5] + ".dng", p.high[:5] + ".dng"], p.crop)
        for p in read_alignment(folder / "alignment.json")
    ]


def test_pairs_of_raw_and_picture_are_aligned_and_packed_in_srgb(sequences, tmp_path):
    folder = sequences / "00001"
    before = {p.low: p for p in align_sequence(folder, zooms=(4,)).pairs}
    as_picture(folder, "00002.dng", ".JPG")  # a long shot
    as_picture(folder, "00007.dng", ".PNG")  # a short one
    aligned = align_sequence(folder, zooms=(4,), overwrite=True)
    assert [(p.low, p.high, p.status) for p in aligned.pairs] == [
        ("00007.PNG", "00003.dng", "ok"),
        ("00006.dng", "00002.JPG", "ok"),
        ("00005.dng", "00001.dng", "ok"),
    ]
    assert max(errors_px(folder)) < 0.7
    pair = aligned.pairs[1]
    np.testing.assert_allclose(pair.gain, before["00006.dng"].gain, rtol=0.05)
    records = list(pack_sequences([folder], out=tmp_path / "a.h5", zooms=(4,)))
    assert sorted(record.status for record in records) == ["left out", "packed", "packed"]
    (left_out,) = [record for record in records if record.status == "left out"]
    assert "00007.PNG is a picture: there is no mosaic to pack" in left_out.reason
    assert "left out" in {record.status for record in plan_packing([folder], zooms=(4,))}
    with shards.open(tmp_path / "a.h5") as reader:
        spaces = {p.name: (p.target_space, p.target_cfa) for p in reader.pairs}
        assert spaces == {
            "00001_4x_00005_00001": ("camera", "RGGB"),
            "00001_4x_00006_00002": ("srgb", None),
        }
        packed = next(p for p in reader.pairs if p.target_space == "srgb")
        data = reader.read(packed)
        assert data.target.dtype == np.uint8
        h, w = packed.size
        target = shards.render_target(packed, data.target).reshape(h, 4, w, 4, 3).mean(axis=(1, 3))
        whole = data.valid.reshape(h, 4, w, 4).min(axis=(1, 3)) > 0
        low = data.rgb / np.float32(255)
        assert abs(target[whole].mean(axis=0) - low[whole].mean(axis=0)).max() < 0.03
        assert np.corrcoef(target[whole].ravel(), low[whole].ravel())[0, 1] > 0.9


def test_a_folder_of_numbered_pictures_is_a_sequence(sequences):
    folder = sequences / "00001"
    for number in (2, 6):
        as_picture(folder, f"{number:05d}.dng", ".JPG")
    for path in folder.glob("*.dng"):
        path.unlink()
    (folder / "sequence.json").unlink()
    assert find_sequences([sequences]) == sorted(sequences.iterdir())
    assert [shot.file for shot in read_sequence(folder).shots] == ["00002.JPG", "00006.JPG"]
    aligned = align_sequence(folder, zooms=(4,))
    assert [(p.low, p.high, p.status) for p in aligned.pairs] == [("00006.JPG", "00002.JPG", "ok")]
    assert max(errors_px(folder)) < 0.7


def test_shots_of_two_devices_are_paired_by_what_the_images_show(sequences):
    """A phone whose EXIF says 4.2 mm: no comparison with the other camera's millimetres."""
    folder = sequences / "00001"
    record = read_json(folder / "sequence.json")
    for shot in record["shots"]:
        shot["focal_planned"] = None
        if shot["file"] in ("00006.dng", "00007.dng"):
            shot |= {"camera": "Phone 1", "lens": "main", "focal_mm": 4.2}
    write_json(folder / "sequence.json", record)
    aligned = align_sequence(folder)
    assert [(p.zoom, p.low, p.high, p.status) for p in aligned.pairs] == [
        (4, "00007.dng", "00003.dng", "ok"),
        (4, "00006.dng", "00002.dng", "ok"),
        (4, "00005.dng", "00001.dng", "ok"),
        (8, "00006.dng", "00001.dng", "ok"),
    ]
    assert max(errors_px(folder)) < 0.5
    offsets = {p.low: (p.focal_low, p.scale_offset_nominal is None) for p in aligned.pairs}
    assert offsets == {"00007.dng": (4.2, True), "00006.dng": (4.2, True), "00005.dng": (50.0, False)}
    assert not [warning for warning in aligned.warnings if "mm" in warning]


def test_the_commands_name_what_cannot_be_packed_and_describe_a_picture(sequences):
    folder, out = sequences / "00001", sequences / "a.h5"
    as_picture(folder, "00007.dng", ".PNG")
    align_sequence(folder, zooms=(4,))
    result = CliRunner().invoke(main, ["pack", str(folder), "--out", str(out), "--zoom", "4"])
    assert result.exit_code == 0
    assert "Warning: 00001_4x_00007_00003" in result.stderr
    assert f"{out}: 2 pairs packed, 0 were there before." in result.stdout
    described = json.loads(CliRunner().invoke(main, ["inspect", str(folder / "00007.PNG"), "--json"]).stdout)
    assert (described["kind"], described["width"], described["bits"]) == ("PNG picture", 528, 8)


def test_a_photograph_as_jpeg_and_its_middle_as_png_align(shared_data, tmp_path):
    """What a phone's two lenses would give: the same scene, once four times as finely sampled."""
    photo = cv2.imread(str(shared_data / "photos" / "jumpington.jpeg"))[:2400, :3200]
    cv2.imwrite(str(tmp_path / "00001.png"), photo[900:1500, 1200:2000])
    cv2.imwrite(str(tmp_path / "00002.jpg"), cv2.resize(photo, (800, 600), interpolation=cv2.INTER_AREA))
    (pair,) = align_sequence(tmp_path, zooms=(4,)).pairs
    assert (pair.low, pair.high, pair.status) == ("00002.jpg", "00001.png", "ok")
    truth = geometry.translation(-1200, -900) @ geometry.scaling(4)
    assert geometry.corner_error_px(pair.low_to_high, truth, pair.crop) < 0.3
