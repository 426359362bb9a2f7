"""FLOPs of one full-size denoising step, counted operation by operation on the meta device.

    python benchmarks/step_flops.py

Writes benchmarks/results/step_flops.md.
"""

import datetime
import platform
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from cinescene_core.config import CineSceneConfig, WanConfig
from cinescene_core.latents import latent_shape
from cinescene_core.models.wan import CineSceneTransformer

RESULT = Path(__file__).parent / "results" / "step_flops.md"
SHOT = CineSceneConfig()
WAN = {
    "1.3B": WanConfig(),
    "14B": WanConfig(width=5120, num_layers=40, num_heads=40, ffn_width=13824),
}
VGGT_GRID = (21, 37)


def count(config: WanConfig, num_views: int) -> float:
    """TFLOP of one forward with `num_views` views of context; 2 FLOP per multiply-add."""
    channels, frames, height, width = latent_shape(SHOT.num_frames, SHOT.width, SHOT.height)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = CineSceneTransformer(config, projector=False)
        context = None
        if num_views:
            positions = torch.arange(frames, frames + 2 * num_views, device="cpu")
            features = torch.empty(1, num_views, config.feature_width, *VGGT_GRID)
            context = model.embed_context(torch.empty(1, num_views, channels, height, width), features, positions)
        model(
            torch.empty(1, channels, frames, height, width),
            torch.empty(1),
            torch.empty(1, 512, config.text_width),
            camera=torch.empty(1, frames, 3, 4),
            context=context,
        )
    return counter.get_total_flops() / 1e12


def main() -> None:
    rows = []
    for name, config in WAN.items():
        plain, joint = count(config, 0), count(config, SHOT.num_views)
        rows.append(f"| {name} | {plain:,.1f} | {joint:,.1f} | {joint / plain:.2f} |")
        print(rows[-1])
    text = f"""# FLOPs of one denoising step

{datetime.date.today()}, torch {torch.__version__}, Python {platform.python_version()}; counted on the meta device,
so no machine is involved; projector folded.
{SHOT.num_frames} frames of {SHOT.width} x {SHOT.height}, {SHOT.num_views} views.

| model | plain text-to-video, TFLOP | joint context, TFLOP | ratio |
|---|---|---|---|
{chr(10).join(rows)}
"""
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
