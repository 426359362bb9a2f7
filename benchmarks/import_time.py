"""What the pack adds to ComfyUI's start: its own time, in fresh processes where the host is already loaded.

    COMFYUI_PATH=... COMFYUI_PYTHON=... python benchmarks/import_time.py [--runs 7]

Writes benchmarks/results/import_time.md. Without the two variables it says so and does nothing.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "import_time.md"
INSIDE = """
import asyncio, json, os, sys, time
checkout, base = sys.argv[1:]
os.chdir(checkout)
sys.path.insert(0, checkout)
sys.argv = ["main.py", "--cpu", "--base-directory", base, "--disable-api-nodes"]
import comfy.options
comfy.options.enable_args_parsing()
import comfy.sd, comfy.sample, comfyui_version, torch
import nodes
pack = os.path.join(base, "custom_nodes", "ComfyUI-CineScene")
wall, cpu = time.perf_counter(), time.process_time()
loaded = asyncio.run(nodes.load_custom_node(pack))
times = [time.perf_counter() - wall, time.process_time() - cpu]
assert loaded and "CineSceneSampler" in nodes.NODE_CLASS_MAPPINGS
print("RESULT" + json.dumps({"times": times, "host": comfyui_version.__version__, "torch": torch.__version__}))
"""


def measure(checkout: str, python: str) -> dict:
    """Load the pack once in a fresh process of the host's Python."""
    with tempfile.TemporaryDirectory() as base:
        packs = Path(base) / "custom_nodes"
        packs.mkdir()
        (packs / "ComfyUI-CineScene").symlink_to(ROOT)
        command = [python, "-c", INSIDE, checkout, base]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(next(line for line in out.splitlines() if line.startswith("RESULT"))[len("RESULT") :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    checkout, python = os.environ.get("COMFYUI_PATH"), os.environ.get("COMFYUI_PYTHON")
    if not checkout or not python:
        print("import_time: set COMFYUI_PATH and COMFYUI_PYTHON; nothing was measured.")
        return
    measure(checkout, python)  # the first run compiles and fills the file cache
    results = [measure(checkout, python) for _ in range(runs)]
    rows = []
    for name, index in (("wall clock", 0), ("processor time", 1)):
        times = [result["times"][index] for result in results]
        rows.append(f"| {name} | {min(times):.2f} | {statistics.median(times):.2f} | {max(times):.2f} |")
    print("\n".join(rows))
    text = f"""# Import of the pack in ComfyUI

{datetime.date.today()}, ComfyUI {results[0]["host"]}, torch {results[0]["torch"]}, Python {platform.python_version()},
{os.cpu_count()} CPU cores; {runs} fresh processes after one that is not counted. The host is loaded first; the time is
what the pack adds, with every module it brings in.

| | least, s | median, s | most, s |
|---|---|---|---|
{chr(10).join(rows)}
"""
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
