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
    loaders, memory = sys.modules[f"{pack}.nodes.loaders"], sys.modules[f"{pack}.nodes.memory"]
    report: dict[str, Any] = {}
    model = loaders.open_transformer(folder_paths.get_full_path_or_raise("diffusion_models", "tiny_cached.safetensors"))
    report["large card"] = memory.memory_note(model, CARD, 80 * GIB)
    report["small card"] = memory.memory_note(model, CARD, GIB // 16)
    positive = [[torch.zeros(1, 5, 64), {"cinescene_latents": torch.zeros(1, 3, 16, 8, 16)}]]
    sys.modules[f"{pack}.cinescene_core.memory.advice"].free_bytes = lambda device: 3 * 2**20

    def caught(error: Exception, guided: bool = False, size: tuple[int, ...] = (1, 16, 2, 8, 16)) -> RuntimeError:
        latent = {"samples": torch.zeros(size)}
        try:
            with memory.explaining_shot_memory(model, positive, latent, CARD, guided=guided):
                raise error
        except RuntimeError as error:
            return error

    full = torch.OutOfMemoryError("CUDA")
    known = caught(full)
    report["out of memory"] = [str(known), isinstance(known, comfy.model_management.OOM_EXCEPTION)]
    report["guided"], report["three, guided"] = str(caught(full, True)), str(caught(full, True, (3, 16, 2, 8, 16)))
    report["another error"] = str(caught(RuntimeError("another")))
    report["unknown shape"] = str(caught(full, size=(1, 4, 8, 16)))
    return report


if __name__ == "__main__":
    REPORT.write_text(json.dumps(main()), encoding="utf-8")
