"""Feature networks load the public files by their own layout, and name a file that is something else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from srraw_model import features
from srraw_model.features import load_lpips_backbone, load_vgg19
from srraw_tools.errors import UserError

VGG19_WIDTHS = {
    0: (3, 64),
    2: (64, 64),
    5: (64, 128),
    7: (128, 128),
    10: (128, 256),
    12: (256, 256),
    14: (256, 256),
}


def torchvision_vgg19(seed=0):
    """Random weights in torchvision's layout: the layers that we need, one more, and a classifier."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"classifier.6.bias": torch.zeros(1000)}
    for number, (before, after) in VGG19_WIDTHS.items():
        weights[f"features.{number}.weight"] = torch.randn(after, before, 3, 3, generator=generator) * 0.05
        weights[f"features.{number}.bias"] = torch.randn(after, generator=generator) * 0.1
    return weights


@pytest.fixture(scope="module")
def vgg19_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg19") / "vgg19.pth"
    torch.save(torchvision_vgg19(), path)
    return path


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 21, 18, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("pooling", "pool"), [("max", F.max_pool2d), ("average", F.avg_pool2d)])
def test_vgg19_of_torchvision_is_the_papers_three_layers(vgg19_file, image, pooling, pool):
    weights = torchvision_vgg19()

    def convolve(values, number):
        return F.conv2d(
            values, weights[f"features.{number}.weight"], weights[f"features.{number}.bias"], padding=1
        ).relu()

    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    conv1_2 = convolve(convolve((image - mean) / std, 0), 2)
    conv2_2 = convolve(convolve(pool(conv1_2, 2), 5), 7)
    conv3_2 = convolve(convolve(pool(conv2_2, 2), 10), 12)

    tapped = load_vgg19(vgg19_file, pooling=pooling)(image)
    assert list(tapped) == ["conv1_2", "conv2_2", "conv3_2"]
    for ours, expected in zip(tapped.values(), (conv1_2, conv2_2, conv3_2), strict=True):
        torch.testing.assert_close(ours, expected)
    assert tapped["conv3_2"].shape == (2, 256, 5, 4)


def test_only_the_layers_needed_are_kept_and_frozen_but_the_image_has_a_gradient(vgg19_file, image):
    network = load_vgg19(vgg19_file)
    assert {name.split(".")[0] for name in network.layers.state_dict()} == {"0", "2", "5", "7", "10", "12"}
    assert not any(parameter.requires_grad for parameter in network.parameters())
    image = image.clone().requires_grad_()
    sum(values.mean() for values in network(image).values()).backward()
    assert image.grad.abs().sum() > 0


def test_an_old_style_file_loads_too(tmp_path, vgg19_file, image):
    """torchvision's own VGG-19 was saved before torch wrote zip files."""
    path = tmp_path / "old.pth"
    torch.save(torchvision_vgg19(), path, _use_new_zipfile_serialization=False)
    for old, new in zip(
        load_vgg19(path)(image).values(), load_vgg19(vgg19_file)(image).values(), strict=True
    ):
        assert torch.equal(old, new)


def test_a_state_dict_within_a_file_is_taken(tmp_path, vgg19_file, image):
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": torchvision_vgg19()}, path)
    for one, other in zip(
        load_vgg19(path)(image).values(), load_vgg19(vgg19_file)(image).values(), strict=True
    ):
        assert torch.equal(one, other)


def test_the_normalised_file_serves_conv3_1_and_has_mean_activations_about_one(shared_data):
    cv2 = pytest.importorskip("cv2")
    network = load_vgg19(shared_data / "weights" / "vgg_normalised_conv3_1.pth")
    photo = cv2.imread(str(sorted((shared_data / "zoom_rgb").glob("*H.*"))[0]))[:256, :256, ::-1]
    tapped = network(torch.tensor(photo.transpose(2, 0, 1) / 255).float()[None])
    assert list(tapped) == ["conv1_2", "conv2_2", "conv3_1"]
    for values in tapped.values():
        assert 0.3 < values.mean() < 3
    # A channel order or range that is wrong shows in how the constant colours come out of the first layer.
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    torch.testing.assert_close(
        network.layers[0](red).flatten(), torch.tensor([-103.939, -116.779, 255 - 123.68]), rtol=0, atol=1e-3
    )


def test_normalised_layers_pad_by_reflection(shared_data):
    """So a constant image stays constant up to its border."""
    network = load_vgg19(shared_data / "weights" / "vgg_normalised_conv3_1.pth")
    for values in network(torch.full((1, 3, 32, 32), 0.4)).values():
        torch.testing.assert_close(values, values[..., :1, :1].expand_as(values), rtol=1e-4, atol=1e-4)


def test_squeezenet_has_the_taps_of_lpips(shared_data):
    path = shared_data / "weights" / "squeezenet1_1_fp16_torchvision_layout.pth"
    network = load_lpips_backbone("squeeze", path)
    tapped = network(torch.zeros(1, 3, 64, 64))
    assert [values.shape[1] for values in tapped.values()] == [64, 128, 256, 384, 384, 512, 512]
    assert [values.shape[2] for values in tapped.values()] == [31, 15, 7, 3, 3, 3, 3]
    assert all(values.dtype == torch.float32 and values.min() >= 0 for values in tapped.values())


def random_layers(shapes, path):
    """Convolutions of these shapes in torchvision's layout."""
    generator, weights = torch.Generator().manual_seed(0), {}
    for number, shape in shapes.items():
        weights[f"features.{number}.weight"] = torch.randn(shape, generator=generator) * 0.05
        weights[f"features.{number}.bias"] = torch.randn(shape[0], generator=generator) * 0.05
    torch.save(weights, path)
    return weights


def test_alexnet_has_the_taps_of_lpips(tmp_path):
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3)}
    weights = random_layers(shapes | {10: (256, 256, 3, 3)}, tmp_path / "alexnet.pth")
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    tapped = list(load_lpips_backbone("alex", tmp_path / "alexnet.pth")(image).values())
    assert [values.shape[1:] for values in tapped] == [
        (64, 15, 15),
        (192, 7, 7),
        (384, 3, 3),
        (256, 3, 3),
        (256, 3, 3),
    ]
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ((-0.03, -0.088, -0.188), (0.458, 0.448, 0.45)))
    functional, by = (
        torch.nn.functional,
        lambda n: (weights[f"features.{n}.weight"], weights[f"features.{n}.bias"]),
    )
    first = functional.conv2d((image - shift) / scale, *by(0), stride=4, padding=2).relu()
    second = functional.conv2d(functional.max_pool2d(first, 3, 2), *by(3), padding=2).relu()
    for ours, expected in zip(tapped, (first, second), strict=False):  # sums of up to 1600, in another order
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)


def test_vgg16_has_the_taps_of_lpips(tmp_path):
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6)
    shapes = {n: (widths[i + 1], widths[i], 3, 3) for i, n in enumerate(numbers)}
    random_layers(shapes, tmp_path / "vgg16.pth")
    tapped = load_lpips_backbone("vgg", tmp_path / "vgg16.pth")(torch.zeros(1, 3, 64, 64)).values()
    expected = [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]
    assert [tuple(values.shape[1:]) for values in tapped] == expected


def truncated(path, weights):
    torch.save(weights, path)
    path.write_bytes(path.read_bytes()[:-5000])


def of_another_shape(path, weights):
    torch.save(weights | {"features.5.weight": torch.zeros(128, 32, 3, 3)}, path)


def incomplete(path, weights):
    torch.save({name: value for name, value in weights.items() if name != "features.12.bias"}, path)


def with_nan(path, weights):
    torch.save(weights | {"features.0.bias": torch.full((64,), torch.nan)}, path)


def with_a_flipped_byte(path, weights):
    torch.save(weights, path)
    values = bytearray(path.read_bytes())
    at = values.index(weights["features.10.weight"].numpy().tobytes()[:64])
    values[at] ^= 1
    path.write_bytes(values)


def cut_to(share):
    def write(path, weights):
        torch.save(weights, path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return write


def in_the_form(change):
    """One layer's weights in another form than torch's dense floating-point numbers."""
    name = "features.10.weight"
    return lambda path, weights: torch.save(weights | {name: change(weights[name])}, path)


def of_vgg16(path, weights):
    """Whose first six convolutions have the shapes of VGG-19's."""
    more = {"features.17.weight": torch.zeros(512, 256, 3, 3), "features.17.bias": torch.zeros(512)}
    torch.save(weights | more, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (truncated, "damaged or another kind of file"),
        (incomplete, "lacks features.12.bias"),
        (of_another_shape, "features.5.weight has the shape"),
        (with_nan, "not finite"),
        (with_a_flipped_byte, "is damaged: .* does not match its checksum"),
        (cut_to(0.001), "damaged or another kind of file"),
        (cut_to(0.5), "damaged or another kind of file"),
        (of_vgg16, "another VGG than VGG-19"),
        (in_the_form(torch.Tensor.to_sparse), r"features\.10\.weight in a form .* \(torch\.sparse_coo"),
        (in_the_form(lambda values: values.to("meta")), r"features\.10\.weight in a form .* \(meta"),
        (in_the_form(lambda values: values.to(torch.float8_e4m3fn)), r"\(.*float8_e4m3fn\)"),
        (in_the_form(lambda values: values.to(torch.complex64)), r"\(.*complex64\)"),
        (in_the_form(lambda values: values.to(torch.int8)), r"\(.*int8\)"),
        (in_the_form(lambda values: values > 0), r"\(.*bool\)"),
        (in_the_form(lambda values: values.to(torch.int64)), r"features\.10\.weight is of torch\.int64"),
        (lambda path, _: path.write_bytes(b""), "damaged or another kind of file"),
        (lambda path, _: path.write_text("<html>404</html>"), "damaged or another kind of file"),
        (lambda path, _: torch.save([1, 2], path), "something else than named weights"),
        (lambda path, _: torch.save({"epoch": 3}, path), "something else than named weights"),
        (lambda path, _: torch.save({"layer.weight": torch.zeros(3)}, path), "lacks features.0.weight"),
        (lambda path, _: torch.save(Path("x"), path), "damaged or another kind of file"),
        (lambda path, _: path.mkdir(), "is a folder"),
        (lambda path, _: None, "does not exist"),
    ],
)
def test_a_wrong_file_is_named_with_the_remedy(tmp_path, write, message):
    path = tmp_path / "weights.pth"
    write(path, torchvision_vgg19())
    with pytest.raises(UserError, match=message) as raised:
        load_vgg19(path)
    assert str(path) in raised.value.message
    assert "vgg19-dcbb9e9d.pth" in raised.value.hint


def test_another_networks_file_is_refused(shared_data, vgg19_file):
    squeezenet = shared_data / "weights" / "squeezenet1_1_fp16_torchvision_layout.pth"
    with pytest.raises(UserError, match=r"lacks features\.2\.weight"):
        load_vgg19(squeezenet)
    with pytest.raises(UserError, match="not the network that is needed") as raised:
        load_lpips_backbone("squeeze", vgg19_file)
    assert str(vgg19_file) in raised.value.message


def test_nothing_is_downloaded_unless_asked_for_and_then_once(tmp_path, vgg19_file, image, monkeypatch):
    """The real torch.hub, fetching a local file by the hash in its name, once."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    digest = hashlib.sha256(vgg19_file.read_bytes()).hexdigest()
    public = tmp_path / f"vgg19-{digest[:8]}.pth"
    public.write_bytes(vgg19_file.read_bytes())
    monkeypatch.setattr(features, "VGG19_URL", public.as_uri())
    with pytest.raises(UserError, match=r"No VGG-19 weights were given") as raised:
        load_vgg19()
    assert raised.value.exit_code == 2
    assert not (tmp_path / "cache").exists()
    assert list(load_vgg19(download=True)(image)) == ["conv1_2", "conv2_2", "conv3_2"]
    public.unlink()
    assert list(load_vgg19(download=True)(image)) == ["conv1_2", "conv2_2", "conv3_2"]


def test_a_download_is_checked_by_its_hash(tmp_path, vgg19_file, monkeypatch):
    """The real torch.hub, fetching a local file whose name holds the wrong hash."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    wrong = tmp_path / "vgg19-dcbb9e9d.pth"
    wrong.write_bytes(vgg19_file.read_bytes())
    monkeypatch.setattr(features, "VGG19_URL", wrong.as_uri())
    with pytest.raises(UserError, match="arrived damaged"):
        load_vgg19(download=True)
    assert not list((tmp_path / "cache").rglob("*.pth"))
    monkeypatch.setattr(features, "VGG19_URL", (tmp_path / "missing-dcbb9e9d.pth").as_uri())
    with pytest.raises(UserError, match="could not be fetched"):
        load_vgg19(download=True)


def test_a_file_in_the_cache_is_checked_by_its_hash(tmp_path, vgg19_file, monkeypatch):
    """It may be another program's, or damaged since."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(vgg19_file.read_bytes())
    with pytest.raises(UserError, match="another file than") as raised:
        load_vgg19(download=True)
    assert str(cached) in raised.value.message
    assert "Delete it" in raised.value.hint
    assert cached.exists()


def test_pooling_is_max_or_average(vgg19_file):
    with pytest.raises(ValueError, match="'max' and 'average'"):
        load_vgg19(vgg19_file, pooling="median")
