"""What a video file says about itself, and its frames."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from cinescene_core.checks import FileFormatError

from .unreal import CameraFile


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """The header of a video."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    num_frames: int
    fps: float
    """Frames per second."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height


def probe_video(path: str | os.PathLike[str]) -> VideoInfo:
    """Read a video's header; no frame is decoded.

    Raises:
        FileFormatError: no such file, no video, or one that states no frame rate.
    """
    try:
        with av.open(str(path)) as file:
            streams = file.streams.video
            rate = streams[0].average_rate if streams else None
            if not rate:
                raise FileFormatError(f"{Path(path).name} holds no video. Write it again, or take another.")
            stream = streams[0]
            # Fragmented files state no count.
            count = stream.frames or sum(packet.size > 0 for packet in file.demux(stream))
            return VideoInfo(width=stream.width, height=stream.height, num_frames=count, fps=float(rate))
    except (OSError, av.error.FFmpegError) as error:
        raise FileFormatError(f"{Path(path).name} is no video that can be read ({error}). Copy it again.") from error


def probe_filmed(path: Path, cameras: CameraFile, camera: str) -> tuple[Tensor, VideoInfo]:
    """Poses [f, 4, 4] and header of a video that belongs to a camera of a camera file, and fits it.

    Raises:
        FileFormatError: the file has no such camera, there is no video, or they have different numbers of frames.
        PoseError: a pose that is not rigid.
    """
    if camera not in cameras.cameras:
        raise FileFormatError(f"{cameras.path.name} has no camera {camera} for its video. Add it or remove the video.")
    poses = cameras.poses(camera)
    if not path.is_file():
        raise FileFormatError(f"There is no video {path.name}, which {cameras.path.name} has a camera for. Add it.")
    info = probe_video(path)
    if info.num_frames != len(poses):
        raise FileFormatError(
            f"{path.name} has {info.num_frames} frames and {cameras.path.name} has {len(poses)} poses; "
            "every frame needs one. Copy both again."
        )
    return poses, info


def read_frames(path: str | os.PathLike[str], indices: Sequence[int], size: tuple[int, int] | None = None) -> Tensor:
    """Decode chosen frames of a video, from its start to the last of them.

    Args:
        path: the video.
        indices: frames, counted from 0, in any order.
        size: (width, height) each frame is fitted to as it comes (`fit_frame`), or None to keep its own.

    Returns:
        [len(indices), h, w, 3] float32 in 0..1, in the order asked for.

    Raises:
        FileFormatError: no such file, damaged, or it ends before the last of the frames.
    """
    wanted, found, count = set(indices), dict[int, Tensor](), 0
    try:
        with av.open(str(path)) as file:
            for index, frame in enumerate(file.decode(video=0)):
                count = index + 1
                if index in wanted:
                    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).float() / 255
                    found[index] = pixels if size is None else fit_frame(pixels, *size)
                if len(found) == len(wanted):
                    break
    except (OSError, IndexError, av.error.FFmpegError) as error:
        raise FileFormatError(f"{path} is no video that can be read ({error}). Copy it again.") from error
    if len(found) < len(wanted):
        raise FileFormatError(
            f"{path} ends after {count} frames; {max(wanted) + 1} were asked for. Ask for fewer, or copy it again."
        )
    return torch.stack([found[index] for index in indices])


def fit_frame(frame: Tensor, width: int, height: int) -> Tensor:
    """Scale a [h, w, 3] picture until it covers width x height, anti-aliased, and cut the rest off equally."""
    rows, columns = frame.shape[:2]
    if (rows, columns) == (height, width):
        return frame
    scale = max(width / columns, height / rows)
    covering = max(round(rows * scale), height), max(round(columns * scale), width)
    resized = F.interpolate(
        rearrange(frame, "h w c -> 1 c h w"), covering, mode="bilinear", align_corners=False, antialias=True
    )
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return rearrange(resized, "1 c h w -> h w c")[top : top + height, left : left + width]
