"""What a run minimises: ours CoBi or what it is compared with, each baseline its own paper's loss.

An objective is CoBi, or a function of outputs and crops that gives a loss and its parts for the log. Of most
networks `outputs` is one tensor, rendered sRGB; of LapSRN, the luma at every level, coarsest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from srraw_model.baselines import rgb_to_ycbcr
from srraw_model.clock import Clock
from srraw_model.dataset import Sample
from srraw_model.discriminator import Discriminator, generator_loss
from srraw_model.losses import CoBiLoss, aligned_l1, aligned_mse, charbonnier, perceptual_loss
from srraw_model.network import downsampled
from srraw_model.options import TrainingOptions
from srraw_tools.errors import UserError

Outputs = Sequence[Tensor]
Parts = dict[str, Tensor]
LossFunction = Callable[[Outputs, Sample], tuple[Tensor, Parts]]

# Weights of the papers. SRGAN's of its features is 1/12.75^2, their rescaling.
SRGAN_FEATURES, SRGAN_ADVERSARIAL = 0.006, 1e-3
ESRGAN_L1, ESRGAN_ADVERSARIAL = 1e-2, 5e-3
JOHNSON_LAYER = "conv2_2"  # after ReLU; of VGG-19, where the paper takes VGG-16


@dataclass(frozen=True)
class Objective:
    """A loss and its names.

    Attributes:
        name: in tables, such as "CoBi_RGB + CoBi_VGG".
        short: in the log, such as "CoBi".
        adversarial: a discriminator learns along with it.
    """

    name: str
    short: str
    loss: CoBiLoss | LossFunction
    adversarial: bool = False

    def gradients(self, outputs: Outputs, crops: Sample, clock: Clock) -> tuple[Tensor, Parts, list[Tensor]]:
        """The loss and its parts, detached, and the loss's gradient by every output."""
        if isinstance(self.loss, CoBiLoss):
            loss, parts, gradient = self.loss.gradient(outputs[-1], crops.target, clock)
            return loss, parts, [gradient]
        with clock(self.short.lower()), torch.enable_grad():
            leaves = [output.detach().requires_grad_() for output in outputs]
            loss, parts = self.loss(leaves, crops)
            # LapSRN's lower levels take no part in the first phase.
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            return loss.detach(), parts, list(gradients)


def objectives_of(
    options: TrainingOptions, features: nn.Module | None, judge: Discriminator | None
) -> tuple[Objective, Objective]:
    """The objectives of the first `l1_steps` and of the others.

    Args:
        features: VGG-19 as the loss needs it (`needs_deep_features`), or None.
        judge: of srgan and esrgan.

    Raises:
        UserError: the loss cannot be without VGG-19, and there is none.
    """
    needing = {"srgan": "SRGAN", "esrgan": "ESRGAN", "johnson": "Johnson's network"}.get(options.baseline)
    if options.loss == "perceptual":
        needing = "The perceptual loss"
    if needing and features is None:
        raise UserError(
            f"{needing} compares features of VGG-19, and no weights were given.",
            "Give --vgg-weights FILE or --download-vgg.",
            wrong_use=True,
        )
    first = Objective("L1", "L1", _pixels(aligned_l1))
    if options.baseline == "srgan":
        first = Objective("MSE", "MSE", _pixels(aligned_mse))
    return first, _main(options, features, judge)


def _main(options: TrainingOptions, features: nn.Module | None, judge: Discriminator | None) -> Objective:
    match options.baseline or options.loss:
        case "l1":
            return Objective("L1", "L1", _pixels(aligned_l1))
        case "perceptual" | "johnson":
            return Objective("VGG relu2_2", "VGG", _perceptual(features))
        case "srresnet":
            return Objective("MSE", "MSE", _pixels(aligned_mse))
        case "lapsrn":
            return Objective("Charbonnier", "Charbonnier", _pyramid(options.zoom))
        case "srgan":
            return Objective("VGG54 + GAN", "GAN", _srgan(features, judge), adversarial=True)
        case "esrgan":
            return Objective("L1 + VGG54 + RaGAN", "GAN", _esrgan(features, judge), adversarial=True)
    if features is not None:
        known, left_out = list(features.taps.values()), set(options.leave_out)
        if left_out - set(known) or left_out == set(known):
            raise UserError(
                f"--leave-out {','.join(options.leave_out)} is not possible with these features.",
                f"They are {', '.join(known)}; at least one stays.",
                wrong_use=True,
            )
    contextual = options.loss == "cx"
    loss = CoBiLoss(
        options.zoom,
        features,
        weight_spatial=0.0 if contextual else options.weight_spatial,
        lambda_vgg=options.lambda_vgg,
        patch_stride=options.patch_stride,
        rgb_distance=options.rgb_distance,
        leave_out=options.leave_out,
        both_ways=options.both_ways,
        contextual=contextual,
    )
    short = "CX" if contextual else "CoBi"
    return Objective(f"{short}_RGB + {short}_VGG" if features else f"{short}_RGB", short, loss)


def needs_deep_features(options: TrainingOptions) -> bool:
    """Whether VGG-19 is compared at its last convolution."""
    return options.baseline in ("srgan", "esrgan")


def _pixels(difference: Callable[[Tensor, Tensor, Tensor], Tensor]) -> LossFunction:
    def loss(outputs: Outputs, crops: Sample) -> tuple[Tensor, Parts]:
        output, target = outputs[-1], crops.target
        if output.shape[1] == 1:
            target = rgb_to_ycbcr(target)[:, :1]
        return difference(output, target, crops.valid), {}

    return loss


def _pyramid(zoom: int) -> LossFunction:
    """Lai et al., Eq. 1: the levels' Charbonnier summed, each against the target made smaller by bicubic."""

    def loss(outputs: Outputs, crops: Sample) -> tuple[Tensor, Parts]:
        luma, parts = rgb_to_ycbcr(crops.target)[:, :1], {}
        for level, output in enumerate(outputs, start=1):
            factor = zoom >> level
            target = luma if factor == 1 else downsampled(luma, factor)
            # What is not valid spoils every larger pixel that it takes part in.
            valid = -functional.max_pool2d(-crops.valid, factor)
            parts[f"level_{level}"] = charbonnier(output, target, valid)
        total = torch.stack(list(parts.values())).sum()
        return total, {name: part.detach() for name, part in parts.items()}

    return loss


def _perceptual(features: nn.Module) -> LossFunction:
    def loss(outputs: Outputs, crops: Sample) -> tuple[Tensor, Parts]:
        return perceptual_loss(outputs[-1], crops.target, features, JOHNSON_LAYER), {}

    return loss


def _srgan(features: nn.Module, judge: nn.Module) -> LossFunction:
    def loss(outputs: Outputs, crops: Sample) -> tuple[Tensor, Parts]:
        seen = perceptual_loss(outputs[-1], crops.target, features, "relu5_4")
        adversarial = generator_loss(judge, outputs[-1], crops.target, relativistic=False)
        total = SRGAN_FEATURES * seen + SRGAN_ADVERSARIAL * adversarial
        return total, {"vgg54": seen.detach(), "adversarial": adversarial.detach()}

    return loss


def _esrgan(features: nn.Module, judge: nn.Module) -> LossFunction:
    def loss(outputs: Outputs, crops: Sample) -> tuple[Tensor, Parts]:
        output, target = outputs[-1], crops.target
        with torch.no_grad():
            wanted = features(target)["conv5_4"]
        seen = functional.l1_loss(features(output)["conv5_4"], wanted)
        l1 = aligned_l1(output, target, crops.valid)
        adversarial = generator_loss(judge, output, target, relativistic=True)
        total = ESRGAN_L1 * l1 + seen + ESRGAN_ADVERSARIAL * adversarial
        parts = {"l1": l1, "vgg54": seen, "adversarial": adversarial}
        return total, {name: part.detach() for name, part in parts.items()}

    return loss
