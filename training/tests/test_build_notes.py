"""What a build of the cache says of a source that is usable and yet not what the run expects."""

import dataclasses

import pytest
import torch
from fake_footage import FRAMES, SHOT, FakeFootage, cache_config, fill, tiny_encoders

from cinescene_core.checks import CineSceneWarning
from cinescene_core.types import Trajectory
from cinescene_training.data.cache import EncodedCache


@pytest.fixture(scope="module")
def encoders():
    return tiny_encoders()


class Zoo(FakeFootage):
    """Every caption has words that the text encoder lacks."""

    words = ("zebra", "a yak and a zebra")

    @property
    def clips(self):
        return tuple(
            dataclasses.replace(clip, caption=self.words[number % len(self.words)])
            for number, clip in enumerate(super().clips)
        )


def test_unknown_words_of_all_captions_are_said_once(tmp_path, encoders):
    # A warning for each caption would be an error here.
    report = fill(cache_config(tmp_path), encoders, train=Zoo(3), validation=Zoo(1, "held"))
    note = (
        "The text encoder does not know 3 words of the captions, which all read the same: and, yak, zebra. "
        "Where prompts matter, use encoders that know them."
    )
    assert report.notes == (note,)
    assert f"  {note}\n" in f"{report}\n"
    rows = EncodedCache(tmp_path, "train").sample(0).text  # they are encoded as for filming
    with pytest.warns(CineSceneWarning, match="does not know zebra"):
        assert torch.equal(rows, encoders.text.encode("zebra")[0])


def test_of_many_unknown_words_the_rest_is_counted(tmp_path, encoders):
    class Crowd(Zoo):
        words = tuple(" ".join(f"beast{number:02d}" for number in range(first, first + 8)) for first in range(0, 40, 8))

    (note,) = fill(cache_config(tmp_path), encoders, train=Crowd(3)).notes
    assert "does not know 40 words of the captions" in note
    assert "beast29 and 10 more. Where" in note


def test_another_lens_or_frame_rate_is_said_by_every_run(tmp_path, encoders):
    # A warning amid the progress would be an error here.
    config = cache_config(tmp_path, shot=dataclasses.replace(SHOT, fov_degrees=73.7, fps=24.0))
    report = fill(config, encoders, train=FakeFootage(3))
    assert report.notes == (
        "Clips have a lens of 90 degrees and the views one of 73.7; the model cannot know. "
        "Set cache.shot.fov_degrees to 90, or calibrate the dataset.",
        "Clips have 15 frames per second and the configuration says 24; a trained model would play at the wrong speed. "
        "Set cache.shot.fps to 15.",
    )
    again = fill(config, encoders, train=FakeFootage(3))
    assert (again.splits[0].made, again.notes) == (0, report.notes)


def test_several_lenses_and_frame_rates_are_one_note_each(tmp_path, encoders):
    poses = torch.eye(4, dtype=torch.float64).expand(FRAMES, 4, 4)
    wide = {f"place{place}/{kind}/01 path": Trajectory(poses, torch.tensor(100.0), fps=30.0)
            for place in (0, 1) for kind in ("whuman", "wohuman")}  # fmt: skip
    report = fill(cache_config(tmp_path), encoders, train=FakeFootage(3, faults=wide))
    assert [note.split(";")[0] for note in report.notes] == [
        "Clips have a lens of 90 to 100 degrees and the views one of 90",
        "Clips have 15 to 30 frames per second and the configuration says 15",
    ]
    assert [note.rpartition("Set ")[2] for note in report.notes] == [
        "cache.shot.fov_degrees to that of most clips, or calibrate the dataset.",
        "cache.shot.fps to that of most clips.",
    ]
