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
        wanted = {"input": set(widget_names(inputs)), "output": set(node["output_name"])}
        for column in ("input", "output"):
            assert _first_column(text, column) == wanted[column], f"{name}: {column}s"
        if name == "CineSceneTrajectoryPreset":
            moves = {choice["key"] for choice in node["input"]["required"]["move"][1]["options"]}
            assert _first_column(text, "move") == moves


def _first_column(text: str, heading: str) -> set[str]:
    """Names in code type in the first column of the table under a heading."""
    names: set[str] = set()
    for table in re.findall(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text + "\n", re.MULTILINE):
        for row in table.splitlines():
            names.update(re.findall(r"`([^`]+)`", row.split("|")[1]))
    return names
