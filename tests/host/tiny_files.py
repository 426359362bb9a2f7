"""Model files with every part of the real ones and a few thousand numbers each."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from cinescene_core.config import CineSceneConfig, WanConfig
from cinescene_core.models.vggt import VGGT, VGGTConfig
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.trajectory import save_trajectory
from cinescene_core.types import Trajectory
from cinescene_core.weights import fold_projector, save_transformer

WAN = WanConfig(width=128, num_layers=2, num_heads=1, ffn_width=64, text_width=64, feature_width=128)
"""Text and features as wide as nano's, so that a scene of nano's fits."""
RECORD = CineSceneConfig(num_heads=1, vggt_width=168, vggt_height=98, positions="paired", context_timestep="shared")
"""Not the defaults: a loader that loses the record shows it."""


def random_transformer(config: WanConfig = WAN, projector: bool = True, seed: int = 0) -> CineSceneTransformer:
    """A transformer whose every layer does something."""
    generator = torch.Generator().manual_seed(seed)
    model = CineSceneTransformer(config, projector=projector)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.eval().requires_grad_(False)


def write_tiny_files(base: Path) -> None:
    """Fill the model folders of a ComfyUI base directory, and its input folder."""
    models = base / "models"
    for folder in ("diffusion_models", "loras"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    state = random_transformer().state_dict()
    save_transformer(models / "diffusion_models/tiny_cinescene.safetensors", state, RECORD)
    save_transformer(models / "diffusion_models/tiny_bf16.safetensors", state, RECORD, dtype=torch.bfloat16)
    for mode in ("cached", "per_view"):
        record = dataclasses.replace(RECORD, context_attention=mode, context_timestep="zero")
        save_transformer(models / f"diffusion_models/tiny_{mode}.safetensors", state, record)
    save_transformer(models / "diffusion_models/tiny_folded.safetensors", fold_projector(state), RECORD)
    stock = random_transformer(
        dataclasses.replace(WAN, text_width=4096)
    ).state_dict()  # ComfyUI's own Wan knows no other
    plain = {name: value for name, value in stock.items() if not name.startswith("scene_embed.")}
    save_file(plain, models / "diffusion_models/tiny_recammaster.safetensors")
    base_wan = {
        name: value for name, value in plain.items() if ".cam_encoder." not in name and ".projector." not in name
    }
    save_file(base_wan, models / "diffusion_models/tiny_wan.safetensors")
    truncated = (models / "diffusion_models/tiny_wan.safetensors").read_bytes()[:5000]
    (models / "diffusion_models/truncated.safetensors").write_bytes(truncated)
    lora = {
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.randn(4, WAN.width),
        "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.randn(WAN.width, 4),
        "diffusion_model.blocks.1.cam_encoder.lora_A.weight": torch.randn(4, 12),
        "diffusion_model.blocks.1.cam_encoder.lora_B.weight": torch.randn(WAN.width, 4),
    }
    save_file(lora, models / "loras/tiny_lora.safetensors")
    save_file(lora, models / "diffusion_models/a_lora.safetensors")
    other = VGGT(dataclasses.replace(VGGTConfig.tiny(), camera_head=False, depth_head=False))
    (models / "vggt").mkdir(exist_ok=True)
    save_file(other.state_dict(), models / "vggt/tiny_vggt.safetensors")
    write_pictures(base / "input")


def write_pictures(folder: Path) -> None:
    """A panorama whose columns and rows differ, and pictures that are none; camera paths."""
    rows, columns = np.mgrid[0:256, 0:512]
    picture = np.stack([columns // 2, rows, (columns // 64 + rows // 64) % 2 * 255], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(folder / "panorama.png")
    Image.fromarray(picture[:, :400]).save(folder / "not_two_to_one.png")
    np.save(folder / "turn.npy", np.broadcast_to(np.eye(4), (9, 4, 4)))
    zoom = Trajectory(torch.eye(4, dtype=torch.float64).repeat(9, 1, 1), torch.linspace(90, 60, 9))
    save_trajectory(zoom, folder / "zoom.json")
    (folder / "broken.json").write_text("{", encoding="utf-8")
