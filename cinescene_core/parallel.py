"""One shot filmed by several processes, one per card, by torch's own collectives.

    torchrun --nproc-per-node 2 -m cinescene_core.cli generate ...

Every process loads the models and runs every stage alike, but for the transformer's forwards, which take nearly all of
the time. Where there is guidance and an even number of processes, half of them compute the branch with the prompt and
half the one without; they exchange one velocity a step. Those of one branch share each forward: the tokens of
the video, and in mode `joint` of the scene, are split over them, and in each block every process attends with its own
queries to the keys and values of all. A scene that was read before is whole on every card.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from einops import repeat
from torch import Tensor, nn
from torch.nn.functional import pad

from .models.rotary import Rotary
from .models.sequence import Attention, KeysValues, Segment

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

BRANCHES, TOKENS = "branches", "tokens"
"""Dimensions of the mesh of processes."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """The processes that film one shot together, as one of them sees it."""

    mesh: "DeviceMesh"
    """[branches, tokens]; one or two branches."""

    @property
    def shares_forwards(self) -> bool:
        """Whether several processes share the tokens of each forward."""
        return self.mesh.size(1) > 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.mesh.get_rank() == 0

    def map_branches(
        self, predict: Callable[[Tensor], Tensor], prompts: Sequence[Tensor], like: Tensor
    ) -> list[Tensor]:
        """`predict` of the prompt of each branch, in place of `map`: each is computed by its own processes.

        Args:
            predict: a prompt to a velocity.
            prompts: of both branches, or of the one with the prompt where the other is left out; both have its result.
            like: of a velocity's shape, type and device.
        """
        if self.mesh.size(0) == 1:
            return [predict(prompt) for prompt in prompts]
        group, branch = self.mesh.get_group(BRANCHES), self.mesh.get_local_rank(BRANCHES)
        own = predict(prompts[branch]).contiguous() if branch < len(prompts) else torch.empty_like(like)
        if len(prompts) == 1:
            dist.broadcast(own, dist.get_global_rank(group, 0), group=group)
            return [own]
        found = [torch.empty_like(own) for _ in prompts]
        dist.all_gather(found, own, group=group)
        return found

    def sum_over_branches(self, counts: Sequence[int]) -> list[int]:
        """Counts of what the branches did, each by its own processes, added."""
        if self.mesh.size(0) == 1:
            return list(counts)
        total = torch.tensor(list(counts), device=self.mesh.device_type)
        dist.all_reduce(total, group=self.mesh.get_group(BRANCHES))
        return [int(count) for count in total]

    @contextlib.contextmanager
    def sharing(self, blocks: Iterable[Any]) -> Iterator[None]:
        """Share every forward of a transformer's blocks among the processes of a branch."""
        if not self.shares_forwards:
            yield
            return
        blocks, shards = list(blocks), Shards(self.mesh.get_group(TOKENS))
        hooks = [
            *(block.register_forward_pre_hook(shards.enter) for block in blocks),
            *(block.self_attn.register_forward_pre_hook(shards.attend) for block in blocks),
            blocks[0].register_forward_pre_hook(shards.begin, prepend=True),
            blocks[-1].register_forward_hook(shards.leave),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class Shards:
    """Hooks of the transformer's blocks: each run of a forward's tokens is split evenly over a group of processes."""

    def __init__(self, group: "ProcessGroup") -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.lengths: list[int] = []
        """Tokens of each segment in the forward that goes on."""

    def begin(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Take this process's tokens of a forward that begins: [b, n, d] to [b, about n / size, d]."""
        tokens, segments, *others = inputs
        if any(segment.groups is not None for segment in segments):
            raise ValueError(
                "A scene that attends only to itself cannot be split over processes among the video's tokens. "
                "Read it once, and give the transformer what was read."
            )
        self.lengths = [segment.length for segment in segments]
        return self.shard(tokens, 1, self.lengths), segments, *others

    def enter(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Cut what a block is told of all tokens to this process's.

        Lengths of the segments and rows of the rotary tables; a camera of [b, t, 12] becomes [b, n, 12], a pose for
        each video token here.
        """
        tokens, segments, text, rotary, camera, attention, memory = inputs
        video = self.lengths[0]
        if camera is not None:
            poses = repeat(camera, "b t p -> b (t n) p", n=video // camera.shape[1])
            camera = self.shard(poses, 1, [video])
        segments = [
            Segment(length, segment.modulation)
            for length, segment in zip(self.shares(self.rank), segments, strict=True)
        ]
        tables = Rotary(*(self.shard(table, 0, self.lengths) for table in rotary))
        return tokens, segments, text, tables, camera, attention, memory

    def attend(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Let self-attention read the keys and values of all processes, and of the scene once."""
        tokens, source, attention, rotary, memory = inputs
        return tokens, source, self.reading_all(attention, memory), rotary, None

    def reading_all(self, attention: Attention, memory: KeysValues | None) -> Attention:
        """Attention of this process's queries, [b, heads, n, c], to the keys and values of all processes.

        Keys of [b, heads, n, c] travel with the values in one collective; those of a scene that was read before,
        [1 or b, heads, m, c], are whole everywhere and stand behind them.
        """

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            counts = [sum(self.shares(rank)) for rank in range(self.size)]
            both = self.gather(torch.stack([k, v]), 3, counts)
            if memory is not None:
                seen = torch.stack(list(memory)).expand(-1, len(k), -1, -1, -1)
                both = torch.cat([both, seen], dim=3)
            return attention(q, *both)

        return attend

    def leave(self, _: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> Tensor:
        """Put the video together again behind the last block: [b, its share, d] to [b, t r s, d]."""
        counts = [self.shares(rank)[0] for rank in range(self.size)]
        return self.gather(tokens[:, : counts[self.rank]], 1, counts)

    def shares(self, rank: int) -> list[int]:
        """Tokens of each segment that a process has; the first take one more where they do not divide."""
        return [length // self.size + (rank < length % self.size) for length in self.lengths]

    def shard(self, tensor: Tensor, dim: int, lengths: Sequence[int]) -> Tensor:
        """This process's share of each run of `lengths` in a dimension."""
        runs = tensor.split(list(lengths), dim)
        return torch.cat([run.tensor_split(self.size, dim)[self.rank] for run in runs], dim)

    def gather(self, tensor: Tensor, dim: int, counts: Sequence[int]) -> Tensor:
        """Join the parts of all processes, of `counts` in a dimension; they travel padded to the longest."""
        missing = max(counts) - tensor.shape[dim]
        padded = pad(tensor, (0, 0) * (tensor.ndim - 1 - dim) + (0, missing)).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part.narrow(dim, 0, count) for part, count in zip(parts, counts, strict=True)], dim)


@contextlib.contextmanager
def joined(device: torch.device, *, guided: bool) -> Iterator[Ranks | None]:
    """Join the processes that torchrun has started; None where there is one alone.

    Args:
        device: from `own_device`; a card's processes talk by NCCL, others by Gloo.
        guided: whether there are two branches to share.
    """
    if world_size() == 1:
        yield None
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield form(device.type, guided=guided)
    finally:
        dist.destroy_process_group()


def form(device_type: str, *, guided: bool) -> Ranks:
    """Share the processes of an initialised group out: first over the branches, then over the tokens."""
    from torch.distributed.device_mesh import init_device_mesh  # costs time that one process need not spend

    size = dist.get_world_size()
    branches = 2 if guided and size % 2 == 0 else 1
    return Ranks(init_device_mesh(device_type, (branches, size // branches), mesh_dim_names=(BRANCHES, TOKENS)))


def world_size() -> int:
    """How many processes torchrun has started; 1 without it."""
    started = dist.is_available() and dist.is_torchelastic_launched()
    return int(os.environ["WORLD_SIZE"]) if started else 1


def own_device(device: str) -> str:
    """This process's device: of several processes on a machine each has the card of its number."""
    if world_size() == 1 or torch.device(device).type != "cuda":
        return device
    return f"cuda:{os.environ['LOCAL_RANK']}"
