"""The transformer against diffusers' Wan, and what CineScene's conditioning must and must not change."""

import diffusers
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from cinescene_core.checks import ShapeError
from cinescene_core.config import WanConfig
from cinescene_core.models.conditioning import start_conditioning
from cinescene_core.models.precision import parameter_dtype
from cinescene_core.models.rotary import rotary_tables
from cinescene_core.models.sequence import Groups, SceneContext, Segment
from cinescene_core.models.wan import CineSceneTransformer

diffusers.logging.set_verbosity_error()

ADDED = ("cam_encoder", "projector", "scene_embed")
TINY = {
    "two heads of 24": WanConfig(
        width=48, num_heads=2, num_layers=2, ffn_width=64, text_width=32, feature_width=12, frequency_width=256
    ),
    "one head of 128": WanConfig(
        width=128, num_heads=1, num_layers=3, ffn_width=96, text_width=64, feature_width=12, frequency_width=256
    ),
    "three heads of 26": WanConfig(
        width=78, num_heads=3, num_layers=1, ffn_width=50, text_width=40, feature_width=12, frequency_width=256
    ),
}
SMALL = TINY["two heads of 24"]


def random_model(config: WanConfig, *, projector: bool = True) -> CineSceneTransformer:
    """Every parameter random and large enough that no term is negligible."""
    generator = torch.Generator().manual_seed(1)
    model = CineSceneTransformer(config, projector=projector).eval()
    for parameter in model.parameters():
        scale = 0.15 if parameter.ndim > 1 else 0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return model


def base_state(model: CineSceneTransformer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if not any(name in k for name in ADDED)}


def diffusers_twin(model: CineSceneTransformer) -> WanTransformer3DModel:
    c = model.config
    twin = WanTransformer3DModel(
        num_attention_heads=c.num_heads,
        attention_head_dim=c.head_width,
        text_dim=c.text_width,
        ffn_dim=c.ffn_width,
        num_layers=c.num_layers,
    )
    twin.load_state_dict(convert_wan_transformer_to_diffusers(base_state(model)))
    return twin.eval()


def inputs(config: WanConfig, *, batch: int = 2, frames: int = 3, height: int = 6, width: int = 10, views: int = 4):
    """Video, timestep, text, camera, and the pieces of a context."""
    generator = torch.Generator().manual_seed(2)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "video": randn(batch, 16, frames, height, width),
        "timestep": torch.tensor([999.0, 17.5])[:batch],
        "text": randn(batch, 7, config.text_width),
        "camera": randn(batch, frames, 3, 4),
        "latents": randn(batch, views, 16, height, width),
        "features": randn(batch, views, config.feature_width, 3, 5),
        "positions": torch.arange(frames, frames + 2 * views),
    }


def run(model: CineSceneTransformer, given: dict, **changes: object) -> torch.Tensor:
    """Forward with scene and camera, with some inputs changed."""
    given = given | changes
    with torch.no_grad():
        context = model.embed_context(given["latents"], given["features"], given["positions"])
        return model(given["video"], given["timestep"], given["text"], camera=given["camera"], context=context)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [{}, {"batch": 1, "frames": 1, "height": 2, "width": 14}])
def test_plain_text_to_video_equals_diffusers(name, size):
    model = random_model(TINY[name])
    start_conditioning(model)
    twin, given = diffusers_twin(model), inputs(TINY[name], **size)
    with torch.no_grad():
        ours = model(given["video"], given["timestep"], given["text"])
        theirs = twin(given["video"], given["timestep"], given["text"]).sample
    # Measured: bit-equal. 1e-5 of the output's size leaves room for another BLAS.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def in_precision(model: CineSceneTransformer, dtype: torch.dtype) -> CineSceneTransformer:
    """The same weights in a model made for another precision."""
    made = CineSceneTransformer(model.config, dtype=dtype).eval()
    made.load_state_dict(model.state_dict())
    return made


@pytest.mark.parametrize("name", TINY)
def test_plain_text_to_video_equals_diffusers_in_bfloat16(name, tmp_path):
    model = random_model(TINY[name])
    start_conditioning(model)
    diffusers_twin(model).save_pretrained(tmp_path)
    twin = WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).eval()
    given = inputs(TINY[name])
    video, text = given["video"].bfloat16(), given["text"].bfloat16()
    with torch.no_grad():
        ours = in_precision(model, torch.bfloat16)(video, given["timestep"], text).float()
        theirs = twin(video, given["timestep"], text).sample.float()
    # The same roundings in the same places, and the same layers kept in float32. Measured: bit-equal.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_half_precision_keeps_the_camera_exact():
    """A turn of a hundredth of a degree and a centimetre at eight metres would both vanish in bfloat16."""
    model = in_precision(random_model(SMALL), torch.bfloat16)
    poses = torch.eye(4)[:3].repeat(1, 2, 1, 1)
    poses[0, :, 0, 3] = torch.tensor([8.0, 8.01])
    rounded = poses.bfloat16()
    assert torch.equal(rounded[0, 0], rounded[0, 1])
    block = model.blocks[0]
    with torch.no_grad():
        first, second = block.cam_encoder(poses.flatten(2))[0]
    torch.testing.assert_close(second - first, 0.01 * block.cam_encoder.weight[:, 3], rtol=0, atol=1e-5)


def test_the_layers_kept_in_float32():
    model = CineSceneTransformer(SMALL, dtype=torch.bfloat16)
    kept = {name for name, value in model.named_parameters() if value.dtype == torch.float32}
    assert kept == {name for name in model.state_dict() if parameter_dtype(name, torch.bfloat16) == torch.float32}
    assert {name.split(".", 2)[2] for name in kept if name.startswith("blocks.0.")} == {
        "modulation",
        "norm3.weight",
        "norm3.bias",
        "cam_encoder.weight",
        "cam_encoder.bias",
    }
    assert "head.modulation" in kept
    assert "blocks.0.self_attn.norm_q.weight" not in kept


def test_new_layers_at_their_start_leave_the_base_model_exactly():
    model, given = random_model(SMALL), inputs(SMALL)
    start_conditioning(model)
    bare = random_model(SMALL, projector=False)
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if "projector" not in k})
    with torch.no_grad():
        plain = bare(given["video"], given["timestep"], given["text"])
        with_camera = model(given["video"], given["timestep"], given["text"], camera=given["camera"])
    assert torch.equal(with_camera, plain)


def test_camera_moves_only_its_own_latent_frame_in_the_first_block():
    model, given = random_model(SMALL), inputs(SMALL)
    block, tokens = model.blocks[0], torch.zeros(2, 3 * 15 + 40, SMALL.width)
    camera = given["camera"].flatten(2)
    changed = camera.clone()
    changed[:, 1] += 1.0
    with torch.no_grad():
        difference = block.add_camera(tokens, 45, changed) - block.add_camera(tokens, 45, camera)
        expected = block.cam_encoder.weight.sum(-1)  # a step of one in each of the twelve numbers
    moved = difference[0].abs().sum(-1) > 0
    assert moved.nonzero().flatten().tolist() == list(range(15, 30))
    torch.testing.assert_close(difference[1, 20], expected, rtol=1e-5, atol=1e-6)


def test_context_tokens_receive_no_camera():
    model, given = random_model(SMALL), inputs(SMALL)
    tokens = torch.randn(2, 45 + 40, SMALL.width)
    with torch.no_grad():
        out = model.blocks[0].add_camera(tokens, 45, given["camera"].flatten(2))
    assert torch.equal(out[:, 45:], tokens[:, 45:])
    assert not torch.equal(out[:, :45], tokens[:, :45])


@pytest.mark.parametrize("change", ["camera", "latents", "features", "text"])
def test_every_condition_reaches_the_output(change):
    model, given = random_model(SMALL), inputs(SMALL)
    before = run(model, given)
    after = run(model, given, **{change: given[change] + 0.5})
    assert (after - before).abs().max() > 1e-3 * before.abs().max()


def test_order_matters_only_through_the_positions():
    model, given = random_model(SMALL), inputs(SMALL)
    order = [0, 2, 3, 1]
    shuffled = {"latents": given["latents"][:, order], "features": given["features"][:, order]}
    views = given["positions"].view(2, 4)
    plain = run(model, given)
    fixed_positions = run(model, given, **shuffled)
    moved_positions = run(model, given, **shuffled, positions=views[:, order].flatten())
    assert (fixed_positions - plain).abs().max() > 1e-3 * plain.abs().max()
    # Attention sums the same terms in another order: float32 rounding remains.
    torch.testing.assert_close(moved_positions, plain, rtol=0, atol=2e-6 * float(plain.abs().max()))


def test_images_and_features_must_be_shuffled_together():
    model, given = random_model(SMALL), inputs(SMALL)
    order = [0, 2, 3, 1]
    together = run(model, given, latents=given["latents"][:, order], features=given["features"][:, order])
    apart = run(model, given, latents=given["latents"][:, order])
    assert (together - apart).abs().max() > 1e-3 * together.abs().max()


def test_context_is_clean_by_default_and_may_share_the_timestep():
    model, given = random_model(SMALL), inputs(SMALL)
    context = model.embed_context(given["latents"], given["features"], given["positions"])

    def forward(timestep: torch.Tensor, context_timestep: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            return model(given["video"], timestep, given["text"], context=context, context_timestep=context_timestep)

    clean = forward(given["timestep"], None)
    assert torch.equal(clean, forward(given["timestep"], torch.zeros(2)))
    assert not torch.equal(clean, forward(given["timestep"], given["timestep"]))


def in_two_passes(model: CineSceneTransformer, given: dict) -> torch.Tensor:
    """Context mode `cached` written out: the context alone first, keeping each layer's keys and values."""
    context = model.embed_context(given["latents"], given["features"], given["positions"])
    size = given["video"].shape[3] // 2, given["video"].shape[4] // 2, model.config.head_width, torch.device("cpu")
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    calls = iter(range(10**6))

    def keep(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        kept.append((k, v))
        return scaled_dot_product_attention(q, k, v)

    def append(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        call = next(calls)
        if call % 2 == 0:  # self-attention; the odd calls read the prompt
            k, v = (torch.cat([own, saved], dim=2) for own, saved in zip((k, v), kept[call // 2], strict=True))
        return scaled_dot_product_attention(q, k, v)

    clean = model.project_time(model.embed_time(torch.zeros(2), torch.float32))
    alone = [Segment(0, clean), Segment(context.tokens.shape[1], clean, groups=Groups(1, 1))]
    tokens, rotary = context.tokens, rotary_tables(context.positions, *size)
    nothing = torch.zeros(2, 0, model.config.width)
    for block in model.blocks:
        tokens = block(tokens, alone, nothing, rotary, None, lambda q, k, v: keep(q, k, v) if q.shape[2] else q)
    return model(given["video"], given["timestep"], given["text"], camera=given["camera"], attention=append)


def test_cached_context_in_one_packed_call_equals_two_passes():
    model, given = random_model(SMALL), inputs(SMALL)
    for timestep in ([999.0, 17.5], [0.0, 600.0]):
        given["timestep"] = torch.tensor(timestep)
        with torch.no_grad():
            context = model.embed_context(given["latents"], given["features"], given["positions"])
            arguments = (given["video"], given["timestep"], given["text"])
            modes = [
                model(*arguments, camera=given["camera"], context=context, context_attention=mode)
                for mode in ("cached", "joint")
            ]
            passes = in_two_passes(model, given)
        scale = float(passes.abs().max())
        # The same sums over batches of other sizes: float32 rounding remains.
        torch.testing.assert_close(modes[0], passes, rtol=0, atol=2e-6 * scale)
        assert (modes[0] - modes[1]).abs().max() > 1e-3 * scale


def test_cached_context_is_the_same_at_every_step_under_every_prompt():
    model, given = random_model(SMALL), inputs(SMALL)
    context = model.embed_context(given["latents"], given["features"], given["positions"])
    seen: list[list[torch.Tensor]] = []
    for change in ({}, {"timestep": torch.tensor([3.0, 500.0])}, {"text": given["text"] + 1}, {"camera": None}):
        kept: list[torch.Tensor] = []

        def keep(q, k, v, kept=kept):
            kept.append(k[:, :, -context.tokens.shape[1] :])
            return scaled_dot_product_attention(q, k, v)

        now = given | change
        with torch.no_grad():
            model(
                now["video"], now["timestep"], now["text"],
                camera=now["camera"], context=context, context_attention="cached", attention=keep,
            )  # fmt: skip
        seen.append([keys for call, keys in enumerate(kept) if call % 3 != 2])  # every third call reads the prompt
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_segments_equal_a_table_per_token():
    """Modulating by segment is modulating by token: against diffusers' per-token timesteps."""
    model = random_model(SMALL)
    start_conditioning(model)
    twin, given = diffusers_twin(model), inputs(SMALL, frames=5)
    video, text = given["video"], given["text"]
    tokens = 5 * 3 * 5
    timesteps = torch.zeros(2, tokens)
    timesteps[:, : 3 * 15] = given["timestep"][:, None]
    with torch.no_grad():
        theirs = twin(video, timesteps, text).sample[:, :, :3]
        context = SceneContext(model.embed_latents(video[:, :, 3:]), torch.arange(3, 5), 2, (3, 5))
        ours = model(video[:, :, :3], given["timestep"], text, context=context)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_a_batch_is_its_members():
    model, given = random_model(SMALL), inputs(SMALL)
    whole = run(model, given)
    for i in range(2):
        alone = {k: v if k == "positions" else v[i : i + 1] for k, v in given.items()}
        torch.testing.assert_close(whole[i : i + 1], run(model, alone), rtol=0, atol=2e-6 * float(whole.abs().max()))


def test_one_context_serves_a_batch():
    model, given = random_model(SMALL), inputs(SMALL)
    first = {name: given[name][:1] for name in ("latents", "features")}
    repeated = {name: value.expand(2, *value.shape[1:]) for name, value in first.items()}
    once, twice = run(model, given, **first), run(model, given, **repeated)
    # The embedding's convolutions round differently for another batch size.
    torch.testing.assert_close(once, twice, rtol=0, atol=2e-6 * float(once.abs().max()))


def test_gradient_checkpointing_gives_equal_gradients():
    given = inputs(SMALL)

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = random_model(SMALL).train()
        model.gradient_checkpointing = checkpointing
        context = model.embed_context(given["latents"], given["features"], given["positions"])
        out = model(given["video"], given["timestep"], given["text"], camera=given["camera"], context=context)
        out.square().mean().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    plain, saved = gradients(False), gradients(True)
    assert all(grad is not None and grad.abs().max() > 0 for grad in plain.values())
    for name, grad in plain.items():
        assert torch.equal(grad, saved[name]), name


def test_the_attention_given_is_the_attention_used():
    model, given = random_model(SMALL), inputs(SMALL)
    calls = []

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        calls.append((tuple(q.shape), tuple(k.shape)))
        return scaled_dot_product_attention(q, k, v)

    with torch.no_grad():
        context = model.embed_context(given["latents"], given["features"], given["positions"])
        model(given["video"], given["timestep"], given["text"], context=context, attention=counted)
    tokens = 15 * (3 + 8)
    assert calls == [((2, 2, tokens, 24), (2, 2, tokens, 24)), ((2, 2, tokens, 24), (2, 2, 7, 24))] * 2


def count_flops(context: bool) -> float:
    """TFLOP of one forward of the full 1.3B model, counted on the meta device."""
    config = WanConfig()
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = CineSceneTransformer(config)
        scene = None
        if context:
            positions = torch.arange(20, 60, device="cpu")
            scene = model.embed_context(torch.empty(1, 20, 16, 48, 84), torch.empty(1, 20, 2048, 21, 37), positions)
        model(
            torch.empty(1, 16, 20, 48, 84),
            torch.empty(1),
            torch.empty(1, 512, 4096),
            camera=torch.empty(1, 20, 3, 4),
            context=scene,
        )
    return counter.get_total_flops() / 1e12


def test_flops_of_a_full_size_step():
    # 60,480 tokens: analytic sum of attention, feed-forward, projections and cross-attention.
    assert count_flops(context=True) == pytest.approx(839.9, rel=0.01)
    # 20,160 tokens, plus 2.9 for the projector that plain Wan does not have.
    assert count_flops(context=False) == pytest.approx(127.4 + 2.9, rel=0.01)


def test_parameter_count_of_the_full_size():
    with torch.device("meta"):
        model = CineSceneTransformer(WanConfig())
    added = sum(p.numel() for k, p in model.named_parameters() if "cam_encoder" in k or "projector" in k)
    base = sum(p.numel() for k, p in model.named_parameters() if not any(name in k for name in ADDED))
    assert base == 1_418_996_800
    assert added == 30 * (12 * 1536 + 1536 + 1536 * 1536 + 1536)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"video": torch.zeros(2, 16, 3, 5, 10)}, "even sides; got 5 x 10.*multiples of 16"),
        ({"video": torch.zeros(2, 8, 3, 6, 10)}, r"video must have shape \[b, 16, t, h, w\]"),
        ({"camera": torch.zeros(2, 4, 3, 4)}, r"camera must have shape \[2, 3, 3, 4\]; got \[2, 4, 3, 4\]"),
        ({"features": torch.zeros(2, 4, 9, 3, 5)}, r"features must have shape \[2, 4, 12, rows, columns\]"),
        ({"features": torch.zeros(2, 3, 12, 3, 5)}, r"features must have shape \[2, 4, 12, rows, columns\]"),
        ({"positions": torch.arange(4)}, r"positions must have shape \[8\]"),
    ],
)
def test_wrong_sizes_are_named(change, sentence):
    with pytest.raises(ShapeError, match=sentence):
        run(random_model(SMALL), inputs(SMALL), **change)
