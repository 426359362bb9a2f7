"""Mixed precision: training under autocast computes what the exported bfloat16 network computes."""

import pytest
import torch
from fake_clips import fake_batch, filled, model_config, predict

from cinescene_core.models.precision import FLOAT32_LAYERS, parameter_dtype
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_training.building import build_network
from cinescene_training.network import SceneNetwork
from cinescene_training.precision import keep_in_float32

pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")


def in_bfloat16(network):
    """The network as inference loads it: matrices in bfloat16, what needs it in float32."""
    model = CineSceneTransformer(network.transformer.config, dtype=torch.bfloat16)
    model.load_state_dict(network.transformer.state_dict())
    return SceneNetwork(model, network.config)


def test_training_and_inference_round_alike():
    batch = fake_batch(views=4)
    network = filled(build_network(model_config(), 0)[0])
    half, exact = in_bfloat16(network), predict(network, batch)
    with torch.no_grad():
        inputs = [x.bfloat16() for x in (batch.noisy(), batch.text)]
        scene = batch.to(torch.device("cpu")).scene
        sampled = half.transformer(
            inputs[0],
            batch.sigma * 1000,
            inputs[1],
            camera=batch.poses,
            context=half.transformer.embed_context(
                scene.latents.bfloat16(),
                (scene.patch + scene.camera[..., None, None]).bfloat16(),
                network.embed_scene(scene, batch.video.shape[2]).positions,
            ),
        ).float()
    keep_in_float32(network)
    with torch.autocast("cpu", torch.bfloat16):
        trained = predict(network, batch).float()
    scale = exact.std()
    errors = [float((one - other).std() / scale) for one, other in ((trained, exact), (sampled, exact))]
    # bfloat16 keeps eight bits; a few dozen roundings in a row come to a few percent, alike in both.
    assert 0.001 < errors[0] < 0.05
    assert 0.5 < errors[0] / errors[1] < 2


def test_the_layers_that_inference_keeps_are_kept():
    network = build_network(model_config(), 0)[0]
    keep_in_float32(network)
    batch = fake_batch(views=4)
    seen: dict[str, torch.dtype] = {}
    for name, module in network.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.LayerNorm)):
            module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        predict(network, batch)
    kept = {name for name in seen if parameter_dtype(f"{name}.weight", torch.bfloat16) == torch.float32}
    assert {layer for layer in FLOAT32_LAYERS if any(f".{layer}." in f".{name}." for name in kept)} == {
        "time_embedding",
        "norm3",
        "cam_encoder",
        "scene_embed.norm",
    }
    assert all(seen[name] == torch.float32 for name in kept)
    assert seen["transformer.blocks.0.ffn.0"] == torch.bfloat16
