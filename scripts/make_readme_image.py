"""Make docs/images/moves.jpg: the bundled panorama above frames of three moves on it, from the animatic.

python scripts/make_readme_image.py
"""

from pathlib import Path

import torch
from PIL import Image

from cinescene_core.animatic import render_animatic
from cinescene_core.panorama import example_panorama_path, load_panorama
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.video import contact_sheet, save_image

TARGET = Path(__file__).parents[1] / "docs" / "images" / "moves.jpg"
MOVES = {"pan_right": 75.0, "pan_left": 75.0, "tilt_up": 35.0}
FRAMES_SHOWN = (0, 19, 38, 57, 76)
WIDTH, HEIGHT = 320, 184


def main() -> None:
    """Render the moves and join them below the panorama."""
    panorama = load_panorama(example_panorama_path())
    rows = []
    for name, amount in MOVES.items():
        frames = render_animatic(panorama, preset_trajectory(name, amount=amount), WIDTH, HEIGHT)
        rows.append(frames[list(FRAMES_SHOWN)])
    sheet = contact_sheet(torch.cat(rows), columns=len(FRAMES_SHOWN))
    above = Image.open(example_panorama_path()).resize((sheet.shape[1], sheet.shape[1] // 2), Image.Resampling.LANCZOS)
    above = torch.frombuffer(bytearray(above.tobytes()), dtype=torch.uint8).view(above.height, above.width, 3) / 255
    crop = above[above.shape[0] // 6 : -above.shape[0] // 4]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.cat([crop, torch.ones(8, crop.shape[1], 3), sheet]), TARGET)


if __name__ == "__main__":
    main()
