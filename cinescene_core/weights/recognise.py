"""Which model a file is, from the names and shapes in its header."""

import re
from collections.abc import Collection
from enum import StrEnum

from ..checks import CheckpointError
from ..config import LATENT_CHANNELS
from .bundle import BUNDLE_PARTS
from .files import Header
from .metadata import SCENE_KEY, TRANSFORMER_KEY
from .wan_keys import has_diffusers_names, to_original


class FileKind(StrEnum):
    """What a model file can be. The value is the phrase for a file of this kind where it is needed."""

    CINESCENE = "a CineScene checkpoint"
    RECAMMASTER = "a ReCamMaster model"
    WAN_T2V = "a Wan2.1 text-to-video model"
    WAN_DIFFUSERS = "a Wan2.1 text-to-video model with diffusers' names"
    WAN_OTHER = "another Wan model"
    WAN_VAE = "a Wan2.1 VAE"
    OTHER_VAE = "another VAE"
    VGGT = "a VGGT file"
    TEXT_ENCODER = "a UMT5 text encoder"
    CLIP = "a CLIP model"
    LORA = "a LoRA"
    SCENE = "a CineScene scene"
    BUNDLE = "a CineScene bundle"
    GGUF = "a GGUF file"
    UNKNOWN = "another model"


_ADVICE = {
    FileKind.LORA: "Load it with a LoRA loader, on top of the model.",
    FileKind.WAN_VAE: "Load it as the VAE.",
    FileKind.VGGT: "Load it with the VGGT loader.",
    FileKind.TEXT_ENCODER: "Load it as the text encoder.",
    FileKind.SCENE: "Load it as a scene.",
    FileKind.BUNDLE: "Load it with the loader of the nano checkpoint, or by cinescene generate --model.",
    FileKind.GGUF: "Use the .safetensors file of the same model.",
    **dict.fromkeys(
        (FileKind.CINESCENE, FileKind.RECAMMASTER, FileKind.WAN_T2V, FileKind.WAN_DIFFUSERS),
        "Load it with the model loader.",
    ),
}

_LORA = re.compile(r"[._](lora_(A|B|up|down)|lora\.(up|down)|hada_w1_a|lokr_w1|lokr_w2|diff|diff_b)(\.|$)")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")

# Layers that only one relative of Wan2.1 T2V has: the beginning of a name, and the model.
_WAN_RELATIVES = (
    ("vace_", "a Wan VACE model"),
    ("control_adapter.", "a Wan Fun-Camera model"),
    ("ref_conv.", "a Wan Fun-Control model"),
    ("face_adapter.", "a Wan Animate model"),
    ("casual_audio_encoder.", "a Wan speech-to-video model"),
    ("audio_proj.", "a Wan audio-driven model"),
    ("patch_embedding_", "a Wan model with further inputs"),
)
_OTHER_NETWORKS = (
    ("input_blocks.", "a Stable Diffusion model"),
    ("double_blocks.", "a FLUX or HunyuanVideo model"),
    ("transformer_blocks.", "a diffusion transformer of another family"),
    ("joint_blocks.", "a Stable Diffusion 3 model"),
    ("first_stage_model.", "a combined checkpoint with its own VAE"),
)
_CLIP_NAMES = ("visual.", "vision_model.", "text_model.", "cond_stage_model.")


def identify(header: Header) -> FileKind:
    """Say which kind of model a header describes."""
    return _recognise(header)[0]


def describe(header: Header) -> str:
    """Say in plain words what a header describes: "a Wan2.1 image-to-video model (36 input channels)"."""
    return _recognise(header)[1]


def require(header: Header, allowed: Collection[FileKind], purpose: str) -> FileKind:
    """Refuse a file of the wrong kind.

    Args:
        header: of the file at hand.
        allowed: what would do.
        purpose: who needs it, as it stands inside a sentence ("CineScene's transformer").

    Returns:
        The kind the file is.

    Raises:
        CheckpointError: it is something else, or one shard of several; the sentence says what the
            file is and what is needed.
    """
    kind, words = _recognise(header)
    name = header.path.name
    if kind not in allowed:
        needed = [wanted.value for wanted in FileKind if wanted in allowed and wanted is not FileKind.WAN_DIFFUSERS]
        listed = " or ".join([", ".join(needed[:-1]), needed[-1]] if len(needed) > 1 else needed)
        raise CheckpointError(f"{name} is {words}; {purpose} needs {listed}. {_ADVICE.get(kind, '')}".rstrip())
    shard = _SHARD.search(name)
    if shard and int(shard[2]) > 1:
        raise CheckpointError(
            f"{name} is part {int(shard[1])} of {int(shard[2])} of {words}; {purpose} needs the whole model in one "
            "file. Use a single-file release."
        )
    return kind


def original_names(header: Header) -> Header:
    """The header of a Wan transformer in Wan's original names."""
    return header.renamed(to_original) if has_diffusers_names(header.tensors) else header


def _recognise(header: Header) -> tuple[FileKind, str]:
    for look in (_container, _wan, _companion):
        if found := look(header):
            return found
    names = list(header.tensors)
    for beginning, words in _OTHER_NETWORKS:
        if any(name.removeprefix("model.diffusion_model.").startswith(beginning) for name in names):
            return FileKind.UNKNOWN, words
    return FileKind.UNKNOWN, f"a file CineScene does not know ({len(names)} tensors, the first is {names[0]!r})"


def _container(header: Header) -> tuple[FileKind, str] | None:
    """Files known by what surrounds the tensors, and adapters, which borrow their model's names."""
    names = header.tensors
    if header.container == "gguf":
        return FileKind.GGUF, FileKind.GGUF.value
    if not names:
        return FileKind.UNKNOWN, "a file without tensors"
    fronts = {name.split(".")[0] for name in names}
    if "transformer" in fronts and len(fronts) > 1 and fronts <= set(BUNDLE_PARTS):
        return FileKind.BUNDLE, FileKind.BUNDLE.value
    if SCENE_KEY in header.metadata:
        return FileKind.SCENE, FileKind.SCENE.value
    if any(_LORA.search(name) for name in names):
        return FileKind.LORA, FileKind.LORA.value
    return None


def _wan(header: Header) -> tuple[FileKind, str] | None:
    """Wan's transformer and its relatives."""
    names = original_names(header).tensors
    if any(name.startswith("vace_blocks.") for name in names):
        return FileKind.WAN_OTHER, "a Wan VACE model"
    if not {"patch_embedding.weight", "head.modulation", "blocks.0.self_attn.q.weight"} <= set(names):
        return None
    for beginning, words in _WAN_RELATIVES:
        if any(name.startswith(beginning) for name in names):
            return FileKind.WAN_OTHER, words
    inputs = (*names["patch_embedding.weight"].shape, 0)[1]
    if inputs == 36 or any(name.startswith(("img_emb.", "condition_embedder.image_embedder.")) for name in names):
        return FileKind.WAN_OTHER, f"a Wan2.1 image-to-video model ({inputs} input channels)"
    if inputs != LATENT_CHANNELS:
        return FileKind.WAN_OTHER, _wan_of_other_width(inputs, (0, *names["head.modulation"].shape)[-1])
    if TRANSFORMER_KEY in header.metadata or any(name.startswith("scene_embed.") for name in names):
        return FileKind.CINESCENE, FileKind.CINESCENE.value
    if "blocks.0.cam_encoder.weight" in names:
        return FileKind.RECAMMASTER, FileKind.RECAMMASTER.value
    kind = FileKind.WAN_DIFFUSERS if has_diffusers_names(header.tensors) else FileKind.WAN_T2V
    return kind, kind.value


def _wan_of_other_width(inputs: int, width: int) -> str:
    if inputs == 48 and width == 3072:
        return "a Wan2.2 5B model (48 latent channels)"
    return f"a Wan model with {inputs} input channels"


def _companion(header: Header) -> tuple[FileKind, str] | None:
    """VAEs, encoders and other networks beside the transformer."""
    names = header.tensors
    for quantiser in ("conv2.weight", "post_quant_conv.weight"):
        decoder = {"decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma"} & set(names)
        if quantiser in names and decoder:
            channels = (*names[quantiser].shape, 0)[0]
            if channels == LATENT_CHANNELS:
                return FileKind.WAN_VAE, FileKind.WAN_VAE.value
            return FileKind.OTHER_VAE, f"a video VAE with {channels} latent channels, such as Wan2.2's"
    if any(name.startswith("decoder.mid") for name in names):
        return FileKind.OTHER_VAE, "a VAE of another family"
    if "aggregator.camera_token" in names:
        return FileKind.VGGT, FileKind.VGGT.value
    relative_bias = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    if relative_bias.format(0) in names:
        several = relative_bias.format(1) in names or "encoder.block.1.layer.0.SelfAttention.q.weight" not in names
        # UMT5 has a position bias in every layer, T5 only in the first.
        return (
            (FileKind.TEXT_ENCODER, FileKind.TEXT_ENCODER.value) if several else (FileKind.UNKNOWN, "a T5 text encoder")
        )
    if "blocks.0.pos_embedding.embedding.weight" in names:
        return FileKind.TEXT_ENCODER, FileKind.TEXT_ENCODER.value
    if any(name.startswith(_CLIP_NAMES) for name in names):
        return FileKind.CLIP, FileKind.CLIP.value
    return None
