"""What the video VAE learns from: pure functions of pictures and posteriors."""

from torch import Tensor

from cinescene_core.checks import check_shape


def reconstruction_loss(result: Tensor, truth: Tensor, gradient_weight: float) -> Tensor:
    """L1 between pictures, and between their differences of neighbouring pixels.

    The second term keeps edges, which L1 alone would blur where their place is uncertain.

    Args:
        result: [b, 3, f, h, w] decoded, in -1..1; not cut to that range, so that every pixel has a gradient.
        truth: [b, 3, f, h, w] in -1..1.
        gradient_weight: of the second term.

    Returns:
        A scalar in float32.
    """
    sizes = check_shape("result", result, "b 3 f h w")
    check_shape("truth", truth, f"{sizes['b']} 3 {sizes['f']} {sizes['h']} {sizes['w']}")
    error = result.float() - truth.float()
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + gradient_weight * (across + down)


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the posterior from a standard normal, per latent number, in nats.

    Args:
        mean, log_variance: of the same shape.

    Returns:
        A scalar in float32.
    """
    check_shape("log_variance", log_variance, " ".join(str(size) for size in mean.shape))
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
