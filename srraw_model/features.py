"""Pretrained feature networks, from files and without torchvision: VGG-19 for CoBi, three for LPIPS.

A feature network is one sequence of layers, numbered as in its weight file, with taps after some of them.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from srraw_tools.errors import UserError

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"  # dcbb9e9d begins its SHA-256
SQUEEZENET_URL = "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"
ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"

# torchvision's networks were trained on (sRGB - mean) / std, per channel.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Of what is read from a file; batch normalisation counts its batches in the last one.
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)

VGG19_HINT = f"Pass torchvision's VGG-19 ({VGG19_URL}), or let it be fetched (--download-vgg)."


class FeatureNetwork(nn.Module):
    """Layers with taps, frozen: its weights take no gradient, its input does.

    Args:
        layers: the layers, named by their number in the weight file.
        taps: number of a layer -> name of the feature that is its output.
        mean: of each channel; the input is normalised to (input - mean) / std.
        std: of each channel.
    """

    def __init__(
        self,
        layers: Mapping[int, nn.Module],
        taps: Mapping[int, str],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict((str(number), layer) for number, layer in layers.items()))
        self.taps = dict(taps)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.requires_grad_(False)
        # On two cores a third faster, there and back, than channels before pixels; GPUs like it as well.
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {tap: (B, C, h, w)}, in the order of the layers; in memory channels last."""
        values, tapped = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last), {}
        for number, layer in self.layers.named_children():
            values = layer(values)
            if int(number) in self.taps:
                tapped[self.taps[int(number)]] = values
        return tapped


def load_vgg19(
    path: Path | None = None,
    *,
    download: bool = False,
    pooling: str = "max",
    deep: bool = False,
) -> FeatureNetwork:
    """VGG-19 up to the layers that CoBi compares, for sRGB in [0, 1].

    The file may have one of two layouts, and the names of the taps, all after ReLU, say which it was:
    - torchvision's (features.0.weight, ...): conv1_2, conv2_2 and conv3_2, as in the paper; the input is
      normalised by ImageNet's mean and deviation; zero padding.
    - the network normalised to a mean activation of 1 (keys 0, 2, 5, 9, 12, 16): conv1_2, conv2_2 and
      conv3_1, since it has no conv3_2; its own first layer normalises the input; reflection padding.

    Args:
        path: the weight file.
        download: without a path, fetch torchvision's file into torch.hub's cache and check its hash.
        pooling: "max", as it was trained, or "average".
        deep: up to the last convolution instead, which torchvision's layout alone has: taps conv5_4, before
            ReLU as ESRGAN compares it, and relu5_4, after it as SRGAN does.

    Raises:
        UserError: no file that can be read as one of the two; it says which and what to do.
        ValueError: another kind of pooling.
    """
    if pooling not in ("max", "average"):
        raise ValueError(f"There is no pooling {pooling!r}; there are 'max' and 'average'.")
    if path is None and not download:
        raise UserError("No VGG-19 weights were given.", VGG19_HINT, wrong_use=True)
    path = download_vgg19() if path is None else path
    source, weights = str(path), read_weights(path, VGG19_HINT)
    # Up to features.12 the weights of VGG-13 and VGG-16 have VGG-19's names and shapes.
    if "features.17.weight" in weights:
        raise UserError(f"{source} is another VGG than VGG-19, which has no features.17.weight.", VGG19_HINT)
    if "16.weight" in weights and not deep:
        return _filled(_vgg19_normalised(pooling), weights, "", source, VGG19_HINT)
    return _filled(_vgg19(pooling, deep=deep), weights, "features.", source, VGG19_HINT)


def load_lpips_backbone(name: str, path: Path) -> FeatureNetwork:
    """The network under LPIPS v0.1, from torchvision's layout (half precision too), with LPIPS's taps.

    Its input is sRGB in [-1, 1].

    Args:
        name: a key of LPIPS_BACKBONES.

    Raises:
        UserError: a file that is not this network.
    """
    url, make = LPIPS_BACKBONES[name]
    hint = f"Pass the file that torchvision takes ({url}), or --download-lpips."
    return _filled(make(), read_weights(path, hint), "features.", str(path), hint)


def read_weights(path: Path, hint: str, *, within: Sequence[str] = ()) -> dict[str, Tensor]:
    """A file of named tensors, as torch.save writes it; UserError with `hint` where it is anything else.

    within: names of mappings in which the tensors may lie, beside "state_dict"; the first one that is there
        is taken.
    """
    try:
        damaged = _damaged_part(path)
        weights = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.", hint, wrong_use=True) from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder.", hint, wrong_use=True) from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}).", hint) from None
    except Exception as error:  # the bytes of a foreign or truncated file can fail anywhere in the unpickler
        raise UserError(
            f"{path} cannot be read as weights: it is damaged or another kind of file.", hint
        ) from error
    if damaged is not None:
        raise UserError(f"{path} is damaged: {damaged} in it does not match its checksum.", hint)
    if isinstance(weights, Mapping):
        weights = next((weights[name] for name in (*within, "state_dict") if name in weights), weights)
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} holds something else than named weights.", hint)
    for name, values in weights.items():
        if values.layout != torch.strided or values.is_meta or values.dtype not in WEIGHT_TYPES:
            form = "meta, without values" if values.is_meta else f"{values.layout}, {values.dtype}"
            raise UserError(f"{path} holds {name} in a form that is not read here ({form}).", hint)
    return dict(weights)


def _damaged_part(path: Path) -> str | None:
    """The first file in a zip, as torch writes, whose checksum is wrong; torch does not look at it."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as parts:
        return parts.testzip()


def download_vgg19() -> Path:
    """torchvision's VGG-19 (548 MB), as `fetched`."""
    return fetched(VGG19_URL, VGG19_URL.rsplit("-", 1)[1].split(".")[0])


def fetched(url: str, sha256: str, name: str | None = None) -> Path:
    """A file in torch.hub's cache, fetched where it is not there, and in either case checked by its hash.

    Args:
        sha256: of the file, or how it begins.
        name: in the cache; None takes the address's last part.

    Raises:
        UserError: it cannot be fetched or stored, arrives damaged, or what lies in the cache is another file.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / (name or url.rsplit("/", 1)[1])
    if path.exists():
        _check_hash(path, url, sha256)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
    except OSError as error:  # urllib's too
        raise UserError(
            f"{url} could not be fetched ({error}).", "Fetch it by other means and pass its path."
        ) from error
    except RuntimeError as error:
        raise UserError(f"{url} arrived damaged ({error}).", "Try again.") from error
    return path


def _check_hash(path: Path, url: str, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).", f"It should hold {url}.") from None
    if not found.startswith(sha256):
        raise UserError(f"{path} is damaged, or another file than {url}.", "Delete it and try again.")


def _filled(
    network: FeatureNetwork, weights: Mapping[str, Tensor], prefix: str, source: str, hint: str
) -> FeatureNetwork:
    """`network` with its share of `weights`; layers beyond its last tap are ignored."""
    own = {}
    for name, parameter in network.layers.state_dict().items():
        given = weights.get(prefix + name)
        if given is None:
            raise UserError(f"{source} is not the network that is needed: it lacks {prefix + name}.", hint)
        if given.shape != parameter.shape:
            raise UserError(
                f"{source} is not the network that is needed: {prefix + name} has the shape "
                f"{tuple(given.shape)} instead of {tuple(parameter.shape)}.",
                hint,
            )
        if not given.is_floating_point():
            raise UserError(
                f"{source} is not the network that is needed: {prefix + name} is of {given.dtype}.", hint
            )
        if not torch.isfinite(given).all():
            raise UserError(f"{source} is damaged: {prefix + name} holds values that are not finite.", hint)
        own[name] = given.float()
    network.layers.load_state_dict(own)
    return network.eval()


def _vgg19(pooling: str, *, deep: bool) -> FeatureNetwork:
    widths = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256)}
    taps, pools = {3: "conv1_2", 8: "conv2_2", 13: "conv3_2"}, (4, 9)
    if deep:
        widths |= {14: (256, 256), 16: (256, 256), 19: (256, 512)}
        widths |= dict.fromkeys((21, 23, 25, 28, 30, 32, 34), (512, 512))
        taps, pools = {34: "conv5_4", 35: "relu5_4"}, (4, 9, 18, 27)
    layers: dict[int, nn.Module] = {}
    for number, (before, after) in widths.items():
        layers[number] = nn.Conv2d(before, after, 3, padding=1)
        layers[number + 1] = nn.ReLU()
    layers |= {number: _pool(pooling) for number in pools}
    return FeatureNetwork(dict(sorted(layers.items())), taps, IMAGENET_MEAN, IMAGENET_STD)


def _vgg19_normalised(pooling: str) -> FeatureNetwork:
    widths = {2: (3, 64), 5: (64, 64), 9: (64, 128), 12: (128, 128), 16: (128, 256)}
    layers: dict[int, nn.Module] = {0: nn.Conv2d(3, 3, 1)}  # RGB in [0, 1] to BGR in [0, 255] less its mean
    for number, (before, after) in widths.items():
        layers[number] = nn.Conv2d(before, after, 3, padding=1, padding_mode="reflect")
        layers[number + 1] = nn.ReLU()
    layers |= {number: _pool(pooling) for number in (7, 14)}
    return FeatureNetwork(
        dict(sorted(layers.items())), {6: "conv1_2", 13: "conv2_2", 17: "conv3_1"}, (0.0,) * 3, (1.0,) * 3
    )


def _pool(pooling: str) -> nn.Module:
    return nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2)


def _lpips(layers: dict[int, nn.Module], taps: Sequence[int]) -> FeatureNetwork:
    """With LPIPS's own constants: ImageNet's mean and deviation, about, of images in [-1, 1]."""
    return FeatureNetwork(
        dict(sorted(layers.items())),
        {number: f"slice{i}" for i, number in enumerate(taps, start=1)},
        (-0.030, -0.088, -0.188),
        (0.458, 0.448, 0.450),
    )


def _squeezenet() -> FeatureNetwork:
    widths = {
        3: (64, 16, 128), 4: (128, 16, 128), 6: (128, 32, 256), 7: (256, 32, 256),
        9: (256, 48, 384), 10: (384, 48, 384), 11: (384, 64, 512), 12: (512, 64, 512),
    }  # fmt: skip
    layers: dict[int, nn.Module] = {0: nn.Conv2d(3, 64, 3, stride=2), 1: nn.ReLU()}
    layers |= {number: nn.MaxPool2d(3, stride=2, ceil_mode=True) for number in (2, 5, 8)}
    layers |= {number: _Fire(*width) for number, width in widths.items()}
    return _lpips(layers, (1, 4, 7, 9, 10, 11, 12))


def _alexnet() -> FeatureNetwork:
    layers: dict[int, nn.Module] = {
        0: nn.Conv2d(3, 64, 11, stride=4, padding=2),
        3: nn.Conv2d(64, 192, 5, padding=2),
        6: nn.Conv2d(192, 384, 3, padding=1),
        8: nn.Conv2d(384, 256, 3, padding=1),
        10: nn.Conv2d(256, 256, 3, padding=1),
    }
    layers |= {number + 1: nn.ReLU() for number in layers}
    layers |= {number: nn.MaxPool2d(3, stride=2) for number in (2, 5)}
    return _lpips(layers, (1, 4, 7, 9, 11))


def _vgg16() -> FeatureNetwork:
    layers: dict[int, nn.Module] = {}
    before = 3
    for number in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
        width = 64 if number < 4 else 128 if number < 9 else 256 if number < 16 else 512
        layers |= {number: nn.Conv2d(before, width, 3, padding=1), number + 1: nn.ReLU()}
        before = width
    layers |= {number: nn.MaxPool2d(2) for number in (4, 9, 16, 23)}
    return _lpips(layers, (3, 8, 15, 22, 29))


class _Fire(nn.Module):
    """SqueezeNet's module: few channels, then half of the output by 1x1 and half by 3x3 convolutions."""

    def __init__(self, before: int, within: int, after: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(before, within, 1)
        self.expand1x1 = nn.Conv2d(within, after // 2, 1)
        self.expand3x3 = nn.Conv2d(within, after // 2, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        squeezed = self.squeeze(values).relu()
        return torch.cat((self.expand1x1(squeezed), self.expand3x3(squeezed)), dim=1).relu()


# By LPIPS's names: torchvision's file, whose name holds the beginning of its SHA-256, and the network.
LPIPS_BACKBONES: dict[str, tuple[str, Callable[[], FeatureNetwork]]] = {
    "alex": (ALEXNET_URL, _alexnet),
    "vgg": (VGG16_URL, _vgg16),
    "squeeze": (SQUEEZENET_URL, _squeezenet),
}
