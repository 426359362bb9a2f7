"""Records and the page: what is known of a shot, told from what is damaged, and shown."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from tiny_lists import SETTINGS, cached_nano, film, flat, rows_of, small_scene, stand_in_for_filming

from cinescene_core.checks import FileFormatError
from cinescene_core.costs import StageCost
from cinescene_core.selection import ForwardCost, ViewSelection
from cinescene_core.shots import film_shots, finished_record, plan_shots, write_report
from cinescene_core.shots.report import GAP, LABEL_HEIGHT, PICTURE_WIDTH
from cinescene_core.step_cache import SkippedForwards

pytestmark = pytest.mark.filterwarnings("ignore::cinescene_core.checks.CineSceneWarning")


@pytest.fixture(scope="module")
def models():
    return cached_nano()


@pytest.fixture(scope="module")
def scene():
    return small_scene()


@pytest.fixture
def rows(tmp_path):
    return rows_of(tmp_path)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def stand_in(monkeypatch):
    """Filming that takes no time; the names of the prompts filmed."""
    return stand_in_for_filming(monkeypatch)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", r"a\.json stands where the record of a shot belongs, and is none .* Move it away"),
        ('{"format": 2}', r"a\.json is a record of format 2 with .*; this version reads format 1 .* Update CineScene"),
        ('{"format": "cinescene-trajectory"}', r"a\.json is a record of format 'cinescene-trajectory'.* move it away"),
    ],
)
def test_a_strange_record_is_not_written_over(models, scene, out, stand_in, tmp_path, content, sentence):
    (out / "a.json").write_text(content)
    with pytest.raises(FileFormatError, match=sentence):
        film(models, scene, rows_of(tmp_path, "name,prompt,path\na,a dog,static\n"), out)
    assert (out / "a.json").read_text() == content
    assert stand_in == []


def test_a_video_that_is_not_the_records_is_filmed_again(models, scene, rows, out, stand_in):
    planned = film(models, scene, rows, out)
    video = out / "long.mp4"
    video.write_bytes(video.read_bytes()[:-10])
    assert finished_record(out, "long", planned[0].digest) is None
    stand_in.clear()
    film(models, scene, rows, out)
    assert stand_in == ["a red robot"]


WHOLE = {
    "format": 1,
    "digest": "0" * 64,
    "shot": {"prompt": "a dog"},
    "video": "0" * 64,
    "costs": [{"stage": "sampling", "seconds": 1.5, "peak_bytes": None}],
    "selection": {
        "slots": [0, 1],
        "shares": [0.5, 1],
        "kept": {"context_tokens": 4, "flop": 5},
        "whole": {"context_tokens": 8, "flop": 9},
    },
    "skipped": {"skipped": 1, "forwards": 2},
}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"digest": None}, "digest is None"),
        ({"shot": "a dog"}, "shot is 'a dog'"),
        ({"video": 7}, "video is 7"),
        ({"costs": None}, "costs is None"),
        ({"costs": [{}]}, "missing 3 required positional arguments"),
        ({"costs": [1]}, "must be a mapping"),
        ({"costs": [{"stage": "a", "seconds": "1", "peak_bytes": None}]}, "seconds is '1'"),
        ({"costs": [{"stage": "a", "seconds": True, "peak_bytes": None}]}, "seconds is True"),
        ({"costs": [{"stage": 1, "seconds": 1, "peak_bytes": None}]}, "a stage is 1"),
        ({"costs": [{"stage": "a", "seconds": 1, "peak_bytes": "8"}]}, "peak_bytes is '8'"),
        ({"selection": []}, "list indices must be"),
        ({"selection": {}}, "'kept'"),
        ({"selection": WHOLE["selection"] | {"slots": [None]}}, "a slot is None"),
        ({"selection": WHOLE["selection"] | {"shares": 1}}, "shares is 1"),
        ({"selection": WHOLE["selection"] | {"whole": {"context_tokens": 8, "flop": 0}}}, "a forward of 0 FLOP"),
        ({"skipped": [1, 2]}, "'list' object has no attribute 'items'"),
        ({"skipped": {"skipped": 1}}, "missing 1 required positional argument: 'forwards'"),
        ({"skipped": {"skipped": 1, "forwards": 2.5}}, "skipped.forwards is 2.5"),
    ],
)
def test_a_damaged_record_is_told(out, change, fault):
    (out / "a.json").write_text(json.dumps(WHOLE | change))
    sentence = rf"a\.json is a damaged record of a shot: .*{re.escape(fault)}.*\. Move it away, and the shot is filmed"
    with pytest.raises(FileFormatError, match=sentence):
        finished_record(out, "a", "0" * 64)


def test_what_was_left_out_of_a_shot_is_kept_and_shown_where_it_was(models, scene, out, monkeypatch, tmp_path):
    rows = rows_of(tmp_path, "name,prompt,path\na,a dog,static\nb,a cat,static\n")
    planned = plan_shots(models, scene, rows, SETTINGS)
    stand_in_for_filming(monkeypatch)
    film_shots(models, scene, planned[:1], out, SETTINGS)
    page = write_report("list", planned, out).read_text(encoding="utf-8")
    assert "views read" not in page
    assert "forwards cut short" not in page
    selection = ViewSelection((0, 2, 3), (0.1, 0.0, 1.0, 0.5), ForwardCost(30, 600), ForwardCost(40, 800))
    stand_in_for_filming(monkeypatch, selection=selection, skipped=SkippedForwards(3, 10))
    film_shots(models, scene, planned, out, SETTINGS)
    stats = finished_record(out, "b", planned[1].digest).stats
    assert (stats.selection, stats.skipped) == (selection, SkippedForwards(3, 10))
    page = write_report("list", planned, out).read_text(encoding="utf-8")
    first, second = (line for line in page.splitlines() if line.startswith("<tr><td>"))
    assert page.count('<th class="n">views read</th><th class="n">forwards cut short</th>') == 1
    assert first.endswith('1.25</td><td class="n"></td><td class="n"></td></tr>')
    assert second.endswith('1.25</td><td class="n">3 of 4, 25% less work</td><td class="n">3 of 10</td></tr>')


def test_machines_share_a_list_and_its_folder(models, scene, rows, out, stand_in):
    planned = plan_shots(models, scene, rows, SETTINGS)
    film_shots(models, scene, planned[0::2], out, SETTINGS)
    page = write_report("shots.csv", planned, out).read_text(encoding="utf-8")
    assert "2 of 3 shots are filmed" in page
    assert page.count("not filmed yet") == 1
    film_shots(models, scene, planned[1::2], out, SETTINGS)
    page = write_report("shots.csv", planned, out).read_text(encoding="utf-8")
    assert "3 of 3 shots are filmed, in 3.75 s together, 1.25 s each" in page
    assert "not filmed yet" not in page


def test_the_sheet_shows_every_shot_and_the_page_names_what_was_asked_for(models, scene, out, stand_in, tmp_path):
    rows = rows_of(tmp_path, 'name,prompt,negative,path,seed\na&b,"<b>a dog</b>",fog,static,1\nc d,a cat,,static,2\n')
    planned = film(models, scene, rows, out)
    page = write_report("<list>.csv", planned, out, [StageCost("cache", 0.5, None)]).read_text(encoding="utf-8")
    assert "<h1>&lt;list&gt;.csv</h1>" in page
    assert "&lt;b&gt;a dog&lt;/b&gt;<br>not: fog" in page
    assert 'src="a%26b.mp4"' in page
    assert 'src="c%20d.mp4"' in page
    assert "<b>a dog" not in page
    assert "<li>cache: 0.50 s</li>" in page
    sheet = np.asarray(Image.open(out / "contact_sheet.jpg")).astype(int)
    height = PICTURE_WIDTH * 32 // 64
    for index, seed in enumerate((1, 2)):
        top = GAP + index * (LABEL_HEIGHT + height + GAP) + LABEL_HEIGHT
        for column in range(3):
            left = GAP + column * PICTURE_WIDTH
            # The jpg keeps colour in blocks of 16 pixels, which mix at an edge.
            picture = sheet[top + 16 : top + height - 16, left + 16 : left + PICTURE_WIDTH - 16]
            expected = 255 * flat(seed)[0, 0, 0].numpy()
            # The mp4 and the jpg each round colours to a few of 255 levels.
            assert np.abs(picture - expected).max() < 8, (seed, column)
