"""The frozen networks in front of the transformer, and what tells their weights from others."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cinescene_core.checks import CheckpointError
from cinescene_core.models.autoencoder import WanAutoencoder
from cinescene_core.models.text import UMT5Encoder, VocabularyEncoder
from cinescene_core.types import Autoencoder, SceneEncoder, TextEncoder, content_digest
from cinescene_core.weights import load_tensors, nano_path, read_bundle_part
from cinescene_core.weights.autoencoder import autoencoder_from_state_dict, load_autoencoder
from cinescene_core.weights.vae_keys import has_diffusers_names, to_diffusers
from cinescene_core.weights.vggt import load_vggt, vggt_fingerprint

from ..config import EncodersConfig

NANO = Path("nano")
"""Stands for the embedded bundle."""
SMALL = 2**16
"""Values of the largest tensors that a text encoder's digest reads: norms and position biases."""


@dataclass(frozen=True, eq=False)
class Encoders:
    """What turns pictures and words into what the transformer reads."""

    vae: Autoencoder
    vggt: SceneEncoder
    text: TextEncoder

    def caption_rows(self, caption: str) -> Tensor:
        """Rows [length, width] of a caption; of words that are not known, `unknown_words` tells.

        Raises:
            ValueError: too many words or tokens.
        """
        if isinstance(self.text, VocabularyEncoder):
            with torch.no_grad():
                return self.text(self.text.tokenize(caption)[None])[0]
        return self.text.encode(caption)[0]

    def unknown_words(self, captions: Iterable[str]) -> list[str]:
        """Words of the captions that a word list lacks, in alphabetical order; UMT5 spells every word."""
        if not isinstance(self.text, VocabularyEncoder):
            return []
        return sorted({word for caption in captions for word in self.text.unknown_words(caption)})


@dataclass(frozen=True, kw_only=True)
class EncoderDigests:
    """16 hex digits per encoder that tell its weights from others."""

    vae: str
    """Of every value; original and diffusers' names agree."""
    vggt: str
    """`vggt_fingerprint`: files in float32 and bf16 agree."""
    text: str
    """Of the vocabulary or tokenizer, every shape, and the values of small tensors in bf16."""


def load_encoders(config: EncodersConfig, device: torch.device | str = "cpu") -> Encoders:
    """Load VAE, VGGT and text encoder from one bundle, or from the full-size files; nothing is downloaded.

    A bundle need not hold a transformer, and computes in float32. Full-size VGGT and text encoder compute in bf16, as
    `cinescene_core.load_models` has them; the VAE in float32.

    Raises:
        CheckpointError: a file is another model, damaged or missing, or lacks a part.
    """
    if config.bundle is not None:
        path = bundle_path(config.bundle)
        vae = load_vae(config, device)
        text_state, text_record = read_bundle_part(path, "text")
        words = VocabularyEncoder.from_state_dict(text_state, text_record)
        return Encoders(vae, load_vggt(path, prefix="vggt.", dtype=torch.float32, device=device), words.to(device))
    vggt, wan = _full_size_paths(config)
    vae = load_vae(config, device)
    scene_encoder = load_vggt(vggt, dtype=torch.bfloat16, device=device)
    return Encoders(vae, scene_encoder, UMT5Encoder.from_folder(wan, dtype=torch.bfloat16).to(device))


def load_vae(config: EncodersConfig, device: torch.device | str = "cpu") -> WanAutoencoder:
    """The VAE alone, in float32; errors as `load_encoders`."""
    if config.bundle is not None:
        path = bundle_path(config.bundle)
        return autoencoder_from_state_dict(read_bundle_part(path, "vae")[0], name=path.name).to(device)
    return load_autoencoder(_full_size_paths(config)[1] / "vae").to(device)


def encoder_digests(config: EncodersConfig) -> EncoderDigests:
    """Tell which encoders a configuration names, from their files; no network is made.

    Raises:
        CheckpointError: a file is damaged or missing, or lacks a part.
    """
    if config.bundle is not None:
        path = bundle_path(config.bundle)
        vae_state, _ = read_bundle_part(path, "vae")
        text_state, text_record = read_bundle_part(path, "text")
        vggt_state = load_tensors(path, prefix="vggt.")
        words = json.dumps(text_record, sort_keys=True).encode()
        text = _digest(text_state, words)
    else:
        vggt, wan = _full_size_paths(config)
        vae_state = _folder_tensors(wan / "vae")
        vggt_state = load_tensors(vggt)
        text = _umt5_digest(wan)
    names: Callable[[str], str] = str if has_diffusers_names(vae_state) else to_diffusers
    vae = _digest({names(name): value for name, value in vae_state.items()})
    return EncoderDigests(vae=vae, vggt=vggt_fingerprint(vggt_state), text=text)


def bundle_path(bundle: Path) -> Path:
    """The file of a configured bundle; `nano` is the embedded one."""
    return nano_path() if bundle == NANO else bundle


def _full_size_paths(config: EncodersConfig) -> tuple[Path, Path]:
    if config.vggt is None or config.wan is None:
        raise CheckpointError("The encoders have neither a bundle nor both 'vggt' and 'wan'. Name one or the other.")
    return config.vggt, config.wan


def _folder_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the safetensors files of a folder, mapped to them."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder} holds no .safetensors file. Name the folder of a Wan2.1 release for diffusers: it holds "
            "text_encoder, tokenizer and vae."
        )
    return {name: value for file in files for name, value in load_tensors(file).items()}


def _umt5_digest(wan: Path) -> str:
    """The large matrices count by shape alone: reading 11 GB to open a cache would take longer than the cache saves."""
    tensors = _folder_tensors(wan / "text_encoder")
    shapes = json.dumps({name: list(tensors[name].shape) for name in sorted(tensors)}).encode()
    small = {name: value.to(torch.bfloat16) for name, value in tensors.items() if value.numel() <= SMALL}
    tokenizer = [file.read_bytes() for file in sorted((wan / "tokenizer").glob("*")) if file.is_file()]
    return _digest(small, shapes, *tokenizer)


def _digest(tensors: Mapping[str, Tensor], *texts: bytes) -> str:
    """16 hex digits over names, values and texts; the order of the names does not count."""
    parts: Iterable[Tensor] = (torch.frombuffer(bytearray(text or b"\0"), dtype=torch.uint8) for text in texts)
    names = sorted(tensors)
    listed = torch.frombuffer(bytearray("\n".join(names).encode()), dtype=torch.uint8)
    return content_digest(listed, *(tensors[name] for name in names), *parts)[:16]
