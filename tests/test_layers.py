"""Imports point one way: nodes and training -> cinescene_core; early stages -> never late ones."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "cinescene_core"
FOUNDATION = ["config", "checks", "cameras", "types", "latents", "files", "costs", "devices", "metrics"]
STAGES = [
    "panorama",
    "views",
    "scene",
    "trajectory",
    "animatic",
    "context",
    "scene_cache",
    "selection",
    "step_cache",
    "parallel",
    "sampler",
    "video",
    "memory",
    "loading",
    "pipeline",
    "shots",
]
HOST = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes", "server", "node_helpers", "latent_preview"}
TRAINING = {"lightning", "pytorch_lightning", "cinescene_training"}
FORBIDDEN = {"cinescene_core": HOST | TRAINING, "nodes": TRAINING, "training": HOST}
PIPELINE_CLIENTS = {"cli", "shots", "__init__"}


def absolute_imports(source: str) -> set[str]:
    """First names of the absolute imports of a module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def core_imports(source: str, depth: int) -> set[str]:
    """First names, below cinescene_core, of the relative imports of a module `depth` folders down."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == depth + 1:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found


def core_violations(name: str, imported: set[str]) -> set[str]:
    """What the core module or sub-package `name` must not import of `imported`."""
    if name == "models":
        return imported & {*STAGES, "weights"}
    if name in FOUNDATION or name == "weights":
        return imported & set(STAGES)
    later = set(STAGES[STAGES.index(name) + 1 :]) if name in STAGES else set()
    later |= set() if name in PIPELINE_CLIENTS else {"pipeline"} & imported
    return (imported & later) - {name}


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_layer_imports_its_clients(layer):
    if layer == "training" and not (ROOT / layer).is_dir():
        pytest.skip("the training subproject is not part of this checkout")
    paths = list((ROOT / layer).rglob("*.py"))
    assert paths, f"{layer} was not found"
    for path in paths:
        bad = absolute_imports(path.read_text(encoding="utf-8")) & FORBIDDEN[layer]
        assert not bad, f"{path} imports {bad} against the arrows"


def test_no_stage_imports_a_later_one():
    paths = sorted(CORE.rglob("*.py"))
    assert len(paths) > 10, "the core package was not found"
    for path in paths:
        place = path.relative_to(CORE)
        name = place.parts[0].removesuffix(".py")
        bad = core_violations(name, core_imports(path.read_text(encoding="utf-8"), len(place.parts) - 1))
        assert not bad, f"{place} imports {bad}, which come later"


def test_only_relative_imports_inside_the_pack():
    for folder in ("cinescene_core", "nodes"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "cinescene_core" not in absolute_imports(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("name", "source", "depth"),
    [
        ("views", "from .scene import Scene", 0),
        ("views", "from . import scene", 0),
        ("trajectory", "from ..animatic import render_animatic", 1),
        ("models", "from ..context import build", 1),
        ("models", "from ...weights.files import read_header", 2),
        ("weights", "from ..scene import load_scene", 1),
        ("costs", "from .pipeline import generate", 0),
        ("types", "from .panorama import x", 0),
        ("sampler", "def f():\n    from .pipeline import generate", 0),
    ],
)
def test_the_rule_catches_planted_violations(name, source, depth):
    assert core_violations(name, core_imports(source, depth))


def test_the_rule_allows_what_it_should():
    assert not core_violations("cli", core_imports("from .pipeline import generate", 0))
    assert not core_violations("scene", core_imports("from .views import slice_panorama\nfrom .types import Views", 0))


def test_comfy_api_is_imported_in_one_file():
    nodes = ROOT / "nodes"
    files = [path for path in nodes.rglob("*.py") if "comfy_api" in absolute_imports(path.read_text("utf-8"))]
    assert files == [nodes / "sockets.py"]


def test_every_file_of_the_core_has_a_place():
    # A new file would be free to import anything until it is named here.
    known = {*FOUNDATION, *STAGES, "models", "weights", "cli", "__init__", "assets"}
    found = {path.name.removesuffix(".py") for path in CORE.iterdir() if not path.name.startswith("__pycache__")}
    assert found == known
