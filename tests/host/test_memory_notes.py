"""What the nodes say of memory: before the work, and when there is too little."""

import json
import re

import pytest


@pytest.fixture(scope="module")
def said(comfy_paths):
    report = comfy_paths.base / "memory.json"
    comfy_paths.run_script("inside_memory.py", report)
    return json.loads(report.read_text(encoding="utf-8"))


def test_the_loader_warns_of_a_shot_that_does_not_fit_and_only_then(said):
    assert said["large card"] == ""
    assert re.fullmatch(
        r"A shot as this checkpoint was trained, 77 frames of 672 x 384 pixels with 20 views, takes "
        r"[\d.]+ [GM]iB beside the weights; cuda:0 has 64 MiB\. Use \d+ x \d+ pixels or less\.",
        said["small card"],
    )


def test_a_sampler_without_memory_names_need_and_change_and_the_host_still_knows_it(said):
    sentence, host_knows = said["out of memory"]
    assert re.fullmatch(
        r"Out of memory in stage '(scene cache|sampling)': 5 frames of 128 x 64 pixels with 3 views take \d+ MiB on "
        r"cuda:0, where 3 MiB is free; use .+\.",
        sentence,
    )
    assert host_knows
    assert said["another error"] == "another"


def test_a_batch_and_both_branches_of_guidance_count(said):
    for name, videos in (("guided", 2), ("three, guided", 6)):
        assert f": {videos} videos of 5 frames of 128 x 64 pixels with 3 views take " in said[name]


def test_a_latent_that_cannot_be_planned_leaves_the_hosts_own_words(said):
    assert said["unknown shape"] == "CUDA"
