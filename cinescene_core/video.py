"""Stage 8: latents to frames, and frames to files: mp4, PNG and JPEG."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from .checks import FileFormatError, ShapeError, check_choice, check_finite, check_positive, check_shape
from .files import atomic_write, check_target
from .types import Autoencoder

QUALITY = {"crf": "17", "preset": "medium", "x264-params": "no-mbtree=1"}
"""x264 settings: 17 is about where most people see no loss. With its macroblock tree, x264 makes of the same frames
files that differ from run to run."""
MAX_FPS_DENOMINATOR = 1001
"""Frame rates of television have it: 29.97 is 30000 / 1001."""
BT709 = 1
"""Number of the colour space in H.264, for primaries, transfer and matrix alike."""
MPEG_RANGE = 1
"""Number of the limited range, 16 to 235, which players expect."""
IMAGE_FORMATS = (".png", ".jpg", ".jpeg")


def decode_video(latents: Tensor, vae: Autoencoder) -> Tensor:
    """Decode one video.

    Args:
        latents: [1, 16, t, h/8, w/8] raw latents.
        vae: the video VAE.

    Returns:
        [4t - 3, h, w, 3] float32 frames in 0..1, sRGB, on the CPU.

    Raises:
        ValueError: the latents hold NaN.
    """
    check_shape("latents", latents, "1 16 t h w")
    check_finite("latents", latents)
    return vae.decode(latents)[0].float().cpu()


def check_video_target(path: str | os.PathLike[str]) -> None:
    """Require a place where `save_video` can write; called before long work, so that it is not done in vain.

    Raises:
        ValueError: the name is not .mp4.
        OSError: the folder does not exist, or `path` is one.
        ImportError: PyAV is not installed.
    """
    check_choice("The video's suffix", Path(path).suffix.lower(), [".mp4"])
    check_target(path)
    _import_av()


def save_video(
    frames: Tensor,
    path: str | os.PathLike[str],
    fps: float,
    *,
    on_frame: Callable[[int, int], None] | None = None,
) -> None:
    """Write an mp4 that every player opens: H.264, 4:2:0, BT.709.

    Args:
        frames: [f, h, w, 3] floating point in 0..1, sRGB; even sides.
        path: the .mp4 file.
        fps: frames per second; kept as the nearest fraction, so that nothing drifts.
        on_frame: called with (frames done, frames in all) after each frame.

    Raises:
        ShapeError: not [f, h, w, 3], no frame, or an odd side.
        ValueError: NaN, or what `check_video_target` refuses.
        OSError: the folder is missing or the disk is full; no half-made file is left.
        ImportError: PyAV is not installed.
    """
    check_video_target(path)
    av = _import_av()
    check_positive("fps", fps)
    sizes = check_shape("frames", frames, "f h w 3")
    if sizes["f"] == 0 or sizes["h"] % 2 or sizes["w"] % 2:
        raise ShapeError(
            f"A video needs at least one frame and even sides (colour is kept per 2 x 2 pixels); got {sizes['f']} "
            f"frames of {sizes['w']} x {sizes['h']}. Crop them by one pixel."
        )
    rate = Fraction(fps).limit_denominator(MAX_FPS_DENOMINATOR)
    pixels = _to_bytes(frames)
    with atomic_write(path) as temporary, av.open(str(temporary), "w", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=rate, options=QUALITY)
        stream.width, stream.height, stream.pix_fmt = sizes["w"], sizes["h"], "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = MPEG_RANGE
        for index, picture in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
            frame.pts, frame.time_base = index, 1 / rate
            file.mux(stream.encode(frame))
            if on_frame is not None:
                on_frame(index + 1, len(pixels))
        file.mux(stream.encode())


def load_video(path: str | os.PathLike[str]) -> tuple[Tensor, float]:
    """Read a video: [f, h, w, 3] float32 frames in 0..1, and its frames per second.

    Raises:
        FileFormatError: no such file, no video, or one without frames.
        ImportError: PyAV is not installed.
    """
    av = _import_av()
    try:
        with av.open(str(path)) as file:
            streams = file.streams.video[:1]
            rates = [stream.average_rate for stream in streams]
            pictures = [frame.to_ndarray(format="rgb24") for stream in streams for frame in file.decode(stream)]
    except (OSError, av.error.FFmpegError) as error:
        raise FileFormatError(f"{path} is no video that can be read ({error}). Check the file.") from error
    if not pictures or not rates[0]:
        raise FileFormatError(f"{path} holds no frames of a video. Write it again, or take another.")
    return torch.from_numpy(np.stack(pictures)).float() / 255, float(rates[0])


def side_by_side(*clips: Tensor, gap: int = 8) -> Tensor:
    """Join clips [f, h, w, 3] of one length and height from left to right, `gap` black pixels between them.

    Raises:
        ShapeError: lengths or heights differ.
    """
    shapes = {(clip.shape[0], clip.shape[1]) for clip in clips}
    for clip in clips:
        check_shape("clip", clip, "f h w 3")
    if len(shapes) != 1:
        listed = ", ".join(f"{len(clip)} frames of height {clip.shape[1]}" for clip in clips)
        raise ShapeError(f"Clips side by side must have one length and one height; got {listed or 'none'}.")
    spaced = [pad(clip, (0, 0, 0, gap)) for clip in clips[:-1]]
    return torch.cat([*spaced, clips[-1]], dim=2)


def contact_sheet(images: Tensor, columns: int) -> Tensor:
    """Lay [n, h, w, 3] images out row by row; places that stay free are black.

    Returns:
        [rows h, columns w, 3].

    Raises:
        ShapeError: not [n, h, w, 3], or no image.
    """
    count = check_shape("images", images, "n h w 3")["n"]
    check_positive("columns", columns)
    if count == 0:
        raise ShapeError("A contact sheet needs at least one image.")
    columns = min(columns, count)
    filled = pad(images, (0, 0, 0, 0, 0, 0, 0, -count % columns))
    return rearrange(filled, "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)


def save_image(image: Tensor, path: str | os.PathLike[str]) -> None:
    """Write one [h, w, 3] picture in 0..1 as PNG or JPEG, by the name's suffix.

    Raises:
        ShapeError: not [h, w, 3].
        ValueError: NaN, or another suffix.
        OSError: the folder is missing or the disk is full; no half-made file is left.
    """
    check_shape("image", image, "h w 3")
    check_choice("The picture's suffix", Path(path).suffix.lower(), IMAGE_FORMATS)
    with atomic_write(path) as temporary:
        Image.fromarray(_to_bytes(image)).save(temporary, quality=95)


def _to_bytes(pixels: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pixels in 0..1 to the nearest of 256 values; what is brighter or darker is cut, as on a screen.

    Raises:
        ValueError: NaN.
    """
    check_finite("The picture", pixels)
    return (pixels.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()


def _import_av() -> Any:
    """PyAV, which only the command line needs."""
    try:
        import av
    except ImportError as error:
        raise ImportError('Video files need PyAV. Install it with: pip install "cinescene[cli]"') from error
    return av
