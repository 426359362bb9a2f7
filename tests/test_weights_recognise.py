import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel
from weight_files import TWO_HEADS_RECORD, empties, state, write

from cinescene_core.checks import CheckpointError
from cinescene_core.weights import FileKind, describe, identify, load_tensors, read_header, require
from cinescene_core.weights.transformer import TRANSFORMER_KINDS

PURPOSE = "CineScene's transformer"
NEEDS = "needs a CineScene checkpoint, a ReCamMaster model or a Wan2.1 text-to-video model."
META = {"cinescene": TWO_HEADS_RECORD.to_json()}


def wan(inputs=16, **extra):
    """A base Wan state dict with another number of input channels and further tensors."""
    tensors = state(kind="wan")
    tensors["patch_embedding.weight"] = torch.zeros(128, inputs, 1, 2, 2)
    return tensors | empties([name.replace("__", ".") for name in extra])


def wan_5b():
    return empties(
        {
            "patch_embedding.weight": (3072, 48, 1, 2, 2),
            "head.modulation": (1, 2, 3072),
            "blocks.0.self_attn.q.weight": (1, 1),
        }
    )


def diffusers_names(tensors):
    return convert_wan_transformer_to_diffusers(dict(tensors))


def tiny_vae(channels):
    vae = AutoencoderKLWan(base_dim=4, z_dim=channels, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False])
    return vae.state_dict()


def text_encoder(config, model):
    sizes = {"d_model": 8, "num_layers": 2, "num_heads": 2, "d_kv": 4, "d_ff": 8, "vocab_size": 16}
    return {n: v for n, v in model(config(**sizes)).state_dict().items() if n != "encoder.embed_tokens.weight"}


ORIGINAL_VAE = {"decoder.middle.0.residual.0.gamma": (4, 1, 1, 1), "conv2.weight": (16, 16, 1, 1, 1)}
VGGT = {"aggregator.camera_token": (1, 2, 1, 8), "aggregator.frame_blocks.0.norm1.weight": (8,)}
KOHYA = "lora_unet_blocks_0_self_attn_q.lora_{}.weight"

CASES = {
    "base": (wan, {}, FileKind.WAN_T2V, "a Wan2.1 text-to-video model"),
    "diffusers": (
        lambda: diffusers_names(state(kind="wan")),
        {},
        FileKind.WAN_DIFFUSERS,
        "a Wan2.1 text-to-video model with diffusers' names",
    ),
    "recammaster": (lambda: state(kind="recammaster"), {}, FileKind.RECAMMASTER, "a ReCamMaster model"),
    "cinescene": (state, META, FileKind.CINESCENE, "a CineScene checkpoint"),
    "metadata without layers": (wan, META, FileKind.CINESCENE, "a CineScene checkpoint"),
    "no metadata": (state, {}, FileKind.CINESCENE, "a CineScene checkpoint"),
    "i2v": (
        lambda: wan(36, img_emb__proj__1__weight=1),
        {},
        FileKind.WAN_OTHER,
        "a Wan2.1 image-to-video model (36 input channels)",
    ),
    "i2v of diffusers": (
        lambda: diffusers_names(wan(36, img_emb__proj__1__weight=1)),
        {},
        FileKind.WAN_OTHER,
        "a Wan2.1 image-to-video model (36 input channels)",
    ),
    "vace": (lambda: wan(vace_patch_embedding__weight=1), {}, FileKind.WAN_OTHER, "a Wan VACE model"),
    "vace alone": (lambda: empties(["vace_blocks.0.after_proj.bias"]), {}, FileKind.WAN_OTHER, "a Wan VACE model"),
    "fun camera": (
        lambda: wan(32, control_adapter__conv__weight=1),
        {},
        FileKind.WAN_OTHER,
        "a Wan Fun-Camera model",
    ),
    "fun control": (lambda: wan(48), {}, FileKind.WAN_OTHER, "a Wan model with 48 input channels"),
    "wan2.2 5b": (wan_5b, {}, FileKind.WAN_OTHER, "a Wan2.2 5B model (48 latent channels)"),
    "animate": (
        lambda: wan(36, face_adapter__fuser_blocks__0__k_norm__weight=1),
        {},
        FileKind.WAN_OTHER,
        "a Wan Animate model",
    ),
    "lora, peft": (
        lambda: empties([f"diffusion_model.blocks.0.self_attn.q.lora_{x}.weight" for x in "AB"]),
        {},
        FileKind.LORA,
        "a LoRA",
    ),
    "lora, kohya": (lambda: empties([KOHYA.format("down"), KOHYA.format("up")]), {}, FileKind.LORA, "a LoRA"),
    "lora of a recammaster-like model": (
        lambda: empties(["blocks.0.cam_encoder.lora_up.weight", "patch_embedding.diff", "blocks.0.self_attn.q.diff_b"]),
        {},
        FileKind.LORA,
        "a LoRA",
    ),
    "lokr": (lambda: empties(["lycoris_blocks_0_ffn_0.lokr_w1"]), {}, FileKind.LORA, "a LoRA"),
    "vae, original": (lambda: empties(ORIGINAL_VAE), {}, FileKind.WAN_VAE, "a Wan2.1 VAE"),
    "vae, diffusers": (lambda: tiny_vae(16), {}, FileKind.WAN_VAE, "a Wan2.1 VAE"),
    "vae of wan2.2": (
        lambda: tiny_vae(48),
        {},
        FileKind.OTHER_VAE,
        "a video VAE with 48 latent channels, such as Wan2.2's",
    ),
    "vae of stable diffusion": (
        lambda: empties(["decoder.mid.block_1.norm1.weight"]),
        {},
        FileKind.OTHER_VAE,
        "a VAE of another family",
    ),
    "vggt": (lambda: empties(VGGT), {}, FileKind.VGGT, "a VGGT file"),
    "vggt, wrapped": (lambda: empties({f"module.{n}": s for n, s in VGGT.items()}), {}, FileKind.VGGT, "a VGGT file"),
    "umt5": (
        lambda: text_encoder(UMT5Config, UMT5EncoderModel),
        {},
        FileKind.TEXT_ENCODER,
        "a UMT5 text encoder",
    ),
    "umt5, Wan's own names": (
        lambda: empties(["token_embedding.weight", "blocks.0.pos_embedding.embedding.weight"]),
        {},
        FileKind.TEXT_ENCODER,
        "a UMT5 text encoder",
    ),
    "t5": (lambda: text_encoder(T5Config, T5EncoderModel), {}, FileKind.UNKNOWN, "a T5 text encoder"),
    "clip": (lambda: empties(["vision_model.post_layernorm.weight"]), {}, FileKind.CLIP, "a CLIP model"),
    "scene": (lambda: empties(["latents"]), {"cinescene_scene": "{}"}, FileKind.SCENE, "a CineScene scene"),
    "bundle": (lambda: empties(["transformer.a", "vae.b"]), META, FileKind.BUNDLE, "a CineScene bundle"),
    "flux": (
        lambda: empties(["double_blocks.0.img_attn.qkv.weight"]),
        {},
        FileKind.UNKNOWN,
        "a FLUX or HunyuanVideo model",
    ),
    "stable diffusion": (
        lambda: empties(["model.diffusion_model.input_blocks.0.0.weight", "cond_stage.x"]),
        {},
        FileKind.UNKNOWN,
        "a Stable Diffusion model",
    ),
    "anything": (
        lambda: empties(["foo.bar", "foo.baz"]),
        {},
        FileKind.UNKNOWN,
        "a file CineScene does not know (2 tensors, the first is 'foo.bar')",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_is_recognised_and_only_the_right_ones_pass_as_transformer(tmp_path, case):
    make, metadata, kind, words = CASES[case]
    header = read_header(write(tmp_path / "file.safetensors", make(), **metadata))
    assert (identify(header), describe(header)) == (kind, words)
    if kind in TRANSFORMER_KINDS:
        assert require(header, TRANSFORMER_KINDS, PURPOSE) is kind
        return
    with pytest.raises(CheckpointError) as caught:
        require(header, TRANSFORMER_KINDS, PURPOSE)
    assert str(caught.value).startswith(f"file.safetensors is {words}; {PURPOSE} {NEEDS}")


@pytest.mark.parametrize(
    ("case", "advice"),
    [
        ("lora, peft", "Load it with a LoRA loader, on top of the model."),
        ("vae, original", "Load it as the VAE."),
        ("vggt", "Load it with the VGGT loader."),
        ("umt5", "Load it as the text encoder."),
        ("scene", "Load it as a scene."),
        ("bundle", "Load it with the loader of the nano checkpoint, or by cinescene generate --model."),
    ],
)
def test_the_refusal_says_where_the_file_belongs(tmp_path, case, advice):
    make, metadata, _, _ = CASES[case]
    header = read_header(write(tmp_path / "file.safetensors", make(), **metadata))
    with pytest.raises(CheckpointError) as caught:
        require(header, TRANSFORMER_KINDS, PURPOSE)
    assert str(caught.value).endswith(f"{NEEDS} {advice}")


def test_one_need_is_said_plainly(tmp_path):
    header = read_header(write(tmp_path / "wan.safetensors", state(kind="wan")))
    with pytest.raises(CheckpointError) as caught:
        require(header, [FileKind.VGGT], "the VGGT loader")
    assert str(caught.value) == (
        "wan.safetensors is a Wan2.1 text-to-video model; the VGGT loader needs a VGGT file. "
        "Load it with the model loader."
    )


def test_gguf_is_recognised_by_its_first_bytes(tmp_path):
    path = tmp_path / "wan.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + b"\1" * 64)
    assert identify(read_header(path)) is FileKind.GGUF
    with pytest.raises(
        CheckpointError, match=r"wan.gguf is a GGUF file; .* Use the .safetensors file of the same model"
    ):
        require(read_header(path), TRANSFORMER_KINDS, PURPOSE)
    with pytest.raises(CheckpointError, match=r"wan.gguf is a GGUF file. Use the .safetensors file of the same model"):
        load_tensors(path)


def test_one_shard_of_several_is_refused(tmp_path):
    path = write(tmp_path / "diffusion_pytorch_model-00001-of-00006.safetensors", state(kind="wan"))
    with pytest.raises(
        CheckpointError, match=r"is part 1 of 6 of a Wan2.1 text-to-video model; .* the whole model in one"
    ):
        require(read_header(path), TRANSFORMER_KINDS, PURPOSE)
