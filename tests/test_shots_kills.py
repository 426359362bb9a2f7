"""Kills: whatever ends a run, its list goes on where it was, and nothing half-made is taken for finished."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time

import pytest
from tiny_lists import SETTINGS, cached_nano, names, rows_of, small_scene, stand_in_for_filming

from cinescene_core.cli import main
from cinescene_core.panorama import example_panorama_path
from cinescene_core.shots import film_shots, plan_shots
from cinescene_core.shots.records import remove_leftovers

SECONDS = 300
"""A command that has finished no shot by then hangs."""

pytestmark = pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning")


@pytest.fixture(scope="module")
def models():
    return cached_nano()


@pytest.fixture(scope="module")
def scene():
    return small_scene()


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def stand_in(monkeypatch):
    """Filming that takes no time; the names of the prompts filmed."""
    return stand_in_for_filming(monkeypatch)


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


@pytest.mark.skipif(sys.platform != "linux", reason="forks after torch has run, which only Linux allows")
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
    deadline = time.monotonic() + SECONDS
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL) as process:
        try:
            while not (out / "a.json").exists():
                assert process.poll() is None, "the command ended by itself"
                assert time.monotonic() < deadline, f"no shot was finished in {SECONDS} s"
                time.sleep(0.01)
        finally:
            process.kill()
    assert not (out / "report.html").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "a.mp4", out / "a.json")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = names(out)
    assert [name for name in found if not name.startswith("scenes/")] == sorted(
        ["contact_sheet.jpg", "report.html", *(f"{name}.{kind}" for name in "abc" for kind in ("mp4", "json"))]
    )
    assert len([name for name in found if re.fullmatch(r"scenes/[0-9a-f]{64}\.safetensors", name)]) == 1
