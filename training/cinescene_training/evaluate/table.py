"""Scores of videos to the rows of a table, with intervals; the table to JSON and back."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cinescene_core.checks import FileFormatError
from cinescene_core.files import atomic_write
from cinescene_core.metrics import Average, average

from ..seeds import generator_for
from ..settings import build, convert
from .scores import VideoScores

FORMAT = 1
"""Version of the JSON file."""
MODEL, VAE = "model", "VAE"
"""Variants of a video: sampled, or the truth's own latents decoded."""
RESAMPLES = 2000
"""Draws of the bootstrap."""
CONFIDENCE = 0.95
WHO = ("run", "digest", "identity", "checkpoint", "commit", "machine", "num_views")
"""Fields of a protocol that may differ between runs that are compared."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """Under what conditions a table was made: what must be equal for numbers to compare, and who made them."""

    run: str
    """Name of the configuration."""
    digest: str
    """Of the configuration."""
    identity: str
    """16 hex digits of all that decides the run's result: its settings, and the content of the files it read."""
    checkpoint: str
    commit: str
    machine: str
    split: str
    clips: int
    seeds: tuple[int, ...]
    width: int
    height: int
    num_frames: int
    num_views: int
    """Views the network was shown."""
    steps: int
    guidance: float
    shift: float
    solver: Literal["unipc", "euler"]
    compared_frames: int
    """N of the camera errors."""
    stride: int
    estimator: str
    """What measured the poses; nothing when they were not."""


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """Means over the videos of one row: frames first, then videos."""

    name: str
    videos: int
    clips: int
    places: int
    failed: int
    """Videos that could not be made; they are missing in every mean."""
    mat_pix: Average
    """Thousands of matched pixels, summed over frames."""
    clip_v: Average
    psnr: Average
    ssim: Average
    lpips: Average
    rot_err: Average
    """Radians, summed over frames."""
    trans_err: Average
    """Over the videos whose camera travels; the others have no such error."""
    cam_mc: Average
    """Over the same."""
    clip_t: Average
    vbench: Average
    psnr_interval: Interval | None
    """95 % confidence."""
    psnr_decoded: Average
    """Against the truth encoded and decoded; the VAE's own row has none."""
    psnr_decoded_interval: Interval | None
    psnr_background: Average
    psnr_background_interval: Interval | None
    psnr_subject: Average
    psnr_subject_interval: Interval | None
    detail: Average
    rot_err_degrees: Average
    """Mean over frames."""
    trans_err_least_squares: Average
    mat_pix_share: Average
    flickering: Average
    warp: Average


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """What an evaluation found."""

    rows: tuple[MetricRow, ...]
    protocol: EvaluationRecord
    instruments: Mapping[str, str]
    """Field of `MetricRow` to what measured it."""
    missing: Mapping[str, str]
    """Field of `MetricRow` to why nothing did."""
    videos: tuple[VideoScores, ...]
    """What the rows are means of."""


def make_rows(videos: Sequence[VideoScores]) -> tuple[MetricRow, ...]:
    """A row for each variant in order of appearance; the model's also by whether a clip has a subject."""
    rows = []
    for variant in dict.fromkeys(video.variant for video in videos):
        own = [video for video in videos if video.variant == variant]
        rows.append(make_row(variant, own))
        kinds = {video.has_subject for video in own}
        if variant == MODEL and len(kinds) == 2:
            rows.append(make_row(f"{MODEL}, clips without a subject", [v for v in own if not v.has_subject]))
            rows.append(make_row(f"{MODEL}, clips with a subject", [v for v in own if v.has_subject]))
    return tuple(rows)


def make_row(name: str, videos: Sequence[VideoScores]) -> MetricRow:
    """Average some videos."""
    cameras = [video.camera for video in videos]
    return MetricRow(
        name=name,
        videos=len(videos),
        clips=len({video.clip for video in videos}),
        places=len({video.place for video in videos}),
        failed=sum(bool(video.problem) for video in videos),
        mat_pix=average([None if video.matched is None else video.matched.thousands for video in videos]),
        clip_v=average([video.clip_v for video in videos]),
        psnr=average([video.psnr for video in videos]),
        ssim=average([video.ssim for video in videos]),
        lpips=average([video.lpips for video in videos]),
        rot_err=average([None if camera is None else camera.rot_err for camera in cameras]),
        trans_err=average([None if camera is None else camera.trans_err for camera in cameras]),
        cam_mc=average([None if camera is None else camera.cam_mc for camera in cameras]),
        clip_t=average([video.clip_t for video in videos]),
        vbench=average([None] * len(videos)),
        psnr_interval=interval_over_places((video.place, video.psnr) for video in videos),
        psnr_decoded=average([video.psnr_decoded for video in videos]),
        psnr_decoded_interval=interval_over_places((video.place, video.psnr_decoded) for video in videos),
        psnr_background=average([video.psnr_background for video in videos]),
        psnr_background_interval=interval_over_places((video.place, video.psnr_background) for video in videos),
        psnr_subject=average([video.psnr_subject for video in videos]),
        psnr_subject_interval=interval_over_places((video.place, video.psnr_subject) for video in videos),
        detail=average([video.detail for video in videos]),
        rot_err_degrees=average([None if camera is None else camera.rot_err_mean_degrees for camera in cameras]),
        trans_err_least_squares=average(
            [None if camera is None else camera.trans_err_least_squares for camera in cameras]
        ),
        mat_pix_share=average([None if video.matched is None else video.matched.share for video in videos]),
        flickering=average([video.flickering for video in videos]),
        warp=average([video.warp for video in videos]),
    )


def interval_over_places(values: Iterable[tuple[str, float | None]]) -> Interval | None:
    """95 % interval of the mean by the percentile bootstrap, from a fixed seed.

    Places are drawn, each with all its videos: clips of one place, twins along one path and seeds of one clip
    resemble each other, and drawing them singly would promise too much. With few places the interval is too
    narrow, as any bootstrap's: at 10 of them it holds the truth in 90 of 100 cases rather than 95.

    Args:
        values: (place, value) of each video; None has no part in the mean.

    Returns:
        (low, high), or None with fewer than two places.
    """
    by_place: dict[str, list[float]] = {}
    for place, value in values:
        if value is not None:
            by_place.setdefault(place, []).append(value)
    if len(by_place) < 2:
        return None
    sums = torch.tensor([math.fsum(own) for own in by_place.values()], dtype=torch.float64)
    counts = torch.tensor([len(own) for own in by_place.values()], dtype=torch.float64)
    draws = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=generator_for(0, "bootstrap"))
    means = (sums[draws].sum(1) / counts[draws].sum(1)).sort().values
    outside = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return float(means[outside]), float(means[-1 - outside])


def paired_psnr(
    first: MetricTable, second: MetricTable, field: Literal["psnr", "psnr_decoded"] = "psnr"
) -> tuple[float, Interval | None, int] | None:
    """How many dB the second model is better on the clips that both have filmed.

    Pairs leave the difficulty of the clips out, so that far smaller differences show than by comparing intervals.
    A clip that both film without any error, at infinite dB, is a difference of zero.

    Args:
        first, second: evaluations of two models.
        field: of `VideoScores`.

    Returns:
        Mean difference over clips, its 95 % interval over places, and the number of clips; None without a common clip,
        and where each model films a clip without any error that the other does not.
    """
    ours, theirs = _by_clip(second, field), _by_clip(first, field)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    gains = [
        (place, 0.0 if ours[clip, place] == theirs[clip, place] else ours[clip, place] - theirs[clip, place])
        for clip, place in common
    ]
    if {math.inf, -math.inf} <= {gain for _, gain in gains}:
        return None
    mean = math.fsum(gain for _, gain in gains) / len(gains)
    return mean, interval_over_places(gains), len(gains)


def _by_clip(table: MetricTable, field: str) -> dict[tuple[str, str], float]:
    """(clip, place) to the mean over seeds of one of the model's scores."""
    found: dict[tuple[str, str], list[float | None]] = {}
    for video in table.videos:
        if video.variant == MODEL:
            found.setdefault((video.clip, video.place), []).append(getattr(video, field))
    means = {clip: average(values).value for clip, values in found.items()}
    return {clip: mean for clip, mean in means.items() if mean is not None}


def differences(first: MetricTable, second: MetricTable) -> list[str]:
    """What keeps the numbers of two tables from comparing: conditions or instruments that are not the same.

    A column that only one of them has is not among them: it shows as missing.

    Returns:
        For each such field what the second table has, and in brackets what the first has.
    """
    ours, theirs = dataclasses.asdict(first.protocol), dataclasses.asdict(second.protocol)
    found = [
        f"{name} {theirs[name]} (not {ours[name]})" for name in ours if name not in WHO and ours[name] != theirs[name]
    ]
    for name in first.instruments:
        if name in second.instruments and first.instruments[name] != second.instruments[name]:
            found.append(f"{name} by {second.instruments[name]} (not {first.instruments[name]})")
    return found


def write_table(table: MetricTable, path: Path) -> None:
    """Write a table with all its videos as JSON, whole or not at all; infinite numbers become "inf"."""
    record = {"format": FORMAT} | _plain(dataclasses.asdict(table))
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_table(path: Path) -> MetricTable:
    """Read what `write_table` wrote.

    Raises:
        FileFormatError: no such file, no JSON, or no table of this version; the sentence names the field.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
            raise ValueError(f"it is no JSON object with format {FORMAT}")
        texts = {name: _texts(record.get(name), name) for name in ("instruments", "missing")}
        return MetricTable(
            rows=convert(tuple[MetricRow, ...], record.get("rows"), "rows"),
            protocol=build(EvaluationRecord, record.get("protocol"), "protocol"),
            videos=convert(tuple[VideoScores, ...], record.get("videos"), "videos"),
            **texts,
        )
    except (OSError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise FileFormatError(
            f"{path} is no table of an evaluation: {reason}. Delete it, and measure the run again."
        ) from error


def _texts(value: object, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"'{name}' must hold texts by column; got {value!r}")
    return value


def _plain(value: Any) -> Any:
    """Values as strict JSON holds them."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
