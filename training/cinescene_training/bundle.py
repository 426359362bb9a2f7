"""Small encoders in one file: what `encoders.bundle` names, and what an export may carry along."""

import os
from pathlib import Path

import torch

from cinescene_core.models.text import VocabularyEncoder
from cinescene_core.weights import load_tensors, save_bundle

from .render.captions import VOCABULARY
from .seeds import generator_for

POSITION_STD = 0.3
"""Deviation of what the place in a sentence adds to a word, whose own is 1: enough to tell order by."""


def make_bundle(
    vae: str | os.PathLike[str], vggt: str | os.PathLike[str], target: str | os.PathLike[str], *, text_width: int
) -> None:
    """Join a trained VAE, a trained VGGT and a word table in one file.

    Words get random vectors that stay: the transformer's own text layers learn what they mean. The
    vocabulary is that of the rooms' captions.

    Args:
        vae: what `fit_vae` wrote.
        vggt: what `fit_vggt` wrote.
        target: the file to write.
        text_width: channels of a word.

    Raises:
        CheckpointError: a file is damaged or missing.
        OSError: the target cannot be written.
    """
    text = VocabularyEncoder(list(VOCABULARY), width=text_width)
    generator = generator_for(0, "words")
    with torch.no_grad():
        text.embedding.weight.normal_(generator=generator)
        text.positions.normal_(std=POSITION_STD, generator=generator)
    parts = {"vae": load_tensors(Path(vae)), "vggt": load_tensors(Path(vggt)), "text": text.state_dict()}
    save_bundle(target, parts, {"text": text.record()})
