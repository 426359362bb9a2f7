"""LoFTR as a matcher, through kornia, from a local weight file."""

import importlib
import os
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from .weight_files import load_exactly, read_published

CELL = 8
"""Pixels on a side of LoFTR's coarse cells."""
LOFTR_THRESHOLD = 0.2
"""LoFTR's own threshold of a coarse match (Sun et al. 2021)."""
_LUMA = (0.299, 0.587, 0.114)


class LoftrMatcher:
    """The light matcher of "matpix-v1": one certainty per cell of 8 x 8 pixels. Made by `from_file`.

    Args:
        network: kornia's LoFTR.
    """

    name = "LoFTR"
    threshold = LOFTR_THRESHOLD

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network.eval().requires_grad_(False)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Load LoFTR's weights; nothing is downloaded.

        Args:
            path: loftr_outdoor.ckpt (Apache-2.0), from the list in kornia's documentation.

        Raises:
            ImportError: kornia is not installed.
            CheckpointError: the file is missing, damaged, or of another network.
        """
        try:
            kornia_feature: Any = importlib.import_module("kornia.feature")
        except ImportError as error:
            raise ImportError("Matched pixels by LoFTR need kornia. Install it with: pip install kornia") from error
        network = kornia_feature.LoFTR(pretrained=None)
        tensors = {name.removeprefix("matcher."): value for name, value in read_published(path).items()}
        load_exactly(network, tensors, path, "LoFTR's weights (loftr_outdoor.ckpt)")
        return cls(network)

    @torch.no_grad()
    def certainty(self, result: Tensor, truth: Tensor) -> Tensor:
        """Confidence of each cell of `result`, [h / 8, w / 8]; 0 in cells without a match."""
        device = next(self.network.parameters()).device
        grey = [
            rearrange(picture.to(device, torch.float32) @ torch.tensor(_LUMA, device=device), "h w -> 1 1 h w")
            for picture in (result, truth)
        ]
        found = self.network({"image0": grey[0], "image1": grey[1]})
        cells = torch.zeros(result.shape[0] // CELL, result.shape[1] // CELL, device=device)
        columns, rows = (found["keypoints0"] / CELL).long().unbind(-1)
        cells[rows, columns] = found["confidence"].float()
        return cells.clamp(0, 1).cpu()
