"""What the first-block cache saves and what it costs, beside the same shot without it.

    python benchmarks/step_cache.py [--model BUNDLE] [--steps 50]

Films one pan of the example place at several thresholds. Quality is the peak signal-to-noise ratio of the frames
against those of the uncached shot; time is that of the sampling stage, and the uncached shot is timed before and
after the others, so that other work on the machine shows. Writes benchmarks/results/step_cache.md.
"""

import argparse
import datetime
import platform
from pathlib import Path

import torch

from cinescene_core.config import UNTRAINED, SamplingConfig, SpeedConfig
from cinescene_core.loading import Models, load_nano
from cinescene_core.panorama import example_panorama_path, load_panorama
from cinescene_core.pipeline import Shot, encode_place, generate
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Scene

RESULT = Path(__file__).parent / "results" / "step_cache.md"
THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4)
PROMPT = "a red robot walks to the right"


def film(models: Models, scene: Scene, steps: int, threshold: float | None = None) -> Shot:
    config = models.config
    path = preset_trajectory(
        "pan_right", num_frames=config.num_frames, fps=config.fps, fov_degrees=config.fov_degrees, amount=60.0
    )
    return generate(
        models, scene, PROMPT, path, sampling=SamplingConfig(steps=steps), speed=SpeedConfig(step_cache=threshold)
    )


def sampling_seconds(shot: Shot) -> float:
    return next(cost.seconds for cost in shot.costs if cost.stage == "sampling")


def psnr(frames: torch.Tensor, others: torch.Tensor) -> float:
    return float(-10 * (frames - others).square().mean().clamp(min=1e-12).log10())


def measure(models: Models, scene: Scene, steps: int) -> list[str]:
    film(models, scene, 2)  # the first forwards warm the caches
    plain = film(models, scene, steps)
    rows, times = [], [sampling_seconds(plain)]
    for threshold in THRESHOLDS:
        shot = film(models, scene, steps, threshold)
        assert shot.skipped is not None
        rows.append((threshold, *shot.skipped, sampling_seconds(shot), psnr(shot.frames, plain.frames)))
        print(rows[-1], flush=True)
    times.append(sampling_seconds(film(models, scene, steps)))
    full = sum(times) / 2
    lines = [
        f"| {threshold:g} | {skipped} of {forwards} | {seconds:.2f} | {full / seconds:.2f} | {quality:.1f} |"
        for threshold, skipped, forwards, seconds, quality in rows
    ]
    return [f"| none | 0 of {2 * steps} | {times[0]:.2f} before, {times[1]:.2f} after | 1 | |", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a bundle of every network (default: the embedded one)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = load_nano(options.model)
    sizes, config = models.transformer.config, models.config
    rows = measure(models, encode_place(models, load_panorama(example_panorama_path())), options.steps)
    name = "The embedded model" if options.model is None else options.model.name
    newline = "\n"
    RESULT.write_text(
        f"""# First-block cache

{datetime.date.today()}, {options.threads} threads of a {platform.machine()} CPU, torch {torch.__version__}.
{name}: {sizes.num_layers} blocks of width {sizes.width}, context {config.context_attention},
{config.num_frames} frames of {config.width} x {config.height}, {options.steps} steps with guidance.
{"" if config.scene_trained else newline + UNTRAINED + newline}
| threshold | forwards ended behind the first block | sampling, s | times faster | PSNR to the uncached shot, dB |
|---|---|---|---|---|
{newline.join(rows)}
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
