"""The host's own node TorchCompileModel over our MODEL: it compiles once, and the video stays."""

import json
import os

import pytest

# Compiled sums are added up in another order; four steps with guidance 5 multiply that about tenfold.
SAME_VIDEO = 1e-4


def measured(comfy_paths, backend, *modes):
    report = comfy_paths.base / f"compile_{backend}.json"
    files = {mode: f"tiny_{mode}.safetensors" for mode in modes}
    comfy_paths.run_script("inside_compile.py", report, backend, *files.values())
    found = json.loads(report.read_text(encoding="utf-8"))
    return {mode: found[file] for mode, file in files.items()}


def check(found):
    """Two shots of two places, each as it is without the node."""
    assert max(found["differences"]) < SAME_VIDEO
    assert found["apart"] > 0.01
    assert found["graphs"] > 0
    assert found["graphs_of_second"] == 0
    assert found["breaks"] == []
    assert found["scenes_left"] == 0
    assert found["plain_after"] == 0


@pytest.fixture(scope="module")
def captured(comfy_paths):
    """With the graphs run as they were captured, which is quick; what breaks them is the same."""
    return measured(comfy_paths, "eager", "cinescene", "cached")


@pytest.mark.parametrize("mode", ["cinescene", "cached"])
def test_a_shot_is_captured_whole_and_serves_the_next(captured, mode):
    check(captured[mode])


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("CINESCENE_SLOW") != "1", reason="set CINESCENE_SLOW=1")
def test_compiled_by_inductor_the_video_stays(comfy_paths):
    check(measured(comfy_paths, "inductor", "cinescene")["cinescene"])
