"""The wall-time benchmark: diffusers' blocks compute what ours do, and otherwise nothing is timed."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from cinescene_core.config import WanConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TINY = WanConfig(width=128, num_heads=1, num_layers=2, ffn_width=96, text_width=32, feature_width=16)


@pytest.fixture
def scaled(monkeypatch):
    """The benchmark's networks; variants that need a compiler, which takes a minute, are left out."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.wall_time import scaled_model

    monkeypatch.setattr(
        scaled_model, "CHECKS", {k: v for k, v in scaled_model.CHECKS.items() if not k.endswith("compiled")}
    )
    return scaled_model


@pytest.fixture
def found(scaled):
    """Tiny variants, with diffusers' network to change before they run."""
    with torch.no_grad():
        model = scaled.filled(TINY)
        theirs = scaled.DiffusersJoint(model)
        yield scaled.variants(model, theirs, scaled.random_inputs(TINY, (4, 6))), theirs, model


def test_every_variant_gives_the_values_it_must(scaled, found):
    differences = scaled.check_values(found[0])
    assert set(differences) == set(scaled.CHECKS)


def test_networks_that_differ_are_not_timed(scaled, found):
    theirs = found[1]
    theirs.wan.blocks[1].ffn.net[2].bias[3] += 0.1
    with pytest.raises(SystemExit, match=r"'diffusers, joint' differs from 'joint' by .* Find the difference first\."):
        scaled.check_values(found[0])


def test_camera_and_scene_reach_both_networks(scaled, found):
    """Equal values would prove little if neither network saw what it is given."""
    variants, theirs, model = found
    given = scaled.random_inputs(TINY, (4, 6))
    for changed in (
        dataclasses.replace(given, camera=given.camera + 0.5),
        dataclasses.replace(given, context=scaled.random_inputs(TINY, (4, 6), seed=2).context),
    ):
        other = scaled.variants(model, theirs, changed)
        for name in ("diffusers, joint", scaled.JOINT):
            before, after = (which[name].step(which[name].read()) for which in (variants, other))
            assert (after - before).abs().max() > 1e-2 * before.abs().max(), name


def test_the_page_is_what_its_raw_numbers_say(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.wall_time.report import page

    raw = json.loads((RESULTS / "wall_time.json").read_text(encoding="utf-8"))
    assert (RESULTS / "wall_time.md").read_text(encoding="utf-8") == page(raw)
