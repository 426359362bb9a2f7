"""Evaluation from end to end: a network that is exact reaches the VAE, one that is blind to an input shows it."""

import dataclasses
import re

import pytest
import torch
from tiny_places import textured_panorama
from tiny_run import tiny_config
from torch import nn

from cinescene_core.checks import CheckpointError, FileFormatError
from cinescene_core.latents import normalise_latents
from cinescene_core.video import decode_video, save_image
from cinescene_training.config import ObjectiveConfig, SourceConfig
from cinescene_training.data.build import build_cache
from cinescene_training.data.encoders import load_encoders
from cinescene_training.data.sources import open_source
from cinescene_training.evaluate import EvaluationOptions, evaluate, read_table, run_evaluate
from cinescene_training.evaluate.run import film_and_measure, open_bench
from cinescene_training.samples import chosen_clips, held_out_sample
from cinescene_training.train import fit, open_cache

pytestmark = [
    pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pytorch_lightning"),
]


class ExactNetwork(nn.Module):
    """The true velocity towards the clip that one of its inputs names; the prompt tells twins apart."""

    def __init__(self, cache, reads):
        super().__init__()
        self.clips, self.reads = [cache.sample(index) for index in range(len(cache))], reads

    def forward(self, noisy, sigma, text, poses, scene):
        def distance(clip):
            if self.reads == "scene":
                away = (scene.latents[0, 0] - normalise_latents(clip.view_latents[:1])[0]).abs().max()
            else:
                away = (poses[0] - clip.poses).abs().max()
            return 1000 * away + (text[0] - clip.text).abs().max()

        clip = min(self.clips, key=distance)
        return (noisy - normalise_latents(clip.latents[None])) / sigma.view(-1, 1, 1, 1, 1)


class NotANumber(nn.Module):
    def forward(self, noisy, sigma, text, poses, scene):
        return noisy * torch.nan


@pytest.fixture(scope="module")
def bench(studio):
    """Every training clip: three places with a path each, filmed with and without the subject."""
    options = EvaluationOptions(split="train", steps=3, guidance=1.0, seeds=(3, 8), device="cpu")
    return open_bench(tiny_config(studio), options)


@pytest.fixture(scope="module")
def exact(bench):
    """What a network that reads the place and the prompt is found to be."""
    return film_and_measure(ExactNetwork(bench.cache, "scene"), bench, "exact")


def row(table, name):
    return next(row for row in table.rows if row.name == name)


def test_a_network_that_is_exact_reaches_the_vae_and_no_more(exact):
    table = exact.table
    ceiling = {video.clip: video for video in table.videos if video.variant == "VAE"}
    found = [video for video in table.videos if video.variant == "model"]
    assert len(found) == 12
    for video in found:
        for name in ("psnr", "ssim", "detail", "flickering", "warp", "psnr_background"):
            # The solver's rounding in float32, on values of up to 40.
            assert getattr(video, name) == pytest.approx(getattr(ceiling[video.clip], name), abs=1e-3), name
    assert {video.seed for video in found} == {3, 8}
    assert row(table, "model").psnr_decoded.value > 60  # nothing but rounding
    assert row(table, "VAE").psnr_decoded.value is None
    assert row(table, "model").psnr.videos == 12
    assert row(table, "VAE").psnr.videos == 6


def test_a_folder_of_panoramas_that_is_all_for_testing_is_measured(tmp_path):
    """The paper's out-of-domain test (supplement C.1)."""
    save_image(textured_panorama(0, 64), tmp_path / "hall.png")
    source = SourceConfig(kind="panoramas", root=tmp_path, only="test", clips_per_place=3)
    config = tiny_config(tmp_path)
    config = dataclasses.replace(config, cache=dataclasses.replace(config.cache, source=source))
    build_cache(config.cache)
    bench = open_bench(config, EvaluationOptions(steps=3, guidance=1.0, device="cpu"))
    table = film_and_measure(ExactNetwork(bench.cache, "camera"), bench, "exact").table
    assert (row(table, "model").clips, row(table, "model").places) == (3, 1)
    assert row(table, "model").psnr.value == pytest.approx(row(table, "VAE").psnr.value, abs=1e-3)
    assert row(table, "model").trans_err.value is None  # a panorama has one viewpoint
    with pytest.raises(FileFormatError, match=r"source\.only puts every place into test, so there are no clips for"):
        open_bench(config, EvaluationOptions(split="validation", device="cpu"))


def test_the_row_of_the_vae_is_what_encoding_and_decoding_costs(bench, exact):
    vae = load_encoders(bench.config.cache.encoders).vae
    footage = bench.side.footage
    clip = bench.cache.items[0].name
    truth = footage.frames(clip, 5)
    decoded = vae.decode(vae.encode(truth[None]).to(torch.bfloat16).float())[0]  # shards hold bfloat16
    errors = (decoded - truth).square().mean((1, 2, 3)).double()
    expected = float((-10 * errors.log10()).mean())
    video = next(v for v in exact.table.videos if v.variant == "VAE" and v.clip == clip)
    assert video.psnr == pytest.approx(expected, abs=1e-4)

    mask = footage.subject_mask(clip, 5)
    per_frame = [
        -10 * torch.log10((decoded[t] - truth[t])[mask[t]].double().square().mean()) for t in range(5) if mask[t].any()
    ]
    assert video.psnr_subject == pytest.approx(float(torch.stack(per_frame).mean()), abs=1e-4)


@pytest.mark.parametrize(("reads", "blind"), [("scene", "camera"), ("camera", "scene")])
def test_an_input_taken_from_another_clip_tells_what_the_network_reads(bench, reads, blind):
    options = dataclasses.replace(bench.options, seeds=(0,), clips=2, interventions=("other_scene", "other_camera"))
    network = ExactNetwork(bench.cache, reads)
    table = film_and_measure(network, dataclasses.replace(bench, options=options), reads).table
    for clip in {video.clip for video in table.videos}:
        found = {video.variant: video for video in table.videos if video.clip == clip}
        own, followed = found["model"], found[f"model, other {reads}"]
        ignored = found[f"model, other {blind}"]
        assert (ignored.psnr, ignored.psnr_decoded, ignored.ssim) == (own.psnr, own.psnr_decoded, own.ssim)

        # It filmed the next place, by one of the two prompts that the network knows there.
        places = list(dict.fromkeys(item.place for item in bench.cache.items))
        place = places[(places.index(own.place) + 1) % len(places)]
        truth = bench.side.footage.frames(clip, 5)
        ours = [index for index, item in enumerate(bench.cache.items) if item.place == place]
        possible = []
        for index in ours:
            frames = decode_video(bench.cache.sample(index).latents[None], bench.vae)
            possible.append(float((-10 * (frames - truth).double().square().mean((1, 2, 3)).log10()).mean()))
        assert min(abs(followed.psnr - value) for value in possible) < 1e-3
        assert own.psnr_decoded > 60 > 30 > followed.psnr_decoded


def test_clips_with_and_without_a_subject_have_rows_of_their_own(exact):
    table = exact.table
    names = [one.name for one in table.rows]
    assert names == ["model", "model, clips without a subject", "model, clips with a subject", "VAE"]
    without = row(table, "model, clips without a subject")
    assert (without.videos, without.clips, without.places) == (6, 3, 3)
    assert without.psnr_background.value == pytest.approx(without.psnr.value)  # everything is background
    assert without.psnr_subject.value is None
    assert row(table, "model, clips with a subject").psnr_subject.missing == 0


def test_the_sheet_shows_results_over_their_truth(bench, exact):
    sheet = exact.sheet
    assert sheet.shape == (2 * 4 * 32, 5 * 64, 3)  # four clips, five frames
    truth = bench.side.footage.frames(bench.cache.items[0].name, 5)
    torch.testing.assert_close(sheet[32:64], torch.cat(list(truth), dim=1))


def test_latents_that_are_not_finite_are_failures_and_are_named(bench):
    options = dataclasses.replace(bench.options, seeds=(0,), clips=2)
    found = film_and_measure(NotANumber(), dataclasses.replace(bench, options=options), "broken").table
    model = row(found, "model")
    assert (model.failed, model.videos, model.psnr.value, model.psnr.missing) == (2, 2, None, 2)
    assert row(found, "VAE").failed == 0
    problems = {video.problem for video in found.videos if video.variant == "model"}
    assert problems == {"The sampled latents hold NaN or infinity."}


class FaultyFootage:
    """Footage of which some clips cannot be read any more."""

    def __init__(self, footage, broken):
        self.footage, self.broken = footage, broken

    def __getattr__(self, name):
        return getattr(self.footage, name)

    def frames(self, clip, num_frames):
        if self.broken in clip:
            raise FileFormatError(f"{clip}.mp4 ends after 3 frames.")
        return self.footage.frames(clip, num_frames)


def test_a_clip_that_cannot_be_read_is_counted_and_named(bench):
    first = bench.cache.items[0].name
    side = dataclasses.replace(bench.side, footage=FaultyFootage(bench.side.footage, first))
    faulty = dataclasses.replace(bench, side=side)
    table = film_and_measure(ExactNetwork(bench.cache, "scene"), faulty, "exact").table
    model = row(table, "model")
    assert (model.videos, model.failed, model.psnr.videos) == (12, 2, 10)
    assert {video.clip for video in table.videos if video.problem} == {first}

    side = dataclasses.replace(bench.side, footage=FaultyFootage(bench.side.footage, "room"))
    with pytest.raises(
        FileFormatError, match=r"None of the 6 clips could be measured\. room_train_000000/whuman/01: .*mp4 ends"
    ):
        film_and_measure(NotANumber(), dataclasses.replace(faulty, side=side), "exact")


def test_noise_belongs_to_the_clip_and_the_seed(bench):
    clip, objective = bench.cache.sample(1), bench.config.objective
    first = held_out_sample(clip, 1, objective, seed=3)
    assert torch.equal(first.noise, held_out_sample(clip, 1, objective, seed=3).noise)
    others = [held_out_sample(clip, 1, objective, seed=4).noise, held_out_sample(clip, 2, objective, seed=3).noise]
    assert not any(torch.equal(first.noise, noise) for noise in others)
    assert abs(float(first.noise.std()) - 1) < 0.1
    assert not torch.equal(first.noise, torch.zeros_like(first.noise))


def test_a_run_is_shown_its_views_as_it_was_trained(bench):
    clip = bench.cache.sample(0)
    encoded = normalise_latents(clip.view_latents)
    shuffled = [held_out_sample(clip, index, ObjectiveConfig()).scene.latents[0] for index in range(8)]
    assert all(torch.equal(latents[0], encoded[0]) for latents in shuffled)  # the start view keeps its slot
    assert {torch.equal(latents, encoded) for latents in shuffled} == {True, False}
    for index in range(8):
        ordered = held_out_sample(clip, index, ObjectiveConfig(order="ordered")).scene.latents[0]
        assert torch.equal(ordered, encoded)


def test_clips_are_drawn_alike_and_twins_have_equal_chances():
    assert chosen_clips(5, 9) == [0, 1, 2, 3, 4]
    drawn = chosen_clips(1000, 500)
    assert drawn == chosen_clips(1000, 500) == sorted(set(drawn))
    # Twins alternate. Half of 500 draws without replacement, deviation sqrt(500 / 4 / 2) = 8: five of them.
    assert abs(sum(index % 2 for index in drawn) - 250) < 40


@pytest.fixture(scope="module")
def trained(studio, tmp_path_factory):
    config = tiny_config(studio, run={"folder": tmp_path_factory.mktemp("run"), "steps": 3})
    return config, fit(config)


def test_a_trained_run_is_measured_and_written_and_repeats_itself(trained, tmp_path):
    config, checkpoint = trained
    counted = []
    options = EvaluationOptions(steps=2, device="cpu")
    text = run_evaluate(config, checkpoint, options, tmp_path / "new" / "out", lambda *done: counted.append(done))
    out = tmp_path / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "evaluation.md", "evaluation.png"]
    assert (out / "evaluation.md").read_text(encoding="utf-8") == text
    assert counted == [(1, 4), (2, 4), (3, 4), (4, 4)]
    again = evaluate(config, checkpoint, options)
    assert read_table(out / "evaluation.json") == again
    assert again.protocol.guidance == config.validation.guidance
    assert again.protocol.steps == 2
    assert text.startswith("# tiny on test\n")


def test_what_cannot_be_evaluated_is_said_before_anything_is_sampled(studio, trained, tmp_path):
    config, checkpoint = trained
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint .*none.ckpt. Run cinescene-train fit first"):
        evaluate(config, tmp_path / "none.ckpt", EvaluationOptions())
    with pytest.raises(CheckpointError, match=r"trained with model.positions = 'sequential', but this run says"):
        evaluate(tiny_config(studio, run={"steps": 3}, model={"positions": "paired"}), checkpoint, EvaluationOptions())
    (tmp_path / "notes.ckpt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match=r"notes.ckpt cannot be read as a checkpoint"):
        evaluate(config, tmp_path / "notes.ckpt", EvaluationOptions())
    with pytest.raises(FileExistsError, match=r"Cannot write into .*notes.ckpt: it is a file. Name a folder."):
        run_evaluate(config, checkpoint, EvaluationOptions(), tmp_path / "notes.ckpt")
    with pytest.raises(ValueError, match=r"There is no device 'cuda:9' here; torch can use cpu"):
        evaluate(config, checkpoint, EvaluationOptions(device="cuda:9"))


def test_a_split_without_clips_is_refused(studio, tmp_path):
    config = tiny_config(studio)
    cache = dataclasses.replace(config.cache, folder=tmp_path)
    with pytest.raises(FileFormatError, match=r"holds no encoded clips for test. Run cinescene-train cache"):
        open_bench(dataclasses.replace(config, cache=cache), EvaluationOptions())


def test_a_source_without_the_split_is_refused(bench, monkeypatch):
    source = open_source(bench.config.cache)
    lacking = dataclasses.replace(source, sides=tuple(side for side in source.sides if side.split != "test"))
    monkeypatch.setattr("cinescene_training.evaluate.run.open_source", lambda *_: lacking)
    with pytest.raises(FileFormatError, match=r"The source has no places for test, so there are no true frames"):
        open_bench(bench.config, EvaluationOptions())


@pytest.mark.parametrize(("name", "lacking"), [("other_scene", "place"), ("other_camera", "camera path")])
def test_an_intervention_needs_a_second_clip(bench, name, lacking):
    options = EvaluationOptions(split="test", steps=1, guidance=1.0, interventions=(name,), device="cpu")
    cache = open_cache(bench.config, "test")
    alone = dataclasses.replace(bench, options=options, cache=cache, side=open_bench(bench.config, options).side)
    with pytest.raises(ValueError, match=rf"{name} needs clips of a second {lacking}; the test split has one\."):
        film_and_measure(ExactNetwork(cache, "scene"), alone, "exact")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split": "tset"}, r"split must be one of train, validation, test; got 'tset'. Did you mean 'test'"),
        ({"clips": 0}, r"EvaluationOptions.clips must be a positive number; got 0"),
        ({"stride": 0}, r"EvaluationOptions.stride must be a positive number"),
        ({"seeds": ()}, r"seeds must name one or more different seeds; got \(\)"),
        ({"seeds": (1, 1)}, r"seeds must name one or more different seeds; got \(1, 1\)"),
        ({"interventions": ("other_text",)}, r"interventions must be one of other_scene, other_camera"),
        ({"lpips_heads": "alex.pth"}, r"LPIPS needs both its files, lpips_alexnet and lpips_heads; got one"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        EvaluationOptions(**changes)


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_videos_are_made_on_a_card_where_there_is_one(monkeypatch, there, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert EvaluationOptions().device == device


def test_impossible_sampling_is_refused_before_it_starts(bench):
    with pytest.raises(ValueError, match=re.escape("SamplingConfig.steps must be at least 1; got 0")):
        open_bench(bench.config, EvaluationOptions(steps=0))
