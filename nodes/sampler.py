"""Sampling by the host, with the settings CineScene was made for."""

from typing import Any

import comfy.model_management

from ..cinescene_core.config import SamplingConfig
from ..cinescene_core.sampler import SOLVERS
from .host import sample
from .memory import explaining_shot_memory
from .sockets import io, problem_of, schema

DEFAULTS = SamplingConfig()


def noise_level(name: str, default: float, where: str) -> io.Float.Input:
    """One end of the guidance interval."""
    return io.Float.Input(
        name,
        default=default,
        min=0,
        max=1,
        step=0.01,
        optional=True,
        advanced=True,
        tooltip=f"{where} this noise level the negative prompt is left out, which halves the time of a step.",
    )


class Sampler(io.ComfyNode):
    """CineSceneSampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CineSceneSampler",
            display_name="CineScene Sampler",
            category="shot",
            description="Denoises the video with the settings CineScene was made for. "
            "KSampler does it with more choices.",
            search_aliases=["sampler", "ksampler", "denoise", "generate"],
            inputs=[
                io.Model.Input("model", tooltip="The CineScene model, with or without LoRA."),
                io.Conditioning.Input("positive", tooltip="From CineScene Conditioning."),
                io.Conditioning.Input("negative", tooltip="From CineScene Conditioning."),
                io.Latent.Input("latent", tooltip="From CineScene Conditioning."),
                io.Int.Input(
                    "seed",
                    default=DEFAULTS.seed,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Which noise the video starts from; the same number gives the same video.",
                ),
                io.Int.Input(
                    "steps",
                    default=DEFAULTS.steps,
                    min=1,
                    max=1000,
                    tooltip="How many steps of denoising; more take longer. The paper uses 50.",
                ),
                io.Float.Input(
                    "guidance",
                    default=DEFAULTS.guidance,
                    min=1,
                    max=30,
                    step=0.1,
                    tooltip="How strongly the prompt counts (CFG); "
                    "1 ignores the negative prompt and takes half the time.",
                ),
                io.Float.Input(
                    "shift",
                    default=DEFAULTS.shift,
                    min=0.01,
                    max=100,
                    step=0.1,
                    tooltip="Spends more of the steps on noise the larger it is. "
                    "8 is Wan's habit; the paper trains with 15.",
                ),
                io.Combo.Input(
                    "solver",
                    options=list(SOLVERS),
                    default=DEFAULTS.solver,
                    tooltip="How a step is computed: 'unipc' needs fewer steps, 'euler' is the plain one.",
                ),
                noise_level("guidance_low", DEFAULTS.guidance_low, "Below"),
                noise_level("guidance_high", DEFAULTS.guidance_high, "Above"),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The video, for VAE Decode.")],
        )

    @classmethod
    def validate_inputs(
        cls, steps: int, guidance: float, shift: float, solver: str, guidance_low: float = 0, guidance_high: float = 1
    ) -> str | bool:
        return problem_of(
            SamplingConfig,
            steps=steps,
            guidance=guidance,
            shift=shift,
            solver=solver,
            guidance_low=guidance_low,
            guidance_high=guidance_high,
        )

    @classmethod
    def execute(
        cls, model: Any, positive: list[Any], negative: list[Any], latent: dict[str, Any], **settings: Any
    ) -> io.NodeOutput:
        config, device = SamplingConfig(**settings), comfy.model_management.get_torch_device()
        with explaining_shot_memory(model, positive, latent, device, guided=config.guidance > 1):
            return io.NodeOutput(sample(model, positive, negative, latent, config))
