"""Shot lists: three formats, one meaning, and a sentence with row and column for each fault."""

import builtins
import json
import re

import pytest
import torch

from cinescene_core.checks import FileFormatError
from cinescene_core.shots import Move, read_shots, shard_of
from cinescene_core.trajectory import preset_trajectory, save_trajectory
from cinescene_core.types import Trajectory

HEAD = "name,prompt,path"
CSV = """name,prompt,negative,path,seed,size,frames,lens
orbit,"a red, old car",blur,arc_left 40,7,672x384,49,60

010,a dog runs,,dolly_in,,,,
"""
JSON = [
    {"name": "orbit", "prompt": "a red, old car", "negative": "blur", "path": "arc_left 40", "seed": 7,
     "size": "672x384", "frames": 49, "lens": 60},
    {"name": "010", "prompt": "a dog runs", "path": "dolly_in", "seed": None},
]  # fmt: skip
YAML = """
- name: orbit
  prompt: a red, old car
  negative: blur
  path: arc_left 40
  seed: 7
  size: 672x384
  frames: 49
  lens: 60
- {name: 010, prompt: a dog runs, path: dolly_in, seed: }
"""


@pytest.fixture
def written(tmp_path):
    """Write a list and read it."""

    def read(text, suffix=".csv"):
        path = tmp_path / f"shots{suffix}"
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        return read_shots(path)

    return read


@pytest.mark.parametrize(
    ("text", "suffix", "numbers"),
    [
        (CSV, ".csv", (2, 4)),
        (
            "\ufeff" + CSV.replace("red, old", "red; old").replace(",", ";").replace("red; old", "red, old"),
            ".csv",
            (2, 4),
        ),
        (JSON, ".json", (1, 2)),
        (YAML, ".yaml", (1, 2)),
        (YAML, ".yml", (1, 2)),
    ],
    ids=["csv", "csv of a spreadsheet", "json", "yaml", "yml"],
)
def test_every_format_says_the_same(written, text, suffix, numbers):
    first, second = written(text, suffix)
    assert (first.name, first.prompt, first.negative) == ("orbit", "a red, old car", "blur")
    assert first.path == Move("arc_left", 40.0)
    assert (first.seed, first.size, first.frames, first.lens) == (7, (672, 384), 49, 60.0)
    assert (second.name, second.path, second.negative) == ("010", Move("dolly_in"), "")
    assert (second.seed, second.size, second.frames, second.lens) == (None, None, None, None)
    assert [row.origin for row in (first, second)] == [
        f"shots{suffix}, row {numbers[0]} 'orbit'",
        f"shots{suffix}, row {numbers[1]} '010'",
    ]


def test_yaml_words_are_not_taken_for_values(written):
    (row,) = written("[{name: no, prompt: yes, path: static, seed: 0010}]", ".yaml")
    assert (row.name, row.prompt, row.seed) == ("no", "yes", 10)


def test_a_row_completes_its_move_from_the_list(written):
    first, second = written(CSV)
    given = {"num_frames": 17, "fps": 12.0, "fov_degrees": 90.0}
    made = first.trajectory(**given)
    expected = preset_trajectory("arc_left", amount=40, num_frames=49, fps=12.0, fov_degrees=60.0)
    assert torch.equal(made.world_from_camera, expected.world_from_camera)
    assert (made.fps, float(made.fov_degrees[0])) == (12.0, 60.0)
    assert len(second.trajectory(**given)) == 17
    assert second.trajectory(**given).travel() == pytest.approx(2.0)  # half the way to a subject 4 m away


def test_a_path_file_is_found_beside_the_list(written, tmp_path):
    (tmp_path / "moves").mkdir()
    path = preset_trajectory("pan_right", amount=10, num_frames=9, fps=24.0)
    save_trajectory(path, tmp_path / "moves/turn.json")
    (row, lens) = written(f"{HEAD},frames,lens\na,a dog,moves/turn.json,9,\nb,a dog,moves/turn.json,,35\n")
    made = row.trajectory(num_frames=77, fps=15.0, fov_degrees=90.0)
    assert torch.equal(made.world_from_camera, path.world_from_camera)
    assert made.fps == 24.0
    assert float(lens.trajectory(num_frames=77, fps=15.0, fov_degrees=90.0).fov_degrees[0]) == 35.0


def test_paths_may_be_kept_inside_a_folder(written, tmp_path):
    save_trajectory(preset_trajectory("pan_right", num_frames=9), tmp_path / "turn.json")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/shots.csv").write_text(f"{HEAD}\na,a dog,../turn.json\n")
    assert len(read_shots(tmp_path / "in/shots.csv", root=tmp_path)) == 1
    with pytest.raises(
        FileFormatError, match=r"row 2, column 'path': the file \.\./turn\.json lies outside .*in\. Put"
    ):
        read_shots(tmp_path / "in/shots.csv", root=tmp_path / "in")


def test_what_a_spreadsheet_leaves_behind_is_no_fault(written):
    """Rows and columns that were emptied, and a head in capitals."""
    text = (
        ",,,,\nName,Prompt, PATH ,,Seed,,\na,a dog,static,,1,,\n,,,,,,\n , \n\nb,a cat,static,,,\nc,a ball,static,,2\n"
    )
    rows = written(text)
    assert [(row.name, row.prompt, row.seed) for row in rows] == [
        ("a", "a dog", 1),
        ("b", "a cat", None),
        ("c", "a ball", 2),
    ]
    assert [row.origin[:17] for row in rows] == ["shots.csv, row 3 ", "shots.csv, row 7 ", "shots.csv, row 8 "]
    (row,) = written([{"NAME": "a", "Prompt": "a dog", "path": "static"}], ".json")
    assert (row.name, row.prompt) == ("a", "a dog")


@pytest.mark.parametrize("name", ["console", "com10", "auxiliary", "null", "a con", "com"])
def test_names_that_only_look_like_a_device_are_kept(written, name):
    assert written(f"{HEAD}\n{name},a dog,static\n")[0].name == name


def test_the_longest_and_largest_shot_is_read(written):
    (row,) = written(f"{HEAD},frames,size,seed\na,a dog,static,10001,8192x8192,{2**64 - 1}\n")
    assert (row.frames, row.size, row.seed) == (10_001, (8192, 8192), 2**64 - 1)


GOOD = f"{HEAD}\na,a dog,static\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name\tprompt\tpath\na\ta dog\tstatic\n", r"row 1: the columns are separated by tabs\. Save it with commas"),
        ("sep=;\nname;prompt;path\na;a dog;static\n", r"row 1: 'sep=' is a note .* Remove that line"),
        ("name,prompt,path\na,a dog,turn.json 40\n", r"a path file has its own amount; got 'turn.json 40'\. Leave out"),
        ("name,prompt,path,sead\na,a dog,static,1\n", r"row 1: a column must be one of name, .*; got 'sead'\. Did .*"),
        ("name,prompt,seed\na,a dog,1\n", r"shots\.csv, row 2, column 'path': it is empty\. Fill it in"),
        (f"{HEAD}\n,a dog,static\n", r"row 2, column 'name': it is empty"),
        (f"{HEAD},seed,seed\na,a dog,static,1,2\n", r"row 2: the column 'seed' stands twice"),
        (GOOD + "b,a red, old car,static\n", r'row 3: it has 4 cells where the head has 3 columns\. Put .* quotes'),
        (GOOD + "A,a cat,static\n", r"row 3 'A', column 'name': shots\.csv, row 2 'a' has that name too, and both"),
        (f"{HEAD}\nb/c,a dog,static\n", r"row 2, column 'name': a name is 1 to 40 characters, .*; got 'b/c'"),
        (f"{HEAD}\n.b,a dog,static\n", r"column 'name': .* got '\.b'"),
        (f"{HEAD}\n{'b' * 41},a dog,static\n", r"column 'name': a name is 1 to 40 characters"),
        *(
            (f"{HEAD}\n{name},a dog,static\n", rf"column 'name': Windows keeps the name '{re.escape(name)}' for")
            for name in ("con", "NUL", "aux.take.2", "com1", "LPT9", "com\u00b2", "prn .b", "CONIN$")
        ),
        (f"{HEAD},,\na,a dog,static,x,\n", r"row 2: it has 4 cells where the head has 3 columns\. Put texts"),
        ("name,,prompt,path\na,x,a dog,static\n", r"row 2: it has 'x' in column 2, which the head leaves without a na"),
        ("Name,prompt,NAME,path\na,a dog,b,static\n", r"row 2: the column 'name' stands twice"),
        (f"{HEAD}\nb,a dog,orbit\n", r"column 'path': a path that is no \.json or \.npy file must be .*; got 'orbit'"),
        (f"{HEAD}\nb,a dog,pan_left 40 deg\n", r"column 'path': a move is a word and at most one number, such as"),
        (f"{HEAD}\nb,a dog,pan_left -40\n", r"column 'path': pan_left: amount must not be negative; got -40"),
        (f"{HEAD}\nb,a dog,no.json\n", r"row 2, column 'path': There is no trajectory file .*no\.json"),
        (f"{HEAD},frames\nb,a dog,turn.json,17\n", r"column 'frames': the path turn\.json has 9 frames; got 17\."),
        (f"{HEAD}\nb,a dog,odd.npy\n", r"column 'path': num_frames must be 4n \+ 1 .*; got 10\. Use 9 or 13"),
        (f"{HEAD}\nb,a dog,zoom.json\n", r"column 'path': The lens of this path changes, from 90 to 30 degrees"),
        (f"{HEAD},frames\nb,a dog,static,16\n", r"column 'frames': num_frames must be 4n \+ 1 .*; got 16"),
        (f"{HEAD},frames\nb,a dog,static,many\n", r"column 'frames': frames is a whole number, .*; got 'many'"),
        (f"{HEAD},frames\nb,a dog,static,400000000001\n", r"column 'frames': .* up to 10,001; got '400000000001'"),
        (f"{HEAD},frames\nb,a dog,static,{'1' * 5000}\n", r"column 'frames': .*; got '1{60}'\.\.\. \(5,000 characters"),
        (f"{HEAD}\nb,a dog,long.npy\n", r"'path': a shot has at most 10,001 frames; long\.npy has 10,005\. Split it"),
        (f"{HEAD},seed\nb,a dog,static,-1\n", r"column 'seed': a seed is a whole number from 0 to \d+; got '-1'"),
        (f"{HEAD},seed\nb,a dog,static,{2**64}\n", r"column 'seed': a seed is a whole number"),
        (f"{HEAD},seed\nb,a dog,static,{'1' * 5000}\n", r"column 'seed': .*; got '1{60}'\.\.\. \(5,000 characters"),
        (f"{HEAD},size\nb,a dog,static,16000000x16\n", r"column 'size': .* neither is above 8,192; got '16000000x16'"),
        (f"{HEAD},size\nb,a dog,static,16x8208\n", r"column 'size': .* neither is above 8,192; got '16x8208'"),
        (f"{HEAD},size\nb,a dog,static,big\n", r"column 'size': a size is width x height in pixels, .*; got 'big'"),
        (f"{HEAD},size\nb,a dog,static,100x100\n", r"column 'size': width and height must be multiples of 16"),
        (f"{HEAD},lens\nb,a dog,static,180\n", r"column 'lens': a lens is degrees across, between .*; got '180'"),
        (f"{HEAD},lens\nb,a dog,static,wide\n", r"column 'lens': a lens is degrees across, between .*; got 'wide"),
        (f"{HEAD}\n", r"shots\.csv holds no shot\. Add a row with name, prompt, path"),
        ("", r"shots\.csv holds no shot"),
        (f'{HEAD}\nb,"a dog"s,static\n', r"shots\.csv is not a CSV file that can be read: .* Export it again"),
    ],
)  # fmt: skip
def test_a_fault_is_named_by_row_and_column(written, tmp_path, text, sentence):
    path = preset_trajectory("pan_right", num_frames=9)
    save_trajectory(path, tmp_path / "turn.json")
    zoom = Trajectory(path.world_from_camera, torch.linspace(90, 30, 9))
    save_trajectory(zoom, tmp_path / "zoom.json")
    for name, count in (("odd", 10), ("long", 10_005)):
        save_trajectory(Trajectory(torch.eye(4).expand(count, 4, 4), 90.0), tmp_path / f"{name}.npy")
    with pytest.raises(FileFormatError, match=sentence):
        written(text)


@pytest.mark.parametrize(
    ("text", "suffix", "sentence"),
    [
        ("{", ".json", r"shots\.json is not valid JSON: line 1, column 2: .* Export it again"),
        ("[" * 100_000, ".json", r"shots\.json is not valid JSON"),
        ({"name": "a"}, ".json", r"shots\.json must hold a list of shots, each with name, prompt, path"),
        ([["a"]], ".json", r"shots\.json, row 1: a shot is an object with name, prompt, path"),
        ([{"name": "a", "seed": [1]}], ".json", r"row 1, column 'seed': it must hold one text or number"),
        ([{"name": "a", "seed": True}], ".json", r"row 1, column 'seed': it must hold one text or number"),
        ('[{"name": "a", "name": "b"}]', ".json", r"row 1: the column 'name' stands twice"),
        (
            '[{"name": "a", "negative": "b\\ud800"}]',
            ".json",
            r"row 1, column 'negative': character 2 is '\\ud800', half of a character, which no file can hold\. Wr",
        ),
        ('- {name: a, prompt: "\\uDC00"}', ".yaml", r"row 1, column 'prompt': character 1 is '\\udc00', half of"),
        (
            f'[{{"name": "a", "prompt": "b", "path": "static", "seed": {"1" * 5000}}}]',
            ".json",
            r"row 1, column 'seed': a seed is a whole number .*; got '1{60}'\.\.\. \(5,000 characters\)\. Write one",
        ),
        ("- {[a, b]: c}", ".yaml", r"shots\.yaml, row 1: a column's name is one word, and one here is a list or"),
        ("- [", ".yaml", r"shots\.yaml is not valid YAML: .* Export it again"),
        ("name: a", ".yaml", r"shots\.yaml must hold a list of shots"),
        ("- a", ".yaml", r"shots\.yaml, row 1: a shot is an object with"),
        ("- {name: a, size: [672, 384]}", ".yaml", r"row 1, column 'size': it must hold one text or number"),
        ("- {name: a, name: b}", ".yaml", r"row 1: the column 'name' stands twice"),
        ("- {name: a, take: 2}", ".yaml", r"shots\.yaml, row 1: a column must be one of .*; got 'take'"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_list_is_refused(written, text, suffix, sentence):
    with pytest.raises(FileFormatError, match=sentence):
        written(text, suffix)


def test_other_files_are_refused_by_what_they_are(tmp_path):
    with pytest.raises(FileFormatError, match=r"A shot list ends in \.csv, .*; got shots\.xlsx\. Rename or convert it"):
        read_shots(tmp_path / "shots.xlsx")
    with pytest.raises(FileNotFoundError, match=r"There is no shot list .*shots\.csv\. Check the name"):
        read_shots(tmp_path / "shots.csv")
    (tmp_path / "shots.csv").write_bytes("name,prompt\n\xe9".encode("latin-1"))
    with pytest.raises(FileFormatError, match=r"shots\.csv is not UTF-8 text .* Save it as CSV UTF-8"):
        read_shots(tmp_path / "shots.csv")
    (tmp_path / "shots.json").write_bytes("[]".encode("utf-16"))
    with pytest.raises(FileFormatError, match=r"shots\.json is not UTF-8 text .*\. Save it as UTF-8\.$"):
        read_shots(tmp_path / "shots.json")
    with (tmp_path / "shots.csv").open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(FileFormatError, match=r"shots\.csv has 17 MiB; a shot list has at most 16"):
        read_shots(tmp_path / "shots.csv")


def test_yaml_needs_pyyaml_and_csv_does_not(written, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "yaml":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert len(written(CSV)) == 2
    with pytest.raises(ImportError, match=r"A shot list in YAML needs PyYAML\. Install it with: pip install"):
        written(YAML, ".yaml")


@pytest.mark.parametrize(("count", "machines"), [(7, 3), (2, 4), (5, 1)])
def test_shards_share_a_list_out_evenly_and_leave_nothing(count, machines):
    parts = [list(shard_of(range(count), (i, machines))) for i in range(1, machines + 1)]
    assert sorted(item for part in parts for item in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_a_shard_that_is_none_is_refused(shard):
    with pytest.raises(ValueError, match=rf"A shard i/n needs 1 <= i <= n; got {shard[0]}/{shard[1]}\. Use 1/"):
        shard_of([], shard)
