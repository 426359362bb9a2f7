"""A list over a Ray cluster: the files of a run without one, nothing done twice, and a sentence where Ray is absent."""

import builtins
import json
from functools import partial

import pytest
import torch

import cinescene_core.shots.ray as ray_module
from cinescene_core.checks import FileFormatError, Interrupted
from cinescene_core.cli import main
from cinescene_core.config import SamplingConfig
from cinescene_core.loading import load_nano
from cinescene_core.shots import FilmSettings, film_shots, finished_record, plan_shots, read_shots
from cinescene_core.shots.ray import film_on_ray
from cinescene_core.types import Views
from cinescene_core.video import load_video
from cinescene_core.weights import BUNDLE_PARTS, nano_path, read_bundle_part, save_bundle
from cinescene_core.weights.metadata import TRANSFORMER_KEY

SETTINGS = FilmSettings(sampling=SamplingConfig(steps=1, guidance=1.0))
LIST = """name,prompt,path,seed,frames
a,a dog,static,1,5
b,a cat,pan_left,2,5
c,a robot,dolly_in,3,9
d,a ball,static,4,9
"""
pytestmark = pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning")


def cached_bundle(path):
    """The embedded model, as one that was trained with a context of its own, in a file that every worker can read."""
    parts = {part: read_bundle_part(nano_path(), part) for part in BUNDLE_PARTS}
    records = {BUNDLE_PARTS[part]: record for part, (_, record) in parts.items()}
    records[TRANSFORMER_KEY] |= {"context_attention": "cached"}
    save_bundle(path, {part: tensors for part, (tensors, _) in parts.items()}, records)
    return path


@pytest.fixture(scope="module")
def cluster():
    """Two cores of this machine."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_local_cluster_of_two_cores_makes_the_files_of_a_plain_run(tmp_path, cluster):
    (tmp_path / "shots.csv").write_text(LIST, encoding="utf-8")
    load = partial(load_nano, cached_bundle(tmp_path / "cached.safetensors"))
    models = load()
    place = Views(torch.rand(2, 32, 64, 3, generator=torch.Generator().manual_seed(0)), None, 90.0)
    planned = plan_shots(models, place, read_shots(tmp_path / "shots.csv"), SETTINGS)
    plain, spread = tmp_path / "plain", tmp_path / "spread"
    for folder in (plain, spread):
        folder.mkdir()
    film_shots(models, place, planned, plain, SETTINGS)
    film_shots(models, place, planned[:1], spread, SETTINGS)
    before = (spread / "a.mp4").stat().st_mtime_ns

    told = []
    film_on_ray(
        load,
        models,
        place,
        planned,
        spread,
        SETTINGS,
        on_shot=lambda s, r, new: told.append((s.row.name, new)),
    )
    assert told[0] == ("a", False)
    assert sorted(told[1:]) == [("b", True), ("c", True), ("d", True)]
    assert (spread / "a.mp4").stat().st_mtime_ns == before
    for shot in planned:
        name = f"{shot.row.name}.mp4"
        videos = [load_video(folder / name)[0] for folder in (plain, spread)]
        # Last bits differ between processes, and x264 then decides otherwise: half a level on average, where
        # another shot is tens of levels away.
        assert (videos[0] - videos[1]).abs().mean() < 2 / 255, name
        digests = [json.loads((folder / f"{shot.row.name}.json").read_text())["digest"] for folder in (plain, spread)]
        assert digests[0] == digests[1]
    first, second = (load_video(spread / name)[0] for name in ("a.mp4", "b.mp4"))
    assert (first - second).abs().mean() > 10 / 255
    # What a worker finds wrong is told as if it were found here.
    (tmp_path / "long.csv").write_text(f"name,prompt,path,frames\nlong,{'dog ' * 40},static,5\n", encoding="utf-8")
    wrong = plan_shots(models, place, read_shots(tmp_path / "long.csv"), SETTINGS)
    with pytest.raises(FileFormatError, match=r"^long\.csv, row 2 'long': The prompt has 40 words"):
        film_on_ray(load, models, place, wrong, spread, SETTINGS)
    lost = partial(load_nano, tmp_path / "not_there.safetensors")
    with pytest.raises(ConnectionError, match=r"A Ray worker was lost \(.*not_there\.safetensors does not exist"):
        film_on_ray(lost, models, place, planned, tmp_path, SETTINGS)


def test_scenes_are_encoded_while_shots_are_filmed_and_a_stopped_list_keeps_what_is_finished(
    tmp_path, cluster, monkeypatch
):
    rows = "".join(f"{name},a dog,static,5,{lens}\n" for name, lens in zip("abcd", (60, 70, 80, 90), strict=True))
    (tmp_path / "shots.csv").write_text(f"name,prompt,path,frames,lens\n{rows}", encoding="utf-8")
    load = partial(load_nano, cached_bundle(tmp_path / "cached.safetensors"))
    models = load()
    panorama = torch.rand(64, 128, 3, generator=torch.Generator().manual_seed(1))
    cut = models.view_config(num_views=2, width=64, height=32)
    planned = plan_shots(models, panorama, read_shots(tmp_path / "shots.csv"), SETTINGS, cut)
    out = tmp_path / "out"
    out.mkdir()
    events, done = [], []
    real = ray_module.SceneShelf.of
    monkeypatch.setattr(
        ray_module.SceneShelf, "of", lambda shelf, shot: events.append(shot.row.name) or real(shelf, shot)
    )
    with pytest.raises(Interrupted, match=r"The list was stopped; finished shots are kept\."):
        film_on_ray(
            load,
            models,
            panorama,
            planned,
            out,
            SETTINGS,
            on_shot=lambda shot, record, new: events.append("done") or done.append(shot),
            should_stop=lambda: len(done) == 2,
        )
    # Two workers film the first two, and the third scene waits for one of them.
    assert events[:5] == ["a", "b", "c", "done", "d"]
    assert len(done) == 2
    assert all(finished_record(out, shot.row.name, shot.digest) for shot in done)
    assert len(list(out.glob("*.mp4"))) == 2


def test_without_ray_the_command_says_so_before_any_work(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "ray":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "shots.csv").write_text(LIST, encoding="utf-8")
    arguments = ["shots", tmp_path / "shots.csv", "--scene", tmp_path / "none.safetensors", "--ray"]
    assert main([str(argument) for argument in [*arguments, "--out", tmp_path / "out"]]) == 2
    assert capsys.readouterr().err == (
        'cinescene: Spreading shots over a cluster needs Ray. Install it with: pip install "cinescene[ray]", '
        "or leave --ray out.\n"
    )
