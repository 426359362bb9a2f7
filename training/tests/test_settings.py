"""Configurations: what a YAML file may say, and the sentence for everything else."""

from pathlib import Path

import pytest
from tiny_run import tiny_config

from cinescene_training.config import TrainingConfig, as_record, load_config
from cinescene_training.settings import SettingsError, build, merged, read_settings

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
        ("objective.view_counts=[9]", r"objective.view_counts must lie between 1 and the 4 views encoded"),
        ("model.start_from=a.safetensors", r"model: give either 'start_from' or 'sizes'"),
        ("cache.encoders.vggt=a", r"cache.encoders: give either 'bundle', or both 'vggt' and 'wan'"),
        ("cache.source.kind=multicam", r"cache.source: source 'multicam' needs its folder as root"),
        ("optimiser.betas=[0.9]", r"'optimiser.betas' must hold 2 values; got 1"),
        ("model.join=view", r"model.join 'view' lays one view on each latent frame: 9 frames make 3, .* 4 views"),
        ("objective.guide_weight=1", r"objective.guide_weight needs cache.clip_features: true"),
        ("nonsense", r"An override has the form section.field=value; got 'nonsense'"),
        ("task=vae", r"debug.yaml is a configuration of task 'vae', not of the transformer"),
    ],
)
def test_what_cannot_be_run_is_named(override, sentence):
    with pytest.raises(SettingsError, match=sentence):
        load_config(CONFIGS / "debug.yaml", [override])


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


def test_where_a_run_runs_does_not_change_what_it_is(tmp_path):
    here, there = (tiny_config(tmp_path, run={"workers": workers}) for workers in (0, 4))
    assert here.digest() == there.digest()
    assert here.digest() != tiny_config(tmp_path, objective={"shift": 5.0}).digest()
