"""Runs in the host's own Python, without a server; prints the processor time that loading the pack takes, in seconds.

python import_time.py <checkout> <base directory>
"""

import asyncio
import os
import sys
import time
from pathlib import Path

CHECKOUT, BASE = (Path(argument).resolve() for argument in sys.argv[1:3])
os.chdir(CHECKOUT)
sys.path[0] = str(CHECKOUT)
sys.argv = ["main.py", "--cpu", "--base-directory", str(BASE), "--disable-api-nodes"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cli_args  # noqa: E402
import comfy.sd  # noqa: E402

import nodes as host_nodes  # noqa: E402

start = time.process_time()
loaded = asyncio.run(host_nodes.load_custom_node(str(BASE / "custom_nodes/ComfyUI-CineScene")))
seconds = time.process_time() - start
assert loaded, "the host did not load the pack"
print(seconds)
