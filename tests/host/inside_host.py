"""Runs in the host's own Python, without a server; measures what only its objects can show.

    python inside_host.py <checkout> <base directory> <report.json>

The tests read the report; nothing is judged here.
"""

import asyncio
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

CHECKOUT, BASE, REPORT = (Path(argument).resolve() for argument in sys.argv[1:4])
os.chdir(CHECKOUT)
sys.path[0] = str(CHECKOUT)
sys.argv = ["main.py", "--cpu", "--base-directory", str(BASE), "--disable-api-nodes"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cli_args  # noqa: E402
import folder_paths  # noqa: E402

for folder in ("models", "input", "output", "temp", "user"):
    (BASE / folder).mkdir(parents=True, exist_ok=True)

import comfy.context_windows  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.patcher_extension  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import nodes as host_nodes  # noqa: E402

PACK_FOLDER = BASE / "custom_nodes" / "ComfyUI-CineScene"
NUM_VIEWS, NUM_FRAMES, SIZE = 3, 2, (4, 6)
STEPS, GUIDANCE, SHIFT, SEED = 4, 5.0, 8.0, 7
"""Steps that divide 1000: for others the host's schedule takes the nearest of its 1000 levels."""
CACHE_STEPS, CACHE_THRESHOLD = 10, 3.0
"""Of the host's step caches; a network with random weights changes much from step to step."""
report: dict[str, Any] = {}


def load_pack() -> Any:
    """Load the pack as the host does; return its package."""
    before = set(sys.modules)
    loaded = asyncio.run(host_nodes.load_custom_node(str(PACK_FOLDER)))
    report["loaded"] = bool(loaded)
    name = next(module for module in sys.modules if module.endswith("ComfyUI-CineScene"))
    new = {module.split(".")[0] for module in set(sys.modules) - before}
    report["imported"] = sorted(module for module in new if not module.startswith(str(Path(name).anchor)))
    return name


def module(name: str) -> Any:
    return sys.modules[f"{PACK}.{name}"]


PACK = load_pack()
host, loaders = module("nodes.host"), module("nodes.loaders")
wan, context_stage = module("cinescene_core.models.wan"), module("cinescene_core.context")
weights = module("cinescene_core.weights")
core_config, core_sampler = module("cinescene_core.config"), module("cinescene_core.sampler")


def node(name: str) -> Any:
    return host_nodes.NODE_CLASS_MAPPINGS[name]


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def stock_load(name: str, weight_dtype: str = "default") -> Any:
    return host_nodes.UNETLoader().load_unet(name, weight_dtype)[0]


def own_load(name: str, weight_dtype: str = "default") -> Any:
    path = folder_paths.get_full_path_or_raise("diffusion_models", name)
    return loaders.open_transformer(path, weight_dtype)


def make_inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "video": noise(1, 16, NUM_FRAMES, *SIZE),
        "camera": noise(1, NUM_FRAMES, 3, 4),
        "latents": noise(1, NUM_VIEWS, 16, *SIZE),
        "features": noise(1, NUM_VIEWS, 128, 2, 4),
        "positive": noise(1, 5, 64),
        "negative": noise(1, 5, 64),
    }


INPUTS = make_inputs()
conditions = module("nodes.conditions")
SHOT = conditions.ShotConditions(INPUTS["camera"], INPUTS["latents"], INPUTS["features"])
CONDITIONS = {sign: [[INPUTS[sign], SHOT._asdict()]] for sign in ("positive", "negative")}
EMPTY = {"samples": torch.zeros(1, 16, NUM_FRAMES, *SIZE)}


def network_inputs() -> dict[str, Any]:
    """Camera and place as the host gives them to the network."""
    return {
        "cinescene_camera": conditions.as_bits(INPUTS["camera"]),
        "cinescene_scene": conditions.SharedScene(INPUTS["latents"], INPUTS["features"]),
    }


def core_velocity(core: Any, record: Any, video: Tensor, timestep: Tensor, text: Tensor, **changes: Any) -> Tensor:
    """What the core network says, from the same inputs and without the host; in the type of `video`."""
    positions = torch.cat(context_stage.temporal_positions(record.positions, NUM_FRAMES, NUM_VIEWS))
    scene = core.embed_context(INPUTS["latents"].to(video), INPUTS["features"].to(video), positions)
    late = timestep if record.context_timestep == "shared" else None
    given = {"camera": INPUTS["camera"], "context": scene, "context_timestep": late} | changes
    return core(video, timestep, text.to(video), **given)


def measure_forward() -> None:
    """One forward, and a whole Euler sampling by KSampler, against the core network in plain torch."""
    path = folder_paths.get_full_path_or_raise("diffusion_models", "tiny_cinescene.safetensors")
    core, record = weights.load_transformer(path)
    model = own_load("tiny_cinescene.safetensors")
    report["record"] = {"positions": model.model.cinescene.positions, "class": type(model.model).__name__}
    comfy.model_management.load_models_gpu([model])
    timestep = torch.tensor([700.0])
    got = model.model.diffusion_model(INPUTS["video"], timestep, INPUTS["positive"], {}, **network_inputs())
    report["forward"] = difference(got, core_velocity(core, record, INPUTS["video"], timestep, INPUTS["positive"]))


def measure_sampling() -> None:
    """Whole samplings by the host against the core's loop and solvers over the core network in plain torch."""
    path = folder_paths.get_full_path_or_raise("diffusion_models", "tiny_cinescene.safetensors")
    core, record = weights.load_transformer(path)
    model = own_load("tiny_cinescene.safetensors")
    shifted = host.with_shift(model, SHIFT)
    noise = core_sampler.make_noise(EMPTY["samples"].shape, SEED)
    report["noise"] = difference(comfy.sample.prepare_noise(EMPTY["samples"], SEED), noise)
    simple = comfy.samplers.calculate_sigmas(shifted.get_model_object("model_sampling"), "simple", STEPS)
    report["sigmas"] = float((simple - core_sampler.flow_sigmas(STEPS, SHIFT)).abs().max())

    def velocity(latents: Tensor, sigma: float) -> Tensor:
        def predict(text: Tensor) -> Tensor:
            return core_velocity(core, record, latents, torch.tensor([sigma * 1000]), text)

        return core_sampler.guided_velocity(predict, INPUTS["positive"], INPUTS["negative"], GUIDANCE)

    report["own_sampler"] = {}
    for solver in ("euler", "unipc"):
        config = core_config.SamplingConfig(steps=STEPS, shift=SHIFT, solver=solver)
        found = core_sampler.denoise(velocity, noise, config)
        expected = module("cinescene_core.latents").denormalise_latents(found)
        ours = node("CineSceneSampler").execute(
            model, CONDITIONS["positive"], CONDITIONS["negative"], EMPTY,
            seed=SEED, steps=STEPS, guidance=GUIDANCE, shift=SHIFT, solver=solver,
        )  # fmt: skip
        report["own_sampler"][solver] = difference(ours.args[0]["samples"], expected)
        if solver == "euler":
            euler = expected
            stock = host_nodes.common_ksampler(
                shifted, SEED, STEPS, GUIDANCE, "euler", "simple", CONDITIONS["positive"], CONDITIONS["negative"], EMPTY
            )
            report["ksampler"] = difference(stock[0]["samples"], expected)
    report["solvers_apart"] = difference(expected, euler)


def measure_precision() -> None:
    """A model in bfloat16: it must see the poses as they are, also when the host casts every float condition."""
    name = "tiny_bf16.safetensors"
    core, record = weights.load_transformer(folder_paths.get_full_path_or_raise("diffusion_models", name))
    path = folder_paths.get_full_path_or_raise("diffusion_models", name)
    tensors = weights.load_tensors(path)
    model = comfy.sd.load_diffusion_model_state_dict(
        dict(tensors), model_options={"dtype": torch.bfloat16}, metadata=dict(weights.read_header(path).metadata)
    )
    inner = model.model
    comfy.model_management.load_models_gpu([model])
    report["bf16_types"] = sorted({str(value.dtype) for value in inner.diffusion_model.state_dict().values()})
    inner.manual_cast_dtype = None  # what the host chooses on a card; on a CPU it computes in float32
    report["bf16_inference"] = str(inner.get_dtype_inference())
    far = INPUTS["camera"].clone()
    far[..., 3] += 8  # metres, where bfloat16 counts in steps of 3 cm
    video, sigma = INPUTS["video"], torch.tensor([0.7])

    def through_host(camera: Tensor) -> Tensor:
        shot = SHOT._replace(cinescene_camera=camera)._asdict()
        conds = inner.extra_conds(cross_attn=INPUTS["positive"], noise=video, device=torch.device("cpu"), **shot)
        given = {name: cond.process_cond(batch_size=1).cond for name, cond in conds.items()}
        denoised = inner.apply_model(video, sigma, **given)
        return (video - denoised) / sigma

    def through_core(camera: Tensor) -> Tensor:
        half = video.to(torch.bfloat16)
        changes = {"camera": camera, "attention": host.HostAttention({})}  # in bfloat16 another sum shows
        return core_velocity(core, record, half, sigma * 1000, INPUTS["positive"], **changes).float()

    expected = through_core(far)
    report["bf16"] = difference(through_host(far), expected)
    report["bf16_rounded_poses"] = difference(through_core(far.to(torch.bfloat16).float()), expected)


def denoise(model: Any, steps: int = STEPS, latent: dict[str, Any] = EMPTY) -> Tensor:
    config = core_config.SamplingConfig(seed=SEED, steps=steps, guidance=GUIDANCE, shift=SHIFT, solver="euler")
    return host.sample(model, CONDITIONS["positive"], CONDITIONS["negative"], latent, config)["samples"]


def measure_batching() -> None:
    """Guidance branches in one batch, or one after the other where memory is short."""
    model = own_load("tiny_cinescene.safetensors")
    batches: list[int] = []

    def count(executor: Any, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        batches.append(len(x))
        return executor(x, *rest, **named)

    counted = model.clone()
    counted.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "count", count)
    together = denoise(counted)
    report["batches_together"], batches[:] = list(batches), []
    patcher = comfy.model_patcher.ModelPatcher
    measured, patcher.get_free_memory = patcher.get_free_memory, lambda *_: 0
    apart = denoise(counted)
    patcher.get_free_memory = measured
    report["batches_apart"] = list(batches)
    report["apart"] = difference(apart, together)


def measure_interval() -> None:
    """Outside the guidance interval the host computes one branch."""
    model = own_load("tiny_cinescene.safetensors")
    batches: list[list[float]] = []

    def count(executor: Any, x: Tensor, timestep: Tensor, *rest: Any, **named: Any) -> Tensor:
        batches.append([len(x), round(float(timestep[0]))])
        return executor(x, timestep, *rest, **named)

    counted = model.clone()
    counted.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "count", count)
    config = core_config.SamplingConfig(steps=STEPS, shift=1.0, solver="euler", guidance_low=0.4, guidance_high=0.8)
    host.sample(counted, CONDITIONS["positive"], CONDITIONS["negative"], EMPTY, config)
    report["interval"] = batches


def measure_patches() -> None:
    """Block replacement and attention overrides, as other packs use them."""
    model = own_load("tiny_cinescene.safetensors")
    plain = denoise(model)
    replaced: list[int] = []

    def replace(arguments: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        replaced.append(arguments["transformer_options"]["block_index"])
        return extra["original_block"](arguments)

    patched = model.clone()
    patched.set_model_patch_replace(replace, "dit", "double_block", 1)
    report["replaced"] = difference(denoise(patched), plain)
    report["replaced_blocks"] = replaced
    skipped = model.clone()
    skipped.set_model_patch_replace(lambda arguments, extra: {"img": arguments["img"]}, "dit", "double_block", 1)
    report["skipped_block"] = difference(denoise(skipped), plain)

    seen: list[int] = []

    def attention(function: Any, *arguments: Any, **named: Any) -> Tensor:
        seen.append(named["transformer_options"]["block_index"])
        return function(*arguments, **named)

    overridden = model.clone()
    overridden.model_options["transformer_options"]["optimized_attention_override"] = attention
    report["overridden"] = difference(denoise(overridden, steps=1), denoise(model, steps=1))
    report["overridden_blocks"] = seen


def count_readings(model: Any) -> list[int]:
    """Grows by one whenever the network reads a place."""
    network, readings = model.model.diffusion_model, []

    def counted(*arguments: Any) -> Any:
        readings.append(1)
        return type(network).read_context(network, *arguments)

    network.read_context = counted
    return readings


def measure_cached() -> None:
    """A place is read once a run, for both branches together or apart, and gone when the run ends, however it ends."""
    report["cached"] = {}
    for mode in ("cached", "per_view"):
        name = f"tiny_{mode}.safetensors"
        core, record = weights.load_transformer(folder_paths.get_full_path_or_raise("diffusion_models", name))
        model = own_load(name)
        readings = count_readings(model)

        def velocity(latents: Tensor, sigma: float, core: Any = core, record: Any = record, mode: str = mode) -> Tensor:
            def predict(text: Tensor) -> Tensor:
                timestep = torch.tensor([sigma * 1000])
                return core_velocity(core, record, latents, timestep, text, context_attention=mode)

            return core_sampler.guided_velocity(predict, INPUTS["positive"], INPUTS["negative"], GUIDANCE)

        config = core_config.SamplingConfig(steps=STEPS, shift=SHIFT, solver="euler")
        found = core_sampler.denoise(velocity, core_sampler.make_noise(EMPTY["samples"].shape, SEED), config)
        together = denoise(model)
        patcher = comfy.model_patcher.ModelPatcher
        measured, patcher.get_free_memory = patcher.get_free_memory, lambda *_: 0
        apart = denoise(model)
        patcher.get_free_memory = measured
        gc.collect()
        report["cached"][mode] = {
            "equal": difference(together, module("cinescene_core.latents").denormalise_latents(found)),
            "apart": difference(apart, together),
            "readings": len(readings),
            "left": len(model.model.scenes),
            "interrupted": is_interrupted(denoise, model),
            "left_interrupted": gc.collect() * 0 + len(model.model.scenes),
        }
    model = own_load("tiny_cached.safetensors")
    plain = denoise(model)
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("loras", "tiny_lora.safetensors"))
    adapted, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)
    report["cached_lora"] = [difference(denoise(adapted), plain), difference(denoise(model), plain)]
    report["cached_memory"] = [
        model.model.memory_required([1, 16, NUM_FRAMES, *SIZE], cond_shapes=shapes)
        for shapes in ({}, {"cinescene_scene": [list(INPUTS["latents"].shape)]})
    ]


def measure_step_caches() -> None:
    """EasyCache and LazyCache: which steps they leave out, and whether what stands in for them follows their rule."""
    from comfy_extras import nodes_easycache

    report["step_caches"] = {}
    for mode in ("cinescene", "cached"):
        name = f"tiny_{mode}.safetensors"
        core, record = weights.load_transformer(folder_paths.get_full_path_or_raise("diffusion_models", name))
        model = own_load(name)
        plain, computed = denoise(model, CACHE_STEPS), watch_sigmas(model)
        for cache in ("EasyCache", "LazyCache"):
            add = getattr(nodes_easycache, f"{cache}Node").execute
            computed.clear()
            never = denoise(add(model, 0.0, 0.0, 1.0, False).args[0], CACHE_STEPS)
            all_of_them = len(computed)
            computed.clear()
            cached = denoise(add(model, CACHE_THRESHOLD, 0.0, 1.0, False).args[0], CACHE_STEPS)
            expected, kept = replay(core, record, cache, list(computed))
            report["step_caches"][f"{cache} {mode}"] = {
                "never": difference(never, plain),
                "computed": [all_of_them, kept],
                "cached": difference(cached, expected),
                "changed": difference(cached, plain),
                "after": difference(denoise(model, CACHE_STEPS), plain),
            }


def watch_sigmas(model: Any) -> list[float]:
    """Grows by the noise level of every forward that is computed."""
    network, sigmas = model.model.diffusion_model, []

    def predict(x: Tensor, timestep: Tensor, *rest: Any, **named: Any) -> Tensor:
        sigmas.append(float(timestep[0]) / 1000)
        return type(network).predict(network, x, timestep, *rest, **named)

    network.predict = predict
    return sigmas


def replay(core: Any, record: Any, cache: str, computed: list[float]) -> tuple[Tensor, list[bool]]:
    """Sample by the core with the steps left out that a cache of the host left out.

    For a step that is left out stands the output of the last computed one less its input, added to the new input: of
    each branch's velocity in EasyCache, of the guided clean estimate in LazyCache.
    """
    kept: list[bool] = []
    last: dict[str, Tensor] = {}

    def velocity(x: Tensor, sigma: float) -> Tensor:
        kept.append(any(abs(sigma - seen) < 1e-5 for seen in computed))
        if cache == "LazyCache" and not kept[-1]:
            return -last["estimate"] / sigma

        def predict(text: Tensor) -> Tensor:
            branch = "positive" if text is INPUTS["positive"] else "negative"
            if kept[-1]:
                named = {"context_attention": record.context_attention}
                last[branch] = core_velocity(core, record, x, torch.tensor([sigma * 1000]), text, **named) - x
            return x + last[branch]

        found = core_sampler.guided_velocity(predict, INPUTS["positive"], INPUTS["negative"], GUIDANCE)
        last["estimate"] = -sigma * found
        return found

    config = core_config.SamplingConfig(steps=CACHE_STEPS, shift=SHIFT, solver="euler")
    noise = core_sampler.make_noise(EMPTY["samples"].shape, SEED)
    return module("cinescene_core.latents").denormalise_latents(core_sampler.denoise(velocity, noise, config)), kept


def measure_weights() -> None:
    """LoRA, fp8 storage, a folded projector, and what the host counts for memory."""
    model = own_load("tiny_cinescene.safetensors")
    plain = denoise(model)
    report["repeat"] = difference(denoise(model), plain)
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("loras", "tiny_lora.safetensors"))
    adapted, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)
    report["lora_patches"] = sorted(adapted.patches)
    report["lora"] = difference(denoise(adapted), plain)
    report["after_lora"] = difference(denoise(model), plain)
    without, with_scene = (
        model.model.memory_required([1, 16, NUM_FRAMES, *SIZE], cond_shapes=shapes)
        for shapes in ({}, {"cinescene_scene": [list(INPUTS["latents"].shape)]})
    )
    report["memory"] = with_scene / without
    report["shapes"] = model.model.extra_conds_shapes(**SHOT._asdict())
    report["formats"] = {
        name: difference(denoise(own_load("tiny_cinescene.safetensors", name)), plain)
        for name in ("fp8_e4m3fn", "fp8_e5m2")
    }
    report["folded"] = difference(denoise(own_load("tiny_folded.safetensors")), plain)


def measure_windows() -> None:
    """The host's context windows: each window of frames has its own part of the camera."""
    if not hasattr(comfy.samplers.comfy.model_base.BaseModel, "resize_cond_for_context_window"):
        return
    model = own_load("tiny_cinescene.safetensors")
    frames = 4
    camera = torch.arange(frames, dtype=torch.float32)[None, :, None, None].expand(1, frames, 3, 4).contiguous()
    shot = [[INPUTS["positive"], {**SHOT._asdict(), "cinescene_camera": camera}]]
    cameras: list[list[float]] = []

    def look(executor: Any, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        cameras.append(named["cinescene_camera"][0, :, 0, 0].tolist())
        return executor(x, *rest, **named)

    windowed = model.clone()
    windowed.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "look", look)
    schedule = comfy.context_windows.get_matching_context_schedule("standard_static")
    fuse = comfy.context_windows.get_matching_fuse_method("flat")
    handler = comfy.context_windows.IndexListContextHandler(
        context_schedule=schedule, fuse_method=fuse, context_length=2, context_overlap=0, dim=2
    )
    handler.causal_window_fix = False  # newer hosts show every window the frame before it
    windowed.model_options["context_handler"] = handler
    latent = {"samples": torch.zeros(1, 16, frames, *SIZE)}
    host.sample(windowed, shot, shot, latent, core_config.SamplingConfig(steps=1, guidance=1.0))
    report["window_cameras"] = cameras


def message_of(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def is_interrupted(call: Any, *arguments: Any) -> bool:
    """Whether the work ends when the user has pressed stop."""
    comfy.model_management.interrupt_current_processing(True)
    try:
        call(*arguments)
    except comfy.model_management.InterruptProcessingException:
        return True
    finally:
        comfy.model_management.interrupt_current_processing(False)
    return False


def measure_fp8_camera() -> None:
    """A file whose camera layer is in scaled fp8: the model has it in float32, exactly."""
    state = own_load("tiny_cinescene.safetensors").model.diffusion_model.state_dict()
    state = {name: value.clone() for name, value in state.items()}
    layer, scale = "blocks.0.cam_encoder", torch.tensor(0.002)
    stored = (state[f"{layer}.weight"] / scale).to(torch.float8_e4m3fn)
    state |= {f"{layer}.weight": stored, f"{layer}.scale_weight": scale, "scaled_fp8": torch.zeros(2).to(stored.dtype)}
    record = own_load("tiny_cinescene.safetensors").model.cinescene
    loaded = loaders.make_model(state, record, {}).model.diffusion_model.blocks[0].cam_encoder.weight
    report["fp8_camera"] = [str(loaded.dtype), difference(loaded, stored.float() * scale)]


def measure_loading() -> None:
    """Which class each file becomes, and what wrong files are told."""
    report["stock"] = {}
    for name in ("tiny_cinescene", "tiny_folded", "tiny_recammaster", "tiny_wan"):
        model = stock_load(f"{name}.safetensors")
        found = getattr(model.model, "cinescene", None)
        report["stock"][name] = {
            "class": type(model.model).__name__,
            "positions": found and found.positions,
            "projector": getattr(model.model, "projector", None),
        }
    stock = stock_load("tiny_cinescene.safetensors")
    report["stock_equals_own"] = difference(denoise(stock), denoise(own_load("tiny_cinescene.safetensors")))
    for name in ("tiny_recammaster", "tiny_wan"):
        model = own_load(f"{name}.safetensors")
        values = list(model.model.diffusion_model.state_dict().values())
        report[f"own_{name}"] = {
            "finite": all(bool(value.isfinite().all()) for value in values),
            "trained": model.model.cinescene.scene_trained,
            "camera": float(model.model.diffusion_model.blocks[0].cam_encoder.weight.abs().max()),
        }
    report["wrong_files"] = {name: message_of(own_load, f"{name}.safetensors") for name in ("a_lora", "truncated")}
    state = own_load("tiny_cinescene.safetensors").model.diffusion_model.state_dict()
    state = {name: value.clone() for name, value in state.items() if "blocks.1.cam_encoder" not in name}
    record = own_load("tiny_cinescene.safetensors").model.cinescene
    report["missing_tensors"] = message_of(loaders.make_model, dict(state), record, {})
    report["no_record"] = message_of(comfy.sd.load_diffusion_model_state_dict, dict(state))
    host.register_model()
    names = [model.__name__ for model in comfy.supported_models.models]
    report["registered"] = [names[0], names.count(names[0])]
    report["not_cinescene"] = message_of(host.cinescene_config, stock_load("tiny_wan.safetensors"))
    video = torch.zeros(1, 16, NUM_FRAMES, 8, 8)
    report["wrong_size"] = message_of(denoise, own_load("tiny_cinescene.safetensors"), 1, {"samples": video})


def measure_encoders() -> None:
    """The scene encoder and the VAE under the host's management against the same weights in plain torch."""
    encoders = module("nodes.encoders")
    path = str(weights.nano_path())
    model, clip, vae, vggt, _ = node("CineSceneNanoLoader").execute().args
    pictures = torch.rand(1, 3, 3, 56, 84, generator=torch.Generator().manual_seed(3))
    blocks: list[tuple[int, int]] = []
    plain = module("cinescene_core.weights.vggt").load_vggt(path, prefix="vggt.", dtype=torch.float32)
    wanted = plain.encode(pictures)
    got = vggt.encode(pictures, lambda done, total: blocks.append((done, total)))
    report["vggt"] = max(difference(got.patch, wanted.patch), difference(got.camera, wanted.camera))
    report["vggt_blocks"] = blocks
    views = module("cinescene_core.types").Views(torch.rand(2, 32, 48, 3))
    report["interrupted"] = [
        is_interrupted(node("CineSceneEncodeScene").execute, views, vggt, vae, 56, 28),
        is_interrupted(node("CineScenePhotoViews").execute, torch.rand(2, 40, 60, 3), 48, 32),
        is_interrupted(node("CineSceneVGGTLoader").execute, "tiny_vggt.safetensors"),
    ]
    report["wrong_vae"] = message_of(encoders.HostVAE, object())
    adapter = encoders.HostVAE(vae)
    clips = torch.rand(2, 1, 32, 48, 3, generator=torch.Generator().manual_seed(4))
    latents = adapter.encode(clips)
    report["vae_alone"] = difference(latents[1:], adapter.encode(clips[1:]))
    report["vae_shapes"] = [list(latents.shape), list(adapter.decode(latents).shape)]
    tokens = clip.tokenize("a red ball rolls forward")
    ((cond, extra),) = clip.encode_from_tokens_scheduled(tokens)
    text = module("cinescene_core.models.text")
    encoder = text.VocabularyEncoder.from_state_dict(*weights.read_bundle_part(path, "text"))
    report["text"] = difference(cond, encoder.encode("a red ball rolls forward"))
    report["pooled"] = extra.get("pooled_output")
    report["clip_clone"] = difference(clip.clone().encode_from_tokens(tokens), cond)
    report["nano_class"] = type(model.model).__name__


MEASURES = (
    measure_forward,
    measure_sampling,
    measure_precision,
    measure_batching,
    measure_interval,
    measure_patches,
    measure_cached,
    measure_step_caches,
    measure_weights,
    measure_fp8_camera,
    measure_windows,
    measure_loading,
    measure_encoders,
)
with torch.inference_mode():
    for measure in MEASURES:
        measure()
REPORT.write_text(json.dumps(report, indent=1), encoding="utf-8")
