"""The loss-guided ablation: its losses by their definition, and what it supervises."""

import dataclasses
import math

import pytest
import torch
from fake_clips import FRAMES, SMALL, fake_batch, filled, model_config, predict

from cinescene_core.checks import ShapeError
from cinescene_training.building import build_network
from cinescene_training.guide import angular_alignment, on_token_grid, scale_alignment


def guided(**changes):
    """A loss-guided network whose every parameter is random."""
    return filled(build_network(model_config(features="none", **changes), 0, guided=True)[0])


def run(network, batch):
    velocity = network(batch.noisy(), batch.sigma, batch.text, batch.poses, batch.scene)
    return velocity, network.guide_losses(batch.clip_features)


def test_angles_cost_one_minus_their_cosine_whatever_the_lengths():
    truth = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]])
    for degrees in (0, 60, 90, 180):
        angle = math.radians(degrees)
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        got = angular_alignment(5 * truth @ turn.T, truth)
        torch.testing.assert_close(got, torch.tensor([1 - math.cos(angle)]))


def test_scale_costs_the_share_of_energy_that_is_missed():
    truth = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[30.0, 0.0], [0.0, 40.0]]])
    assert scale_alignment(torch.zeros_like(truth), truth).tolist() == [1.0, 1.0]
    assert scale_alignment(truth, truth).tolist() == [0.0, 0.0]
    # Right direction, half the length: a quarter of the energy, for short and long features alike.
    torch.testing.assert_close(scale_alignment(truth / 2, truth), torch.tensor([0.25, 0.25]))
    off = truth.clone()
    off[:, 1] = 0  # misses 16 of 25
    torch.testing.assert_close(scale_alignment(off, truth), torch.tensor([0.64, 0.64]))


def test_features_land_on_the_tokens_that_show_the_same_place():
    """A ramp over rows, columns and frames stays a ramp: its value at the centre of each token."""
    rows, columns = torch.meshgrid((torch.arange(8) + 0.5) / 8, (torch.arange(12) + 0.5) / 12, indexing="ij")
    frames = torch.arange(3.0)[:, None, None].expand(-1, 8, 12)
    features = torch.stack([rows.expand(3, -1, -1), columns.expand(3, -1, -1), frames], dim=1)[None]
    tokens = on_token_grid(features, 2, 3).unflatten(1, (3, 2, 3))
    torch.testing.assert_close(tokens[0, 1, :, 0, 0], torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(tokens[0, 1, 0, :, 1], torch.tensor([1 / 6, 0.5, 5 / 6]))
    torch.testing.assert_close(tokens[0, :, 1, 2, 2], torch.tensor([0.0, 1.0, 2.0]))


def test_the_losses_are_those_of_the_middle_blocks_video_tokens():
    """Of three blocks the second: its output at the video's tokens, through the heads."""
    network, batch = guided(), fake_batch(views=4)
    kept = []
    network.transformer.blocks[1].register_forward_hook(lambda module, inputs, output: kept.append(output.detach()))
    _, losses = run(network, batch)
    head = network.guide_head
    with torch.no_grad():
        direction = head.angle(head.norm(kept[0][:, : FRAMES * 6]))
        unit = direction / direction.norm(dim=-1, keepdim=True)
        whole = head.scale(unit)
    truth = on_token_grid(batch.clip_features, 2, 3)
    cosines = (unit * truth / truth.norm(dim=-1, keepdim=True)).sum(-1)
    shares = [(w - t).square().sum() / t.square().sum() for w, t in zip(whole, truth, strict=True)]
    torch.testing.assert_close(losses["angular_alignment"], 1 - cosines.mean())
    torch.testing.assert_close(losses["scale_alignment"], torch.stack(shares).mean())


def test_guidance_changes_nothing_about_the_prediction():
    network, batch = guided(), fake_batch(views=4)
    plain, _ = build_network(model_config(features="none"), 0)
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("guide_head")}
    plain.load_state_dict(state)
    assert torch.equal(predict(network, batch), predict(plain, batch))
    velocity, _ = run(network, batch)
    assert torch.equal(velocity.detach(), predict(plain, batch))


def test_the_clip_s_features_supervise_and_are_not_read():
    network, batch = guided(), fake_batch(views=4)
    other = dataclasses.replace(batch, clip_features=batch.clip_features + 1)
    (velocity, losses), (again, changed) = run(network, batch), run(network, other)
    assert torch.equal(velocity, again)
    assert not torch.allclose(losses["angular_alignment"], changed["angular_alignment"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_pull_reaches_the_blocks_up_to_the_middle_and_the_heads(checkpointing):
    network, batch = guided(), fake_batch(views=4)
    network.transformer.gradient_checkpointing = checkpointing
    _, losses = run(network, batch)
    sum(losses.values()).backward()

    def reached(module):
        found = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters() if p.requires_grad]
        assert len(set(found)) == 1
        return found[0]

    first, middle, last = network.transformer.blocks
    assert reached(first.ffn)
    assert reached(middle.ffn)
    assert not reached(last.ffn)
    assert reached(network.guide_head)


def test_a_few_steps_align_the_hidden_states():
    """Gradient descent on the two losses alone, on one batch: both fall."""
    network, batch = build_network(model_config(features="none", trainable=("all",)), 0, guided=True)[0], fake_batch()
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    history = []
    for _ in range(40):
        _, losses = run(network, batch)
        history.append({name: float(value.detach()) for name, value in losses.items()})
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    # At the start the directions have nothing to do with each other (cosine near 0), nor have the lengths.
    assert history[0]["angular_alignment"] == pytest.approx(1.0, abs=0.2)
    assert history[-1]["angular_alignment"] < 0.5
    assert history[-1]["scale_alignment"] < 0.5 * history[0]["scale_alignment"]


def test_the_heads_start_from_the_seed():
    heads = [build_network(model_config(features="none"), s, guided=True)[0].guide_head for s in (1, 1, 2)]
    first, again, other = (torch.cat([p.detach().flatten() for p in head.parameters()]) for head in heads)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_samples_without_features_of_the_clips_are_refused():
    network, batch = guided(), fake_batch()
    with pytest.raises(ValueError, match=r"the samples carry none. Run cinescene-train cache with cache.clip_features"):
        run(network, dataclasses.replace(batch, clip_features=None))


@pytest.mark.parametrize(
    "shape", [(2, FRAMES + 1, SMALL.feature_width, 3, 5), (2, FRAMES, SMALL.feature_width + 1, 3, 5)]
)
def test_features_of_another_clip_or_encoder_are_refused(shape):
    network, batch = guided(), fake_batch()
    with pytest.raises(ShapeError, match=r"clip_features must have shape \[2, 3, 12, rows, columns\]"):
        run(network, dataclasses.replace(batch, clip_features=torch.zeros(shape)))


def test_predictions_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"predicted must have shape \[1, 4, 3\]; got \[1, 4, 2\]"):
        angular_alignment(torch.zeros(1, 4, 2), torch.zeros(1, 4, 3))
