"""The list of shots in a running host: every row is filmed as its own graph would film it, over one encoded place."""

import numpy as np
import pytest
from comfy_server import Host, RefusedError
from graphs import Prompt, first_video, move, node, place, shot
from PIL import Image

EXAMPLE = "example_shots.csv [cinescene]"
LIST = """name,prompt,path,seed,frames
ball,a red ball rolls forward,pan_right 30,4,
robot,a red robot walks,dolly_in,,5
"""
SETTINGS = {"file": "shots.csv", "first": 1, "count": 0, "seed": 7, "num_frames": 9, "fov_degrees": 90.0, "fps": 15.0}
SETTINGS |= {"width": 160, "height": 96}


def filmed(graph: Prompt) -> Prompt:
    """A graph whose sampler has its interval of guidance spelled out."""
    graph["sampler"]["inputs"] |= {"guidance_low": 0.0, "guidance_high": 1.0}
    return graph


def list_graph(**changes: object) -> Prompt:
    """`first_video` with what a row decides taken from the list."""
    graph = place() | shot() | {"list": node("CineSceneShotList", **(SETTINGS | changes))}
    graph["positive"]["inputs"]["text"] = ["list", 1]
    graph["negative"]["inputs"]["text"] = ["list", 2]
    graph["shot"]["inputs"]["trajectory"] = ["list", 3]
    graph["sampler"]["inputs"]["seed"] = ["list", 4]
    graph["save"]["inputs"]["filename_prefix"] = ["list", 0]
    return filmed(graph)


def pictures(host: Host, prompt: Prompt) -> dict[str, np.ndarray]:
    """Frames [f, h, w, 3] in 0..255 by the beginning of their files' names."""
    run = host.queue(prompt)
    assert run.status == "success", run.error
    found: dict[str, list[np.ndarray]] = {}
    for path in sorted(host.output_files(run)):
        found.setdefault(path.name.split("_")[0], []).append(np.asarray(Image.open(path)).astype(int))
    return {name: np.stack(frames) for name, frames in found.items()}


def write_list(host: Host, text: str) -> None:
    (host.paths.base / "input/shots.csv").write_text(text, encoding="utf-8")


def test_every_row_is_filmed_as_it_would_be_alone(host: Host) -> None:
    write_list(host, LIST)
    rows = pictures(host, list_graph())
    assert {name: len(frames) for name, frames in rows.items()} == {"ball": 9, "robot": 5}
    alone = {
        "ball": first_video(seed=4),
        "robot": place()
        | move(**{"move": "dolly_in", "move.metres": 2.0, "num_frames": 5})
        | shot(seed=7, prompt="a red robot walks"),
    }
    for name, graph in alone.items():
        (frames,) = pictures(host, filmed(graph)).values()
        # Equal but for the last digit of float32, which can move an 8-bit value by one level.
        assert np.abs(rows[name] - frames).max() <= 1, name


def test_a_part_of_the_list_and_a_changed_list_are_what_is_filmed(host: Host) -> None:
    write_list(host, LIST)
    assert list(pictures(host, list_graph(first=2, count=1))) == ["robot"]
    write_list(host, LIST.replace("robot,", "walker,"))
    assert list(pictures(host, list_graph(first=2, count=1))) == ["walker"]


def offered(host: Host) -> list[str]:
    """The files that a fresh node has to choose from."""
    kind, *options = host.get("/object_info/CineSceneShotList")["CineSceneShotList"]["input"]["required"]["file"]
    return options[0]["options"] if kind == "COMBO" else kind


def test_the_bundled_list_is_offered_behind_the_users_own(host: Host) -> None:
    (host.paths.base / "input/shots.csv").unlink(missing_ok=True)
    own = [name for name in offered(host) if name != EXAMPLE]  # camera paths are .json files too
    assert offered(host) == [*own, EXAMPLE]
    write_list(host, LIST)
    assert offered(host) == [*sorted([*own, "shots.csv"]), EXAMPLE]


def test_the_bundled_list_and_a_file_of_its_name_are_two_lists(host: Host) -> None:
    (host.paths.base / "input/example_shots.csv").write_text(LIST, encoding="utf-8")
    assert list(pictures(host, list_graph(file="example_shots.csv", first=1, count=1))) == ["ball"]
    rows = pictures(host, list_graph(file=EXAMPLE, first=2, count=1))
    assert {name: len(frames) for name, frames in rows.items()} == {"robot": 17}


@pytest.mark.parametrize(
    ("text", "changes", "sentence"),
    [
        (LIST.replace("seed", "sead"), {}, "a column must be one of name, .* got 'sead'. Did you mean 'seed'"),
        (LIST.replace("dolly_in", "../turn.npy"), {}, "row 3, column 'path': the file ../turn.npy lies outside"),
        (LIST, {"first": 3}, "first is shot 3, but shots.csv has 2. Start at an earlier one."),
        (LIST, {"file": "no.csv"}, "There is no file 'no.csv' in ComfyUI's input folder"),
        (LIST, {"file": EXAMPLE, "first": 4}, r"first is shot 4, but example_shots.csv \[cinescene\] has 3. Start at"),
    ],
)
def test_a_list_that_cannot_be_filmed_is_refused_before_anything_runs(
    host: Host, text: str, changes: dict[str, object], sentence: str
) -> None:
    write_list(host, text)
    graph = list_graph(**{name: value for name, value in changes.items() if name != "file"})
    graph["list"]["inputs"] |= changes
    with pytest.raises(RefusedError, match=sentence):
        host.submit(graph)
