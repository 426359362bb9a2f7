"""Fixtures of the host tests: a real ComfyUI, named by COMFYUI_PATH (a checkout) and COMFYUI_PYTHON.

`host` is a running server (see `comfy_server.Host`: `queue(prompt) -> Run`, `output_files(run)`, `nodes()`,
`log()`), `inside` holds what `inside_host.py` measured in a process of the host's Python. Without a
ComfyUI every test here is skipped.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_server import ComfyPaths, Host
from tiny_files import write_tiny_files

NEEDED = "needs a ComfyUI: set COMFYUI_PATH to a checkout and COMFYUI_PYTHON to its Python"


@pytest.fixture(scope="session")
def comfy_paths(tmp_path_factory: pytest.TempPathFactory) -> ComfyPaths:
    """A prepared base directory with tiny model files, and where the host stands."""
    checkout, python = os.environ.get("COMFYUI_PATH"), os.environ.get("COMFYUI_PYTHON")
    if not checkout or not python:
        pytest.skip(NEEDED)
    paths = ComfyPaths(Path(checkout).resolve(), Path(python), tmp_path_factory.mktemp("comfyui"))
    if not (paths.checkout / "main.py").is_file() or not paths.python.is_file():
        pytest.fail(f"COMFYUI_PATH {checkout} or COMFYUI_PYTHON {python} does not point to a ComfyUI")
    paths.prepare()
    write_tiny_files(paths.base)
    return paths


@pytest.fixture(scope="session")
def host(comfy_paths: ComfyPaths) -> Iterator[Host]:
    """A running server; one for all tests."""
    server = Host.start(comfy_paths)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def inside(comfy_paths: ComfyPaths) -> dict[str, Any]:
    """What `inside_host.py` measured, run once in a process with the host's own modules."""
    report = comfy_paths.base / "inside.json"
    comfy_paths.run_script("inside_host.py", report)
    return json.loads(report.read_text(encoding="utf-8"))
