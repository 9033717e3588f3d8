"""The baselines have their papers' sizes, and public weights give the results that their authors report."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from srraw_model.baselines import (
    JohnsonNet,
    LapSRN,
    ResNetGenerator,
    RRDBNet,
    ThenBicubic,
    rgb_to_ycbcr,
    ycbcr_to_rgb,
)
from srraw_model.metrics import psnr
from srraw_model.network import upsampled
from srraw_model.public_weights import LOADERS, load_esrgan, load_lapsrn, load_srgan
from srraw_model.variants import make_trained
from srraw_tools.errors import UserError


def parameters(network):
    return sum(values.numel() for values in network.parameters())


def test_they_have_the_sizes_that_are_published():
    assert parameters(RRDBNet()) == 16_697_987
    assert parameters(ResNetGenerator(4)) == 1_549_462
    assert parameters(LapSRN(4)) == 814_242
    assert parameters(LapSRN(8)) == 667_123


@pytest.mark.parametrize(
    "network",
    [
        RRDBNet(blocks=1, channels=8, growth=4),
        *(ResNetGenerator(zoom, blocks=1, channels=8) for zoom in (2, 4, 8)),
        *(LapSRN(zoom, depth=1, channels=8) for zoom in (2, 4, 8)),
        *(JohnsonNet(zoom, channels=8) for zoom in (2, 4, 8)),
        ThenBicubic(RRDBNet(blocks=1, channels=8, growth=4), 8),
    ],
)
def test_they_enlarge_by_their_zoom(network):
    srgb = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    assert network.eval()(srgb).shape == (2, 3, 9 * network.zoom, 12 * network.zoom)


def seen_by(network, *, side):
    """How far an input pixel, even or odd, reaches at most.

    What is not a number spreads over all that is computed of it. In doubles torch takes no fast algorithm
    that would spread it farther.
    """
    network = network.double().eval()
    reaches = []
    for at in (side // 2, side // 2 + 1):
        srgb = torch.full((1, 3, side, side), 0.5, dtype=torch.double)
        srgb[..., at, at] = torch.nan
        # With gradients ours deconvolves by torch's own, which sums no zeros.
        reached = network(srgb).isnan().any(dim=1)[0].unflatten(0, (side, network.zoom)).any(dim=1)
        rows = reached.any(dim=1).nonzero().ravel()
        assert 0 not in rows, "the picture is too small for the network"
        reaches += [at - rows.min().item(), rows.max().item() - at]
    return max(reaches)


@pytest.mark.parametrize(
    ("network", "slack"),
    [
        *((ResNetGenerator(zoom, blocks=blocks, channels=2), 0) for zoom in (2, 4, 8) for blocks in (1, 3)),
        *((RRDBNet(blocks=blocks, channels=2, growth=1), 0) for blocks in (1, 2)),
        *((LapSRN(zoom, depth=depth, channels=2), 0) for zoom in (2, 4, 8) for depth in (1, 4)),
        *((JohnsonNet(zoom, channels=2, blocks=2), 0) for zoom in (2, 4, 8)),
        (ThenBicubic(LapSRN(2, depth=2, channels=2), 8), 1),
        (ThenBicubic(ResNetGenerator(4, blocks=1, channels=2), 8), 1),
        *(
            (make_trained("paper", zoom, "png", blocks=blocks, channels=2, wide=2, on_demosaic=True), 2)
            for zoom in (2, 4, 8)
            for blocks in (1, 4)
        ),
        # The mean that its output sees lies closer than what its features do, and both count.
        *((make_trained("small", zoom, "png", blocks=1, channels=2), 12) for zoom in (2, 4)),
    ],
)
def test_they_see_as_far_as_they_say(network, slack):
    seen = seen_by(network, side=2 * network.reach + 12)
    assert seen <= network.reach <= seen + slack


def test_the_papers_sizes_see_far():
    paper = make_trained("paper", 4, "png", channels=2, wide=2)
    assert (ResNetGenerator(4, channels=2).reach, LapSRN(4, channels=2).reach, paper.reach) == (40, 17, 100)
    assert RRDBNet(channels=2, growth=1).reach == 349


@pytest.mark.parametrize("height", [1, 3, 8, 13])
def test_the_last_convolution_row_by_row_is_the_9x9_one(height):
    layer = ResNetGenerator(2, channels=5).to_rgb
    values = torch.randn(2, 5, height, 11)
    expected = torch.nn.functional.conv2d(values, layer.weight, layer.bias, padding=4)
    torch.testing.assert_close(layer(values), expected, rtol=1e-5, atol=1e-6)


def test_a_zoom_that_there_is_not_is_refused():
    for make in (ResNetGenerator, LapSRN, JohnsonNet):
        with pytest.raises(ValueError, match="there are 2, 4 and 8"):
            make(3)
    with pytest.raises(ValueError, match="6X is no multiple of 4X"):
        ThenBicubic(RRDBNet(blocks=1), 6)


def test_before_training_lapsrn_enlarges_without_a_shift():
    """A ramp stays the ramp that it was, in the coordinates of areas."""
    network = LapSRN(4, depth=1, channels=4)
    for level in network.levels:
        torch.nn.init.zeros_(level.residual.weight)
        torch.nn.init.zeros_(level.residual.bias)
    columns = torch.arange(16.0)
    luma = (columns / 20).expand(1, 1, 8, 16)
    enlarged = network.pyramid(luma)[-1][0, 0, 16, 8:-8]
    expected = ((torch.arange(64) + 0.5) / 4 - 0.5)[8:-8] / 20
    torch.testing.assert_close(enlarged, expected)


def test_luma_and_colour_are_those_of_bt_601():
    srgb = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]]).T.reshape(1, 3, 2, 2)
    expected = torch.tensor(
        [[16.0, 128, 128], [235, 128, 128], [81.481, 90.203, 240], [40.966, 240, 109.786]]
    )
    torch.testing.assert_close(rgb_to_ycbcr(srgb) * 255, expected.T.reshape(1, 3, 2, 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(ycbcr_to_rgb(rgb_to_ycbcr(srgb)), srgb, atol=1e-6, rtol=0)


def set5(shared_data):
    """Set5 at 4X: pairs of bicubic and original, (1, 3, h, w)."""
    for high in sorted((shared_data / "set5").glob("*HR.png")):
        pictures = [cv2.imread(str(high.with_name(high.name.replace("HR", of)))) for of in ("LR", "HR")]
        yield tuple(
            torch.from_numpy(picture[:, :, ::-1].astype(np.float32) / 255).permute(2, 0, 1)[None]
            for picture in pictures
        )


def mean_psnr(network, shared_data):
    """On 8-bit luma, four pixels cut off at the border, as papers do."""
    found = []
    for low, high in set5(shared_data):
        with torch.no_grad():
            out = (network(low).clamp(0, 1) * 255).round() / 255
        luma = [rgb_to_ycbcr(picture)[:, :1, 4:-4, 4:-4] for picture in (out, high)]
        found.append(psnr(*luma).item())
    return sum(found) / len(found)


def test_public_weights_reach_on_set5_what_their_authors_report(shared_data):
    weights = shared_data / "weights"
    lapsrn = mean_psnr(load_lapsrn(weights / "LapSRN_x4.mat"), shared_data)
    srgan = mean_psnr(load_srgan(weights / "srgan_leftthomas_netG_epoch_4_100.pth"), shared_data)
    assert lapsrn == pytest.approx(31.53, abs=0.02)
    assert srgan == pytest.approx(30.66, abs=0.02)
    assert mean_psnr(lambda low: upsampled(low, 4), shared_data) == pytest.approx(28.43, abs=0.1)


def test_public_weights_of_8x_load(shared_data):
    weights = shared_data / "weights"
    assert load_lapsrn(weights / "LapSRN_x8.mat").zoom == 8
    assert load_srgan(weights / "srgan_leftthomas_netG_epoch_8_100.pth").zoom == 8


def older(name):
    """A name of the newest layout in the two older ones."""
    if name.startswith("body."):
        _, block, dense, conv, kind = name.split(".")
        dense = dense.upper()
        first = f"model.1.sub.{block}.{dense}.{conv}.0.{kind}"
        return first, f"RRDB_trunk.{block}.{dense}.{conv}.{kind}"
    layer, kind = name.split(".")
    first, second = {
        "conv_first": ("model.0", "conv_first"),
        "conv_body": ("model.1.sub.2", "trunk_conv"),
        "conv_up1": ("model.3", "upconv1"),
        "conv_up2": ("model.6", "upconv2"),
        "conv_hr": ("model.8", "HRconv"),
        "conv_last": ("model.10", "conv_last"),
    }[layer]
    return f"{first}.{kind}", f"{second}.{kind}"


@pytest.mark.parametrize("layout", ["oldest", "old", "params", "params_ema", "wrapped"])
def test_esrgan_loads_from_all_its_public_layouts(tmp_path, layout):
    network = RRDBNet(blocks=2, channels=8, growth=4).eval()
    state = network.state_dict()
    if layout == "wrapped":
        weights = {f"module._orig_mod.{name}": values for name, values in state.items()}
    elif layout in ("params", "params_ema"):
        weights = {layout: state, "iteration": torch.tensor(5)}
    else:
        weights = {older(name)[layout == "old"]: values for name, values in state.items()}
    torch.save(weights, tmp_path / "esrgan.pth")
    loaded = load_esrgan(tmp_path / "esrgan.pth")
    srgb = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(srgb), network(srgb))


def test_an_srgan_of_sixteen_blocks_loads_too(tmp_path, shared_data):
    path = shared_data / "weights/srgan_leftthomas_netG_epoch_4_100.pth"
    public = torch.load(path, weights_only=True, map_location="cpu")
    longer = {}
    for name, values in public.items():
        block, rest = name.split(".", 1)
        number = int(block.removeprefix("block"))
        for moved in {6: range(6, 18), 7: [18], 8: [19]}.get(number, [number]):
            longer[f"module.block{moved}.{rest}"] = values
    torch.save(longer, tmp_path / "long.pth")
    loaded = load_srgan(tmp_path / "long.pth")
    assert (len(loaded.blocks), loaded.zoom) == (16, 4)
    assert torch.equal(loaded.to_rgb.weight, public["block8.2.weight"])


@pytest.mark.parametrize("name", list(LOADERS))
def test_a_wrong_file_is_named_with_the_remedy(tmp_path, name, shared_data):
    wrong = tmp_path / "wrong.pth"
    squeezenet = shared_data / "weights/squeezenet1_1_fp16_torchvision_layout.pth"
    truncated = next(iter((shared_data / "weights").glob("LapSRN_x4.mat"))).read_bytes()[:100_000]
    for content in (b"", b"nothing", truncated, squeezenet.read_bytes()):
        wrong.write_bytes(content)
        with pytest.raises(UserError, match=str(wrong)) as raised:
            LOADERS[name](wrong)
        assert raised.value.hint.startswith("Pass ")
    with pytest.raises(UserError, match="does not exist") as raised:
        LOADERS[name](tmp_path / "none")
    assert raised.value.exit_code == 2
    with pytest.raises(UserError, match="is a folder"):
        LOADERS[name](tmp_path)


def test_weights_that_do_not_fill_the_network_are_refused(tmp_path):
    state = RRDBNet(blocks=1, channels=8, growth=4).state_dict()
    for change, says in (
        ({"conv_hr.bias": None}, "conv_hr.bias is missing"),
        ({"extra.weight": torch.zeros(1)}, "extra.weight is too much"),
        ({"conv_hr.bias": torch.zeros(3)}, "is damaged"),
        ({"conv_hr.bias": torch.full((8,), torch.nan)}, "not finite"),
    ):
        changed = {name: values for name, values in (state | change).items() if values is not None}
        torch.save(changed, tmp_path / "esrgan.pth")
        with pytest.raises(UserError, match=says):
            load_esrgan(tmp_path / "esrgan.pth")
