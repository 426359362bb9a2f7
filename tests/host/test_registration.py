"""What the host sees of the pack: nodes, descriptions, help pages, the time it takes to start."""

import re

import pytest
from comfy_server import PACK_NAME, REPOSITORY

from cinescene_core.weights import nano_path, read_bundle_part

NODE_IDS = {
    "CineSceneAnimatic",
    "CineSceneConditioning",
    "CineSceneEncodeScene",
    "CineSceneLoadScene",
    "CineSceneModelLoader",
    "CineSceneNanoLoader",
    "CineScenePanoramaViews",
    "CineScenePhotoViews",
    "CineSceneSampler",
    "CineSceneSaveScene",
    "CineSceneShotList",
    "CineSceneShuffleContext",
    "CineSceneTrajectoryFile",
    "CineSceneTrajectoryPreset",
    "CineSceneVGGTLoader",
}
IMPORT_SECONDS = 0.5
TURNS = {"pan_left", "pan_right", "tilt_up", "tilt_down", "arc_left", "arc_right", "arc_up", "arc_down"}


def widgets(info):
    """(name, options) of every input of a node, those behind a choice included."""
    for group in ("required", "optional"):
        for name, entry in info["input"].get(group, {}).items():
            options = entry[1] if len(entry) > 1 else {}
            yield name, options
            for choice in options.get("options", ()):
                if isinstance(choice, dict):
                    yield from ((f"{name}.{inner}", o) for inner, o in widgets({"input": choice["inputs"]}))


def test_every_node_is_there(host):
    assert set(host.nodes()) == NODE_IDS
    assert not re.search(rf"\(IMPORT FAILED\).*{PACK_NAME}", host.log())


def test_every_input_and_output_is_explained(host):
    for name, info in host.nodes().items():
        for widget, options in widgets(info):
            assert len(options.get("tooltip", "")) > 10, f"{name}.{widget} has no tooltip"
        assert all(info["output_tooltips"]), name
        assert info["description"], name
        assert info["category"].startswith("CineScene/"), name
        assert info["display_name"] != name


def test_numbers_say_their_unit(host):
    units = {
        "degrees": "degrees",
        "width": "pixels",
        "height": "pixels",
        "fps": "frames per second",
        "distance": "metres",
    }
    units |= {"num_frames": "frames", "metres": "metres"}
    seen = 0
    for name, info in host.nodes().items():
        for widget, options in widgets(info):
            for part, unit in units.items():
                if re.search(rf"(^|_|\.){part}$", widget):
                    seen += 1
                    assert unit in options["tooltip"], f"{name}.{widget} does not say {unit}"
    assert seen > 20


def test_only_the_widgets_of_the_chosen_move_show(host):
    move = host.nodes()["CineSceneTrajectoryPreset"]["input"]["required"]["move"][1]
    shown = {option["key"]: option["inputs"].get("required", {}) for option in move["options"]}
    assert len(shown) == 15
    assert shown["static"] == {}
    for name, inputs in shown.items():
        if name != "static":
            assert list(inputs) == (["degrees"] if name in TURNS else ["metres"]), name
    assert shown["pan_left"]["degrees"][1]["default"] == 75
    metres = shown["dolly_in"]["metres"][1]
    assert metres["default"] == 2  # half the way to a subject 4 m away
    assert "trained on 0.25 to 1.25 times the subject's distance, which is 1 to 5 at 4 metres" in metres["tooltip"]
    assert move["options"][0]["key"] == "pan_right"  # what a new node starts with


def test_the_widgets_name_what_nano_is_made_for(host):
    record = read_bundle_part(nano_path(), "transformer")[1]
    views, path = (
        host.nodes()[name]["input"]["required"] for name in ("CineScenePanoramaViews", "CineSceneTrajectoryPreset")
    )
    for inputs, name in ((views, "width"), (views, "height"), (path, "num_frames")):
        assert re.search(rf"nano\b.*\b{record[name]}|\b{record[name]} for nano", inputs[name][1]["tooltip"]), name
    made_for = f"{record['width']} x {record['height']} pixels and {record['num_frames']} frames"
    assert made_for in host.nodes()["CineSceneNanoLoader"]["description"]


def test_search_finds_the_nodes(host):
    for name, info in host.nodes().items():
        assert info.get("search_aliases"), name


@pytest.mark.parametrize("node_id", sorted(NODE_IDS))
def test_every_node_has_a_help_page(host, node_id):
    assert (REPOSITORY / f"web/docs/{node_id}.md").is_file()
    page = host.get_text(f"/extensions/{PACK_NAME}/docs/{node_id}.md")
    assert len(page) > 200


def test_the_pack_starts_quickly(comfy_paths):
    """Its own processor time, in a process where the host is already loaded.

    The least of three: compiling the files at the first start, and whatever else the machine does, only add to it.
    """
    printed = [comfy_paths.run_script("import_time.py", PYTHONDONTWRITEBYTECODE="") for _ in range(3)]
    seconds = [float(lines.splitlines()[-1]) for lines in printed]
    assert min(seconds) < IMPORT_SECONDS, seconds


def test_nothing_heavy_comes_in_with_the_pack(inside):
    assert inside["loaded"]
    assert not {"diffusers", "transformers", "kornia", "scipy"} & set(inside["imported"])
