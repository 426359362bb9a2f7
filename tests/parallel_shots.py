"""Films one tiny shot by several processes and by one, and writes how far apart they are.

    python parallel_shots.py <folder>

Each case has a world of its own; `tests/test_parallel.py` reads `report.json`, and the videos that the command made:
`alone.mp4`, and `together.mp4` by two processes with the environment that torchrun gives them.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from tiny_shots import film, random_values, tiny_context, tiny_model

from cinescene_core.cli import main as command_line
from cinescene_core.models.compiled import compile_blocks
from cinescene_core.panorama import example_panorama_path
from cinescene_core.parallel import form
from cinescene_core.scene_cache import embed_scene
from cinescene_core.step_cache import StepCache

CASES = {
    "branches": (2, 5.0),
    "tokens": (2, 1.0),
    "odd": (3, 5.0),
    "both": (4, 5.0),
}
"""Processes and guidance. 45 video tokens do not divide by 2, nor 45 and 120 by 4."""


def message_of(call) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "nothing was raised"


def work(rank: int, name: str, folder: str) -> None:
    size, guidance = CASES[name]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{name}", rank=rank, world_size=size)
    ranks = form("cpu", guided=guidance > 1)
    model, found = tiny_model(), {"mesh": list(ranks.mesh.shape), "first": ranks.is_first}
    for mode in ("joint", "cached", "per_view"):
        forwards = []
        counter = model.head.register_forward_hook(lambda _, inputs, out, forwards=forwards: forwards.append(1))
        rows = []
        watcher = model.blocks[0].register_forward_hook(lambda _, inputs, out, rows=rows: rows.append(out.shape[1]))
        alone = film(model, mode, guidance=guidance)
        before, rows[:] = len(forwards), []
        together = film(model, mode, guidance=guidance, ranks=ranks)
        counter.remove()
        watcher.remove()
        gathered = [torch.empty_like(together) for _ in range(size)]
        dist.all_gather(gathered, together)
        found[mode] = {
            "apart": float((together - alone).abs().max() / alone.abs().max()),
            "alike": all(torch.equal(other, together) for other in gathered),
            "forwards": [before, len(forwards) - before],
            "rows": sorted(set(rows)),
        }
    hooks = [module._forward_pre_hooks or module._forward_hooks for module in model.modules()]
    found["left"] = any(hooks)
    if name == "branches":
        settings = {"steps": 14, "guidance": guidance, "guidance_low": 0.8}  # the last steps have one branch
        caches = StepCache(0.4), StepCache(0.4)
        together = film(model, **settings, ranks=ranks, step_cache=caches[0])
        alone = film(model, **settings, step_cache=caches[1])
        found["step_cache"] = float((together - alone).abs().max() / alone.abs().max())
        found["counts"] = [ranks.sum_over_branches(caches[0].summary()), list(caches[1].summary())]
    if name == "tokens":
        found["refused"] = [
            message_of(lambda: film(model, guidance=guidance, ranks=ranks, step_cache=StepCache(0.1))),
            message_of(lambda: film(compiled_model(), guidance=guidance, ranks=ranks)),
            message_of(lambda: packed(model, ranks)),
        ]
    Path(folder, f"{name}.{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def compiled_model():
    model = tiny_model()
    compile_blocks(model.blocks)
    return model


@torch.no_grad()
def packed(model, ranks) -> None:
    """A forward in mode `cached` with the scene among the video's tokens, as in training."""
    video, text = random_values(1, 16, 3, 6, 10), random_values(1, 7, model.config.text_width)
    with ranks.sharing(model.blocks):
        scene = embed_scene(model, tiny_context())
        model(video, torch.tensor([500.0]), text, context=scene, context_attention="cached")


def command(rank: int, folder: str, port: int) -> None:
    """One of two processes of torchrun; it says which it is where the command may print."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with Path(folder, f"said.{rank}").open("w") as said, contextlib.redirect_stdout(said):
        status = run_command(folder, "together.mp4")
    sys.exit(status)


def run_command(folder: str, out: str) -> int:
    place = ["--scene", f"{folder}/place.safetensors", "--prompt", "a red robot walks", "--trajectory", "pan_right"]
    settings = ["--steps", "2", "--frames", "5", "--device", "cpu", "--out", f"{folder}/{out}"]
    return cinescene("generate", *place, *settings)


def cinescene(*arguments: str) -> int:
    torch.set_num_threads(1)
    return command_line(arguments)


def film_by_command(folder: str) -> None:
    panorama = ["--panorama", str(example_panorama_path()), "--num-views", "2", "--device", "cpu"]
    cinescene("encode", *panorama, "--out", f"{folder}/place.safetensors")
    run_command(folder, "alone.mp4")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.start_processes(command, (folder, port), nprocs=2, start_method="fork")


def main() -> None:
    report = {}
    film_by_command(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, _) in CASES.items():
            processes.start_processes(work, (name, folder), nprocs=size, start_method="fork")
            report[name] = [json.loads(Path(folder, f"{name}.{rank}.json").read_text()) for rank in range(size)]
    Path(sys.argv[1], "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
