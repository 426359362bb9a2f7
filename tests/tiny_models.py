"""The files of a full-size model in small: every layout of the real ones, sizes of a toy."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel
from weight_files import filled_model

from cinescene_core.config import CineSceneConfig, WanConfig
from cinescene_core.models.autoencoder import new_autoencoder
from cinescene_core.models.vggt import VGGT, VGGTConfig
from cinescene_core.weights import save_transformer

PIECES = ["▁a", "▁red", "▁ball", "▁rolls", "▁", *"abcdefghijklmnopqrstuvwxyz'&é"]
END = 1  # the row of </s>, which the tokenizer appends
TEXT_WIDTH = 16
VGGT_SIZES = VGGTConfig(
    embed_dim=32, num_heads=2, position_grid=3, backbone_depth=1, depth=2, camera_head=False, depth_head=False
)


def write_text_encoder(folder: Path) -> None:
    """`tokenizer/` and `text_encoder/` of a Wan2.1 release for diffusers."""
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0)]
    scores += [(piece, -1.0 - i) for i, piece in enumerate(PIECES)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    sizes = {"d_model": TEXT_WIDTH, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    UMT5EncoderModel(UMT5Config(vocab_size=len(scores), **sizes)).save_pretrained(folder / "text_encoder")


def tiny_vggt(seed: int = 0) -> VGGT:
    """A scene encoder with random weights; other seeds have other fingerprints."""
    torch.manual_seed(seed)
    return VGGT(VGGT_SIZES).eval()


def write_full_size(folder: Path, **record: object) -> dict[str, Path]:
    """A CineScene checkpoint, its VGGT and a Wan2.1 folder; `record` changes what the checkpoint says of itself.

    Returns:
        The paths by the option of the command that takes them.
    """
    names = {"--model": "cinescene.safetensors", "--vggt": "vggt.safetensors", "--wan": "wan"}
    paths = {option: folder / name for option, name in names.items()}
    vggt = tiny_vggt()
    save_file(vggt.state_dict(), paths["--vggt"])
    sizes = WanConfig(
        width=48,
        num_layers=2,
        num_heads=2,
        ffn_width=64,
        text_width=TEXT_WIDTH,
        frequency_width=16,
        feature_width=vggt.width,
    )
    trained = {
        "num_heads": 2,
        "width": 64,
        "height": 32,
        "num_frames": 5,
        "num_views": 3,
        "vggt_id": vggt.fingerprint,
        "vggt_width": 42,
        "vggt_height": 28,
    }
    save_transformer(paths["--model"], filled_model(sizes).state_dict(), CineSceneConfig(**(trained | record)))
    paths["--wan"].mkdir()
    write_text_encoder(paths["--wan"])
    torch.manual_seed(0)
    new_autoencoder(base_dim=4).save_pretrained(paths["--wan"] / "vae")
    return paths
