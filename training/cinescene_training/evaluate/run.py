"""`cinescene-train evaluate`: films clips of a split with a checkpoint and measures them against their true frames."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cinescene_core.checks import FileFormatError
from cinescene_core.config import SamplingConfig
from cinescene_core.devices import check_device
from cinescene_core.files import atomic_write
from cinescene_core.metrics import compared_frames
from cinescene_core.types import Autoencoder
from cinescene_core.video import contact_sheet, decode_video, save_image

from ..callbacks import SHEET_FRAMES
from ..checkpoints import identity
from ..config import TrainingConfig
from ..data.cache import EncodedCache
from ..data.encoders import load_vae
from ..data.sources import Side, open_source
from ..export import load_trained
from ..network import SceneNetwork
from ..precision import keep_in_float32
from ..provenance import commit, machine
from ..render.footage import RoomFootage
from ..samples import ClipBatch, chosen_clips, held_out_sample
from ..sampling import sample_clip
from ..train import open_cache
from .instruments import Instruments, open_instruments
from .interventions import INTERVENTIONS, partner_of
from .options import EvaluationOptions
from .printing import to_markdown
from .scores import VideoScores, failed_video, score_video
from .table import MODEL, VAE, EvaluationRecord, MetricTable, make_rows, write_table
from .truth import Truth, read_truth

SHEET_CLIPS = 4
"""Clips on the contact sheet."""
NOT_FINITE = "The sampled latents hold NaN or infinity."

OnVideo = Callable[[int, int], None]
"""Told (videos done, videos in all); may raise to interrupt."""


@dataclass(frozen=True, eq=False)
class Bench:
    """What stands ready before the first video is sampled."""

    config: TrainingConfig
    options: EvaluationOptions
    cache: EncodedCache
    side: Side
    """Where the true frames come from."""
    vae: Autoencoder
    tools: Instruments
    device: torch.device


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation leaves."""

    table: MetricTable
    sheet: Tensor | None
    """[h, w, 3] contact sheet, a row of a result's frames over a row of the truth's; None without a single video."""


def run_evaluate(
    config: TrainingConfig,
    checkpoint: Path,
    options: EvaluationOptions,
    out: Path,
    on_video: OnVideo | None = None,
) -> str:
    """Evaluate, write `evaluation.md`, `evaluation.json` and `evaluation.png` into the folder `out`; return the text.

    Raises:
        FileExistsError: `out` is a file.
        OSError: the disk is full or the folder cannot be written.
        ValueError, OSError: as `evaluate`.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"Cannot write into {out}: it is a file. Name a folder.")
    out.mkdir(parents=True, exist_ok=True)
    found = film_and_measure(load_network(config, checkpoint), open_bench(config, options), checkpoint.name, on_video)
    text = to_markdown(found.table)
    write_table(found.table, out / "evaluation.json")
    with atomic_write(out / "evaluation.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    if found.sheet is not None:
        save_image(found.sheet, out / "evaluation.png")
    return text


def evaluate(
    config: TrainingConfig, checkpoint: Path, options: EvaluationOptions, on_video: OnVideo | None = None
) -> MetricTable:
    """Measure a checkpoint's averaged weights on held-out clips (section 5.1, Evaluation).

    Args:
        config: the run.
        checkpoint: a Lightning checkpoint of it.
        options: clips, noise, sampling and instruments.
        on_video: progress.

    Raises:
        FileNotFoundError: there is no checkpoint.
        CheckpointError: the checkpoint is of another run, or a file of weights is missing or another network.
        FileFormatError: the split is not encoded, or has no clips in the source.
        ValueError: an impossible option, or an intervention that the split has no second clip for.
    """
    network = load_network(config, checkpoint)
    return film_and_measure(network, open_bench(config, options), checkpoint.name, on_video).table


def load_network(config: TrainingConfig, checkpoint: Path) -> SceneNetwork:
    """The trained network of a checkpoint; see `evaluate` for what is refused."""
    if not checkpoint.is_file():
        raise FileNotFoundError(f"There is no checkpoint {checkpoint}. Run cinescene-train fit first, or name one.")
    return load_trained(config, checkpoint)[0]


def open_bench(config: TrainingConfig, options: EvaluationOptions) -> Bench:
    """Open cache, source, VAE and instruments; see `evaluate` for what is refused."""
    device = check_device(options.device)
    options.sampling(config.validation)
    cache = open_cache(config, options.split)
    source = open_source(config.cache, device)
    side = next((side for side in source.sides if side.split == options.split), None)
    if side is None:
        raise FileFormatError(
            f"The source has no places for {options.split}, so there are no true frames to compare with. "
            "Raise source.validation_places, or evaluate another split."
        )
    tools = open_instruments(config, options, device)
    return Bench(config, options, cache, side, load_vae(config.cache.encoders, device), tools, device)


@torch.no_grad()
def film_and_measure(
    network: SceneNetwork, bench: Bench, checkpoint: str, on_video: OnVideo | None = None
) -> Evaluation:
    """Film every chosen clip with a network, and measure each video as soon as it is made.

    Args:
        network: on any device; it is moved to the bench's.
        bench: clips, truth and instruments.
        checkpoint: what to call the network in the record.
        on_video: progress.

    Raises:
        FileFormatError: no clip could be read.
    """
    network = network.to(bench.device).eval()
    if bench.config.run.precision == "bf16-mixed" and bench.device.type == "cuda":
        keep_in_float32(network)
    chosen = chosen_clips(len(bench.cache), bench.options.clips)
    total = len(chosen) * (1 + len(bench.options.seeds) * (1 + len(bench.options.interventions)))
    scores: list[VideoScores] = []
    pictures: list[Tensor] = []
    for index in chosen:
        for video, frames, truth in _videos_of(network, bench, index):
            scores.append(video)
            wanted = video.variant == MODEL and video.seed == bench.options.seeds[0]
            if wanted and len(pictures) < 2 * SHEET_CLIPS and frames is not None and truth is not None:
                picked = torch.linspace(0, len(frames) - 1, SHEET_FRAMES).round().long()
                pictures += [frames[picked], truth.frames[picked]]
            if on_video is not None:
                on_video(len(scores), total)
    if all(video.problem for video in scores):
        raise FileFormatError(
            f"None of the {len(chosen)} clips could be measured. {scores[0].clip}: {scores[0].problem} "
            "Check the source that the cache was made of."
        )
    sheet = contact_sheet(torch.cat(pictures), columns=SHEET_FRAMES) if pictures else None
    return Evaluation(make_table(_by_variant(scores), bench, checkpoint), sheet)


def make_table(scores: Sequence[VideoScores], bench: Bench, checkpoint: str) -> MetricTable:
    """Rows, with everything that must be known beside them."""
    shot = bench.config.cache.shot
    protocol = protocol_of(
        bench.config,
        bench.options,
        clips=len({video.clip for video in scores}),
        estimator="" if bench.tools.estimator is None else bench.tools.estimator.name,
        checkpoint=checkpoint,
    )
    rendered = isinstance(bench.side.footage, RoomFootage)
    with_subject = any(video.has_subject for video in scores)
    return MetricTable(
        rows=make_rows(scores),
        protocol=protocol,
        instruments=bench.tools.names(shot.num_frames),
        missing=bench.tools.missing(rendered=rendered, with_subject=with_subject),
        videos=tuple(scores),
    )


def protocol_of(
    config: TrainingConfig, options: EvaluationOptions, *, clips: int, estimator: str, checkpoint: str
) -> EvaluationRecord:
    """Under what conditions a run is measured, here and now.

    Args:
        config: the run.
        options: clips, noise and sampling.
        clips: how many are filmed.
        estimator: name of what measures the poses, or nothing.
        checkpoint: what to call the network.

    Raises:
        CheckpointError, FileNotFoundError: as `identity_digest`.
        ValueError: an impossible number of steps, guidance or shift.
    """
    shot, sampling = config.cache.shot, options.sampling(config.validation)
    return EvaluationRecord(
        run=config.name,
        digest=config.digest(),
        identity=identity_digest(config),
        checkpoint=checkpoint,
        commit=commit(),
        machine=machine(),
        split=options.split,
        clips=clips,
        seeds=options.seeds,
        width=shot.width,
        height=shot.height,
        num_frames=shot.num_frames,
        num_views=shot.num_views,
        steps=sampling.steps,
        guidance=sampling.guidance,
        shift=sampling.shift,
        solver=sampling.solver,
        compared_frames=compared_frames(shot.num_frames, options.stride),
        stride=options.stride,
        estimator=estimator,
    )


def identity_digest(config: TrainingConfig) -> str:
    """16 hex digits of all that decides a run's result: its settings, and the content of the files it reads.

    Raises:
        CheckpointError: an encoder's file or the base file is missing or damaged.
        FileNotFoundError: the calibration is missing.
    """
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:16]


def variant_of(intervention: str) -> str:
    """The variant that an intervention's videos are, and the name of their row."""
    return f"{MODEL}, {intervention.replace('_', ' ')}"


def _videos_of(
    network: SceneNetwork, bench: Bench, index: int
) -> Iterator[tuple[VideoScores, Tensor | None, Truth | None]]:
    """Every video of one clip, with its frames and the truth where they exist."""
    options, cache = bench.options, bench.cache
    item, objective = cache.items[index], bench.config.objective
    jobs: list[tuple[str, int | None]] = [(VAE, None), *((MODEL, seed) for seed in options.seeds)]
    jobs += [(variant_of(name), seed) for name in options.interventions for seed in options.seeds]
    try:
        truth = read_truth(bench.side.footage, item, bench.config.cache.shot)
    except (ValueError, OSError) as error:
        for variant, seed in jobs:
            yield failed_video(item, str(error), variant=variant, seed=seed), None, None
        return
    clip = cache.sample(index)
    others = {variant_of(name): (INTERVENTIONS[name], partner_of(cache, index, name)) for name in options.interventions}
    decoded = None
    for variant, seed in jobs:
        if seed is None:
            latents = clip.latents[None]
        else:
            batch = held_out_sample(clip, index, objective, seed=seed)
            if variant in others:
                change, partner = others[variant]
                batch = change(batch, held_out_sample(cache.sample(partner), partner, objective, seed=seed))
            latents = _sampled(network, batch, bench)
        if not torch.isfinite(latents).all():
            yield failed_video(item, NOT_FINITE, variant=variant, seed=seed), None, truth
            continue
        frames = decode_video(latents.to(bench.device), bench.vae)
        yield score_video(frames, truth, bench.tools, variant=variant, seed=seed, decoded=decoded), frames, truth
        decoded = frames if variant == VAE else decoded


def _sampled(network: SceneNetwork, batch: ClipBatch, bench: Bench) -> Tensor:
    """Raw latents of one video; on a card in the precision the run trains in."""
    sampling: SamplingConfig = bench.options.sampling(bench.config.validation)
    mixed = bench.config.run.precision == "bf16-mixed" and bench.device.type == "cuda"
    with torch.autocast(bench.device.type, torch.bfloat16, enabled=mixed):
        return sample_clip(network, batch.to(bench.device), bench.cache.empty_text(), sampling)


def _by_variant(scores: Sequence[VideoScores]) -> list[VideoScores]:
    """The model first, then its interventions, then the VAE; clips in their order."""
    names = list(dict.fromkeys(video.variant for video in scores))
    order = [*(name for name in names if name != VAE), VAE]
    return sorted(scores, key=lambda video: order.index(video.variant))
