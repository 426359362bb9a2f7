"""What the README and the configurations tell people to type are commands, of files that build."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from cinescene_training.cli import build_parser
from cinescene_training.config import load_config
from cinescene_training.encoders.vae_module import VAETrainingConfig
from cinescene_training.encoders.vggt_module import VGGTTrainingConfig
from cinescene_training.render.options import load_render_config
from cinescene_training.settings import build, read_settings

TRAINING = Path(__file__).parents[1]
CONFIGS = sorted((TRAINING / "configs").rglob("*.yaml"))


def encoder_loader(kind):
    return lambda path, overrides: build(kind, read_settings(path, overrides))


LOADERS = {
    "shot": load_config,
    "render": load_render_config,
    "vae": encoder_loader(VAETrainingConfig),
    "vggt": encoder_loader(VGGTTrainingConfig),
}
"""Of the tasks whose file a command here may name."""


def commands_in(text: str, before: str) -> list[str]:
    """Commands on lines of their own, a backslash at the end joining the next line, each after `before`."""
    joined = re.sub(r"\\\n\s*", "", text)
    return re.findall(rf"^{before}(cinescene-train .+)$", joined, flags=re.MULTILINE)


def commands() -> list[str]:
    """Of the README's blocks and of the comments of every configuration."""
    found = commands_in((TRAINING / "README.md").read_text(encoding="utf-8"), " {4}")
    assert len(found) >= 7
    for path in CONFIGS:
        found += commands_in(path.read_text(encoding="utf-8"), r"#\s+")
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_and_its_configuration_builds(command, monkeypatch):
    monkeypatch.chdir(TRAINING)
    options = build_parser().parse_args(shlex.split(command, comments=True)[1:])
    assert callable(options.run)
    if "config" in options:
        task = yaml.safe_load(options.config.read_text(encoding="utf-8")).get("task", "shot")
        LOADERS[task](options.config, options.set)


def test_a_command_of_every_kind_of_advice_is_found():
    """The search is not blind: comments, continued lines and fields after one `--set` are among what it finds."""
    found = commands()
    assert any(command.count("run.") == 3 for command in found)
    assert any(command.startswith("cinescene-train evaluate") and "--estimator" in command for command in found)
    assert {command.split()[1] for command in found} >= {"render", "calibrate", "cache", "fit", "export", "evaluate"}


def test_every_file_the_readme_links_to_is_there():
    text = (TRAINING / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    named = re.findall(r"`((?:configs/)?[\w/]+\.yaml)`", text)
    assert links
    assert named
    for link in links:
        assert (TRAINING / link).exists(), link
    for name in named:
        assert (TRAINING / "configs" / name.removeprefix("configs/")).is_file(), name


@pytest.mark.parametrize(
    ("figure", "row"),
    [
        (r"(\d+) GPU hours", r"\| 1.3B, joint \|(?:[^|]*\|){5} ([\d,]+) \|"),
        (r"(\d+) GiB on one GPU", r"\| 1.3B, joint \|(?:[^|]*\|){3} ([\d.]+) \|"),
        (r"(\d+) GB of cache", r"together ([\d,]+) GB"),
    ],
)
def test_the_figures_of_the_full_run_are_those_of_its_page(figure, row):
    """To two digits, as \"about\" promises."""
    text = (TRAINING / "README.md").read_text(encoding="utf-8")
    page = (TRAINING / "docs" / "full_run.md").read_text(encoding="utf-8")
    said = float(re.search(figure, text)[1])
    computed = [float(found.replace(",", "")) for found in re.findall(row, page)]
    assert any(said == pytest.approx(value, rel=0.02) for value in computed), (said, computed)


def test_the_readme_counts_the_rooms_of_the_debug_run():
    """Training, validation, and as many test rooms."""
    text = (TRAINING / "README.md").read_text(encoding="utf-8")
    source = load_config(TRAINING / "configs" / "debug.yaml").cache.source
    numbers = {8: "eight", 10: "ten", 12: "twelve"}
    assert f"render {numbers[source.places + 2 * source.validation_places]} small rooms" in text
