"""Filming a list: the same videos as one by one, nothing done twice, and each fault and note told with its row."""

import dataclasses
import json
import warnings
from pathlib import Path

import pytest
import torch
from tiny_lists import (
    LIST,
    SETTINGS,
    cached_nano,
    film,
    names,
    rows_of,
    small_scene,
    stand_in_for_filming,
    two_views,
)

import cinescene_core.pipeline
import cinescene_core.shots.film as film_module
from cinescene_core.checks import CineSceneWarning, FileFormatError
from cinescene_core.cli import main
from cinescene_core.context import check_shot
from cinescene_core.costs import CostMeter
from cinescene_core.panorama import example_panorama_path
from cinescene_core.pipeline import encode_place, generate
from cinescene_core.scene import kept_scene_path, load_scene, save_scene
from cinescene_core.shots import film_shots, plan_shots
from cinescene_core.shots.notes import RowNotes
from cinescene_core.video import load_video, save_video

pytestmark = pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning")


@pytest.fixture(scope="module")
def models():
    return cached_nano()


@pytest.fixture(scope="module")
def place():
    return two_views()


@pytest.fixture(scope="module")
def scene():
    return small_scene()


@pytest.fixture
def rows(tmp_path):
    return rows_of(tmp_path)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def stand_in(monkeypatch):
    """Filming that takes no time; the names of the prompts filmed."""
    return stand_in_for_filming(monkeypatch)


def test_a_list_films_what_each_shot_alone_would_be_and_reads_the_scene_once_a_length(
    models, scene, rows, out, monkeypatch
):
    read = []
    real = film_module.cache_scene
    monkeypatch.setattr(film_module, "cache_scene", lambda *a, **k: read.append(a[2]) or real(*a, **k))
    written = {}

    def save(frames, path, fps):
        written[path.stem] = frames
        save_video(frames, path, fps)

    monkeypatch.setattr(film_module, "save_video", save)
    told, meter = [], CostMeter(torch.device("cpu"))
    planned = plan_shots(models, scene, rows, SETTINGS)
    film_shots(
        models, scene, planned, out, SETTINGS, meter=meter, on_shot=lambda s, r, new: told.append((s.row.name, new))
    )
    assert told == [("short", True), ("long", True), ("again", True)]  # those of one length together
    assert read == [5, 9]
    assert [cost.stage for cost in meter.costs] == ["cache", "cache"]
    assert (written["long"] - written["again"]).abs().mean() > 10 / 255  # no two shots are alike
    for row in rows:
        path = row.trajectory(num_frames=17, fps=15.0, fov_degrees=90.0)
        sampling = dataclasses.replace(SETTINGS.sampling, seed=row.seed)
        alone = generate(models, scene, row.prompt, path, sampling=sampling)
        # Where memory lies decides the last bits of sums.
        torch.testing.assert_close(written[row.name], alone.frames, rtol=0, atol=1e-4)
        assert load_video(out / f"{row.name}.mp4")[0].shape == alone.frames.shape


def test_finished_shots_are_left_alone_and_a_changed_row_is_filmed_again(models, scene, rows, out, stand_in, tmp_path):
    film(models, scene, rows, out)
    assert sorted(stand_in) == ["a cat", "a dog", "a red robot"]
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    stand_in.clear()
    film(models, scene, rows, out)
    assert stand_in == []
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    film(models, scene, rows_of(tmp_path, LIST.replace("a dog", "two dogs")), out)
    assert stand_in == ["two dogs"]


def test_an_error_in_a_shot_names_its_row(models, scene, out, tmp_path):
    rows = rows_of(tmp_path, f"name,prompt,path,frames\nlong,{'dog ' * 40},static,5\n")
    with pytest.raises(
        FileFormatError, match=r"shots\.csv, row 2 'long': The prompt has 40 words; .* reads at most 32"
    ):
        film(models, scene, rows, out)


# Scenes that are kept


def test_a_place_is_encoded_once_and_again_where_what_was_kept_is_damaged(models, place, out, monkeypatch):
    first = encode_place(models, place, folder=out)
    with monkeypatch.context() as patch:
        patch.setattr(cinescene_core.pipeline, "encode_scene", None)  # another call would fail
        second = encode_place(models, place, folder=out)
    assert torch.equal(first.tokens.patch, second.tokens.patch)
    assert torch.equal(first.latents, second.latents)
    del second  # it is mapped to the file
    (kept,) = out.iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.warns(CineSceneWarning, match=rf"The place is encoded again: .*{kept.name} is truncated: 100 of"):
        third = encode_place(models, place, folder=out)
    assert torch.equal(first.latents, third.latents)
    assert torch.equal(load_scene(kept).latents, first.latents)


def test_a_kept_scene_belongs_to_its_views_and_networks(models, place):
    def path(views=place, size=(168, 98)):
        return kept_scene_path("scenes", views, models.vggt, models.vae, size)

    found = [path(), path(size=(182, 98)), path(dataclasses.replace(place, fov_degrees=80.0))]
    found.append(path(dataclasses.replace(place, images=place.images.flip(0))))
    for network, name in ((models.vae, "network.encoder.conv_in.weight"), (models.vggt, "aggregator.camera_token")):
        values = network.get_parameter(name).data
        before = values.clone()
        values.view(-1)[0] += 0.5
        found.append(path())
        values.copy_(before)
    assert len(set(found)) == len(found)
    assert path() == found[0] == Path("scenes") / found[0].name


# The command


def test_a_list_films_a_scene_file_over_the_command(scene, tmp_path, capsys):
    save_scene(scene, tmp_path / "place.safetensors")
    (tmp_path / "shots.csv").write_text("name,prompt,path,frames\na,a dog,static,5\nb,a cat,static,5\n")
    arguments = ["shots", tmp_path / "shots.csv", "--scene", tmp_path / "place.safetensors", "--steps", 1]
    arguments += ["--out", tmp_path / "out", "--shard"]
    assert main([str(argument) for argument in [*arguments, "2/2"]]) == 0
    assert "1 of 1 shots filmed, 0 were there" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["b.json", "b.mp4", "contact_sheet.jpg", "report.html"]
    with pytest.raises(SystemExit):
        main([str(argument) for argument in [*arguments, "3/2"]])
    assert "a shard is i/n with 1 <= i <= n, such as 2/4; got '3/2'" in capsys.readouterr().err


def test_torchrun_would_film_a_list_twice(tmp_path, monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "shots.csv").write_text("name,prompt,path\na,a dog,static\n")
    arguments = ["shots", tmp_path / "shots.csv", "--panorama", example_panorama_path(), "--out", tmp_path / "out"]
    assert main([str(argument) for argument in arguments]) == 2
    assert "torchrun started 2 processes, and each would film the whole list" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_list_is_filmed_with_the_speed_that_is_asked_for(scene, tmp_path):
    save_scene(scene, tmp_path / "place.safetensors")
    (tmp_path / "shots.csv").write_text("name,prompt,path,frames\na,a dog,static,5\n")
    arguments = ["shots", tmp_path / "shots.csv", "--scene", tmp_path / "place.safetensors", "--steps", 3]
    arguments += ["--step-cache", 1000, "--out", tmp_path / "out"]
    assert main([str(argument) for argument in arguments]) == 0
    record = json.loads((tmp_path / "out/a.json").read_text(encoding="utf-8"))
    assert record["shot"]["speed"]["step_cache"] == 1000
    # Every step after the first changes less than a thousandfold; guidance takes two forwards of each.
    assert record["skipped"] == {"skipped": 4, "forwards": 6}
    assert '<td class="n">4 of 6</td>' in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    plain, quick = tmp_path / "plain", load_video(tmp_path / "out/a.mp4")[0]
    assert main([str(argument) for argument in [*arguments[:-4], "--out", plain]]) == 0
    assert not torch.equal(load_video(plain / "a.mp4")[0], quick)


def test_a_mistyped_place_leaves_no_folder(tmp_path, capsys):
    (tmp_path / "shots.csv").write_text("name,prompt,path\na,a dog,static\n")
    arguments = ["shots", tmp_path / "shots.csv", "--panorama", tmp_path / "plaza.jpg", "--out", tmp_path / "out/day"]
    assert main([str(argument) for argument in arguments]) == 2
    assert "plaza.jpg" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/day/one"])
def test_shots_are_not_filmed_into_a_file(tmp_path, capsys, out):
    (tmp_path / "file").touch()
    (tmp_path / "shots.csv").write_text("name,prompt,path\na,a dog,static\n")
    arguments = ["shots", tmp_path / "shots.csv", "--panorama", example_panorama_path(), "--out", tmp_path / out]
    assert main([str(argument) for argument in arguments]) == 2
    assert capsys.readouterr().err == (
        f"cinescene: Cannot film into {tmp_path / out}: {tmp_path / 'file'} is a file. Name a folder.\n"
    )


# Notes


def test_a_note_is_said_once_with_its_rows_and_what_filming_adds_at_the_end(models, scene, out, tmp_path, monkeypatch):
    filmed = stand_in_for_filming(monkeypatch)
    real = film_module.generate

    def filming(_, scene, prompt, trajectory, **options):
        check_shot(trajectory, scene, models.config)  # what planning has said is not said again
        warnings.warn("The word 'zebra' is not known.", CineSceneWarning, stacklevel=1)
        warnings.warn("a library's own", FutureWarning, stacklevel=1)
        return real(_, scene, prompt, trajectory, **options)

    monkeypatch.setattr(film_module, "generate", filming)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        film(models, scene, rows_of(tmp_path), out)
    assert len(filmed) == 3
    told = [(entry.category, str(entry.message)) for entry in caught]
    size = "64 x 32 pixels (trained: 160 x 96 pixels)"
    short, nine = (
        f"This shot is not as the checkpoint was trained: {size}; {count} frames (trained: 17 frames); 2 views "
        "(trained: 20 views). It may look worse for that."
        for count in (5, 9)
    )
    assert told == [
        (CineSceneWarning, f"shots.csv, row 3 'short': {short}"),
        (CineSceneWarning, f"shots.csv, row 2 'long', row 4 'again': {nine}"),
        *[(FutureWarning, "a library's own")] * 3,
        (
            CineSceneWarning,
            "shots.csv, row 3 'short', row 2 'long', row 4 'again': The word 'zebra' is not known.",
        ),
    ]


def test_a_note_names_five_rows_and_counts_the_others(tmp_path):
    rows = rows_of(tmp_path, "name,prompt,path\n" + "".join(f"{n},a dog,static\n" for n in "abcdefg"))
    notes = RowNotes()
    for row in rows:
        notes.add(row, ["It rains."])
    with pytest.warns(CineSceneWarning, match=r"^shots\.csv, row 2 'a', .*, row 6 'e' and 2 more: It rains\.$"):
        notes.say()
