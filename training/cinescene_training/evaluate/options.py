"""What an evaluation measures: which clips, from which noise, with which instruments."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from cinescene_core.checks import check_choice, check_positive
from cinescene_core.config import TEMPORAL_STRIDE, SamplingConfig
from cinescene_core.devices import default_device

from ..config import ValidationConfig
from ..data.footage import SPLITS, Split

Intervention = Literal["other_scene", "other_camera"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Section 5.1, Evaluation: 300 held-out clips, 50 steps. Weights come from local files; none is downloaded."""

    split: Split = "test"
    clips: int = 300
    """At most this many clips, drawn from the split always alike."""
    seeds: tuple[int, ...] = (0,)
    """Each clip is sampled once from the noise of each."""
    steps: int = 50
    guidance: float | None = None
    """Weight of the prompt; None takes the run's `validation.guidance`."""
    shift: float | None = None
    """Timestep shift of sampling; None takes the run's `validation.shift`."""
    solver: Literal["unipc", "euler"] = "unipc"
    stride: int = TEMPORAL_STRIDE
    """Every how manieth frame the camera path is compared at."""
    clip_folder: Path | None = None
    """A CLIP release as transformers lays it out, for CLIP-V and CLIP-T."""
    lpips_alexnet: Path | None = None
    """torchvision's AlexNet, with `lpips_heads`."""
    lpips_heads: Path | None = None
    """LPIPS's weights per channel."""
    matcher: Path | None = None
    """LoFTR's weights, for Mat. Pix."""
    estimator: Path | None = None
    """A VGGT with its camera head; None takes the run's own, where that has one."""
    interventions: tuple[Intervention, ...] = ()
    """Rows that film the same clips with an input of another clip: proof that the input is read."""
    device: str = field(default_factory=default_device)

    def __post_init__(self) -> None:
        check_choice("EvaluationOptions.split", self.split, SPLITS)
        for name in ("clips", "stride"):
            check_positive(f"EvaluationOptions.{name}", getattr(self, name))
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"EvaluationOptions.seeds must name one or more different seeds; got {self.seeds}.")
        for name in self.interventions:
            check_choice("EvaluationOptions.interventions", name, get_args(Intervention))
        if (self.lpips_alexnet is None) != (self.lpips_heads is None):
            raise ValueError("LPIPS needs both its files, lpips_alexnet and lpips_heads; got one. Name both or none.")

    def sampling(self, validation: ValidationConfig) -> SamplingConfig:
        """Steps, guidance, shift and solver; what is not given here is as the run is validated.

        Raises:
            ValueError: an impossible number of steps, guidance or shift.
        """
        return SamplingConfig(
            steps=self.steps,
            guidance=validation.guidance if self.guidance is None else self.guidance,
            shift=validation.shift if self.shift is None else self.shift,
            solver=self.solver,
        )
