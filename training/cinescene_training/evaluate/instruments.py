"""The networks that only measure, from the files an evaluation names, and why a column has none."""

from dataclasses import dataclass

import torch

from cinescene_core.metrics import MATPIX_VERSION, ClipEncoder, LoftrMatcher, Lpips, Matcher, compared_frames

from ..config import TrainingConfig
from .estimators import PoseEstimator, open_estimator
from .options import EvaluationOptions

NO_MATCHER = "no matcher was named; give LoFTR's weights (loftr_outdoor.ckpt) as --matcher"
NO_CLIP = "no CLIP was named; give the folder of openai/clip-vit-base-patch32 as --clip-folder"
NO_LPIPS = (
    "its weights were not named; give alexnet-owt-7be5be79.pth as --lpips-alexnet and v0.1/alex.pth as --lpips-heads"
)
NO_ESTIMATOR = (
    "the run's VGGT has no camera head to measure the poses of a video with; give facebook/VGGT-1B as --estimator"
)
NO_VBENCH = (
    "it needs an environment of its own (transformers 4.33); its flickering, which needs no weights, stands below"
)
NO_MASK = "only rendered rooms know which pixels are the subject"
NO_FLOW = "only rendered rooms know the exact flow"


@dataclass(frozen=True, eq=False)
class Instruments:
    """What measures a video; None where there are no weights."""

    stride: int
    """Every how manieth frame the camera path is compared at."""
    lpips: Lpips | None = None
    clip: ClipEncoder | None = None
    matcher: Matcher | None = None
    estimator: PoseEstimator | None = None

    def names(self, num_frames: int) -> dict[str, str]:
        """Column of a table to what measured it, in words; only the columns with an instrument."""
        names = {}
        if self.matcher is not None:
            names["mat_pix"] = f"{MATPIX_VERSION}, {self.matcher.name}, certainty above {self.matcher.threshold:g}"
        if self.clip is not None:
            names["clip_v"] = names["clip_t"] = self.clip.name
        if self.lpips is not None:
            names["lpips"] = self.lpips.name
        if self.estimator is not None:
            count = compared_frames(num_frames, self.stride)
            camera = f"N = {count} frames, stride {self.stride}, poses by {self.estimator.name}, summed, radians"
            names |= dict.fromkeys(("rot_err", "trans_err", "cam_mc"), camera)
        return names

    def missing(self, *, rendered: bool, with_subject: bool) -> dict[str, str]:
        """Column of a table to why it has no value.

        Args:
            rendered: the clips are rendered rooms, whose masks and flow are known.
            with_subject: some clips have a subject.
        """
        missing = {"vbench": NO_VBENCH}
        if self.matcher is None:
            missing |= dict.fromkeys(("mat_pix", "mat_pix_share"), NO_MATCHER)
        if self.clip is None:
            missing |= dict.fromkeys(("clip_v", "clip_t"), NO_CLIP)
        if self.lpips is None:
            missing["lpips"] = NO_LPIPS
        if self.estimator is None:
            columns = ("rot_err", "trans_err", "cam_mc", "rot_err_degrees", "trans_err_least_squares")
            missing |= dict.fromkeys(columns, NO_ESTIMATOR)
        if not rendered:
            missing["warp"] = NO_FLOW
            missing |= {"psnr_subject": NO_MASK} if with_subject else {}
        return missing


def open_instruments(config: TrainingConfig, options: EvaluationOptions, device: torch.device) -> Instruments:
    """Load what the options name.

    Raises:
        CheckpointError: a named file or folder is missing, damaged, or another network; the sentence names it.
        ImportError: kornia or transformers is needed and not installed.
    """
    lpips = None
    if options.lpips_alexnet is not None and options.lpips_heads is not None:
        lpips = Lpips.from_files(options.lpips_alexnet, options.lpips_heads).to(device)
    clip = None if options.clip_folder is None else ClipEncoder.from_folder(options.clip_folder).to(device)
    matcher = None if options.matcher is None else LoftrMatcher.from_file(options.matcher)
    if matcher is not None:
        matcher.network.to(device)
    estimator = open_estimator(config, options.estimator, device)
    return Instruments(options.stride, lpips, clip, matcher, estimator)
