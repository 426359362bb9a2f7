"""Renders the bundled panorama: a courtyard modelled by script, through Blender.

    pip install -e . -e "training[blender]"      # in an environment of its own: Blender needs an older numpy
    python scripts/render_example_panorama.py [--width 2048] [--samples 24] [--save courtyard.blend]

Five minutes on two cores. Everything in the picture is modelled by `cinescene_training.render.blender`, so it carries
the project's own licence.
"""

import argparse
import time
from pathlib import Path

from cinescene_training.render.blender import BlenderJob, CyclesSettings, require_blender
from PIL import Image

from cinescene_core.files import atomic_write, check_target
from cinescene_core.panorama import example_panorama_path


def main() -> None:
    """Build the set, stand the camera before the arcade, render, save at a quality that keeps the file small."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=example_panorama_path())
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--save", type=Path, help="also keep the set as a .blend file")
    options = parser.parse_args()
    require_blender()
    check_target(options.out)
    import bpy
    from cinescene_training.render.blender.cycles import Cycles
    from cinescene_training.render.blender.film_set import find_set
    from cinescene_training.render.blender.renderer import render_panorama
    from cinescene_training.render.blender.set_courtyard import build_courtyard

    bpy.ops.wm.read_factory_settings(use_empty=True)
    build_courtyard(seed=0, angle_degrees=0.0)
    if options.save is not None:
        bpy.ops.wm.save_as_mainfile(filepath=str(options.save.resolve()))
    film_set = find_set(BlenderJob(root="", name="courtyard"))
    cycles = Cycles(film_set.scene, CyclesSettings(samples=options.samples), film_set.metres_per_unit)
    start = time.monotonic()
    picture = (render_panorama(film_set, cycles, options.width) * 255).round().byte().numpy()
    with atomic_write(options.out) as temporary:
        Image.fromarray(picture).save(temporary, quality=90, optimize=True)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
