"""Filming a list: the same videos as one by one, nothing done twice, nothing half-made, whatever ends the run."""

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cinescene_core.pipeline
import cinescene_core.shots.film as film_module
from cinescene_core.checks import FileFormatError
from cinescene_core.cli import main
from cinescene_core.config import SamplingConfig, SpeedConfig
from cinescene_core.costs import CostMeter, StageCost
from cinescene_core.panorama import example_panorama_path
from cinescene_core.pipeline import Shot, encode_place, generate, load_nano
from cinescene_core.scene import kept_scene_path, load_scene, save_scene
from cinescene_core.shots import FilmSettings, film_shots, finished_record, plan_shots, read_shots, write_report
from cinescene_core.shots.film import SCENE_FOLDER
from cinescene_core.shots.records import remove_leftovers
from cinescene_core.shots.report import GAP, LABEL_HEIGHT, PICTURE_WIDTH
from cinescene_core.trajectory import preset_trajectory, save_trajectory
from cinescene_core.types import Views
from cinescene_core.video import load_video, save_video

SETTINGS = FilmSettings(sampling=SamplingConfig(steps=1, guidance=1.0))
LIST = """name,prompt,path,seed,frames
long,a red robot,dolly_in,1,9
short,a dog,pan_left 20,2,5
again,a cat,static,3,9
"""
pytestmark = pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning")


@pytest.fixture(scope="module")
def models():
    """The embedded model, as one that was trained with a context of its own."""
    nano = load_nano()
    return dataclasses.replace(nano, config=dataclasses.replace(nano.config, context_attention="cached"))


@pytest.fixture(scope="module")
def place():
    return Views(torch.rand(2, 32, 64, 3, generator=torch.Generator().manual_seed(0)), None, 90.0)


@pytest.fixture(scope="module")
def scene(models, place):
    return encode_place(models, place)


def rows_of(folder, text=LIST):
    path = folder / "shots.csv"
    path.write_text(text, encoding="utf-8")
    return read_shots(path)


@pytest.fixture
def rows(tmp_path):
    return rows_of(tmp_path)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


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


# What decides a shot. The models here stand in for filming: a video is a flat colour of its seed.


def flat(seed, size=(64, 32), frames=5):
    colour = torch.tensor([0.2, 0.4, 0.6]).roll(seed)
    return colour.expand(frames, size[1], size[0], 3).clone()


@pytest.fixture
def stand_in(models, monkeypatch):
    """Filming that takes no time; returns the names of the prompts filmed."""
    filmed = []

    def instead(_, scene, prompt, trajectory, *, sampling, **__):
        filmed.append(prompt)
        frames = flat(sampling.seed, scene.views.size, len(trajectory))
        return Shot(frames, trajectory.fps, torch.zeros(1), scene, None, (StageCost("sampling", 1.25, None),))

    monkeypatch.setattr(film_module, "generate", instead)
    monkeypatch.setattr(film_module, "cache_scene", lambda *a, **k: None)
    return filmed


def film(models, place, rows, out, settings=SETTINGS):
    planned = plan_shots(models, place, rows, settings)
    film_shots(models, place, planned, out, settings)
    return planned


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


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("a dog", "a dag"),
        lambda text: text.replace("20,2", "20,4"),
        lambda text: text.replace("pan_left 20", "pan_left 21"),
        lambda text: text.replace("pan_left 20", "pan_right 20"),
        lambda text: text.replace("2,5", "2,9"),
        lambda text: text.replace("pan_left 20", "turn.json"),
        lambda text: text.replace("frames", "frames,negative").replace("2,5", "2,5,blur").replace(",9\n", ",9,\n"),
        lambda text: text.replace("frames", "frames,lens").replace("2,5", "2,5,60").replace(",9\n", ",9,\n"),
    ],
    ids=["prompt", "seed", "amount", "move", "frames", "path file", "negative", "lens"],
)
def test_whatever_decides_a_shot_decides_its_digest(models, scene, tmp_path, change):
    save_trajectory(preset_trajectory("pan_left", amount=20, num_frames=5), tmp_path / "turn.json")
    old, new = (plan_shots(models, scene, rows_of(tmp_path, text), SETTINGS) for text in (LIST, change(LIST)))
    same = [a.digest == b.digest for a, b in zip(old, new, strict=True)]
    assert same == [True, False, True]


def test_settings_place_and_weights_decide_it_too(models, place, scene, rows):
    def digest(models=models, place=scene, settings=SETTINGS):
        return plan_shots(models, place, rows, settings)[0].digest

    steps = dataclasses.replace(SETTINGS, sampling=SamplingConfig(steps=2, guidance=1.0))
    shuffled = dataclasses.replace(SETTINGS, shuffle_seed=1)
    other_scene = dataclasses.replace(scene, latents=scene.latents + 1)
    other_views = dataclasses.replace(place, images=1 - place.images)
    joint = dataclasses.replace(models, config=dataclasses.replace(models.config, context_attention="joint"))
    found = [digest(), digest(settings=steps), digest(settings=shuffled), digest(place=other_scene)]
    found += [digest(place=place), digest(place=other_views), digest(models=joint)]
    with torch.no_grad():
        weight = models.transformer.patch_embedding.weight
        before = weight.clone()
        weight.mul_(1.01)
        found.append(digest())
        weight.copy_(before)
    assert len(set(found)) == len(found)
    assert digest() == found[0] == digest(settings=dataclasses.replace(SETTINGS, device="meta"))
    for speed, same in ((SpeedConfig(compiled=True), True), (SpeedConfig(cache_type="float8"), False)):
        assert (digest(settings=dataclasses.replace(SETTINGS, speed=speed)) == found[0]) is same


def test_a_path_of_a_file_decides_by_its_numbers(models, scene, tmp_path):
    digests = set()
    for amount in (20, 20.0001):
        save_trajectory(preset_trajectory("pan_left", amount=amount, num_frames=5), tmp_path / "turn.json")
        (shot,) = plan_shots(models, scene, rows_of(tmp_path, "name,prompt,path\na,a dog,turn.json\n"), SETTINGS)
        digests.add(shot.digest)
    assert len(digests) == 2


# Kills


def whole(out, planned):
    """Names of the finished shots; each has the video that its record and its row say."""
    done = []
    for shot in planned:
        record = out / f"{shot.row.name}.json"
        if record.exists():
            fields = json.loads(record.read_text(encoding="utf-8"))
            video = (out / f"{shot.row.name}.mp4").read_bytes()
            assert hashlib.sha256(video).hexdigest() == fields["video"]
            if fields["digest"] == shot.digest:
                done.append(shot.row.name)
    return done


def killed_at(event, folder, work):
    """Run `work` in a process that ends, without any clean-up, in front of its n-th touch of `folder`; True if so."""
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(name, arguments):
            nonlocal seen
            if name.split(".")[0] in ("open", "os") and any(str(folder) in str(part) for part in arguments):
                seen += 1
                if seen == event:
                    os._exit(9)

        try:
            sys.addaudithook(watch)
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), "the work failed by itself"
    return status == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_before_any_of_its_file_operations_goes_on_where_it_was(models, scene, stand_in, tmp_path, out):
    old, new = (
        "name,prompt,path,seed\na,a dog,static,1\n",
        "name,prompt,path,seed\na,a dog,static,2\nb,a cat,static,1\n",
    )
    rows = {"old": rows_of(tmp_path, old), "new": rows_of(tmp_path, new)}
    plans = {name: plan_shots(models, scene, found, SETTINGS) for name, found in rows.items()}
    expected = {}
    for name, planned in plans.items():
        film_shots(models, scene, planned, out, SETTINGS)
        expected[name] = {path.name: path.read_bytes() for path in out.glob("*.mp4")}
        for path in out.iterdir():
            path.unlink()

    event, killed = 0, True
    while killed:
        event += 1
        film_shots(models, scene, plans["old"], out, SETTINGS)
        killed = killed_at(event, out, lambda: film_shots(models, scene, plans["new"], out, SETTINGS))
        done = whole(out, plans["new"])
        kept = {name: (out / f"{name}.mp4").stat().st_mtime_ns for name in done}
        # The list as it was before is right again too, though a killed run may have replaced its video.
        back = event % 2
        planned = plans["old" if back else "new"]
        remove_leftovers(out)
        film_shots(models, scene, planned, out, SETTINGS)
        wanted = expected["old" if back else "new"]
        assert {name: (out / name).read_bytes() for name in wanted} == wanted
        if not back:
            assert names(out) == ["a.json", "a.mp4", "b.json", "b.mp4"]
            assert all((out / f"{name}.mp4").stat().st_mtime_ns == kept[name] for name in done)
        for path in out.iterdir():
            path.unlink()
    assert event > 15  # two shots make more file operations than that


def test_leftovers_of_one_shot_are_not_those_of_another(out):
    ours, others = out / ".a-0123abcd.mp4", (".a-0123abcd-0123abcd.mp4", ".b-0123abcd.mp4", "a.mp4", ".a-0123.mp4")
    for name in (ours.name, *others):
        (out / name).touch()
    remove_leftovers(out, "a")
    assert names(out) == sorted(others)


def test_a_killed_command_goes_on(tmp_path):
    """The command itself, killed by the system when its first shot is done."""
    (tmp_path / "shots.csv").write_text("name,prompt,path,frames\n" + "".join(f"{n},a dog,static,5\n" for n in "abc"))
    out = tmp_path / "out"
    arguments = ["shots", tmp_path / "shots.csv", "--panorama", example_panorama_path(), "--num-views", 2,
                 "--steps", 2, "--out", out]  # fmt: skip
    arguments = [str(argument) for argument in arguments]
    code = "import sys; from cinescene_core.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL) as process:
        while not (out / "a.json").exists():
            assert process.poll() is None, "the command ended by itself"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (out / "report.html").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "a.mp4", out / "a.json")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = names(out)
    assert [name for name in found if not name.startswith("scenes/")] == sorted(
        ["contact_sheet.jpg", "report.html", *(f"{name}.{kind}" for name in "abc" for kind in ("mp4", "json"))]
    )
    assert len([name for name in found if re.fullmatch(r"scenes/[0-9a-f]{64}\.safetensors", name)]) == 1


# Shards and the page


def test_machines_share_a_list_and_its_folder(models, scene, rows, out, stand_in):
    planned = plan_shots(models, scene, rows, SETTINGS)
    film_shots(models, scene, planned[0::2], out, SETTINGS)
    page = write_report("shots.csv", planned, out).read_text(encoding="utf-8")
    assert "2 of 3 shots are filmed" in page
    assert page.count("not filmed yet") == 1
    film_shots(models, scene, planned[1::2], out, SETTINGS)
    page = write_report("shots.csv", planned, out).read_text(encoding="utf-8")
    assert "3 of 3 shots are filmed, in 3.75 s together, 1.25 s each" in page
    assert "not filmed yet" not in page


def test_the_sheet_shows_every_shot_and_the_page_names_what_was_asked_for(models, scene, out, stand_in, tmp_path):
    rows = rows_of(tmp_path, 'name,prompt,negative,path,seed\na&b,"<b>a dog</b>",fog,static,1\nc d,a cat,,static,2\n')
    planned = film(models, scene, rows, out)
    page = write_report("<list>.csv", planned, out, [StageCost("cache", 0.5, None)]).read_text(encoding="utf-8")
    assert "<h1>&lt;list&gt;.csv</h1>" in page
    assert "&lt;b&gt;a dog&lt;/b&gt;<br>not: fog" in page
    assert 'src="a%26b.mp4"' in page
    assert 'src="c%20d.mp4"' in page
    assert "<b>a dog" not in page
    assert "<li>cache: 0.50 s</li>" in page
    sheet = np.asarray(Image.open(out / "contact_sheet.jpg")).astype(int)
    height = PICTURE_WIDTH * 32 // 64
    for index, seed in enumerate((1, 2)):
        top = GAP + index * (LABEL_HEIGHT + height + GAP) + LABEL_HEIGHT
        for column in range(3):
            left = GAP + column * PICTURE_WIDTH
            # The jpg keeps colour in blocks of 16 pixels, which mix at an edge.
            picture = sheet[top + 16 : top + height - 16, left + 16 : left + PICTURE_WIDTH - 16]
            expected = 255 * flat(seed)[0, 0, 0].numpy()
            # The mp4 and the jpg each round colours to a few of 255 levels.
            assert np.abs(picture - expected).max() < 8, (seed, column)


# What cannot be


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", r"a\.json stands where the record of a shot belongs, and is none .* Move it away"),
        ('{"format": 2}', r"a\.json is a record of format 2 with .*; this version reads format 1 .* Update CineScene"),
        ('{"format": "cinescene-trajectory"}', r"a\.json is a record of format 'cinescene-trajectory'.* move it away"),
    ],
)
def test_a_strange_record_is_not_written_over(models, scene, out, stand_in, tmp_path, content, sentence):
    (out / "a.json").write_text(content)
    with pytest.raises(FileFormatError, match=sentence):
        film(models, scene, rows_of(tmp_path, "name,prompt,path\na,a dog,static\n"), out)
    assert (out / "a.json").read_text() == content
    assert stand_in == []


def test_a_video_that_is_not_the_records_is_filmed_again(models, scene, rows, out, stand_in):
    planned = film(models, scene, rows, out)
    video = out / "long.mp4"
    video.write_bytes(video.read_bytes()[:-10])
    assert finished_record(out, "long", planned[0].digest) is None
    stand_in.clear()
    film(models, scene, rows, out)
    assert stand_in == ["a red robot"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,prompt,path,size\na,a dog,static,128x64\n", r"row 2 'a', column 'size': the place has views of 64 x"),
        ("name,prompt,path\na,a dog,static\n", None),
    ],
)  # fmt: skip
def test_a_size_that_the_place_has_not_is_refused(models, scene, place, tmp_path, text, sentence):
    rows = rows_of(tmp_path, text)
    for given in (scene, place):
        if sentence is None:
            assert plan_shots(models, given, rows, SETTINGS)[0].size == (64, 32)
        else:
            with pytest.raises(FileFormatError, match=sentence):
                plan_shots(models, given, rows, SETTINGS)


def test_a_panorama_is_cut_for_each_size_and_lens(models, out, stand_in, tmp_path):
    panorama = torch.rand(64, 128, 3, generator=torch.Generator().manual_seed(1))
    rows = rows_of(
        tmp_path, "name,prompt,path,size,lens\na,a dog,static,64x32,\nb,a cat,static,,60\nc,a ball,static,64x32,\n"
    )
    config = models.view_config(num_views=2, width=32, height=16)
    planned = plan_shots(models, panorama, rows, SETTINGS, config)
    assert [shot.size for shot in planned] == [(64, 32), (32, 16), (64, 32)]
    film_shots(models, panorama, planned, out, SETTINGS)
    assert stand_in == ["a dog", "a ball", "a cat"]  # those of one place together
    lenses = sorted(load_scene(path).views.fov_degrees for path in (out / SCENE_FOLDER).iterdir())
    assert lenses == [60.0, 90.0]


def test_an_error_in_a_shot_names_its_row(models, scene, out, tmp_path):
    rows = rows_of(tmp_path, f"name,prompt,path,frames\nlong,{'dog ' * 40},static,5\n")
    with pytest.raises(
        FileFormatError, match=r"shots\.csv, row 2 'long': The prompt has 40 words; .* reads at most 32"
    ):
        film(models, scene, rows, out)


# Scenes that are kept


def test_a_place_is_not_encoded_twice(models, place, out, monkeypatch):
    first = encode_place(models, place, folder=out)
    monkeypatch.setattr(cinescene_core.pipeline, "encode_scene", None)  # another call would fail
    second = encode_place(models, place, folder=out)
    assert torch.equal(first.tokens.patch, second.tokens.patch)
    assert torch.equal(first.latents, second.latents)
    del second  # it is mapped to the file
    (kept,) = out.iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(FileFormatError, match=r"\.safetensors is truncated: 100 of its"):
        encode_place(models, place, folder=out)


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
    plain, quick = tmp_path / "plain", load_video(tmp_path / "out/a.mp4")[0]
    assert main([str(argument) for argument in [*arguments[:-4], "--out", plain]]) == 0
    assert not torch.equal(load_video(plain / "a.mp4")[0], quick)
