"""One step of the transformer in every mode, reading a scene, and whether the values are right."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from cinescene_core.config import ContextAttention
from cinescene_core.models.compiled import compile_blocks
from cinescene_core.models.sequence import SceneContext, SceneMemory
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.scene_cache import (
    CachePlace,
    CacheType,
    StoredBlock,
    StoredTensor,
    build_scene_cache,
    embed_scene,
)

from ..flops import Blocks, gigabytes
from .kernels import profiled
from .measure import Bench, Record, compared, predicted, timed
from .roofline import Work, counted
from .sizes import TINY, Inputs, Sizes, transformer

FLOAT32_LIMIT = 1e-5
"""Two blocks round a few hundred times by 6e-8 each."""
MODES: tuple[ContextAttention, ...] = ("joint", "cached", "per_view")
ROUNDINGS = 10
"""Of a block, one behind the other."""
FLOAT8_ROUNDING = 2**-4
"""Of e4m3, as a share of the value, at most."""


def bfloat16_limit(sizes: Sizes) -> float:
    """How far two computations in bfloat16 may be apart.

    Each rounds by at most 2^-9 of the value, and roundings add up at random; one is twice as far from the other at most
    as from the truth.
    """
    return 2 * math.sqrt(ROUNDINGS * sizes.wan.num_layers) * 2**-9


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of step, or of reading a scene for all steps."""

    mode: ContextAttention | None
    """None is plain text-to-video."""
    reads: bool = False
    """Whether the scene is read, once, and not a step taken."""
    stored: CacheType = "bfloat16"
    place: CachePlace = "device"


CASES = {
    "plain": Case(mode=None),
    "joint": Case(mode="joint"),
    "cached": Case(mode="cached"),
    "cached, float8": Case(mode="cached", stored="float8"),
    "cached, on the host": Case(mode="cached", place="host"),
    "read for cached": Case(mode="cached", reads=True),
    "read per view": Case(mode="per_view", reads=True),
}


def read(model: CineSceneTransformer, inputs: Inputs, case: Case) -> list[StoredBlock]:
    """What the video reads of the scene, as a cache keeps it, without the digests of what it belongs to."""
    assert case.mode is not None
    memories = model.read_context(embed_scene(model, inputs.context), case.mode)
    return [StoredBlock(*(StoredTensor.of(tensor, case.stored) for tensor in memory)) for memory in memories]


def scene_of(model: CineSceneTransformer, inputs: Inputs, case: Case) -> SceneContext | SceneMemory | None:
    """What a step reads beside the video."""
    if case.mode is None:
        return None
    if case.mode == "joint":
        return embed_scene(model, inputs.context)
    if inputs.noisy.is_meta:  # a cache digests values
        return Blocks(list(model.read_context(embed_scene(model, inputs.context), case.mode)))
    return build_scene_cache(model, inputs.context, case.mode, stored=case.stored, place=case.place)


def step(model: CineSceneTransformer, inputs: Inputs, case: Case, scene: SceneContext | SceneMemory | None) -> Tensor:
    mode = case.mode or "joint"
    given = inputs.noisy, inputs.timestep, inputs.prompt
    return model(*given, camera=inputs.camera, context=scene, context_attention=mode).float()


def work_of(sizes: Sizes, case: Case) -> Work:
    """What a case takes: FLOPs as counted, bytes as `flops.gigabytes` has them."""
    wan, context = sizes.wan, sizes.context_tokens
    attention, matmul = flops_of(sizes, case.mode, case.reads)
    tokens = context if case.reads else sizes.video_tokens + (context if case.mode == "joint" else 0)
    cached = 0.0
    if case.mode not in (None, "joint"):
        cached = 2 * wan.num_layers * context * wan.width * (1 if case.stored == "float8" else 2) / 2**30
    sent = cached * 2**30 / 1e9 if case.place == "host" else 0.0
    return Work(attention, matmul, gigabytes(wan, tokens, cached), sent)


@lru_cache
def flops_of(sizes: Sizes, mode: ContextAttention | None, reads: bool) -> tuple[float, float]:
    """TFLOP of attention and of matrix products, counted on the meta device."""
    case = Case(mode=mode, reads=reads)
    model, inputs = transformer(sizes, "meta"), Inputs.of(sizes, "meta")
    if reads:
        return counted(lambda: read(model, inputs, case))
    scene = scene_of(model, inputs, case)
    return counted(lambda: step(model, inputs, case, scene))


def measure_case(bench: Bench, name: str) -> Record:
    """Time and peak memory of one case, its values beside those of a cache on the card."""
    case, sizes = CASES[name], bench.sizes
    model, inputs = transformer(sizes, bench.device), Inputs.of(sizes, bench.device)
    found: Record = {"work": dataclasses.asdict(work_of(sizes, case))}
    size = {"context_attention": case.mode, "stored": case.stored, "place": case.place}
    if case.reads:
        timing = timed(lambda: read(model, inputs, case), bench.device, sizes.runs)
        values = timing.result[-1].values.values
        found |= timing.record() | {"predicted": predicted(sizes, "scene cache", **size)}
        del timing  # another cache follows
        build = partial(build_scene_cache, model, inputs.context, case.mode or "joint")
        found["with_digests_s"] = timed(build, bench.device, 1).median
    else:
        wanted = _on_card_in_bfloat16(model, inputs, case) if case.mode == "cached" else None
        scene = scene_of(model, inputs, case)
        timing = timed(lambda: step(model, inputs, case, scene), bench.device, sizes.runs)
        if case.mode is not None:
            found["predicted"] = predicted(sizes, "sampling", **size)
        found |= timing.record()
        values = timing.result
        if wanted is not None and case != CASES["cached"]:
            limit = bfloat16_limit(sizes) + FLOAT8_ROUNDING if case.stored == "float8" else 0.0
            found["check"] = compared(f"{name}, and cached on the card in bfloat16", values, wanted, limit)
    return found | {"finite": bool(values.isfinite().all())}


def _on_card_in_bfloat16(model: CineSceneTransformer, inputs: Inputs, case: Case) -> Tensor:
    plain = CASES["cached"]
    return step(model, inputs, plain, scene_of(model, inputs, plain))


def measure_compiled(bench: Bench, name: str) -> Record:
    """Time of one case in compiled blocks, its values beside those of the same blocks uncompiled, and its profile."""
    case, sizes = CASES[name], bench.sizes
    model, inputs = transformer(sizes, bench.device), Inputs.of(sizes, bench.device)
    scene = scene_of(model, inputs, case)
    wanted = step(model, inputs, case, scene)
    with _compiled(model, bench.device):
        timing = timed(lambda: step(model, inputs, case, scene), bench.device, sizes.runs)
        profile = profiled(lambda: step(model, inputs, case, scene), bench.device)
    check = compared(f"{name}, compiled and not", timing.result, wanted, bfloat16_limit(sizes))
    found = {"work": dataclasses.asdict(work_of(sizes, case)), "compile_s": timing.first - timing.median}
    finite = bool(timing.result.isfinite().all())
    return found | timing.record() | {"check": check, "profile": profile, "finite": finite}


@contextmanager
def _compiled(model: CineSceneTransformer, device: torch.device) -> Iterator[None]:
    """Compiled blocks; on a processor, where that takes minutes, their graphs are captured and run as they are."""
    blocks: Any = model.blocks
    torch._dynamo.reset()
    try:
        if device.type == "cuda":
            compile_blocks(blocks)
        else:
            for block in blocks:
                block.compile(fullgraph=True, backend="eager")
        yield
    finally:
        torch._dynamo.reset()


def measure_profile(bench: Bench, name: str) -> Record:
    """One step of a case, kernel by kernel."""
    case = CASES[name]
    model, inputs = transformer(bench.sizes, bench.device), Inputs.of(bench.sizes, bench.device)
    scene = scene_of(model, inputs, case)
    found = {"work": dataclasses.asdict(work_of(bench.sizes, case))}
    return found | {"profile": profiled(lambda: step(model, inputs, case, scene), bench.device)}


def check_values(bench: Bench) -> Record:
    """A tiny network on this device beside the same one on the CPU in float64, in every mode."""
    checks = []
    for mode in MODES:
        case = Case(mode=mode)
        reference = transformer(TINY, "cpu", torch.float32).double()
        wanted = _one_step(reference, case, torch.float64)
        for dtype, limit in ((torch.float32, FLOAT32_LIMIT), (torch.bfloat16, bfloat16_limit(TINY))):
            model = transformer(TINY, bench.device, dtype)
            model.load_state_dict(reference.state_dict())
            # PyTorch lets cuDNN round float32 to 10 bits by default.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                found = _one_step(model, case, dtype)
            name = str(dtype).removeprefix("torch.")
            checks.append(compared(f"{mode}, {name}, and float64 on the CPU", found, wanted, limit))
    return {"checks": checks}


def _one_step(model: CineSceneTransformer, case: Case, dtype: torch.dtype) -> Tensor:
    inputs = Inputs.of(TINY, model.patch_embedding.weight.device, dtype)
    stored: Any = "float32" if dtype == torch.float64 else str(dtype).removeprefix("torch.")
    case = dataclasses.replace(case, stored=stored)
    return step(model, inputs, case, scene_of(model, inputs, case))


CASE_SECTIONS = {f"step: {name}": partial(measure_case, name=name) for name in CASES}
PROFILE_SECTIONS = {
    f"profile: {name}": partial(measure_profile, name=name) for name in ("joint", "cached", "cached, on the host")
}
COMPILED_SECTIONS = {f"compiled: {name}": partial(measure_compiled, name=name) for name in ("cached", "joint", "plain")}
