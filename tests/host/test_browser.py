"""The example workflows in ComfyUI's own page, in both of its renderers, in a real browser.

Needs playwright in the host's Python and a Chromium (PATH, or the variable CHROMIUM).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from comfy_server import REPOSITORY, ComfyPaths, Host
from workflow_files import NAMES, WORKFLOWS, read_workflow, to_prompt

RENDERERS = ("classic", "nodes2")
Box = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the screenshots go: CINESCENE_SCREENSHOTS, or nowhere to stay."""
    wanted = os.environ.get("CINESCENE_SCREENSHOTS")
    return Path(wanted) if wanted else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def report(comfy_paths: ComfyPaths, request: pytest.FixtureRequest, pictures: Path) -> dict[str, Any]:
    """What `browser_page.py` saw."""
    has_playwright = subprocess.run([comfy_paths.python, "-c", "import playwright"], capture_output=True)
    if has_playwright.returncode:
        pytest.skip("needs playwright in the Python of COMFYUI_PYTHON")
    if not (os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs Chromium or Chrome on the PATH, or its path in CHROMIUM")
    host: Host = request.getfixturevalue("host")
    command = [comfy_paths.python, REPOSITORY / "tests/host/browser_page.py", host.url, WORKFLOWS, pictures]
    done = subprocess.run(command, env=comfy_paths.environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((pictures / "report.json").read_text(encoding="utf-8")) | {"catalogue": host.get("/object_info")}


def collisions(seen: dict[str, Any]) -> list[str]:
    """Nodes that overlap, or stick out of the group that their middle is in."""

    def edges(item: dict[str, Any]) -> Box:
        left, top, width, height = item["box"]
        return left, top, left + width, top + height

    found = []
    nodes = seen["nodes"]
    for index, node in enumerate(nodes):
        left, top, right, bottom = edges(node)
        for other in nodes[index + 1 :]:
            other_left, other_top, other_right, other_bottom = edges(other)
            if left < other_right and other_left < right and top < other_bottom and other_top < bottom:
                found.append(f"{node['name']} overlaps {other['name']}")
        for group in seen["groups"]:
            x0, y0, x1, y1 = edges(group)
            inside = x0 < (left + right) / 2 < x1 and y0 < (top + bottom) / 2 < y1
            if inside and not (x0 <= left and right <= x1 and y0 <= top and bottom <= y1):
                found.append(f"{node['name']} sticks out of {group['name']}")
    return found


@pytest.mark.parametrize("renderer", RENDERERS)
def test_first_video_runs_from_the_page(report: dict[str, Any], renderer: str) -> None:
    seen = report[renderer]
    assert seen["status"] == "success"
    assert seen["videos"] == 2  # the animatic and the shot play in their nodes
    assert seen["errors"] == []
    assert collisions(seen["after_run"]) == []


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps(report: dict[str, Any], renderer: str, name: str) -> None:
    assert collisions(report[renderer]["workflows"][name]) == []


@pytest.mark.parametrize("renderer", RENDERERS)
def test_camera_move_shows_the_widgets_of_the_chosen_move_only(report: dict[str, Any], renderer: str) -> None:
    others = ["num_frames", "subject_distance", "fov_degrees", "fps", "easing"]
    assert report[renderer]["moves"] == {
        "static": ["move", *others],
        "dolly_in": ["move", "move.metres", *others],
        "pan_right": ["move", "move.degrees", *others],
    }


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", NAMES)
def test_the_page_sends_what_the_tests_send(report: dict[str, Any], renderer: str, name: str) -> None:
    """The page's own conversion of a workflow equals the one that `test_workflows.py` runs."""
    sent = report[renderer]["workflows"][name]["prompt"]
    ours = to_prompt(read_workflow(name), report["catalogue"])
    assert set(sent) == set(ours)
    for number, node in ours.items():
        assert sent[number]["class_type"] == node["class_type"]
        known = report["catalogue"][node["class_type"]]["input"]
        wanted = {**known.get("required", {}), **known.get("optional", {})}
        assert _known(sent[number]["inputs"], wanted) == _known(node["inputs"], wanted)


def _known(inputs: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The inputs that this host reads."""
    nested = {name for name, (kind, *_) in wanted.items() if str(kind).startswith("COMFY_")}
    return {name: value for name, value in inputs.items() if name in wanted or name.split(".")[0] in nested}
