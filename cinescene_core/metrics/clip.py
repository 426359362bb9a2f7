"""CLIP's features of frames and prompts, from a local folder, for `features`."""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..checks import CheckpointError, CineSceneWarning
from .frames import check_frames

BATCH = 16
"""Frames encoded at once."""


class ClipEncoder(nn.Module):
    """CLIP over transformers.

    The papers name no variant; their values fit openai/clip-vit-base-patch32, and a table should say which was used.

    Args:
        network: transformers' CLIPModel; it is frozen here.
        tokenizer: its tokenizer.
        mean, std: colour statistics that the pictures are normalised with.
        name: what to call it in a table.
    """

    def __init__(
        self, network: nn.Module, tokenizer: Any, *, mean: Sequence[float], std: Sequence[float], name: str
    ) -> None:
        super().__init__()
        self.network: Any = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> Self:
        """Load a CLIP release as transformers lays it out; nothing is downloaded.

        Args:
            folder: holds config.json, the weights, the tokenizer's files and preprocessor_config.json.

        Raises:
            CheckpointError: the folder is missing or incomplete, or holds another network.
            ImportError: transformers is not installed.
        """
        try:
            from transformers import CLIPModel, CLIPTokenizer
        except ImportError as error:
            raise ImportError('CLIP scores need transformers. Install it with: pip install "cinescene[cli]"') from error
        folder = Path(folder)
        kind = _read_json(folder, "config.json").get("model_type")
        if kind != "clip":
            raise CheckpointError(
                f"{folder} holds a network of type {kind!r}, not CLIP. Use a folder such as that of "
                "openai/clip-vit-base-patch32."
            )
        statistics = _read_json(folder, "preprocessor_config.json")
        try:
            loaded: Any = CLIPModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
            network, report = loaded
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            mean, std = statistics["image_mean"], statistics["image_std"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{folder} holds no CLIP that can be loaded: {reason} Download it again.") from error
        missing = sorted(report["missing_keys"])
        if missing:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} tensors of CLIP, the first is {missing[0]}. Download it again."
            )
        return cls(network, tokenizer, mean=mean, std=std, name=f"CLIP {folder.resolve().name}")

    @torch.no_grad()
    def encode_images(self, frames: Tensor) -> Tensor:
        """[f, h, w, 3] in 0..1 to [f, c] features, on the CPU.

        As in CLIP's training, the shorter side is resized (bicubic, anti-aliased) to the network's and the middle
        square is cut out: of a wide picture the sides are not seen.

        Raises:
            ShapeError, ValueError: what `check_frames` refuses.
        """
        check_frames("frames", frames)
        features = [
            _projected(self.network.get_image_features(pixel_values=self._pixels(batch))).cpu()
            for batch in frames.split(BATCH)
        ]
        return torch.cat(features)

    @torch.no_grad()
    def encode_text(self, prompt: str) -> Tensor:
        """One prompt to [c] features, on the CPU.

        Raises:
            ValueError: an empty prompt.

        Warns:
            CineSceneWarning: the prompt is longer than CLIP reads, and its end was cut off.
        """
        if not prompt.strip():
            raise ValueError(
                "The prompt is empty: CLIP-T has nothing to compare. Give the text the video was made from."
            )
        longest = self.network.config.text_config.max_position_embeddings
        count = len(self.tokenizer(prompt).input_ids)
        if count > longest:
            warnings.warn(
                f"The prompt has {count} tokens and CLIP reads {longest}: the last {count - longest} are not scored. "
                "Shorten the prompt to score all of it.",
                CineSceneWarning,
                stacklevel=2,
            )
        tokens = self.tokenizer(prompt, truncation=True, max_length=longest, return_tensors="pt").to(self.mean.device)
        features = self.network.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return _projected(features)[0].cpu()

    def _pixels(self, frames: Tensor) -> Tensor:
        """[b, h, w, 3] to the normalised [b, 3, side, side] that the network reads."""
        side = self.network.config.vision_config.image_size
        pictures = rearrange(frames.to(self.mean.device, torch.float32), "b h w c -> b c h w")
        height, width = pictures.shape[-2:]
        short = min(height, width)
        size = (side * height // short, side * width // short)
        pictures = interpolate(pictures, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        return (pictures[..., top : top + side, left : left + side] - self.mean) / self.std


def _projected(output: Any) -> Tensor:
    """The features of either generation: transformers 4 returns them, 5 puts them into `pooler_output`."""
    return (output if isinstance(output, Tensor) else output.pooler_output).float()


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        record = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder / name} does not exist. Name the folder of a CLIP release: it holds config.json, the weights, "
            "the tokenizer and preprocessor_config.json."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / name} cannot be read ({error}). Download it again.") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{folder / name} must hold a JSON object. Download it again.")
    return record
