"""Runs in the host's own Python: what loader and sampler say of memory, on a card that is not there.

python inside_memory.py <checkout> <base directory> <report.json>
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

CHECKOUT, BASE, REPORT = (Path(argument).resolve() for argument in sys.argv[1:4])
os.chdir(CHECKOUT)
sys.path[0] = str(CHECKOUT)
sys.argv = ["main.py", "--cpu", "--base-directory", str(BASE), "--disable-api-nodes"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402

import nodes as host_nodes  # noqa: E402

CARD, GIB = torch.device("cuda:0"), 2**30


def main() -> dict[str, Any]:
    asyncio.run(host_nodes.load_custom_node(str(BASE / "custom_nodes" / "ComfyUI-CineScene")))
    pack = next(module for module in sys.modules if module.endswith("ComfyUI-CineScene"))
    loaders, sampler = sys.modules[f"{pack}.nodes.loaders"], sys.modules[f"{pack}.nodes.sampler"]
    report: dict[str, Any] = {}
    model = loaders.open_transformer(folder_paths.get_full_path_or_raise("diffusion_models", "tiny_cached.safetensors"))
    report["large card"] = loaders.memory_note(model, CARD, 80 * GIB)
    report["small card"] = loaders.memory_note(model, CARD, GIB // 16)
    positive = [[torch.zeros(1, 5, 64), {"cinescene_latents": torch.zeros(1, 3, 16, 8, 16)}]]
    latent = {"samples": torch.zeros(1, 16, 2, 8, 16)}
    sys.modules[f"{pack}.cinescene_core.memory.advice"].free_bytes = lambda device: 3 * 2**20
    for name, error in (("out of memory", torch.OutOfMemoryError("CUDA")), ("another error", RuntimeError("another"))):
        try:
            with sampler.told_of_memory(model, positive, latent, CARD):
                raise error
        except RuntimeError as caught:
            report[name] = (
                [str(caught), comfy.model_management.is_oom(caught)] if name == "out of memory" else str(caught)
            )
    return report


if __name__ == "__main__":
    REPORT.write_text(json.dumps(main()), encoding="utf-8")
