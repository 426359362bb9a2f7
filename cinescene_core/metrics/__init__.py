"""What the paper measures, and what shows when a good number means little.

    camera path   camera_errors (RotErr, TransErr, CamMC), alignment_scale, umeyama
    pictures      psnr, ssim, Lpips, detail_ratio: values per frame
    features      frame_similarity (CLIP-V), adjacent_similarity (CLIP-F), text_similarity (CLIP-T), ClipEncoder
    matches       matched_pixels with a Matcher: LoftrMatcher, or any other
    motion        temporal_flickering, warp_error

`average` turns values per frame and video into one number that knows what it is a mean of. Frames are [f, h, w, 3] in
0..1. Networks come from local files; nothing is downloaded.
"""

from .alignment import Similarity, alignment_scale, umeyama
from .average import Average, average
from .camera import CameraErrors, camera_errors, compared_frames, rotation_errors
from .clip import ClipEncoder
from .features import adjacent_similarity, frame_similarity, frechet_distance, text_similarity
from .image import detail_ratio, psnr, ssim
from .loftr import LoftrMatcher
from .lpips import Lpips
from .matching import MATPIX_VERSION, MatchedPixels, Matcher, ShiftMatcher, matched_pixels
from .motion import temporal_flickering, warp_error

__all__ = [
    "MATPIX_VERSION",
    "Average",
    "CameraErrors",
    "ClipEncoder",
    "LoftrMatcher",
    "Lpips",
    "MatchedPixels",
    "Matcher",
    "ShiftMatcher",
    "Similarity",
    "adjacent_similarity",
    "alignment_scale",
    "average",
    "camera_errors",
    "compared_frames",
    "detail_ratio",
    "frame_similarity",
    "frechet_distance",
    "matched_pixels",
    "psnr",
    "rotation_errors",
    "ssim",
    "temporal_flickering",
    "text_similarity",
    "umeyama",
    "warp_error",
]
