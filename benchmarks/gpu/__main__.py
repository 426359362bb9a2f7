"""What a shot costs on this machine's graphics card, beside the card's own ceilings.

    python -m benchmarks.gpu [--only NAME ...] [--budget-s 540] [--out FOLDER]
    python -m benchmarks.gpu --tiny --device cpu --out FOLDER     rehearses it at tiny sizes

Run it from the repository's root. Writes gpu_<card>.json and gpu_<card>.md after each section; a section that fails
or does not fit into the budget says so there, and the next one runs. What the JSON file already holds from an earlier
run on the same card stays where it is not measured again. Without a card it says so and does nothing.
"""

import argparse
import contextlib
import datetime
import gc
import json
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from cinescene_core.memory import is_out_of_memory

from .ceilings import measure_ceilings
from .measure import Bench, Record
from .page import all_checks, measured, page
from .sizes import FULL, TINY, Sizes
from .stages import FILM_SECTIONS, FILMS, measure_decoder, measure_scene
from .steps import CASE_SECTIONS, COMPILED_SECTIONS, PROFILE_SECTIONS, check_values

RESULTS = Path(__file__).parents[1] / "results"
OTHER_STAGES_S = 40.0
"""Of a film beside sampling, with room to spare."""
UNKNOWN_STEP_S = 2.5
"""Of an H100 in mode joint at half its ceiling."""


@dataclass(frozen=True)
class Section:
    """One measurement that stands alone."""

    name: str
    run: Callable[[Bench], Record]
    needs: Callable[[Bench], float]
    """Seconds that it takes on an H100 at most."""


def film_seconds(bench: Bench, name: str) -> float:
    """Seconds that a film will take, by the steps that were measured."""
    mode, sampling = FILMS[name]
    values = measured(bench.sections, f"step: {mode}")
    step = UNKNOWN_STEP_S if values is None else values["median_s"]
    return sampling.steps * (1 if sampling.guidance == 1 else 2) * step + OTHER_STAGES_S


def all_sections() -> list[Section]:
    """Every section, the shortest and the most telling first and 50 joint steps last."""

    def section(name: str, run: Callable[[Bench], Record], seconds: float) -> Section:
        return Section(name, run, lambda bench: seconds)

    films = [Section(name, run, partial(film_seconds, name=name)) for name, run in FILM_SECTIONS.items()]
    return [
        section("ceilings", measure_ceilings, 30),
        section("values", check_values, 20),
        *(section(name, run, 30) for name, run in CASE_SECTIONS.items()),
        *(section(name, run, 30) for name, run in PROFILE_SECTIONS.items()),
        section("scene", measure_scene, 40),
        section("decoder", measure_decoder, 60),
        *films[:-1],
        *(section(name, run, 90) for name, run in COMPILED_SECTIONS.items()),
        films[-1],
    ]


def run_sections(
    bench: Bench, sections: Sequence[Section], budget: float, begun: float, write: Callable[[], None]
) -> None:
    """Run one section after the other and write after each; none stops the others."""
    for section in sections:
        needs, left = section.needs(bench), budget - (time.perf_counter() - begun)
        start = time.perf_counter()
        if needs > left:
            found: Record = {
                "status": "not run",
                "reason": f"not run: it may take {needs:.0f} s and {max(left, 0):.0f} s of {budget:.0f} s were left.",
            }
        else:
            found = attempt(section, bench)
        found |= {"date": datetime.date.today().isoformat(), "seconds": time.perf_counter() - start}
        if found["status"] == "measured" or measured(bench.sections, section.name) is None:
            bench.sections[section.name] = found
        print(f"{section.name}: {found.get('reason', 'measured')} ({found['seconds']:.1f} s)", flush=True)
        write()


def attempt(section: Section, bench: Bench) -> Record:
    """A section's values, or what stopped it."""
    held = torch.cuda.memory_allocated(bench.device) if bench.device.type == "cuda" else 0
    try:
        with torch.no_grad():
            return {"status": "measured", "values": section.run(bench), "held_before": held}
    except Exception as error:
        kind = "out of memory" if is_out_of_memory(error) else f"failed with {type(error).__name__}"
        first = (str(error).splitlines() or ["no message"])[0]
        frames = traceback.extract_tb(error.__traceback__)
        called = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        return {"status": "failed", "reason": f"{kind}: {first}", "called": called, "held_before": held}
    finally:
        # What an error still holds is let go of, so that the next section finds an empty card.
        gc.collect()
        if bench.device.type == "cuda":
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()


def machine_of(device: torch.device) -> Record:
    """The machine in names and numbers."""
    found: Record = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
    if device.type != "cuda":
        return found | {"card": "processor", "memory_gib": 0.0, "processors": torch.get_num_threads()}
    card = torch.cuda.get_device_properties(device)
    return found | {
        "card": card.name,
        "memory_gib": card.total_memory / 2**30,
        "processors": card.multi_processor_count,
        "capability": [card.major, card.minor],
        "cudnn": torch.backends.cudnn.version(),
    }


def what_is_measured(sizes: Sizes) -> str:
    shot, wan = sizes.shot, sizes.wan
    return (
        f"Transformer of {wan.num_layers} blocks {wan.width} wide in bfloat16; {shot.num_frames} frames of "
        f"{shot.width} x {shot.height}, {shot.num_views} views: {sizes.video_tokens:,} video and "
        f"{sizes.context_tokens:,} context tokens."
    )


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="the card (default: the first), or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a rehearsal, whose times mean nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="sections whose names begin so (default: all)")
    parser.add_argument("--budget-s", type=float, default=540.0, help="no section starts that may end later than this")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: benchmarks/results)")
    options = parser.parse_args(given)
    if options.tiny and options.out == RESULTS:
        parser.error("--tiny is a rehearsal, and its times are no results; name another folder with --out.")
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu would take days at full size; add --tiny.")
    unknown = [
        name for name in options.only or [] if not any(section.name.startswith(name) for section in all_sections())
    ]
    if unknown:
        parser.error(f"--only names no section {unknown}; there are {[section.name for section in all_sections()]}.")
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Measure, write, and return 1 where a check of values failed."""
    begun = time.perf_counter()
    options = arguments(given)
    if options.device != "cpu" and not torch.cuda.is_available():
        print("There is no CUDA card here, so nothing is measured; run this where there is one.")
        return 0
    device, sizes = torch.device(options.device), TINY if options.tiny else FULL
    machine = machine_of(device)
    name = re.sub("[^a-z0-9]+", "_", machine["card"].lower())
    stem = options.out / f"gpu_{name}{'_tiny' if options.tiny else ''}"
    path = stem.with_suffix(".json")
    options.out.mkdir(parents=True, exist_ok=True)
    record: Record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"sections": {}}
    record |= {"machine": machine, "what": what_is_measured(sizes)}
    order = all_sections()

    def write() -> None:
        known = [section.name for section in order if section.name in record["sections"]]
        ordered = record | {"sections": {name: record["sections"][name] for name in known}}
        path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        stem.with_suffix(".md").write_text(page(ordered), encoding="utf-8")

    chosen = [section for section in order if section.name.startswith(tuple(options.only or [""]))]
    run_sections(Bench(device, sizes, record["sections"]), chosen, options.budget_s, begun, write)
    failed = [check["what"] for check in all_checks(record["sections"]) if not check["passed"]]
    for what in failed:
        print(f"WRONG: {what}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
