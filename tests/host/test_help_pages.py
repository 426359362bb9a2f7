"""The help page of every node: there, served where the page looks for it, and in step with the node."""

import re
from collections.abc import Iterator
from typing import Any

from comfy_server import PACK_NAME, REPOSITORY, Host

PAGES = REPOSITORY / "web/docs"


def widget_names(inputs: dict[str, Any]) -> Iterator[str]:
    """Names of inputs as a person sees them, those of every choice of a dynamic list included."""
    for name, (kind, *options) in ((name, spec) for part in inputs.values() for name, spec in part.items()):
        yield name
        if kind == "COMFY_DYNAMICCOMBO_V3":
            for choice in options[0]["options"]:
                yield from widget_names(choice["inputs"])


def test_there_is_a_page_for_every_node_and_for_nothing_else(host: Host) -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == set(host.nodes())


def test_a_page_is_served_where_the_host_looks_for_it(host: Host) -> None:
    for name in host.nodes():
        served = host.get_text(f"/extensions/{PACK_NAME}/docs/{name}.md")
        assert served == (PAGES / f"{name}.md").read_text(encoding="utf-8")


def test_a_page_names_every_input_output_and_move_and_no_other(host: Host) -> None:
    for name, node in host.nodes().items():
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {node['display_name']}\n"), name
        inputs = {part: node["input"].get(part, {}) for part in ("required", "optional")}
        assert listed(text, "Inputs") == set(widget_names(inputs)), name
        assert listed(text, "Outputs") == set(node["output_name"]), name
        if name == "CineSceneTrajectoryPreset":
            choices = node["input"]["required"]["move"][1]["options"]
            assert listed(text, "Moves") == {choice["key"] for choice in choices}


def test_a_page_fits_the_narrow_panel_that_shows_it() -> None:
    """The panel is some 230 pixels wide and cuts off what does not wrap: tables and indented blocks."""
    for page in PAGES.glob("*.md"):
        for line in page.read_text(encoding="utf-8").splitlines():
            assert not line.startswith(("|", "    ", "```")), f"{page.name}: {line}"


def listed(text: str, heading: str) -> set[str]:
    """The names in code type in front of the colon of each item below a heading."""
    section = text.split(f"\n## {heading}\n")[1:]
    items = re.findall(r"^- (.*?):", section[0].split("\n## ")[0], re.MULTILINE) if section else []
    return {name for item in items for name in re.findall(r"`([^`]+)`", item)}
