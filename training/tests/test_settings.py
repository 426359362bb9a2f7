"""Configurations: what a YAML file may say, and the sentence for everything else."""

import dataclasses
from pathlib import Path

import pytest
from tiny_run import SHOT, SIZES, tiny_config

from cinescene_training.config import EncodersConfig, SourceConfig, TrainingConfig, as_record, load_config
from cinescene_training.settings import SettingsError, build, flat, merged, read_settings

CONFIGS = Path(__file__).parents[1] / "configs"


def test_a_configuration_survives_yaml(tmp_path):
    config = tiny_config(tmp_path)
    assert build(TrainingConfig, as_record(config)) == config


def test_overrides_and_bases_change_only_what_they_name(tmp_path):
    (tmp_path / "base.yaml").write_text("a: {x: 1, y: 2}\nb: 3\n", encoding="utf-8")
    (tmp_path / "child.yaml").write_text("based_on: base.yaml\na: {y: 5}\n", encoding="utf-8")
    assert read_settings(tmp_path / "child.yaml", ["b=7", "a.z=[1, 2]"]) == {"a": {"x": 1, "y": 5, "z": [1, 2]}, "b": 7}


def test_numbers_may_be_written_as_people_write_them():
    record = as_record(load_config(CONFIGS / "debug.yaml", ["optimiser.learning_rate=5e-5", "objective.shift=15"]))
    assert (record["optimiser"]["learning_rate"], record["objective"]["shift"]) == (5e-5, 15.0)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("run.stepz=5", r"There is no field 'run.stepz'; known here: folder, steps"),
        ("run.steps=many", r"'run.steps' must be int; got 'many'"),
        ("run.steps=0", r"run: steps must be .* got 0"),
        ("run.precision=fp16", r"'run.precision' must be one of 32-true, bf16-mixed; got 'fp16'"),
        ("model.trainable=all", r"'model.trainable' must be a list; got 'all'"),
        ("run.batch_size=6", r"run: batch_size 6 must be a multiple of micro_batch x devices x num_nodes = 4"),
        ("model.start_from=a.safetensors", r"model: give either 'start_from' or 'sizes'"),
        ("cache.encoders.vggt=a", r"cache.encoders: give either 'bundle', or both 'vggt' and 'wan'"),
        ("cache.source.kind=multicam", r"cache.source: source 'multicam' needs its folder as root"),
        (
            "cache.source={calibration: a.json}",
            r"cache.source: calibration is read for scene_decoupled only; leave it out\.",
        ),
        (
            "cache.source={kind: multicam, root: a, calibration: a.json}",
            r"cache.source: calibration is read for scene_decoupled only; leave it out\.",
        ),
        (
            "cache.source={kind: panoramas, root: a, calibration: a.json}",
            r"cache.source: calibration is read for scene_decoupled only; leave it out\.",
        ),
        ("cache.source.moves=[pan_left]", r"cache.source: moves is read for panoramas only; leave it out\."),
        ("cache.source.only=test", r"cache.source: only is read for datasets; rooms are on a side by their seeds\."),
        ("cache.source.only=all", r"'cache.source.only' must be one of train, validation, test; got 'all'"),
        ("optimiser.betas=[0.9]", r"'optimiser.betas' must hold 2 values; got 1"),
        ("model.join=view", r"model.join 'view' lays one view on each latent frame: 9 frames make 3, .* 4 views"),
        ("objective.guide_weight=1", r"objective.guide_weight needs cache.clip_features: true"),
        ("cache.shot.num_views=41", r"cache.shot: num_views must be 1 to 40; got 41"),
        ("cache.shot.fov_degrees=180", r"cache.shot: fov_degrees must lie between 0 and 180; got 180.0"),
        ("cache.shot.fps=0", r"cache.shot: fps must be a positive number; got 0.0"),
        ("cache.shot.vggt_width=60", r"vggt_width must be a multiple of VGGT's patch, 14; got 60. Use 56"),
        ("cache.shot.vggt_height=-14", r"vggt_height must be a multiple of VGGT's patch, 14; got -14. Use 14"),
        ("cache.source.validation_places=0", r"cache.source: validation_places must be a positive number; got 0"),
        (
            "model={context_attention: cached, context_timestep: shared}",
            r"model: context_attention 'cached' computes .* got context_timestep 'shared'\. Set context_timestep zero",
        ),
        ("objective.guide_weight=-1", r"objective: guide_weight must be 0 or more; got -1.0"),
        ("optimiser.learning_rate=-3", r"optimiser: learning_rate must be a positive number; got -3.0"),
        ("optimiser.clip_norm=0", r"optimiser: clip_norm must be a positive number; got 0.0"),
        ("optimiser.weight_decay=-0.1", r"optimiser: weight_decay must be 0 or more; got -0.1"),
        ("optimiser.warmup_steps=-1", r"optimiser: warmup_steps must be 0 or more; got -1"),
        ("optimiser.betas=[0.9, 1.0]", r"optimiser: betas must be 0 or more and below 1; got 1.0"),
        ("optimiser.ema_decay=1", r"optimiser: ema_decay must be 0 or more and below 1; got 1.0"),
        ("run.workers=-1", r"run: workers must be 0 or more; got -1"),
        ("validation.every=0", r"validation: every must be a positive number; got 0"),
        ("validation.samples=0", r"validation: samples must be a positive number; got 0"),
        ("validation.video_steps=0", r"validation: video_steps must be a positive number; got 0"),
        ("validation.shift=0", r"validation: shift must be a positive number; got 0.0"),
        ("validation.videos=-1", r"validation: videos must be 0 or more; got -1"),
        ("validation.sigmas=[]", r"validation: sigmas must be one or more different noise levels .* got \[\]"),
        ("validation.sigmas=[0.0, 0.5]", r"noise levels above 0 and up to 1; got \[0.0, 0.5\]"),
        ("validation.sigmas=[0.5, 1.1]", r"noise levels above 0 and up to 1; got \[0.5, 1.1\]"),
        ("validation.sigmas=[0.5, 0.5]", r"different noise levels above 0 and up to 1; got \[0.5, 0.5\]"),
        ("validation.guidance=0.5", r"validation: guidance must be at least 1 \(none\); got 0.5"),
        ("run.folder=[a", r"The value of an override must be YAML; got 'run.folder=\[a'. Quote it."),
        ("nonsense", r"An override has the form section.field=value; got 'nonsense'"),
        ("task=vae", r"debug.yaml is a configuration of task 'vae', not of the transformer"),
    ],
)
def test_what_cannot_be_run_is_named(override, sentence):
    with pytest.raises(SettingsError, match=sentence):
        load_config(CONFIGS / "debug.yaml", [override])


@pytest.mark.parametrize(
    ("run", "got"),
    [
        ({"devices": 2}, "2 devices and run.strategy 'auto'"),
        ({"num_nodes": 2}, "2 devices and run.strategy 'auto'"),
        ({"strategy": "ddp"}, "1 devices and run.strategy 'ddp'"),
    ],
)
def test_layers_that_wait_for_the_images_train_on_one_device_alone(tmp_path, run, got):
    config = tiny_config(tmp_path)
    alone = dataclasses.replace(
        config,
        cache=dataclasses.replace(config.cache, shot=dataclasses.replace(SHOT, num_views=2)),
        model=dataclasses.replace(config.model, join="channel"),
        objective=dataclasses.replace(config.objective, order="progressive"),
    )
    shared = dataclasses.replace(config.run, **{"micro_batch": 1} | run)
    with pytest.raises(ValueError, match=rf"model\.join 'channel' has layers without .* got {got}\. Train on one"):
        dataclasses.replace(alone, run=shared)
    for objective in ({"order": "shuffled"}, {"order": "ordered"}):
        dataclasses.replace(alone, run=shared, objective=dataclasses.replace(config.objective, **objective))
    for join in ("frame", "view"):
        dataclasses.replace(alone, run=shared, model=dataclasses.replace(config.model, join=join))


def test_files_that_are_no_configuration_are_named(tmp_path):
    for text, sentence in (
        ("a: [1", r"bad.yaml is not YAML"),
        ("- 1\n", r"bad.yaml must hold a mapping of sections; got list"),
        ("based_on: bad.yaml\n", r"bad.yaml: 'based_on' comes back to this file"),
        ("name: x\n", r"The field 'cache' is missing. Add it"),
    ):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(SettingsError, match=sentence):
            load_config(tmp_path / "bad.yaml")


def test_a_configuration_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no configuration .*none\.yaml. Those of the studio are in"):
        load_config(tmp_path / "none.yaml")


def test_merging_leaves_its_arguments_alone():
    base = {"a": {"x": 1}}
    assert merged(base, {"a": {"y": 2}}) == {"a": {"x": 1, "y": 2}}
    assert base == {"a": {"x": 1}}


def test_fields_of_fields_have_dotted_names():
    assert flat({"a": {"x": 1, "y": {"z": [2]}}, "b": None}) == {"a.x": 1, "a.y.z": [2], "b": None}


ROOMS = SourceConfig(kind="rooms", places=3, validation_places=1, clips_per_place=1, supersampling=1)


def with_cache(config, **fields):
    return dataclasses.replace(config, cache=dataclasses.replace(config.cache, **fields))


def test_where_a_run_runs_and_where_its_files_lie_does_not_change_what_it_is(tmp_path):
    config = tiny_config(tmp_path)
    same = [
        dataclasses.replace(config, name="another"),
        tiny_config(tmp_path / "elsewhere"),
        tiny_config(tmp_path, run={"workers": 4, "micro_batch": 1, "precision": "bf16-mixed", "compiled": True}),
        tiny_config(tmp_path, model={"gradient_checkpointing": True}),
        tiny_config(tmp_path, validation={"every": 7, "sigmas": (0.5,), "samples": 1}),
        with_cache(config, encoders=EncodersConfig(bundle=Path("elsewhere.safetensors"))),
        with_cache(config, source=dataclasses.replace(ROOMS, compiled=True)),
    ]
    assert {other.digest() for other in same} == {config.digest()}
    sets = [
        SourceConfig(kind="scene_decoupled", root=Path(root), calibration=Path(file), validation_places=1)
        for root, file in (("a", "lens.json"), ("b", "other.json"))
    ]
    assert len({with_cache(config, source=source).digest() for source in sets}) == 1


def test_whatever_else_differs_is_another_run(tmp_path):
    config = tiny_config(tmp_path)
    others = [
        tiny_config(tmp_path, objective={"shift": 5.0}),
        tiny_config(tmp_path, run={"steps": 7}),
        tiny_config(tmp_path, run={"batch_size": 8}),
        tiny_config(tmp_path, run={"seed": 1}),
        tiny_config(tmp_path, optimiser={"learning_rate": 2e-3}),
        tiny_config(tmp_path, model={"camera": False}),
        tiny_config(tmp_path, model={"sizes": dataclasses.replace(SIZES, width=64)}),
        with_cache(config, source=dataclasses.replace(ROOMS, places=4)),
        with_cache(config, shot=dataclasses.replace(SHOT, fps=24.0)),
    ]
    assert len({run.digest() for run in (config, *others)}) == 1 + len(others)
