"""Wan's video VAE in training: whole clips in one pass, fresh weights, and latents of published statistics.

diffusers runs the network one latent frame at a time, with caches between, which keeps memory flat and is slow
to train. The functions here walk the same layers over all frames at once; as every layer is causal, the
results are the same. Letters: b clips, c channels, f pixel frames, t latent frames, h w height and width.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import silu

from cinescene_core.checks import check_num_frames, check_shape, check_video_size
from cinescene_core.config import LATENT_CHANNELS, LATENT_MEAN, LATENT_STD

from ..seeds import generator_for

SMALLEST_WIDTH = 7
"""Channels that a fresh network carries from end to end: three colours, their negatives, and a constant."""
_CONSTANT = 6
"""Which of them is the constant."""
CONSTANT = 6.0
"""Its value; colours lie in -1..1."""
FIRST_LOG_VARIANCE = -6.0
"""Of a fresh posterior: noise of deviation 0.05, so that what the decoder reads is picture from the first step on."""


Activation = Callable[[Tensor, Tensor], Tensor]
"""x [b, c, t, h, w] and a gain [c, 1, 1, 1] to what the next convolution reads."""


def norm_silu(x: Tensor, gain: Tensor) -> Tensor:
    """x over its length along the channels, times gain, and SiLU: what stands in front of every convolution of a layer.

    A third of a training step goes here; compiled, it takes a third of the time.
    """
    length = x.float().square().sum(1, keepdim=True).clamp(min=1e-24).rsqrt().to(x.dtype)
    return silu(x * length * gain.to(x.dtype))


def encode_clip(network: Any, pixels: Tensor, activation: Activation = norm_silu) -> tuple[Tensor, Tensor]:
    """Encode clips as diffusers' `AutoencoderKLWan.encode` does, in one pass.

    Args:
        network: an AutoencoderKLWan in Wan2.1's structure.
        pixels: [b, 3, f, h, w] in -1..1; f is 4n + 1, h and w multiples of 16.
        activation: `norm_silu`, or a compiled one.

    Returns:
        Mean and log variance of the posterior, [b, 16, t, h/8, w/8] each.

    Raises:
        ShapeError, ValueError: pixels that do not fit.
    """
    sizes = check_shape("pixels", pixels, "b 3 f h w")
    check_num_frames(sizes["f"])
    check_video_size(sizes["w"], sizes["h"])
    encoder = network.encoder
    x = _run(encoder.down_blocks, encoder.conv_in(pixels), activation)
    x = _middle(encoder.mid_block, x, activation)
    x = encoder.conv_out(_activated(x, encoder.norm_out, activation))
    mean, log_variance = network.quant_conv(x).chunk(2, dim=1)
    return mean, log_variance.clamp(-30, 20)


def decode_latents(network: Any, latents: Tensor, activation: Activation = norm_silu) -> Tensor:
    """Decode as diffusers' `AutoencoderKLWan.decode` does, in one pass and without cutting the result to -1..1.

    Args:
        network: an AutoencoderKLWan in Wan2.1's structure.
        latents: [b, 16, t, h/8, w/8] in raw units.
        activation: `norm_silu`, or a compiled one.

    Returns:
        [b, 3, 4t - 3, h, w].
    """
    check_shape("latents", latents, f"b {LATENT_CHANNELS} t h w")
    decoder = network.decoder
    x = _middle(decoder.mid_block, decoder.conv_in(network.post_quant_conv(latents)), activation)
    for block in decoder.up_blocks:
        x = _run([*block.resnets, *(block.upsamplers or ())], x, activation)
    result: Tensor = decoder.conv_out(_activated(x, decoder.norm_out, activation))
    return result


def _run(layers: Iterable[nn.Module], x: Tensor, activation: Activation) -> Tensor:
    for layer in layers:
        x = _resampled(layer, x) if hasattr(layer, "resample") else _residual(layer, x, activation)
    return x


def _middle(block: Any, x: Tensor, activation: Activation) -> Tensor:
    x = _residual(block.resnets[0], x, activation)
    return _residual(block.resnets[1], block.attentions[0](x), activation)


def _residual(layer: Any, x: Tensor, activation: Activation) -> Tensor:
    """Two convolutions around a skip."""
    inner = layer.conv1(_activated(x, layer.norm1, activation))
    inner = layer.conv2(_activated(inner, layer.norm2, activation))
    result: Tensor = layer.conv_shortcut(x) + inner
    return result


def _activated(x: Tensor, norm: Any, activation: Activation) -> Tensor:
    """Wan's RMS norm with its learned gain, and SiLU.

    The product is no Parameter, so that one compilation serves all widths.
    """
    return activation(x, norm.gamma * len(norm.gamma) ** 0.5)


def _resampled(layer: Any, x: Tensor) -> Tensor:
    """Halve or double x [b, c, t, h, w] in space, and all but its first frame in time where the layer does that."""
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        later = rearrange(layer.time_conv(x[:, :, 1:]), "b (two c) t h w -> b c (t two) h w", two=2)
        x = torch.cat([x[:, :, :1], later], dim=2)
    b = len(x)
    x = rearrange(layer.resample(rearrange(x, "b c t h w -> (b t) c h w")), "(b t) c h w -> b c t h w", b=b)
    if layer.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
    return x


@torch.no_grad()
def initialise_vae(network: Any, seed: int) -> None:
    """Give a VAE fresh weights, in place: it starts as a thumbnail, enlarged.

    The skips of both halves carry red, green and blue, their negatives and a constant. The encoder averages them
    over its pixels, the decoder spreads them again, so that training starts with colours and learns details. The
    constant, larger than all else, keeps the norms from changing brightness; a value and its negative pass SiLU
    unchanged, as silu(x) - silu(-x) = x. All other convolutions keep the variance of what they read (LeCun
    normal), but the last one of each residual layer starts at zero. Norms are one, biases zero.

    Args:
        network: an AutoencoderKLWan in Wan2.1's structure, `SMALLEST_WIDTH` channels wide or more.
        seed: of the run.
    """
    generator = generator_for(seed, "initialise vae")
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(1.0)
        elif parameter.ndim == 1 or name.endswith(("conv2.weight", "proj.weight")):
            parameter.zero_()
        else:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    for name, layer in network.named_modules():
        kind = name.rpartition(".")[2]
        if isinstance(layer, nn.Conv2d) and ".resample." in name:
            halving = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]]) / 4
            smooth = torch.tensor([1.0, 2, 1]) / 4
            _carry(layer.weight, halving if name.startswith("encoder") else smooth[:, None] * smooth)
        elif kind == "time_conv":
            taps = [0.0, 0.5, 0.5] if name.startswith("encoder") else [0.0, 0.0, 1.0]
            for half in layer.weight.split(layer.weight.shape[1]):  # the decoder makes two frames of one
                _carry(half, torch.tensor(taps)[:, None, None])
        elif kind == "conv_shortcut" and isinstance(layer, nn.Conv3d):  # an identity otherwise
            _carry(layer.weight, torch.ones(1, 1, 1))
    for half, entry in ((network.encoder, network.encoder.conv_in), (network.decoder, network.decoder.conv_in)):
        _enter(entry)
        _leave(half.conv_out, half.norm_out.gamma.numel())
    for layer in (network.quant_conv, network.post_quant_conv):
        layer.weight[:3] = 0
        layer.weight[range(3), range(3)] = 1
    network.quant_conv.weight[LATENT_CHANNELS:] = 0
    network.quant_conv.bias[LATENT_CHANNELS:] = FIRST_LOG_VARIANCE


def _carry(weight: Tensor, kernel: Tensor) -> None:
    """Pass the carried channels on through `kernel`; no other channel reads the constant."""
    weight[:SMALLEST_WIDTH] = 0
    weight[:, _CONSTANT] = 0
    for channel in range(SMALLEST_WIDTH):
        weight[channel, channel] = kernel


def _enter(layer: Any) -> None:
    """Three channels, as they are now, to the carried ones."""
    layer.weight[:SMALLEST_WIDTH] = 0
    for colour in range(3):
        layer.weight[colour, colour, -1, 1, 1] = 1
        layer.weight[3 + colour, colour, -1, 1, 1] = -1
    layer.bias[_CONSTANT] = CONSTANT


def _leave(layer: Any, width: int) -> None:
    """The carried channels, behind norm and SiLU, to three."""
    layer.weight[:3] = 0
    for colour in range(3):
        layer.weight[colour, colour, -1, 1, 1] = CONSTANT / width**0.5
        layer.weight[colour, 3 + colour, -1, 1, 1] = -CONSTANT / width**0.5


class LatentStatistics:
    """Mean and deviation of every latent channel over any number of clips, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = torch.zeros(2, LATENT_CHANNELS, dtype=torch.float64)

    def add(self, latents: Tensor) -> None:
        """Count latents [b, 16, t, h, w]."""
        check_shape("latents", latents, f"b {LATENT_CHANNELS} t h w")
        values = rearrange(latents, "b c t h w -> c (b t h w)").double().cpu()
        self.count += values.shape[1]
        self.sums += torch.stack([values.sum(1), values.square().sum(1)])

    def mean_and_deviation(self) -> tuple[Tensor, Tensor]:
        """[16] each, float64.

        Raises:
            ValueError: nothing was counted, a latent was not finite, or a channel never changes.
        """
        mean, square = self.sums / max(self.count, 1)
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        if not self.count or not torch.isfinite(deviation).all():
            raise ValueError(
                f"The latents' statistics need finite latents of one clip at least; got {self.count} numbers per "
                "channel, and not all are finite. Train with a smaller learning rate."
            )
        if (deviation < 1e-6).any():
            raise ValueError(
                f"Latent channel {int(deviation.argmin())} never changes, so it cannot be brought to Wan's deviation. "
                "Train for longer, or with a smaller kl_weight."
            )
        return mean, deviation


@torch.no_grad()
def fold_statistics(network: Any, mean: Tensor, deviation: Tensor) -> None:
    """Change the units of the latents, in place, so that Wan's published statistics normalise them.

    Channel by channel, latents become `a * latent + b` with `a = LATENT_STD / deviation` and
    `b = LATENT_MEAN - a * mean`: the last layer of the encoder takes the map in, the first layer of the decoder
    its inverse. What is encoded and decoded stays the same.

    Args:
        network: an AutoencoderKLWan in Wan2.1's structure.
        mean, deviation: [16] of its latents as they are (`LatentStatistics`).
    """
    published_mean, published_deviation = (torch.tensor(row, dtype=torch.float64) for row in (LATENT_MEAN, LATENT_STD))
    a = published_deviation / deviation.double()
    b = published_mean - a * mean.double()
    last, first = network.quant_conv, network.post_quant_conv
    factor = torch.cat([a, torch.ones_like(a)])  # the log variance moves by a constant
    shift = torch.cat([b, 2 * a.log()])
    _set(last.weight, last.weight.double().cpu() * factor[:, None, None, None, None])
    _set(last.bias, last.bias.double().cpu() * factor + shift)
    weight = first.weight.double().cpu()  # [16, 16, 1, 1, 1]
    _set(first.bias, first.bias.double().cpu() - weight[:, :, 0, 0, 0] @ (b / a))
    _set(first.weight, weight / a[None, :, None, None, None])


def _set(parameter: Tensor, value: Tensor) -> None:
    parameter.copy_(value.to(parameter))
