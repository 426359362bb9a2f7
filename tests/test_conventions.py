"""CONVENTIONS.md is true: its table is what the code does, and every proof it names exists."""

import ast
import re
from pathlib import Path

import pytest
import torch

from cinescene_core.cameras import rotation_from_angles
from cinescene_core.panorama import directions_to_pixels
from cinescene_core.trajectory import PRESETS, preset_trajectory

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONVENTIONS.md").read_text(encoding="utf-8")
MOVES = re.findall(r"^\| `(\w+)` \| (?:([\d.]+) (\w+)|none) \| (.+) \| (.+) \|$", TEXT, flags=re.MULTILINE)


def vector(text):
    return torch.tensor([float(number) for number in text.split(", ")], dtype=torch.float64)


def test_the_table_of_moves_names_every_preset_and_its_unit():
    assert {row[0] for row in MOVES} == set(PRESETS)
    assert all(row[2] == PRESETS[row[0]].unit for row in MOVES)


@pytest.mark.parametrize("row", MOVES, ids=lambda row: row[0])
def test_the_table_of_moves_is_what_the_presets_do(row):
    name, amount, _, centre, forward = row
    pose = preset_trajectory(name, amount=float(amount) if amount else None, subject_distance=4).world_from_camera[-1]
    torch.testing.assert_close(pose[:3, 3], vector(centre), rtol=0, atol=5e-5)  # the page keeps four decimals
    torch.testing.assert_close(pose[:3, 2], vector(forward), rtol=0, atol=5e-5)


def test_every_proof_that_is_named_exists():
    proofs = re.findall(r"`(tests/\w+\.py)::(\w+)`", TEXT)
    assert len(proofs) > 20
    for file, name in proofs:
        functions = {
            node.name
            for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, f"CONVENTIONS.md names {file}::{name}, which does not exist"


def test_every_statement_has_a_proof():
    rows = [
        line
        for line in TEXT.splitlines()
        if line.startswith("|") and not re.match(r"\| (`|statement|move)|\|---", line)
    ]
    assert len(rows) > 15
    assert all("`tests/" in row.rsplit("|", 2)[1] for row in rows)


def test_a_flattened_pose_has_its_translation_in_every_fourth_place():
    for name, place, metres in (("truck_right", 3, 2.0), ("pedestal_down", 7, 2.0), ("dolly_in", 11, 2.0)):
        flat = preset_trajectory(name, amount=2).latent_poses().flatten(1)
        assert flat.shape == (20, 12)
        expected = torch.tensor([1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], dtype=torch.float64)
        expected[place] = metres
        assert torch.equal(flat[-1], expected)


@pytest.mark.parametrize(
    ("yaw", "pitch", "pixel"),
    [
        (0, 0, (512, 256)),
        (90, 0, (768, 256)),
        (-90, 0, (256, 256)),
        (45, 0, (640, 256)),
        (0, 45, (512, 128)),
        (0, -45, (512, 384)),
    ],
)
def test_angles_and_panorama_agree(yaw, pitch, pixel):
    ray = rotation_from_angles(yaw, pitch)[:, 2]  # where a camera at these angles looks
    got = directions_to_pixels(ray, height=512, width=1024)
    torch.testing.assert_close(got, torch.tensor(pixel, dtype=torch.float64), rtol=0, atol=1e-10)
