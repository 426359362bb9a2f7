"""What a shot adds to the host's CONDITIONING, and how the host carries it to the network.

The host makes one `SceneCondition` of each entry of a CONDITIONING when a sampling run begins and drops it when
the run ends, also when it is interrupted. All of one run share one `SharedScene`, and with it what the network has
read of the place: it is counted while it is there, and gone with the run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import comfy.conds
import torch
from torch import Tensor

from ..cinescene_core.models.sequence import KeysValues
from ..cinescene_core.types import Context


class ShotConditions(NamedTuple):
    """What one shot adds to CONDITIONING; the field names are the keys there."""

    cinescene_camera: Tensor
    """[1, t, 3, 4] relative poses of the latent frames."""
    cinescene_latents: Tensor
    """[1, v, 16, h, w] view latents, normalised, in slot order."""
    cinescene_features: Tensor
    """[1, v, c, rows, columns] scene features in slot order."""

    @classmethod
    def of(cls, context: Context, camera: Tensor) -> "ShotConditions":
        """Join a scene in slot order and [t, 3, 4] poses."""
        return cls(camera[None].float(), context.latents[None], context.features[None])


def as_bits(poses: Tensor) -> Tensor:
    """Float32 poses as int32: the host casts every float among the conditions to the type of the model.

    In bfloat16 a camera 8 m away would be up to 1.6 cm off.
    """
    return poses.float().contiguous().view(torch.int32)


def from_bits(poses: Tensor) -> Tensor:
    """What `as_bits` made, in float32 again; float32 stays as it is."""
    return poses.view(torch.float32)


@dataclass(frozen=True)
class ReadScene:
    """A scene that was read once (`CineSceneTransformer.read_context`), on the device that samples."""

    blocks: tuple[KeysValues, ...]

    def layers(self, device: torch.device, dtype: torch.dtype) -> Iterator[KeysValues]:
        """What the video reads in each block."""
        return (KeysValues(keys.to(device, dtype), values.to(device, dtype)) for keys, values in self.blocks)


@dataclass(eq=False)
class SharedScene:
    """The place of one sampling run, and what was read of it."""

    latents: Tensor
    """[1, v, 16, h, w], where and as the network computes."""
    features: Tensor
    """[1, v, c, rows, columns]."""
    weights_vary: Callable[[], bool] = lambda: False
    """Whether the weights may differ from step to step, so that nothing read may be kept."""
    _read: dict[tuple[int, torch.device], ReadScene] = field(default_factory=dict)

    def read_once(self, num_latent_frames: int, device: torch.device, read: Callable[[], ReadScene]) -> ReadScene:
        """What `read` gives, which is called once for each length of video and each device."""
        key = (num_latent_frames, device)
        if key not in self._read:
            self._read[key] = read()
        return self._read[key]

    def is_of(self, latents: Tensor, features: Tensor) -> bool:
        """Whether it was made of these values."""
        return all(
            mine.shape == theirs.shape and torch.equal(mine, theirs.to(mine))
            for mine, theirs in ((self.latents, latents), (self.features, features))
        )


class SceneCondition(comfy.conds.CONDRegular):
    """A `SharedScene` among the host's conditions: one for the whole batch, whatever is in it."""

    def process_cond(self, batch_size: int, **_others: Any) -> "SceneCondition":
        return self

    def can_concat(self, other: "SceneCondition") -> bool:
        return self.cond is other.cond

    def concat(self, others: list["SceneCondition"]) -> SharedScene:
        return self.cond

    def size(self) -> list[int]:
        """What counts for memory: the shape of its latents."""
        return list(self.cond.latents.shape)
