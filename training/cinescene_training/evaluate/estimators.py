"""The camera path of a video, measured from its pictures."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from cinescene_core.cameras import inverse_pose
from cinescene_core.models.vggt import VGGT, decode_poses, resize_for_vggt, vggt_size
from cinescene_core.weights import read_header
from cinescene_core.weights.vggt import load_vggt

from ..config import TrainingConfig
from ..data.encoders import bundle_path


class PoseEstimator(Protocol):
    """Finds the cameras that took some frames, in any world and unit."""

    @property
    def name(self) -> str:
        """What to call it in a table."""
        ...

    def poses(self, frames: Tensor) -> Tensor:
        """[n, h, w, 3] in 0..1 to [n, 4, 4] float64 camera-to-world poses.

        Raises:
            ValueError: no poses can be found; the video then counts as failed.
        """
        ...


class VGGTEstimator:
    """VGGT's camera head over all frames at once; the first is the reference. A moving subject is not masked.

    Args:
        network: a VGGT with its camera head, on its device.
        size: (width, height) at which it sees the frames, in pixels.
    """

    def __init__(self, network: VGGT, size: tuple[int, int]) -> None:
        self.network, self.size = network, size
        self.name = f"VGGT {network.fingerprint} at {size[0]} x {size[1]}"

    def poses(self, frames: Tensor) -> Tensor:
        """As `PoseEstimator`.

        Raises:
            ValueError: the network gave no finite poses.
        """
        device = next(self.network.parameters()).device
        pictures = resize_for_vggt(frames, self.size, self.network.patch_size)[None].to(device)
        encoding = self.network.cameras(self.network.encode(pictures))[-1, 0].double().cpu()
        camera_from_world = torch.eye(4, dtype=torch.float64).repeat(len(encoding), 1, 1)
        camera_from_world[:, :3] = decode_poses(encoding, self.size)[0]
        if not torch.isfinite(camera_from_world).all():
            raise ValueError(f"{self.name} gave poses that are not finite.")
        return inverse_pose(camera_from_world)


def open_estimator(
    config: TrainingConfig, path: Path | None, device: torch.device | str = "cpu"
) -> VGGTEstimator | None:
    """The VGGT in `path`, at the size it was trained for; without one the run's own, at the run's size.

    Returns:
        None when no file is named and the run's own VGGT has no camera head.

    Raises:
        CheckpointError: the file is no VGGT, is damaged, or was named and has no camera head.
    """
    shot, encoders = config.cache.shot, config.cache.encoders
    if path is not None:
        network = load_vggt(path, heads=("camera",), dtype=_dtype(device), device=device)
        return VGGTEstimator(network, vggt_size(shot.width, shot.height))
    bundled = encoders.bundle is not None
    own = encoders.vggt if encoders.bundle is None else bundle_path(encoders.bundle)
    assert own is not None
    prefix = "vggt." if bundled else ""
    if not any(name.startswith(f"{prefix}camera_head.") for name in read_header(own).tensors):
        return None
    dtype = torch.float32 if bundled else _dtype(device)
    network = load_vggt(own, heads=("camera",), prefix=prefix, dtype=dtype, device=device)
    return VGGTEstimator(network, (shot.vggt_width, shot.vggt_height))


def _dtype(device: torch.device | str) -> torch.dtype:
    """Precision of a full-size VGGT: that of its release on a card, the exact one on a CPU."""
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
