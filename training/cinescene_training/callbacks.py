"""Videos while training: the same held-out clips, from the same noise, every time."""

import io
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from cinescene_core.config import SamplingConfig
from cinescene_core.latents import denormalise_latents
from cinescene_core.types import Autoencoder
from cinescene_core.video import contact_sheet, decode_video, save_video, side_by_side

from .config import TrainingConfig
from .data.cache import EncodedCache
from .data.encoders import load_vae
from .samples import ClipBatch, chosen_clips, held_out_sample
from .sampling import sample_clip

SHEET_FRAMES = 5
"""Frames of a clip on a contact sheet."""


class ValidationVideos(pl.Callback):
    """Samples held-out clips after each validation, beside the ground truth.

    They go to TensorBoard as moving pictures and contact sheets, and to `videos/` in the run's
    folder as mp4.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.clips: list[ClipBatch] = []
        self.truths: list[Tensor] = []
        self.vae: Autoencoder | None = None

    def prepare(self, device: torch.device) -> Tensor:
        """Read the clips and the decoder on first use; return the empty prompt's rows."""
        cache = EncodedCache(self.config.cache.folder, "validation")
        if self.vae is None:
            self.vae = load_vae(self.config.cache.encoders, device)
            chosen = chosen_clips(len(cache), self.config.validation.videos)
            objective = self.config.objective
            self.clips = [held_out_sample(cache.sample(index), index, objective) for index in chosen]
            self.truths = [decode_video(denormalise_latents(clip.video), self.vae).cpu() for clip in self.clips]
        return cache.empty_text()

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        empty_text, settings = self.prepare(module.device), self.config.validation
        sampling = SamplingConfig(steps=settings.video_steps, guidance=settings.guidance, shift=settings.shift)
        network: Any = module.network
        for clip, truth in zip(self.clips, self.truths, strict=True):
            with trainer.precision_plugin.val_step_context():  # in the precision of training
                latents = sample_clip(network, clip.to(module.device), empty_text, sampling)
            if trainer.is_global_zero:
                assert self.vae is not None
                self.show(trainer, clip, decode_video(latents, self.vae).cpu(), truth)

    def show(self, trainer: pl.Trainer, clip: ClipBatch, frames: Tensor, truth: Tensor) -> None:
        """Write a sample's frames beside the ground truth."""
        name, step = clip.names[0].replace("/", "_"), trainer.global_step
        fps = self.config.cache.shot.fps
        folder = self.config.run.folder / "videos"
        folder.mkdir(parents=True, exist_ok=True)
        both = side_by_side(frames, truth)
        save_video(both, folder / f"{name}_step{step:06d}.mp4", fps)
        if isinstance(trainer.logger, TensorBoardLogger):
            write_animation(trainer.logger, f"videos/{name}", both, fps, step)
            picked = torch.linspace(0, len(frames) - 1, SHEET_FRAMES).round().long()
            sheet = contact_sheet(torch.cat([frames[picked], truth[picked]]), columns=SHEET_FRAMES)
            trainer.logger.experiment.add_image(f"sheets/{name}", sheet, step, dataformats="HWC")


def write_animation(logger: TensorBoardLogger, tag: str, frames: Tensor, fps: float, step: int) -> None:
    """Put [f, h, w, 3] frames into TensorBoard as a moving picture (GIF, which its image page plays)."""
    pictures = [Image.fromarray(frame) for frame in (frames.clamp(0, 1) * 255).round().byte().numpy()]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0
    )
    height, width = frames.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue())
    logger.experiment._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
