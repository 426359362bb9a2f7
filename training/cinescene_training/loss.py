"""Losses of the transformer: pure functions of predictions and targets."""

from torch import Tensor

from cinescene_core.checks import check_shape


def flow_matching_loss(velocity: Tensor, video: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity, per sample, in float32.

    The flow `(1 - sigma) * video + sigma * noise` has the velocity `noise - video` at every level, so
    no level is weighted; which levels are seen how often is the timestep shift's business.

    Args:
        velocity: [b, 16, t, h, w] prediction.
        video: [b, 16, t, h, w] clean latents.
        noise: [b, 16, t, h, w].

    Returns:
        [b].
    """
    sizes = check_shape("velocity", velocity, "b c t h w")
    for name, tensor in (("video", video), ("noise", noise)):
        check_shape(name, tensor, " ".join(str(sizes[axis]) for axis in "bcthw"))
    return (velocity.float() - (noise.float() - video.float())).square().mean(dim=(1, 2, 3, 4))
