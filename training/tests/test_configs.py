"""The shipped configurations: each can be built, each ablation changes what its name promises, and each trains."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from fake_clips import FRAMES, SMALL, fake_batch, filled

from cinescene_training.ablate import ABLATIONS, ABLATIONS_FOLDER
from cinescene_training.config import PAPER_TRAINABLE, as_record, load_config
from cinescene_training.module import ShotModule

CONFIGS = Path(__file__).parents[1] / "configs"
PAPER = CONFIGS / "wan_1_3b.yaml"
OF_A_FILE = {"name", "run.folder"}
OWN_CACHE = {"cache.folder"}

PROMISED = {
    "no_implicit": {"model.features": "none"},
    "image_feature": {"model.features": "image"},
    "camera_feature": {"model.features": "camera"},
    "separate_tokens": {"model.features": "separate"},
    "ordered": {"objective.order": "ordered"},
    "progressive": {"objective.order": "progressive"},
    "shuffled": {},
    "views_1": {"cache.shot.num_views": 1},
    "views_4": {"cache.shot.num_views": 4},
    "views_10": {"cache.shot.num_views": 10},
    "views_20": {},
    "channel_join": {"model.join": "channel"},
    "view_join": {"model.join": "view"},
    "no_camera": {"model.camera": False},
    "loss_guided": {"model.features": "none", "objective.guide_weight": 0.5, "cache.clip_features": True},
    "no_scene": {"model.join": "none"},
    "cached": {"model.context_attention": "cached"},
}
"""Fields an ablation changes, beside its name and folders."""


def shot_files():
    """Configurations of the transformer; other tasks have files and tests of their own."""
    return sorted(
        path for path in CONFIGS.rglob("*.yaml") if yaml.safe_load(path.read_text()).get("task", "shot") == "shot"
    )


def flat(value, prefix=""):
    """Nested mappings as one, with dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf for key, part in value.items() for name, leaf in flat(part, f"{prefix}.{key}".strip(".")).items()
    }


def differences(path, base):
    ours, theirs = flat(as_record(load_config(path))), flat(as_record(load_config(base)))
    return {name: ours.get(name) for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}


@pytest.mark.parametrize("path", shot_files(), ids=lambda path: path.stem)
def test_every_file_builds_and_calls_its_run_by_its_own_name(path):
    config = load_config(path)
    assert config.name == path.stem
    assert config.run.folder.name == path.stem


def test_the_papers_recipe_is_section_5_1():
    config = load_config(PAPER)
    assert (config.run.steps, config.run.batch_size, config.optimiser.learning_rate) == (10_000, 16, 5e-5)
    assert (config.objective.shift, config.objective.order) == (15.0, "shuffled")
    shot, model = config.cache.shot, config.model
    assert (shot.height, shot.width, shot.num_frames, shot.num_views, shot.fov_degrees) == (384, 672, 77, 20, 90.0)
    assert (model.join, model.features, model.context_attention, model.camera) == ("frame", "fused", "joint", True)
    assert model.trainable == PAPER_TRAINABLE  # supplement B
    assert config.run.precision == "bf16-mixed"
    assert model.gradient_checkpointing
    assert config.optimiser.ema_decay > 0
    assert config.objective.text_dropout > 0


def test_every_ablation_has_a_file_a_row_and_a_promise():
    files = {path.stem for path in ABLATIONS_FOLDER.glob("*.yaml")}
    assert files == set(PROMISED) == set(ABLATIONS)


@pytest.mark.parametrize("name", PROMISED)
def test_an_ablation_changes_what_its_name_promises_and_nothing_else(name):
    found = differences(ABLATIONS_FOLDER / f"{name}.yaml", PAPER)
    own_cache = OWN_CACHE if any(field.startswith("cache.") for field in PROMISED[name]) else set()
    assert {field: value for field, value in found.items() if field not in OF_A_FILE | own_cache} == PROMISED[name]
    assert found.keys() >= OF_A_FILE | own_cache
    if own_cache:
        assert found["cache.folder"] == f"caches/scene_decoupled_{name}"


def test_the_paper_s_own_recipe_says_what_each_of_its_names_promises():
    shuffled, views = (load_config(ABLATIONS_FOLDER / f"{name}.yaml") for name in ("shuffled", "views_20"))
    assert shuffled.objective.order == "shuffled"
    assert views.cache.shot.num_views == 20


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("wan_1_3b_cached", {"model.context_attention"}),
        ("wan_1_3b_recammaster", {"model.start_from"}),
        ("wan_14b", {"model.start_from", "run.devices", "run.num_nodes", "run.strategy", "run.accelerator"}),
    ],
)
def test_a_variant_of_the_recipe_changes_only_this(name, fields):
    assert differences(CONFIGS / f"{name}.yaml", PAPER).keys() == OF_A_FILE | fields


@pytest.mark.parametrize("devices", [1, 2, 8, 16])
def test_the_batch_stays_sixteen_on_more_devices(devices):
    config = load_config(PAPER, [f"run.devices={devices}", "run.strategy=fsdp"])
    assert config.run.accumulate * devices * config.run.micro_batch == 16


def in_small(name):
    """An ablation's configuration with a transformer and a shot of a few numbers, and a batch that fits it."""
    config = load_config(ABLATIONS_FOLDER / f"{name}.yaml")
    views = {20: FRAMES}.get(config.cache.shot.num_views, config.cache.shot.num_views)
    shot = dataclasses.replace(config.cache.shot, width=48, height=32, num_frames=4 * (FRAMES - 1) + 1, num_views=views)
    batch = fake_batch(views=views)
    if config.objective.order == "progressive":
        batch = dataclasses.replace(batch, scene=dataclasses.replace(batch.scene, images_shown=False))
    if not config.cache.clip_features:
        batch = dataclasses.replace(batch, clip_features=None)
    small = dataclasses.replace(
        config,
        cache=dataclasses.replace(config.cache, shot=shot),
        model=dataclasses.replace(config.model, start_from=None, sizes=SMALL),
        run=dataclasses.replace(config.run, precision="32-true", accelerator="cpu"),
    )
    return small, batch


UNUSED = {
    "no_scene": {"scene_embed"},
    "no_implicit": {"scene_embed"},
    "loss_guided": {"scene_embed"},
    "no_camera": {"cam_encoder"},
}
"""Of the layers the paper trains, those that an ablation never uses."""
ADDED = {
    "separate_tokens": {"camera_embed"},
    "channel_join": {"view_embedding", "feature_embedding"},
    "view_join": {"view_attn", "view_modulation"},
    "loss_guided": {"guide_head"},
}
"""Layers an ablation has beside the paper's."""


@pytest.mark.filterwarnings("ignore:.*trainer.* reference is not registered:UserWarning")
@pytest.mark.parametrize("name", PROMISED)
def test_one_step_of_an_ablation_teaches_its_layers_and_no_other(name):
    config, batch = in_small(name)
    module = ShotModule(config)
    module.configure_model()
    filled(module)  # fresh layers at zero let no gradient through
    loss = module.training_step(batch, 0)
    loss.backward()
    assert torch.isfinite(loss)
    wanted = (set(PAPER_TRAINABLE) - UNUSED.get(name, set())) | ADDED.get(name, set())
    learned = set()
    for path, parameter in module.named_parameters():
        layers = wanted & set(path.split("."))
        assert parameter.requires_grad == bool(layers), path
        assert (parameter.grad is not None) == bool(layers), path
        if layers:
            assert parameter.grad.abs().max() > 0, path
            learned |= layers
    assert learned == wanted


@pytest.mark.filterwarnings("ignore:.*trainer.* reference is not registered:UserWarning")
def test_the_guides_weight_multiplies_its_losses():
    """The loss is linear in the weight: flow + weight * (angular + scale)."""
    config, batch = in_small("loss_guided")
    losses = []
    for weight in (0.25, 0.5, 1.0):
        objective = dataclasses.replace(config.objective, guide_weight=weight)
        module = ShotModule(dataclasses.replace(config, objective=objective))
        module.configure_model()
        filled(module)
        losses.append(module.training_step(batch, 0).item())
    assert losses[1] - losses[0] > 0.1  # random directions: about a quarter of 1 and more
    assert losses[2] - losses[1] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-4)
