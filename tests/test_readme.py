"""What the README tells people to type works as it stands."""

import functools
import re
import shlex
import shutil
from pathlib import Path

import pytest

import cinescene_core.pipeline
from cinescene_core.cli import main
from cinescene_core.cli.parser import build_parser
from cinescene_core.config import SamplingConfig
from cinescene_core.panorama import example_panorama_path
from cinescene_core.video import load_video

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")

FULL_SIZE = ("--model", "convert-vggt")
"""What needs files that nobody can be expected to have: such commands are parsed, not run."""
SMALLER = {
    "generate": "--steps 2 --frames 5",
    "animatic": "--frames 5 --width 160 --height 96",
    "shots": "--steps 2",
    "views": "--num-views 3 --width 160 --height 96",
}
"""Appended where a command would otherwise take minutes; nothing the README says is changed."""


def blocks() -> list[str]:
    """Lines of the indented blocks."""
    return [line.strip() for line in TEXT.splitlines() if line.startswith("    ") and line.strip()]


def commands() -> list[list[str]]:
    """Arguments of every `cinescene` command: lines of the blocks, then those inside sentences."""
    inline = [code for code in re.findall(r"`([^`\n]+)`", TEXT) if code.startswith("cinescene ")]
    lines = [line for line in blocks() if line.startswith("cinescene ")]
    assert len(lines) >= 6
    assert len(inline) >= 1
    return [shlex.split(line, comments=True)[1:] for line in [*lines, *inline]]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the user stands: a panorama and a shot list under the README's names, and a folder for models."""
    shutil.copy(example_panorama_path(), tmp_path / "place.jpg")
    (tmp_path / "models").mkdir()
    rows = [line for line in blocks() if line.count(",") == 3 and not line.startswith("cinescene ")]
    (tmp_path / "shots.csv").write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_is_one(arguments):
    assert callable(build_parser().parse_args(arguments).run)


def test_the_commands_do_what_they_say_one_after_the_other(folder, capsys):
    for arguments in commands():
        if any(word in arguments for word in FULL_SIZE):
            continue
        status = main([*arguments, *SMALLER.get(arguments[0], "").split()])
        assert status == 0, f"cinescene {' '.join(arguments)}: {capsys.readouterr().err}"
        if "--out" in arguments:
            assert (folder / arguments[arguments.index("--out") + 1]).exists()


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL))
def test_the_python_runs(folder, monkeypatch, snippet):
    # Two steps instead of fifty, which take most of a minute on one core; all else is as printed.
    few = functools.partial(SamplingConfig, steps=2)
    monkeypatch.setattr(cinescene_core.pipeline, "SamplingConfig", few)
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    frames, fps = load_video(folder / "shot.mp4")
    assert frames.shape == (17, 96, 160, 3)
    assert fps == 15
    assert names["again"].scene is names["shot"].scene


def test_there_is_python_to_run():
    assert "```python" in TEXT


def test_make_targets_are_there():
    named = set(re.findall(r"(?:`|^    )make ([a-z]+)", TEXT, flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test", "check"} <= named
    assert named <= set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))


def test_links_lead_somewhere_and_nothing_is_left_to_fill_in():
    targets = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).exists()] == []
    assert re.findall(r"@[A-Z]+@|TODO|TBD", TEXT) == []
