"""Ablations of a run: what they change, that what is trained and measured is kept, and the comparison."""

import dataclasses
import math

import pytest
import torch
from tiny_run import tiny_config

from cinescene_core.checks import CheckpointError, FileFormatError
from cinescene_core.metrics import Lpips
from cinescene_training.ablate import ABLATIONS, ABLATIONS_FOLDER, ablation_configs, run_ablations
from cinescene_training.config import load_config
from cinescene_training.evaluate import EvaluationOptions, MetricTable, VideoScores, read_table
from cinescene_training.evaluate.instruments import open_instruments
from cinescene_training.evaluate.run import protocol_of
from cinescene_training.evaluate.table import make_rows
from cinescene_training.train import last_checkpoint, open_cache

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning")

OPTIONS = EvaluationOptions(steps=2, device="cpu")
PAPER = ["Mat. Pix.(K)↑", "CLIP-V↑", "PSNR↑", "SSIM↑", "LPIPS↓", "RotErr↓", "TransErr↓", "CamMC↓", "CLIP-T↑", "VBench↑"]
"""Columns of the paper's table 1."""


class Desk:
    """Stands in for training and measuring: notes what it was asked, leaves a checkpoint, and makes scores up.

    The first run that it measures has 11 dB on the first clip, the second 12 and so on; a clip is two better than the
    clip before, and the first is exact in its background.
    """

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

    def evaluate(self, config, checkpoint, options):
        assert checkpoint == last_checkpoint(config)
        self.measured.append(config.name)
        items = open_cache(config, options.split).items[: options.clips]
        variants = ["model", *(f"model, {name.replace('_', ' ')}" for name in options.interventions), "VAE"]
        videos = [
            VideoScores(
                variant=variant,
                clip=item.name,
                place=item.place,
                has_subject=item.has_subject,
                psnr=10.0 + len(self.measured) + 2 * index,
                psnr_background=math.inf if index == 0 else 20.0,
            )
            for variant in variants
            for index, item in enumerate(items)
        ]
        tools = open_instruments(config, options, torch.device("cpu"))
        names, rows = tools.names(config.cache.shot.num_frames), make_rows(videos)
        estimator = "" if tools.estimator is None else tools.estimator.name
        protocol = protocol_of(config, options, clips=len(items), estimator=estimator, checkpoint="last.ckpt")
        missing = tools.missing(rendered=True, with_subject=True)
        return MetricTable(rows=rows, protocol=protocol, instruments=names, missing=missing, videos=tuple(videos))

    def run(self, names, base, options=OPTIONS):
        return run_ablations(names, base, options, evaluate=self.evaluate, train=self.train)


@pytest.fixture
def base(studio, tmp_path):
    """A run in a folder of its own, over the clips that all tests share: two to test on, twins of one place."""
    return tiny_config(studio, run={"folder": tmp_path / "run"})


def cells(target, block=0):
    """Rows of one of the comparison's two tables, the heading first."""
    tables = [part for part in target.read_text(encoding="utf-8").split("\n\n") if part.startswith("| |")]
    lines = tables[block].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if set(row) != {"---"}]


# ---- configurations ---------------------------------------------------------------------------


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


# ---- what is trained and measured -------------------------------------------------------------


def test_called_again_finished_runs_are_kept_and_an_interrupted_one_goes_on(base):
    names, first = ["ordered", "no_camera", "cached"], Desk(fails_at="no_camera")
    with pytest.raises(KeyboardInterrupt):
        first.run(names, base)
    assert first.measured == ["ordered"]
    assert [row[0] for row in cells(base.run.folder / "ablations.md")[1:]] == ["ordered"]

    second = Desk()
    target = second.run(names, base)
    assert second.trained == [("no_camera", True), ("cached", False)]
    assert second.measured == ["no_camera", "cached"]
    assert len(cells(target)) == 4
    written, third = target.read_bytes(), Desk()
    assert third.run(names, base).read_bytes() == written
    assert not third.trained
    assert not third.measured


def test_the_base_under_two_names_trains_and_is_measured_once(base):
    desk = Desk()
    target = desk.run(["shuffled", "views_20"], base)
    assert desk.trained == [("shuffled", False)]
    assert desk.measured == ["shuffled"]
    assert [(row[0], row[4]) for row in cells(target)[1:]] == [("shuffled", "12.00"), ("views_20", "12.00")]
    later = Desk()
    later.run(["views_20"], base)  # the run lies under its other name
    assert not later.trained
    assert not later.measured


def test_shuffled_is_a_run_of_its_own_where_the_base_is_ordered(base):
    ordered, desk = dataclasses.replace(base, objective=dataclasses.replace(base.objective, order="ordered")), Desk()
    desk.run(["views_20", "ordered", "shuffled"], ordered)
    assert desk.trained == [("views_20", False), ("shuffled", False)]


def test_a_run_that_was_measured_otherwise_is_measured_again(base):
    ways = [
        {}, {"split": "validation"}, {"clips": 1}, {"seeds": (1,)}, {"seeds": (0, 1)}, {"steps": 3}, {"guidance": 2.0},
        {"shift": 4.0}, {"solver": "euler"}, {"stride": 1}, {"interventions": ("other_scene",)},
    ]  # fmt: skip
    desk = Desk()
    for count, change in enumerate(ways, start=1):
        options = dataclasses.replace(OPTIONS, **change)
        desk.run(["ordered"], base, options)
        assert len(desk.measured) == len(desk.trained) == count, change
        assert desk.trained[-1] == ("ordered", count > 1)  # where it had ended: no step is left
        table = read_table(base.run.folder / "ordered" / "ablation.json")
        assert (table.protocol.steps, table.protocol.seeds) == (options.steps, options.seeds)
    desk.run(["ordered"], base, options)
    desk.run(["ordered"], base)  # fewer rows are among those of the last
    assert len(desk.measured) == len(ways)


def test_more_clips_than_there_are_is_the_same_measurement(base):
    Desk().run(["ordered"], base)
    desk = Desk()
    desk.run(["ordered"], base, dataclasses.replace(OPTIONS, clips=5000))
    assert not desk.measured


def test_guidance_that_comes_from_the_run_counts(base):
    """`validation` is no part of a configuration's digest, yet sampling reads it."""
    Desk().run(["ordered"], base)
    desk = Desk()
    desk.run(["ordered"], dataclasses.replace(base, validation=dataclasses.replace(base.validation, guidance=7.0)))
    assert desk.measured == ["ordered"]


def test_a_base_file_of_other_content_is_another_run(base, monkeypatch):
    """Its path is no part of a configuration's digest."""
    Desk().run(["ordered"], base)
    monkeypatch.setattr("cinescene_training.evaluate.run.identity", lambda config: {"model.start_from": "another"})
    desk = Desk()
    desk.run(["ordered"], base)
    assert desk.measured == ["ordered"]


def test_newly_named_weights_fill_their_column(base, tmp_path):
    target = Desk().run(["ordered"], base)
    assert cells(target)[1][6] == "missing"
    network = Lpips()
    torch.save(
        {f"features.{name}": value for name, value in network.features.state_dict().items()}, tmp_path / "alexnet.pth"
    )
    torch.save(network.heads.state_dict(), tmp_path / "heads.pth")
    options = dataclasses.replace(OPTIONS, lpips_alexnet=tmp_path / "alexnet.pth", lpips_heads=tmp_path / "heads.pth")
    desk = Desk()
    assert cells(desk.run(["ordered"], base, options))[1][6] == "-"  # the desk makes no LPIPS up
    assert desk.measured == ["ordered"]
    assert "- LPIPS: LPIPS 0.1, AlexNet." in target.read_text(encoding="utf-8")


def test_weights_that_are_missing_are_said_before_anything_is_trained(base, tmp_path):
    desk, options = Desk(), dataclasses.replace(OPTIONS, matcher=tmp_path / "loftr.ckpt")
    with pytest.raises((CheckpointError, ImportError), match=r"loftr\.ckpt does not exist|kornia"):
        desk.run(["ordered"], base, options)
    assert not desk.trained


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1, "digest": "0"}'])
def test_a_damaged_table_is_named(base, content):
    Desk().run(["ordered"], base)
    (base.run.folder / "ordered" / "ablation.json").write_text(content)
    with pytest.raises(
        FileFormatError, match=r"ordered/ablation.json is no table of an evaluation: .* Delete it, and measure the run"
    ):
        Desk().run(["ordered"], base)


# ---- the comparison ---------------------------------------------------------------------------


def test_it_has_the_papers_columns_and_order_and_says_what_is_missing(base):
    desk = Desk()
    target = desk.run(["cached", "no_implicit", "shuffled", "ordered"], base)
    assert desk.trained == [("cached", False), ("no_implicit", False), ("shuffled", False), ("ordered", False)]
    heading, *rows = cells(target)
    assert heading == ["", "In the paper", *PAPER]
    assert [row[:2] for row in rows] == [
        ["no_implicit", "W/o implicit (tables 2, 6, 9)"],
        ["ordered", "Ordered (table 3)"],
        ["shuffled", "Ours: shuffled (tables 2, 3, 6, 8, 9)"],
        ["cached", "Cached context (this project's)"],
    ]
    for row, psnr in zip(rows, ("13.00", "15.00", "14.00", "12.00"), strict=True):
        # The desk makes no SSIM up; the rest has no instrument.
        assert row[2:] == ["missing", "missing", psnr, "-", *["missing"] * 6]
    text = target.read_text(encoding="utf-8")
    assert "Seed 0, 6 steps of 4 clips." in text
    assert "- 2 clips of test, 5 frames of 64 x 32; noise of seeds 0." in text
    assert "- Camera errors: N = 2 frames, stride 4, estimator: none." in text
    assert "- LPIPS missing: its weights were not named" in text
    assert "does not compare" not in text


def test_gains_are_over_the_base_clip_by_clip(base):
    heading, *rows = cells(Desk().run(["cached", "shuffled", "ordered"], base), block=1)
    column = heading.index("PSNR against shuffled, same clips [95 %]")
    # Both clips are of one place, so there is no interval. They were measured as 11, 12 and 13 dB.
    found = {row[0]: row[column] for row in rows}
    assert found == {"ordered": "+1.00 dB (2 clips)", "shuffled": "-", "cached": "-1.00 dB (2 clips)"}


def test_without_the_base_it_says_how_to_get_gains(base):
    text = Desk().run(["cached", "ordered"], base).read_text(encoding="utf-8")
    assert "No gains: none of these runs is the base itself. Name `views_20` as well, which always is." in text
    assert "PSNR against" not in text


def test_every_video_is_kept_and_infinite_numbers_with_it(base):
    Desk().run(["ordered"], base)
    table = read_table(base.run.folder / "ordered" / "ablation.json")
    (config,) = ablation_configs(["ordered"], base)
    assert (table.protocol.run, table.protocol.digest) == ("ordered", config.digest())
    assert table.protocol.machine
    first = next(video for video in table.videos if video.variant == "model")
    assert (first.psnr, first.psnr_background) == (11.0, math.inf)
    assert next(row for row in table.rows if row.name == "model").psnr_background.value == math.inf


# ---- real runs --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning")  # the embedded vocabulary is small
def test_real_runs_train_once_and_another_recipe_in_their_folder_is_refused(studio, tmp_path):
    base = tiny_config(studio, run={"folder": tmp_path, "steps": 1, "batch_size": 2}, validation={"every": 1})
    target = run_ablations(["ordered", "shuffled"], base, OPTIONS)
    tables = {name: read_table(tmp_path / name / "ablation.json") for name in ("ordered", "shuffled")}
    for row in cells(target)[1:]:
        (model,) = [one for one in tables[row[0]].rows if one.name == "model"]
        assert row[4] == f"{model.psnr.value:.2f}"
    path = last_checkpoint(ablation_configs(["ordered"], base)[0])
    content = torch.load(path, weights_only=False)
    assert content["global_step"] == 1
    assert content["cinescene"]["config"]["objective"]["order"] == "ordered"

    ended, written = content["state_dict"], (tmp_path / "shuffled" / "ablation.json").stat().st_mtime_ns
    (tmp_path / "ordered" / "ablation.json").unlink()
    run_ablations(["ordered", "shuffled"], base, OPTIONS)
    assert read_table(tmp_path / "ordered" / "ablation.json").videos == tables["ordered"].videos
    assert (tmp_path / "shuffled" / "ablation.json").stat().st_mtime_ns == written  # nothing was measured again
    again = torch.load(path, weights_only=False)["state_dict"]
    assert all(torch.equal(again[name], value) for name, value in ended.items())

    other = dataclasses.replace(base, objective=dataclasses.replace(base.objective, shift=7.0))
    with pytest.raises(CheckpointError, match=r"trained with objective.shift = 3.0, but this run says 7.0"):
        run_ablations(["ordered"], other, OPTIONS)
