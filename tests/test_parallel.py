"""Several processes film one shot: what they make is what one makes, and each does its share.

`parallel_shots.py` films by Gloo in processes of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from cinescene_core.parallel import own_device, world_size

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks processes that have used torch")
TESTS = Path(__file__).parent
MODES = ("joint", "cached", "per_view")
VIDEO, SCENE = 45, 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    subprocess.run(
        [sys.executable, str(TESTS / "parallel_shots.py"), str(folder)],
        check=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": paths},
    )
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return json.loads((folder / "report.json").read_text())


CASES = {"branches": [2, 1], "tokens": [1, 2], "odd": [1, 3], "both": [2, 2]}
"""Branches and processes that share the tokens of each."""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", MODES)
def test_several_processes_film_what_one_films(report, case, mode):
    for rank, found in enumerate(report[case]):
        assert found["mesh"] == CASES[case]
        assert found["first"] == (rank == 0)
        # The same sums in batches of other sizes: float32 rounding, amplified by guidance 5.
        assert found[mode]["apart"] < 1e-5
        assert found[mode]["alike"]


@pytest.mark.parametrize("mode", MODES)
def test_each_branch_is_computed_once(report, mode):
    # Two steps: alone both branches, four forwards; on two processes each has one branch.
    for found in (*report["branches"], *report["both"]):
        assert found[mode]["forwards"] == [4, 2]
    assert all(found[mode]["forwards"] == [2, 2] for found in report["tokens"])


@pytest.mark.parametrize("case", CASES)
def test_each_process_computes_its_share_of_the_tokens(report, case):
    branches, _ = CASES[case]
    for mode in MODES:
        shares = [found[mode]["rows"] for found in report[case]]
        assert all(len(share) == 1 for share in shares)
        assert sum(share[0] for share in shares) == branches * (VIDEO + (SCENE if mode == "joint" else 0))
        # A process has at most one token more of the video, and of the scene, than another.
        assert max(shares)[0] - min(shares)[0] <= 2


def test_the_model_is_left_as_it_was(report):
    assert not any(found["left"] for case in report.values() for found in case)


def test_a_step_cache_works_on_branches_of_their_own_and_where_one_is_left_out(report):
    for found in report["branches"]:
        assert found["step_cache"] < 1e-5
        together, alone = found["counts"]
        assert together == alone
        assert 0 < alone[0] < alone[1] < 2 * 14


def test_what_processes_that_share_a_forward_cannot_do_is_said(report):
    for found in report["tokens"]:
        step_cache, compiled, packed = found["refused"]
        sentence = (
            "{}, and here several processes share the tokens of each forward. "
            "Film without it, or with guidance on two processes, one for each branch."
        )
        assert step_cache == sentence.format("A step cache decides by the whole video")
        assert compiled == sentence.format("A compiled block is one graph on one device")
        assert packed == (
            "A scene that attends only to itself cannot be split over processes among the video's tokens. "
            "Read it once, and give the transformer what was read."
        )


def frames_of(path):
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)])


def test_the_command_films_by_two_processes_what_it_films_by_one(folder):
    alone, together = frames_of(folder / "alone.mp4"), frames_of(folder / "together.mp4")
    assert alone.shape == (5, 96, 160, 3)
    # Latents 1e-5 apart: a value here and there rounds to its neighbour, and the codec passes it on.
    assert np.abs(alone - together).mean() < 0.1
    assert "sampling" in (folder / "said.0").read_text()
    assert (folder / "said.1").read_text() == ""


def test_one_process_is_alone_whatever_the_machine_says(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")  # some clusters set it for every job
    assert world_size() == 1
    assert own_device("cuda") == "cuda"


def test_each_process_of_a_machine_has_a_card_of_its_own(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert own_device("cuda") == "cuda:1"
    assert own_device("cpu") == "cpu"
