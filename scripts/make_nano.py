"""Make the embedded checkpoint, `cinescene_core/assets/nano.safetensors`: every network of a shot, small.

The weights are freshly initialised, not trained: they prove that every stage runs, on any machine.
The same seed gives the same file.

    python scripts/make_nano.py
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from cinescene_core.config import CineSceneConfig, WanConfig
from cinescene_core.models.autoencoder import new_autoencoder
from cinescene_core.models.conditioning import start_conditioning
from cinescene_core.models.text import VocabularyEncoder
from cinescene_core.models.vggt import VGGT, VGGTConfig, vggt_fingerprint
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.weights import fold_projector, nano_path, save_bundle
from cinescene_core.weights.vae_keys import to_original

SEED = 0
VAE_WIDTH = 8
TEXT_WIDTH = 64
VGGT_CONFIG = VGGTConfig(
    embed_dim=64, num_heads=4, position_grid=12, backbone_depth=2, depth=3, camera_head=False, depth_head=False
)
WAN_CONFIG = WanConfig(
    width=128,
    num_layers=4,
    num_heads=1,
    ffn_width=256,
    text_width=TEXT_WIDTH,
    feature_width=VGGT_CONFIG.width,
)
VOCABULARY = """
a an the and of in on with to from at over through into across behind front left right up down
red green blue yellow orange purple pink cyan brown black white grey silver golden dark bright light pale
small big tall short round square long thin thick tiny huge old young
person man woman child girl boy robot dancer runner knight astronaut dog cat bird horse fox bear figure
ball box cube sphere cone cylinder pillar car bicycle balloon boat drone kite lantern umbrella
walks runs jumps turns dances waves spins rolls flies rises falls stands sits slides crosses circles moves comes goes
slowly quickly forward backward around away towards alone together
room hall courtyard street plaza garden park field beach forest workshop studio house tower bridge
wall floor ceiling window door roof sky sun cloud tree grass stone wood water sand
morning noon evening night sunny cloudy rainy
""".split()


def initialise(module: nn.Module) -> None:
    """Random matrices of unit gain, norms at one, biases at zero."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1 or name.endswith(("gamma", ".bias")):
            scale = name.endswith((".weight", "gamma"))
            parameter.data.fill_(1.0 if scale else 0.0)
        else:
            fan_in = parameter[0].numel()
            parameter.data.normal_(std=fan_in**-0.5)


def as_bfloat16(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor as the file stores it."""
    return {name: value.detach().to(torch.bfloat16).contiguous() for name, value in state_dict.items()}


def make(path: Path) -> None:
    """Initialise every network from `SEED` and write the bundle."""
    torch.manual_seed(SEED)
    vae = new_autoencoder(VAE_WIDTH)
    vggt = VGGT(VGGT_CONFIG)
    transformer = CineSceneTransformer(WAN_CONFIG)
    text = VocabularyEncoder(VOCABULARY, width=TEXT_WIDTH)
    for network in (vae, vggt, transformer, text):
        initialise(network)
    start_conditioning(transformer, SEED)
    vggt_state = as_bfloat16(vggt.state_dict())
    config = CineSceneConfig(
        vggt_id=vggt_fingerprint(vggt_state),
        vggt_width=168,
        vggt_height=98,
        num_views=20,
        num_frames=17,
        width=160,
        height=96,
        num_heads=WAN_CONFIG.num_heads,
        scene_trained=False,
        base_model=f"nano, freshly initialised from seed {SEED}",
        licence="Apache-2.0",
    )
    parts = {
        "transformer": as_bfloat16(fold_projector(transformer.state_dict())),
        "vae": as_bfloat16({to_original(name): value for name, value in vae.state_dict().items()}),
        "vggt": vggt_state,
        "text": as_bfloat16(text.state_dict()),
    }
    save_bundle(path, parts, {"cinescene": dataclasses.asdict(config), "text": text.record()})
    for part, tensors in parts.items():
        print(f"{part:<12}{sum(value.numel() for value in tensors.values()):>10,} parameters")
    print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=nano_path())
    make(parser.parse_args().out)
