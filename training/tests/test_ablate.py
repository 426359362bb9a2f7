"""Ablations of a run: what they change, that finished ones are kept, and the table."""

import dataclasses
import json

import pytest
import torch
from tiny_run import tiny_config

from cinescene_core.checks import CheckpointError, FileFormatError
from cinescene_training.ablate import ABLATIONS, ABLATIONS_FOLDER, ablation_configs, read_scores, run_ablations
from cinescene_training.config import load_config
from cinescene_training.train import last_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning")


class Studio:
    """Stands in for training and measuring: notes what it was asked, and leaves a checkpoint."""

    def __init__(self, fails_at=""):
        self.trained, self.measured, self.fails_at = [], [], fails_at

    def train(self, config, resume):
        self.trained.append((config.name, resume is not None))
        checkpoint = last_checkpoint(config)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
        if config.name == self.fails_at:
            raise KeyboardInterrupt
        return checkpoint

    def evaluate(self, config, checkpoint):
        assert checkpoint == last_checkpoint(config)
        self.measured.append(config.name)
        return {"PSNR": 10 + len(self.measured) / 3, "LPIPS": None}


def test_an_ablation_is_put_on_top_of_any_run(tmp_path):
    base = tiny_config(tmp_path)
    ordered, views, guided = ablation_configs(["ordered", "views_1", "loss_guided"], base)
    run = dataclasses.replace(base.run, folder=tmp_path / "run" / "ordered")
    objective = dataclasses.replace(base.objective, order="ordered")
    assert ordered == dataclasses.replace(base, name="ordered", run=run, objective=objective)
    assert views.cache.shot == dataclasses.replace(base.cache.shot, num_views=1)
    assert views.cache.folder == tmp_path / "cache_views_1"
    assert guided.cache.clip_features
    assert guided.cache.folder == tmp_path / "cache_loss_guided"


def test_on_top_of_the_papers_recipe_they_are_the_shipped_files():
    """So that a run trained from its own file counts as done."""
    base = load_config(ABLATIONS_FOLDER.parent / "wan_1_3b.yaml", ["run.folder=runs/ablations"])
    configs = ablation_configs(list(ABLATIONS), base)
    assert configs == [load_config(ABLATIONS_FOLDER / f"{name}.yaml") for name in ABLATIONS]


def test_an_unknown_ablation_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(
        ValueError, match=r"An ablation must be one of loss_guided, .*; got 'orderd'. Did you mean 'ordered'?"
    ):
        ablation_configs(["orderd"], tiny_config(tmp_path))


def test_an_ablation_that_does_not_fit_the_run_is_refused(tmp_path):
    sentence = "model.join 'view' lays one view on each latent frame: 5 frames make 2, but there are 3 views"
    with pytest.raises(ValueError, match=sentence):
        ablation_configs(["view_join"], tiny_config(tmp_path))


def rows(table):
    """Cells of each row under the heading."""
    lines = [line for line in table.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_has_the_papers_order_and_shows_what_is_missing(tmp_path):
    studio = Studio()
    table = run_ablations(["cached", "ordered", "loss_guided"], tiny_config(tmp_path), studio.evaluate, studio.train)
    assert studio.trained == [("cached", False), ("ordered", False), ("loss_guided", False)]
    assert rows(table) == [
        ["Run", "Paper's table", "Name", "PSNR", "LPIPS"],
        ["Loss-guided", "2", "`loss_guided`", "11.0000", "missing"],
        ["Ordered", "3", "`ordered`", "10.6667", "missing"],
        ["Cached context (this project's)", "none", "`cached`", "10.3333", "missing"],
    ]
    assert "Seed 0, 6 steps of 4 clips." in table.read_text()


def test_called_again_finished_runs_are_kept_and_an_interrupted_one_goes_on(tmp_path):
    base, names = tiny_config(tmp_path), ["ordered", "no_camera", "cached"]
    first = Studio(fails_at="no_camera")
    with pytest.raises(KeyboardInterrupt):
        run_ablations(names, base, first.evaluate, first.train)
    assert first.measured == ["ordered"]
    assert [row[2] for row in rows(tmp_path / "run" / "ablations.md")[1:]] == ["`ordered`"]

    second = Studio()
    table = run_ablations(names, base, second.evaluate, second.train)
    assert second.trained == [("no_camera", True), ("cached", False)]
    assert len(rows(table)) == 4
    third = Studio()
    assert run_ablations(names, base, third.evaluate, third.train).read_bytes() == table.read_bytes()
    assert not third.trained


def test_one_run_under_two_names_trains_once(tmp_path):
    """The tiny run has three views already: `views_20` is the run itself, and so is its twin."""
    base, studio = tiny_config(tmp_path, objective={"order": "ordered"}), Studio()
    table = run_ablations(["ordered", "views_20"], base, studio.evaluate, studio.train)
    assert studio.trained == [("ordered", False)]
    assert [row[3] for row in rows(table)[1:]] == ["10.3333", "10.3333"]


def test_what_was_measured_names_commit_configuration_seed_and_machine(tmp_path):
    studio = Studio()
    base = tiny_config(tmp_path)
    run_ablations(["ordered"], base, studio.evaluate, studio.train)
    record = read_scores(tmp_path / "run" / "ordered" / "scores.json")
    (config,) = ablation_configs(["ordered"], base)
    assert record["digest"] == config.digest()
    assert record["config"]["objective"]["order"] == "ordered"
    assert record["seed"] == 0
    assert record["machine"]
    assert record["torch"] == torch.__version__
    assert "commit" in record
    assert record["scores"] == {"PSNR": pytest.approx(10.3333, abs=1e-4), "LPIPS": None}


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"digest": "0"})])
def test_damaged_scores_are_named(tmp_path, content):
    studio, base = Studio(), tiny_config(tmp_path)
    run_ablations(["ordered"], base, studio.evaluate, studio.train)
    (tmp_path / "run" / "ordered" / "scores.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"scores.json holds no scores .* Delete it; the run is then measured"):
        run_ablations(["ordered"], base, studio.evaluate, studio.train)


@pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning")  # the embedded vocabulary is small
def test_real_runs_train_once_and_another_recipe_in_their_folder_is_refused(studio, tmp_path):
    base = tiny_config(studio, run={"folder": tmp_path, "steps": 1, "batch_size": 2}, validation={"every": 1})
    measured = []

    def evaluate(config, checkpoint):
        content = torch.load(checkpoint, weights_only=False)
        measured.append((config.name, content["global_step"], content["cinescene"]["config"]["objective"]["order"]))
        return {"loss": 1.0}

    table = run_ablations(["ordered", "no_camera"], base, evaluate)
    assert measured == [("ordered", 1, "ordered"), ("no_camera", 1, "shuffled")]
    path = last_checkpoint(ablation_configs(["ordered"], base)[0])
    ended = torch.load(path, weights_only=False)["state_dict"]
    (tmp_path / "ordered" / "scores.json").unlink()
    run_ablations(["ordered", "no_camera"], base, evaluate)
    assert measured[2:] == [("ordered", 1, "ordered")]  # measured again, where it had ended
    again = torch.load(path, weights_only=False)["state_dict"]
    assert all(torch.equal(again[name], value) for name, value in ended.items())
    assert len(rows(table)) == 3

    other = dataclasses.replace(base, objective=dataclasses.replace(base.objective, shift=7.0))
    with pytest.raises(CheckpointError, match=r"trained with objective.shift = 3.0, but this run says 7.0"):
        run_ablations(["ordered"], other, evaluate)
