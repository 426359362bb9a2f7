"""The transformer as ComfyUI's own MODEL: stock loaders, samplers, LoRA, previews and offloading work with it.

    CineSceneT2V         an entry in the host's list of models: knows our files by their tensors
      CineSceneBaseModel   a `comfy.model_base.WAN21`: turns CONDITIONING into the network's inputs
        CineSceneWan         the core transformer with the host's call signature

Conditioning travels as `conditions` says.
"""

import json
import math
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.supported_models
import comfy.utils
import latent_preview
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor
from tqdm.auto import trange

from ..cinescene_core.checks import CheckpointError, ShapeError
from ..cinescene_core.config import SPATIAL_STRIDE, CineSceneConfig, SamplingConfig, WanConfig
from ..cinescene_core.context import temporal_positions
from ..cinescene_core.models.precision import parameter_dtype
from ..cinescene_core.models.sequence import SceneContext
from ..cinescene_core.models.wan import CineSceneTransformer
from ..cinescene_core.sampler import SOLVERS, TIMESTEPS, flow_sigmas
from ..cinescene_core.weights import Header, TensorInfo, wan_config_from
from ..cinescene_core.weights.metadata import TRANSFORMER_KEY
from ..cinescene_core.weights.quantised import dequantise
from .conditions import ReadScene, SceneCondition, SharedScene, ShotConditions, as_bits, from_bits

SCENE = "cinescene_scene"
"""Name of the scene among the network's inputs."""


class HostAttention(NamedTuple):
    """The host's attention, with whatever the user has put in its place."""

    options: dict[str, Any]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v of [b, heads, n, c] to [b, heads, n, c]."""
        return optimized_attention(
            q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True, transformer_options=self.options
        )


class CineSceneWan(CineSceneTransformer):
    """The core transformer as the host calls it; `dtype` is how its weights are stored."""

    def __init__(
        self, config: WanConfig, record: CineSceneConfig, *, projector: bool, dtype: torch.dtype, **making: Any
    ) -> None:
        super().__init__(config, projector=projector, dtype=dtype, **making)
        self.record = record
        self.dtype = dtype

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        transformer_options: dict[str, Any] | None = None,
        **shot: Any,
    ) -> Tensor:
        """Predict the velocity of [b, 16, t, h, w] latents; `shot` holds `cinescene_camera` and `cinescene_scene`."""
        options = {} if transformer_options is None else transformer_options
        if shot.get("cinescene_camera") is not None:
            shot["cinescene_camera"] = from_bits(shot["cinescene_camera"])
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        # A copy: EasyCache adds to it in place, and in float32 the host goes on with the same tensor.
        return WrapperExecutor.new_class_executor(self.predict, self, wrappers).execute(
            x.clone(), timestep, context, options, **shot
        )

    def predict(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        transformer_options: dict[str, Any],
        *,
        cinescene_camera: Tensor | None = None,
        cinescene_scene: SharedScene | None = None,
        **_others: Any,
    ) -> Tensor:
        """`forward` inside the wrappers. Without a scene and a camera this is Wan2.1."""
        attention = HostAttention(transformer_options)
        scene = None if cinescene_scene is None else self.scene_of(cinescene_scene, x, attention)
        transformer_options["total_blocks"] = len(self.blocks)
        transformer_options["block_type"] = "double"
        transformer_options["grid_sizes"] = (x.shape[2], x.shape[3] // 2, x.shape[4] // 2)
        return super().forward(
            x,
            timestep,
            context,
            camera=cinescene_camera,
            context=scene,
            context_timestep=timestep if self.record.context_timestep == "shared" else None,
            context_attention=self.record.context_attention,
            attention=attention,
        )

    def scene_of(self, shared: SharedScene, video: Tensor, attention: HostAttention) -> SceneContext | ReadScene:
        """The scene's tokens; or, where they attend only to themselves, what the whole run reads of them."""
        check_sizes(video, shared.latents)
        frames, views = video.shape[2], shared.latents.shape[1]

        def embed() -> SceneContext:
            positions = torch.cat(temporal_positions(self.record.positions, frames, views))
            return self.embed_context(shared.latents.to(video), shared.features.to(video), positions)

        mode = self.record.context_attention
        if mode == "joint" or shared.weights_vary():
            return embed()
        return shared.read_once(
            frames, video.device, lambda: ReadScene(tuple(self.read_context(embed(), mode, attention)))
        )

    def run_block(self, index: int, *inputs: Any) -> Tensor:
        """Run one block, or what a patch of the user puts in its place."""
        tokens, segments, text, rotary, camera, attention, memory = inputs
        options = attention.options
        options["block_index"] = index
        replace = options.get("patches_replace", {}).get("dit", {}).get(("double_block", index))
        if replace is None:
            return super().run_block(index, *inputs)

        def original_block(given: dict[str, Any]) -> dict[str, Tensor]:
            given_attention = HostAttention(given["transformer_options"])
            block = self.blocks[index]
            tokens = block(given["img"], given["vec"], given["txt"], given["pe"], camera, given_attention, memory)
            return {"img": tokens}

        arguments = {"img": tokens, "txt": text, "vec": segments, "pe": rotary, "transformer_options": options}
        return replace(arguments, {"original_block": original_block})["img"]


def check_sizes(video: Tensor, view_latents: Tensor) -> None:
    """Refuse a latent whose picture size is not the scene's.

    Raises:
        ShapeError: they differ; the message names both in pixels.
    """
    if video.shape[-2:] != view_latents.shape[-2:]:
        (height, width), (view_height, view_width) = (
            (SPATIAL_STRIDE * side for side in latents.shape[-2:]) for latents in (video, view_latents)
        )
        raise ShapeError(
            f"The latent is {width} x {height} pixels, but the scene's views are {view_width} x {view_height}. "
            "Sample the latent that CineScene Conditioning gives."
        )


class CineSceneBaseModel(comfy.model_base.WAN21):
    """Wan2.1 in the host, with a scene and a camera among its conditions."""

    def __init__(
        self,
        model_config: Any,
        config: WanConfig,
        record: CineSceneConfig,
        *,
        projector: bool,
        device: torch.device | None = None,
    ) -> None:
        def network(*, dtype: torch.dtype, device: Any, operations: Any, **_detected: Any) -> CineSceneWan:
            return CineSceneWan(config, record, projector=projector, dtype=dtype, device=device, operations=operations)

        # WAN21's own constructor would make the host's network.
        comfy.model_base.BaseModel.__init__(
            self, model_config, comfy.model_base.ModelType.FLOW, device=device, unet_model=network
        )
        self.image_to_video = False
        self.cinescene = record
        self.projector = projector
        self.scenes: weakref.WeakSet[SharedScene] = weakref.WeakSet()

    def concat_cond(self, **kwargs: Any) -> None:
        """Text-to-video: nothing is joined to the channels."""

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """The network's inputs for one entry of a CONDITIONING."""
        camera, latents, features = (kwargs.get(name) for name in ShotConditions._fields)
        found = super().extra_conds(**kwargs)
        if camera is not None:
            found["cinescene_camera"] = comfy.conds.CONDRegular(as_bits(camera))
        if latents is not None and features is not None:
            found[SCENE] = SceneCondition(self.share_scene(latents, features, kwargs["device"]))
        return found

    def share_scene(self, latents: Tensor, features: Tensor, device: torch.device) -> SharedScene:
        """The place of the run that begins: one for all conditions that hold these values.

        It is moved and cast here, once: the host would do it again in every step.
        """
        latents, features = (value.to(device, self.get_dtype_inference()) for value in (latents, features))
        for shared in self.scenes:
            if shared.is_of(latents, features):
                return shared
        shared = SharedScene(latents, features, self.weights_vary)
        self.scenes.add(shared)
        return shared

    def weights_vary(self) -> bool:
        """Whether hooks of the host change the weights from step to step."""
        return self.current_patcher is not None and self.current_patcher.current_hooks is not None

    def extra_conds_shapes(self, **kwargs: Any) -> dict[str, list[int]]:
        """What counts for memory before anything is loaded."""
        latents = kwargs.get("cinescene_latents")
        return {} if latents is None else {SCENE: list(latents.shape)}

    def memory_required(self, input_shape: list[int], cond_shapes: dict[str, list[list[int]]] | None = None) -> float:
        """Bytes of a step beside the weights, by the host's own rule for latent frames.

        A view is one frame of I_t and one of F_t. In mode `joint` they stand behind the video in every step; else
        they are read before the first, and what was read stays: two tensors as wide as the model for every block.
        """
        scenes = (cond_shapes or {}).get(SCENE, [])
        frames = [[batch, channels, 2 * views, *size] for batch, views, channels, *size in scenes]
        video = super().memory_required(input_shape)
        if self.cinescene.context_attention == "joint":
            return video + sum(super(CineSceneBaseModel, self).memory_required(shape) for shape in frames)
        config = self.diffusion_model.config
        width = 2 * config.num_layers * config.width * comfy.model_management.dtype_size(self.get_dtype_inference())
        reading = [super(CineSceneBaseModel, self).memory_required(shape) for shape in frames]
        kept = [width * math.prod(shape[2:]) // 4 for shape in frames]
        return max([video, *reading]) + max(kept, default=0)

    def resize_cond_for_context_window(
        self, cond_key: str, cond_value: Any, window: Any, x_in: Tensor, device: Any, retain_index_list: Any = ()
    ) -> Any:
        """Cut the camera to a window of frames; every window sees the whole scene."""
        if cond_key == "cinescene_camera" and isinstance(cond_value, comfy.conds.CONDRegular):
            return comfy.conds.CONDRegular(window.get_tensor(cond_value.cond, device, dim=1))
        return cond_value if cond_key in (SCENE, "cinescene_camera") else None

    def load_model_weights(self, sd: dict[str, Tensor], unet_prefix: str = "", **options: Any) -> Any:
        """Load the weights; the host makes layers without values, so none may be missing.

        Raises:
            CheckpointError: some are.
        """
        expected = CineSceneTransformer(self.diffusion_model.config, projector=self.projector, device="meta")
        missing = [name for name in expected.state_dict() if unet_prefix + name not in sd]
        if missing:
            raise CheckpointError(
                f"This CineScene checkpoint lacks {len(missing)} tensors, the first is {missing[0]}. "
                "Download or export it again."
            )
        own = [name for name in sd if name.startswith(unet_prefix)]
        # Never in fp8: the host rounds what goes into an fp8 layer, and here that is the camera.
        precise = [name for name in own if parameter_dtype(name, torch.bfloat16) == torch.float32]
        sd |= dequantise({name: sd.pop(name) for name in precise}, torch.float32)
        return super().load_model_weights(sd, unet_prefix, **options)


class CineSceneT2V(comfy.supported_models.WAN21_T2V):
    """How the host knows a CineScene checkpoint from other Wan files: by its own layers."""

    own_layers = ("blocks.0.cam_encoder.weight", "scene_embed.conv.weight")

    @classmethod
    def matches(
        cls, unet_config: dict[str, Any], state_dict: dict[str, Tensor] | None = None, unet_key_prefix: str = ""
    ) -> bool:
        """Whether this is a Wan2.1 text-to-video file with CineScene's layers; ReCamMaster's lacks one of them."""
        is_wan = all(unet_config.get(name) == value for name, value in cls.unet_config.items())
        return is_wan and all(unet_key_prefix + name in (state_dict or {}) for name in cls.own_layers)

    def get_model(
        self, state_dict: dict[str, Tensor], prefix: str = "", device: torch.device | None = None
    ) -> CineSceneBaseModel:
        """Make the model whose sizes the tensors show and whose record the host read with them.

        Raises:
            CheckpointError: there is no record, or it and the sizes make no sense.
        """
        if TRANSFORMER_KEY not in self.unet_config:
            raise CheckpointError(
                "This checkpoint has CineScene's layers but not the record of how it was trained; "
                "some tool dropped its metadata on saving. Use the original file."
            )
        text = json.dumps(self.unet_config[TRANSFORMER_KEY])
        record = CineSceneConfig.from_json(text)
        config = wan_config_from(header_of(state_dict, prefix, text))
        projector = f"{prefix}blocks.0.projector.weight" in state_dict
        return CineSceneBaseModel(self, config, record, projector=projector, device=device)


def header_of(state_dict: Mapping[str, Tensor], prefix: str, record: str) -> Header:
    """A state dict as the header of a file."""
    infos = {
        name.removeprefix(prefix): TensorInfo("F32", tuple(value.shape))
        for name, value in state_dict.items()
        if name.startswith(prefix)
    }
    return Header(Path("This checkpoint"), {TRANSFORMER_KEY: record}, infos)


def register_model() -> None:
    """Enter CineScene in the host's list of models, in front of plain Wan; once, however often it is called."""
    models = comfy.supported_models.models
    models[:] = [CineSceneT2V, *(model for model in models if model.__name__ != CineSceneT2V.__name__)]


def cinescene_config(model: Any) -> CineSceneConfig:
    """What the checkpoint behind a MODEL was trained with.

    Raises:
        CheckpointError: it is another model.
    """
    found = getattr(model.model, "cinescene", None)
    if found is None:
        raise CheckpointError(f"The model is {type(model.model).__name__}, not CineScene. Use Load CineScene Model.")
    return found


def with_shift(model: Any, shift: float) -> Any:
    """A copy of a MODEL whose flow spends its steps as `shift` says; larger is more on noise."""

    class ShiftedFlow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    sampling = ShiftedFlow(model.model.model_config)
    sampling.set_parameters(shift=shift, multiplier=TIMESTEPS)
    shifted = model.clone()
    shifted.add_object_patch("model_sampling", sampling)
    return shifted


def own_solver(name: str) -> comfy.samplers.KSAMPLER:
    """A solver of the core as a sampler of the host: guiders, previews, masks and the stop button work with it."""

    def follow(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], callback: Any = None, disable: Any = None
    ) -> Tensor:
        advance = SOLVERS[name](sigmas.tolist())
        for step in trange(len(sigmas) - 1, disable=disable):
            sigma = sigmas[step]
            estimate = model(x, sigma.expand(len(x)), **extra_args)
            if callback is not None:
                callback({"x": x, "i": step, "sigma": sigma, "sigma_hat": sigma, "denoised": estimate})
            x = advance((x - estimate) / sigma, x, step)
        return x

    return comfy.samplers.KSAMPLER(follow)


class IntervalGuider(comfy.samplers.CFGGuider):
    """Guidance as `SamplingConfig` wants it: outside its interval the host leaves the negative branch out."""

    config: SamplingConfig

    def predict_noise(self, x: Tensor, timestep: Tensor, *more: Any, **named: Any) -> Tensor:
        self.set_cfg(self.config.guidance_at(float(timestep[0])))
        return super().predict_noise(x, timestep, *more, **named)


def sample(model: Any, positive: Any, negative: Any, latent: dict[str, Any], config: SamplingConfig) -> dict[str, Any]:
    """Denoise a LATENT by the host's own sampling, with the core's schedule and solver."""
    model = with_shift(model, config.shift)
    start = latent["samples"]
    guider = IntervalGuider(model)
    guider.config = config
    guider.set_conds(positive, negative)
    samples = guider.sample(
        comfy.sample.prepare_noise(start, config.seed, latent.get("batch_index")),
        start,
        own_solver(config.solver),
        flow_sigmas(config.steps, config.shift).float(),
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, config.steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=config.seed,
    )
    return {**latent, "samples": samples.to(comfy.model_management.intermediate_device())}
