"""Training samples: everything random about one is drawn from its number, so a run can stop anywhere and go on.

Sample n is the same on every machine, with any number of processes, workers or devices.

Letters: b batch, t latent frames, h w latent height and width, v views, c feature channels, l text rows.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from cinescene_core.context import shuffled_order
from cinescene_core.latents import normalise_latents
from cinescene_core.sampler import shifted

from .config import ObjectiveConfig, RunConfig, TrainingConfig
from .data.cache import EncodedCache, EncodedClip
from .seeds import generator_for


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """A place as the network is shown it, in slot order; slot 0 is the start view."""

    latents: Tensor
    """[b, v, 16, h, w] view latents, normalised."""
    patch: Tensor
    """[b, v, c, rows, columns] image features F_i."""
    camera: Tensor
    """[b, v, c] camera features F_c."""
    images_shown: bool = True
    """False while progressive training hides the images."""


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Clips with everything that was drawn for them."""

    names: tuple[str, ...]
    video: Tensor
    """[b, 16, t, h, w] clean latents, normalised."""
    noise: Tensor
    """[b, 16, t, h, w]."""
    sigma: Tensor
    """[b] float32 noise levels."""
    text: Tensor
    """[b, l, width] prompt rows."""
    poses: Tensor
    """[b, t, 3, 4] relative camera poses of the latent frames."""
    scene: SceneBatch
    clip_features: Tensor | None = None
    """[b, t, c, rows, columns] VGGT's features of the clip, for the loss-guided ablation."""

    def noisy(self) -> Tensor:
        """`(1 - sigma) * video + sigma * noise`: what the network sees."""
        sigma = self.sigma[:, None, None, None, None]
        return (1 - sigma) * self.video + sigma * self.noise

    def to(self, device: torch.device) -> "ClipBatch":
        """The same batch on a device."""
        return _with_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "ClipBatch":
        """The same batch in pinned memory; torch's loader asks for it."""
        return _with_tensors(self, lambda tensor: tensor.pin_memory())


Batch = TypeVar("Batch", ClipBatch, SceneBatch)


def _with_tensors(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    values: dict[str, object] = {}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            values[field.name] = change(value)
        elif isinstance(value, SceneBatch):
            values[field.name] = _with_tensors(value, change)
    return dataclasses.replace(batch, **values)  # type: ignore[arg-type]


def item_of(number: int, num_items: int, seed: int) -> int:
    """Which item sample `number` is: each pass over the data is a permutation of its own."""
    epoch, place = divmod(number, num_items)
    return int(torch.randperm(num_items, generator=generator_for(seed, "epoch", epoch))[place])


def draw_slots(num_encoded: int, config: ObjectiveConfig, seed: int, number: int) -> list[int]:
    """Which view stands in which slot of sample `number` (section 4.3); the start view keeps slot 0."""
    slots = list(shuffled_order(num_encoded, generator_for(seed, "order", number).initial_seed()))
    return sorted(slots) if config.order == "ordered" else slots


def scene_batch(clip: EncodedClip, slots: Sequence[int], *, images_shown: bool = True) -> SceneBatch:
    """The place of one clip with its views in slot order; a batch of one."""
    tokens = clip.tokens
    rows, columns = tokens.grid
    return SceneBatch(
        latents=normalise_latents(clip.view_latents[list(slots)])[None],
        patch=rearrange(tokens.patch[list(slots)].float(), "v (r s) c -> 1 v c r s", r=rows, s=columns),
        camera=rearrange(tokens.camera[list(slots)].float(), "v 1 c -> 1 v c"),
        images_shown=images_shown,
    )


def draw_sample(clip: EncodedClip, empty_text: Tensor, config: TrainingConfig, number: int) -> ClipBatch:
    """Everything random about sample `number`: noise, its level, the order of the views, whether the prompt is read.

    Args:
        clip: the item.
        empty_text: [l, width] rows of the empty prompt.
        config: objective, seed and batch size; `number // batch_size` is the step.
        number: counts samples over the whole run.

    Returns:
        A batch of one.
    """
    objective, seed = config.objective, config.run.seed
    step = number // config.run.batch_size
    generator = generator_for(seed, "sample", number)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    prompt_read = float(torch.rand((), generator=generator)) >= objective.text_dropout
    video = normalise_latents(clip.latents[None])
    slots = draw_slots(len(clip.view_latents), objective, seed, number)
    hidden = objective.order == "progressive" and step < objective.progressive_share * config.run.steps
    return ClipBatch(
        names=(clip.name,),
        video=video,
        noise=torch.randn(video.shape, generator=generator),
        sigma=shifted(uniform, objective.shift).float()[None],
        text=(clip.text if prompt_read else empty_text).float()[None],
        poses=clip.poses[None],
        scene=scene_batch(clip, slots, images_shown=not hidden),
        clip_features=None if clip.clip_features is None else clip.clip_features.float()[None],
    )


def stack(samples: Sequence[ClipBatch]) -> ClipBatch:
    """Join batches."""
    first = samples[0]

    def join(batches: Sequence[Batch]) -> dict[str, object]:
        names = [field.name for field in dataclasses.fields(batches[0])]
        tensors = [name for name in names if isinstance(getattr(batches[0], name), Tensor)]
        return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in tensors}

    scene = dataclasses.replace(first.scene, **join([sample.scene for sample in samples]))  # type: ignore[arg-type]
    names = tuple(name for sample in samples for name in sample.names)
    return dataclasses.replace(first, **join(samples), names=names, scene=scene)  # type: ignore[arg-type]


class TrainingSamples(Dataset[ClipBatch]):
    """Sample number to sample; the length is the whole run's."""

    def __init__(self, cache: EncodedCache, config: TrainingConfig) -> None:
        self.cache = cache
        self.config = config
        self.empty_text = cache.empty_text()

    def __len__(self) -> int:
        return self.config.run.steps * self.config.run.batch_size

    def __getitem__(self, number: int) -> ClipBatch:
        index = item_of(number, len(self.cache), self.config.run.seed)
        return draw_sample(self.cache.sample(index), self.empty_text, self.config, number)


PADDING = ""
"""Name of a sample that does not count."""


class ValidationSamples(Dataset[ClipBatch]):
    """Clips that are never trained on, each at every noise level of the validation, always with the same noise."""

    def __init__(self, cache: EncodedCache, config: TrainingConfig) -> None:
        self.cache = cache
        self.objective = config.objective
        self.sigmas = config.validation.sigmas
        self.chosen = chosen_clips(len(cache), config.validation.samples)

    def __len__(self) -> int:
        return len(self.chosen) * len(self.sigmas)

    def __getitem__(self, number: int) -> ClipBatch:
        """Sample `number`; from `len` on they begin again, without names: they only keep devices in step."""
        place, level = divmod(number % len(self), len(self.sigmas))
        index = self.chosen[place]
        sample = held_out_sample(self.cache.sample(index), index, self.objective, sigma=self.sigmas[level])
        return sample if number < len(self) else dataclasses.replace(sample, names=(PADDING,))


def shares(count: int, devices: int, at_once: int) -> list[list[list[int]]]:
    """Batches of sample numbers for each device: every device as many batches of one size.

    A forward pass may be a meeting of all devices, so none may have fewer than another; what is
    missing is made up by numbers from `count` on.
    """
    batches = -(-count // (devices * at_once))
    return [
        [[(batch * devices + rank) * at_once + i for i in range(at_once)] for batch in range(batches)]
        for rank in range(devices)
    ]


def chosen_clips(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` clips in their order, drawn always alike; twins and places have equal chances."""
    drawn = torch.randperm(count, generator=generator_for(0, "held-out clips"))[:wanted]
    return sorted(drawn.tolist())


def held_out_sample(
    clip: EncodedClip, index: int, objective: ObjectiveConfig, *, sigma: float = 1.0, seed: int = 0
) -> ClipBatch:
    """A clip as the run's network was shown clips: every view, shuffled or in order; with noise of its own.

    Args:
        clip: the clip.
        index: its number in the split; noise and order of the views belong to it.
        objective: says in which order the run sees the views.
        sigma: its noise level.
        seed: further noise for the same clip.
    """
    slots = list(shuffled_order(len(clip.view_latents), index))
    video = normalise_latents(clip.latents[None])
    return ClipBatch(
        names=(clip.name,),
        video=video,
        noise=torch.randn(video.shape, generator=generator_for(seed, "held out", index)),
        sigma=torch.tensor([sigma], dtype=torch.float32),
        text=clip.text.float()[None],
        poses=clip.poses[None],
        scene=scene_batch(clip, sorted(slots) if objective.order == "ordered" else slots),
        clip_features=None if clip.clip_features is None else clip.clip_features.float()[None],
    )


class RankedNumbers(Sampler[list[int]]):
    """Numbers of the samples of each micro-batch on this device, from a step on.

    Step s holds samples s * batch_size and on; micro-batch by micro-batch, device by device. The
    length is the whole run's, so that a resumed loop counts on where it stopped.
    """

    def __init__(self, run: RunConfig, rank: int, start_step: int) -> None:
        self.run = run
        self.rank = rank
        self.start_step = start_step

    def __len__(self) -> int:
        return self.run.steps * self.run.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        run = self.run
        at_once = run.micro_batch * run.devices * run.num_nodes
        for start in range(self.start_step * run.batch_size, run.steps * run.batch_size, at_once):
            first = start + self.rank * run.micro_batch
            yield list(range(first, first + run.micro_batch))
