"""Runs in the host's own Python: the host's node TorchCompileModel over our MODEL.

python inside_compile.py <checkout> <base directory> <report.json> <backend> <file in diffusion_models>...
"""

import asyncio
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

CHECKOUT, BASE, REPORT = (Path(argument).resolve() for argument in sys.argv[1:4])
BACKEND, *FILES = sys.argv[4:]
os.chdir(CHECKOUT)
sys.path[0] = str(CHECKOUT)
# What the host has on cards. On a CPU its own choice asks for the free memory in every block, which cannot be compiled.
sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention", "--base-directory", str(BASE), "--disable-api-nodes"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import folder_paths  # noqa: E402
import torch  # noqa: E402
import torch._dynamo  # noqa: E402
from comfy_extras.nodes_torch_compile import TorchCompileModel  # noqa: E402
from torch import Tensor  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402

import nodes as host_nodes  # noqa: E402

NUM_VIEWS, NUM_FRAMES, SIZE = 3, 2, (4, 6)


def shot(seed: int) -> list[Any]:
    """CONDITIONING of one shot: prompt, camera path and place."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    given = {
        "cinescene_camera": noise(1, NUM_FRAMES, 3, 4),
        "cinescene_latents": noise(1, NUM_VIEWS, 16, *SIZE),
        "cinescene_features": noise(1, NUM_VIEWS, 128, 2, 4),
    }
    return [[noise(1, 5, 64), given]]


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def measure(pack: str, file: str) -> dict[str, Any]:
    """Two shots of two places, plain and compiled, and what was compiled for them."""
    host, loaders = sys.modules[f"{pack}.nodes.host"], sys.modules[f"{pack}.nodes.loaders"]
    config = sys.modules[f"{pack}.cinescene_core.config"].SamplingConfig(steps=4, guidance=5.0, solver="euler")
    latent = {"samples": torch.zeros(1, 16, NUM_FRAMES, *SIZE)}

    def film(model: Any, seed: int) -> Tensor:
        return host.sample(model, shot(seed), shot(seed + 100), latent, config)["samples"]

    model = loaders.open_transformer(folder_paths.get_full_path_or_raise("diffusion_models", file))
    plain = [film(model, seed) for seed in (1, 2)]
    torch._dynamo.reset()
    counters.clear()
    compiled = TorchCompileModel.execute(model, BACKEND).args[0]
    first = film(compiled, 1)
    graphs = counters["stats"]["unique_graphs"]
    second = film(compiled, 2)
    gc.collect()
    return {
        "differences": [difference(first, plain[0]), difference(second, plain[1])],
        "apart": difference(plain[1], plain[0]),
        "graphs": graphs,
        "graphs_of_second": counters["stats"]["unique_graphs"] - graphs,
        "breaks": sorted(counters["graph_break"]),
        "scenes_left": len(model.model.scenes),
        "plain_after": difference(film(model, 1), plain[0]),
    }


def main() -> dict[str, Any]:
    asyncio.run(host_nodes.load_custom_node(str(BASE / "custom_nodes" / "ComfyUI-CineScene")))
    pack = next(module for module in sys.modules if module.endswith("ComfyUI-CineScene"))
    with torch.inference_mode():
        return {file: measure(pack, file) for file in FILES}


if __name__ == "__main__":
    REPORT.write_text(json.dumps(main()), encoding="utf-8")
