"""Zooming a photograph: tiles agree with the whole, crops with their place in it, colours with the raw."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
import rawpy
import torch
from synthetic import CFAS, write_untrained

from srraw_model.checkpoint import Checkpoint, save_checkpoint
from srraw_model.network import make_network
from srraw_model.packing import pack, reach_red, red_origin
from srraw_model.tiling import apply_in_tiles, count_tiles
from srraw_model.variants import make_trained
from srraw_model.zoom import prepare_zoom, zoom_photo
from srraw_tools.dng import write_dng
from srraw_tools.errors import UserError
from srraw_tools.raw import mosaic_light, read_raw, render_srgb, to_uint8

BLACK, WHITE = (500.0, 510.0, 520.0, 530.0), 16383


def random_network(name, zoom, *, channels=6, blocks=2):
    sizes = {"channels": channels, "blocks": blocks} | ({"wide": 8} if name == "paper" else {})
    torch.manual_seed(0)
    network = make_network(name, zoom, **sizes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def random_mosaic(height, width):
    return np.random.default_rng(0).integers(400, WHITE, (height, width)).astype(np.uint16)


def in_one_piece(network, mosaic, cfa):
    left, top = red_origin(cfa)
    light = mosaic_light(reach_red(mosaic, cfa), BLACK, WHITE, origin=(left, top))
    with torch.inference_mode():
        out = network(torch.from_numpy(pack(light))[None])[0].numpy()
    n, (height, width) = network.zoom, mosaic.shape
    return out[:, n * top : n * (top + height), n * left : n * (left + width)]


def joined(network, mosaic, cfa, *, crop=None, tile):
    _, _, width, height = crop or (0, 0, mosaic.shape[1], mosaic.shape[0])
    out = np.full((3, network.zoom * height, network.zoom * width), np.nan, np.float32)
    tiles = list(apply_in_tiles(network, mosaic, cfa, BLACK, WHITE, crop=crop, tile=tile))
    for piece in tiles:
        _, h, w = piece.camera_rgb.shape
        place = out[:, piece.y : piece.y + h, piece.x : piece.x + w]
        assert np.isnan(place).all(), "tiles overlap"
        place[:] = piece.camera_rgb
    assert len(tiles) == count_tiles(cfa, crop or (0, 0, mosaic.shape[1], mosaic.shape[0]), tile=tile)
    assert not np.isnan(out).any(), "tiles leave gaps"
    return out


@pytest.mark.parametrize("zoom", [2, 4, 8])
@pytest.mark.parametrize("name", ["paper", "small"])
def test_tiles_equal_the_whole(name, zoom):
    network = random_network(name, zoom)
    mosaic = random_mosaic(71, 90)
    whole = in_one_piece(network, mosaic, "GRBG")
    np.testing.assert_array_equal(joined(network, mosaic, "GRBG", tile=32), whole)


@pytest.mark.parametrize("size", [(330, 300), (71, 301), (500, 30)])
def test_tiles_of_any_size_equal_the_whole_at_the_presets_sizes(size):
    network = random_network("small", 4, channels=48, blocks=6)
    mosaic = random_mosaic(*size)
    whole = in_one_piece(network, mosaic, "GRBG")
    for tile in (16, 48, 256):
        np.testing.assert_array_equal(joined(network, mosaic, "GRBG", tile=tile), whole)


@pytest.mark.parametrize("cfa", CFAS)
@pytest.mark.parametrize("crop", [(0, 0, 16, 16), (7, 12, 33, 20), (41, 3, 20, 48)])
def test_a_crop_equals_its_place_in_the_whole(cfa, crop):
    network = random_network("small", 2)
    mosaic = random_mosaic(51, 61)
    whole = in_one_piece(network, mosaic, cfa)
    x, y, width, height = (2 * v for v in crop)
    part = joined(network, mosaic, cfa, crop=crop, tile=24)
    np.testing.assert_array_equal(part, whole[:, y : y + height, x : x + width])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_untrained(tmp_path_factory.mktemp("run") / "model.pt")


@pytest.mark.parametrize("name", ["gopro_Hero6_GOPR0024.dng", "gopro_Fusion_GPBK7066.dng"])
def test_a_photograph_keeps_its_own_colours(shared_data, tmp_path, name):
    """Against LibRaw's demosaicing of the same crop by the same rendering, both made small."""
    model = write_untrained(tmp_path / "model.pt")
    contents = torch.load(model, weights_only=True)
    contents["weights"]["to_samples.weight"].zero_()
    torch.save(contents, model)
    photo, crop = shared_data / "raw" / name, (1201, 900, 300, 202)
    out = tmp_path / "out.png"
    job = prepare_zoom(photo, checkpoint=model, out=out, crop=crop, tile=64)
    assert list(zoom_photo(job))[-1] == job.tiles
    made = cv2.imread(str(out))[:, :, ::-1]
    assert made.shape == (4 * 202, 4 * 300, 3)
    raw = read_raw(photo, demosaic=True)
    view = raw.camera_rgb[900:1102, 1201:1501] / np.float32(65535)
    expected = to_uint8(render_srgb(view, raw.rgb_wb, raw.color_matrix))
    small = cv2.resize(made, (30, 20), interpolation=cv2.INTER_AREA).astype(float)
    wanted = cv2.resize(expected, (30, 20), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(small - wanted[:, ::-1]).mean() < 3  # the flag of both files says that they are mirrored
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_as_an_ordinary_converter_shows_it(tmp_path, checkpoint, orientation):
    rng = np.random.default_rng(3)
    blobs = cv2.resize(rng.uniform(2000, 16000, (4, 6)), (66, 44), interpolation=cv2.INTER_CUBIC)
    photo, out = tmp_path / "a.dng", tmp_path / "a.png"
    write_dng(photo, blobs.clip(600, 16383).astype(np.uint16))
    as_it_lies, flagged = (struct.pack("<HHIHH", 274, 3, 1, number, 0) for number in (1, orientation))
    assert photo.read_bytes().count(as_it_lies) == 1
    photo.write_bytes(photo.read_bytes().replace(as_it_lies, flagged))
    job = prepare_zoom(photo, checkpoint=checkpoint, out=out, tile=16)
    list(zoom_photo(job))
    made = cv2.imread(str(out))[:, :, ::-1]
    with rawpy.imread(str(photo)) as raw:
        expected = raw.postprocess(use_camera_wb=True, no_auto_bright=True)
    assert made.shape == (4 * expected.shape[0], 4 * expected.shape[1], 3)
    assert made.shape[:2] == job.size
    small = cv2.resize(made, expected.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.9


def test_a_stopped_zoom_leaves_nothing_half_written(shared_data, tmp_path, checkpoint):
    photo, out = shared_data / "raw/gopro_Hero6_GOPR0024.dng", tmp_path / "out.png"
    out.write_bytes(b"older")
    tiles = zoom_photo(prepare_zoom(photo, checkpoint=checkpoint, out=out, crop=(0, 0, 64, 64), tile=32))
    next(tiles)
    tiles.close()
    assert out.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_a_network_of_pictures_is_refused(shared_data, tmp_path):
    sizes = {"name": "srresnet", "zoom": 4, "blocks": 1, "channels": 4}
    model = tmp_path / "model.pt"
    save_checkpoint(model, Checkpoint("SRResNet", sizes, make_trained(**sizes).state_dict(), 0, {}, {}, {}))
    photo = shared_data / "raw/gopro_Hero6_GOPR0024.dng"
    with pytest.raises(UserError, match="takes rendered pictures"):
        prepare_zoom(photo, checkpoint=model, out=tmp_path / "a.png")


def test_bad_input_is_said_in_a_sentence(shared_data, tmp_path, checkpoint):
    photo = shared_data / "raw/gopro_Hero6_GOPR0024.dng"
    for options, says in (
        ({"crop": (3900, 0, 200, 100)}, "does not lie inside"),
        ({"crop": (0, 0, 0, 100)}, "does not lie inside"),
        ({"zoom": 8}, "trained for 4X, not for 8X"),
        ({"out": tmp_path / "a.webp"}, r"\.png"),
        ({"out": tmp_path / "a.jpg", "bits": 16}, "8 bits, not 16"),
        ({"quality": 0}, "from 1 to 100"),
        ({"out": tmp_path / "none/a.png"}, "does not exist"),
        ({"tile": 33}, "not even"),
        ({"tile": -2}, "from 16"),
        ({"tile": 10**12}, "from 16 to 4096"),
        ({"crop": (10**30, 0, 10, 10)}, "does not lie inside"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"photo": checkpoint}, "not a raw file"),
        ({"photo": tmp_path / "none.dng"}, "does not exist"),
        ({"checkpoint": photo}, "not a checkpoint"),
    ):
        arguments = {"photo": photo, "checkpoint": checkpoint, "out": tmp_path / "a.png", **options}
        with pytest.raises(UserError, match=says):
            prepare_zoom(**arguments)
    assert list(tmp_path.iterdir()) == []
