"""The example workflows as files, and as prompts for the server's API."""

import json
from pathlib import Path
from typing import Any

from comfy_server import REPOSITORY
from graphs import Prompt

WORKFLOWS = REPOSITORY / "workflows"
NAMES = (
    "01_first_video",
    "02_panorama_to_video",
    "03_own_sampler",
    "04_upscale_and_interpolate",
    "05_shot_list",
)
MUTED, BYPASSED = 2, 4

Workflow = dict[str, Any]


def workflow_path(name: str) -> Path:
    return WORKFLOWS / f"{name}.json"


def read_workflow(name: str) -> Workflow:
    """A workflow as the page saves it: nodes with places and widgets, links, groups, notes."""
    return json.loads(workflow_path(name).read_text(encoding="utf-8"))


def to_prompt(workflow: Workflow, catalogue: dict[str, Any]) -> Prompt:
    """Convert a saved workflow to what `/prompt` takes, as the page does when Run is pressed.

    Written for what our workflows use: links, widgets saved by name, muted and bypassed nodes, inputs
    with parts ("move.degrees"). `test_browser.py` compares it with the page's own conversion.

    Args:
        workflow: from `read_workflow`.
        catalogue: the server's `/object_info`; nodes it does not know are notes.

    Returns:
        Node id to class and inputs.
    """
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    prompt: Prompt = {}
    for number, node in nodes.items():
        if node["type"] not in catalogue or node["mode"] in (MUTED, BYPASSED):
            continue
        known = catalogue[node["type"]]["input"]
        names = {**known.get("required", {}), **known.get("optional", {})}
        values = {
            name: value for name, value in node.get("widgets_values_named", {}).items() if name.split(".")[0] in names
        }
        for socket in node["inputs"]:
            source = _source(socket["link"], nodes, links)
            if source is not None:
                values[socket["name"]] = source
        prompt[str(number)] = {"class_type": node["type"], "inputs": values}
    return prompt


def _source(link: int | None, nodes: dict[int, Any], links: dict[int, tuple[int, int]]) -> list[Any] | None:
    """[node id, output] at the beginning of a link; a bypassed node passes on its first input of the same type."""
    if link is None:
        return None
    number, slot = links[link]
    node = nodes[number]
    if node["mode"] != BYPASSED:
        return None if node["mode"] == MUTED else [str(number), slot]
    wanted = node["outputs"][slot]["type"]
    through = next((socket["link"] for socket in node["inputs"] if socket["type"] == wanted), None)
    return _source(through, nodes, links)


def find(prompt: Prompt, class_type: str, nth: int = 0) -> str:
    """Id of the nth node of a class, in the order of their ids."""
    return [number for number, node in prompt.items() if node["class_type"] == class_type][nth]


def set_widgets(prompt: Prompt, **values: Any) -> None:
    """Give every widget of these names another value; every name must occur."""
    for name, value in values.items():
        owners = [node["inputs"] for node in prompt.values() if name in node["inputs"]]
        if not owners:
            raise KeyError(f"no node has a widget '{name}'")
        for inputs in owners:
            if not isinstance(inputs[name], list):  # a list is a link
                inputs[name] = value
