"""Prompts to rows: UMT5 from a local folder, and the word list of the embedded checkpoint."""

import builtins
import json
import re
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import END, write_text_encoder
from transformers import UMT5EncoderModel

from cinescene_core.checks import CheckpointError, CineSceneWarning
from cinescene_core.models.text import UMT5Encoder, VocabularyEncoder, check_prompt, clean_text, split_words
from cinescene_core.weights import read_bundle_part, save_bundle


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory):
    """A Wan2.1 release in small: tokenizer and text encoder as diffusers lays them out."""
    folder = tmp_path_factory.mktemp("wan")
    write_text_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def umt5(wan_folder):
    return UMT5Encoder.from_folder(wan_folder, dtype=torch.float32)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t "])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(ValueError, match=r"The prompt is empty\. Describe what moves in the place"):
        check_prompt(prompt)


def test_a_prompt_passes():
    check_prompt("a red ball")


# UMT5


def test_rows_are_those_of_the_padded_and_masked_prompt_then_zeros(umt5):
    # What diffusers' WanPipeline does: pad to 512, mask the padding, zero its rows.
    tokens = torch.tensor([[3, 4, 5, END]])
    padded = torch.nn.functional.pad(tokens, (0, 508))
    with torch.no_grad():
        expected = umt5.network(padded, attention_mask=(padded != 0).long()).last_hidden_state
    rows = umt5.encode("a red ball")
    assert rows.shape == (1, 512, 16)
    torch.testing.assert_close(rows[:, :4], expected[:, :4], atol=1e-5, rtol=0)  # another order of sums
    assert torch.count_nonzero(rows[:, 4:]) == 0
    assert (rows[0, :4].norm(dim=-1) > 0.1).all()


def test_an_empty_negative_prompt_is_the_end_token_alone(umt5):
    rows = umt5.encode("")
    with torch.no_grad():
        expected = umt5.network(torch.tensor([[END]])).last_hidden_state
    assert torch.equal(rows[:, :1], expected)
    assert torch.count_nonzero(rows[:, 1:]) == 0


def test_different_prompts_differ_and_equal_ones_do_not(umt5):
    assert torch.equal(umt5.encode("a red ball"), umt5.encode("a red ball"))
    assert not torch.equal(umt5.encode("a red ball"), umt5.encode("a ball red"))


@pytest.mark.parametrize(("words", "fits"), [(511, True), (512, False)])
def test_the_longest_prompt_is_511_words_and_the_end(umt5, words, fits):
    prompt = " ".join(["ball"] * words)
    if fits:
        assert (umt5.encode(prompt)[0].norm(dim=-1) > 0).all()
        return
    with pytest.raises(ValueError, match=r"has 513 tokens; the text encoder reads at most 512\. Shorten it by 1;"):
        umt5.encode(prompt)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a \n red\tball ", "a red ball"),
        ("a cafÃ©", "a café"),  # UTF-8 read as Latin-1
        ("red &amp; blue", "red & blue"),
        ("a &amp;quot;ball&amp;quot;", 'a "ball"'),
    ],
)
def test_text_is_cleaned_as_in_wans_training(umt5, text, cleaned):
    assert clean_text(text) == cleaned
    assert torch.equal(umt5.encode(text), umt5.encode(cleaned))


def test_the_precision_is_the_callers(wan_folder):
    encoder = UMT5Encoder.from_folder(wan_folder, dtype=torch.bfloat16)
    assert encoder.encode("a red ball").dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_a_missing_folder_is_named(tmp_path, wan_folder, part):
    other = {"text_encoder": "tokenizer", "tokenizer": "text_encoder"}[part]
    (tmp_path / other).symlink_to(wan_folder / other)
    with pytest.raises(CheckpointError, match=rf"{part} does not exist\. Name the folder of a Wan2\.1 release"):
        UMT5Encoder.from_folder(tmp_path)


def copy_of(wan_folder, tmp_path, change):
    """The folder with other text encoder weights."""
    (tmp_path / "tokenizer").symlink_to(wan_folder / "tokenizer")
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder/config.json").write_text((wan_folder / "text_encoder/config.json").read_text())
    tensors = load_file(wan_folder / "text_encoder/model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "text_encoder/model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_missing_tensors_are_refused_instead_of_initialised(tmp_path, wan_folder):
    folder = copy_of(wan_folder, tmp_path, lambda tensors: tensors.pop("encoder.final_layer_norm.weight"))
    with pytest.raises(
        CheckpointError, match=r"lacks 1 tensors of UMT5, the first is encoder\.final_layer_norm\.weight"
    ):
        UMT5Encoder.from_folder(folder)


def test_a_config_that_unties_the_embedding_changes_nothing(tmp_path, wan_folder, umt5):
    # Wan2.1's published config says so although its file holds one embedding.
    folder = copy_of(wan_folder, tmp_path, lambda tensors: None)
    config = folder / "text_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    loaded = UMT5Encoder.from_folder(folder, dtype=torch.float32)
    assert torch.equal(loaded.encode("a red ball"), umt5.encode("a red ball"))


def test_a_library_that_forgets_the_embedding_is_refused(monkeypatch, wan_folder, umt5):
    network = UMT5EncoderModel(umt5.network.config)
    network.encoder.embed_tokens = torch.nn.Embedding(8, 16)
    load = lambda *args, **kwargs: (network, {"missing_keys": set()})  # noqa: E731
    monkeypatch.setattr(UMT5EncoderModel, "from_pretrained", load)
    with pytest.raises(ImportError, match=r"does not load UMT5's word embedding\. Update it: pip install -U"):
        UMT5Encoder.from_folder(wan_folder)


def test_a_folder_without_weights_is_refused(tmp_path, wan_folder):
    folder = copy_of(wan_folder, tmp_path, lambda tensors: None)
    (folder / "text_encoder/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no text encoder that can be loaded: .* Download it again\.$"):
        UMT5Encoder.from_folder(folder)


@pytest.mark.parametrize(
    ("module", "call"),
    [("transformers", lambda: UMT5Encoder.from_folder(".")), ("ftfy", lambda: clean_text("a"))],
)
def test_without_the_libraries_a_sentence_names_the_extra(monkeypatch, module, call):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == module:
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=re.escape(f'needs {module}. Install it with: pip install "cinescene[cli]"')):
        call()


# The word list

WORDS = ["a", "red", "ball", "rolls", "o'clock"]


@pytest.fixture
def vocabulary():
    torch.manual_seed(0)
    encoder = VocabularyEncoder(WORDS, width=8, length=6)
    torch.nn.init.normal_(encoder.positions)
    return encoder


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("A red, RED ball!", ["a", "red", "red", "ball"]),
        ("five o'clock -- half-past", ["five", "o'clock", "half", "past"]),
        ("o\u2019clock", ["o'clock"]),  # as word processors type it
        ("'quoted' snake_case 2nd", ["quoted", "snake", "case", "2nd"]),
        ("Straße 红色", ["straße", "红色"]),
        (" .,!? ", []),
    ],
)
def test_words_are_lower_case_without_punctuation(prompt, words):
    assert split_words(prompt) == words


def test_rows_are_word_plus_place_then_zeros(vocabulary):
    rows = vocabulary.encode("A ball!")
    table = vocabulary.embedding.weight  # row 0 pads, row 1 is unknown, words follow
    assert torch.equal(rows[0, 0], table[2] + vocabulary.positions[0])
    assert torch.equal(rows[0, 1], table[4] + vocabulary.positions[1])
    assert rows.shape == (1, 6, 8)
    assert torch.count_nonzero(rows[0, 2:]) == 0


def test_an_empty_negative_prompt_is_all_zero(vocabulary):
    assert torch.count_nonzero(vocabulary.encode("")) == 0


def test_unknown_words_share_a_row_and_are_listed_once(vocabulary):
    sentence = r"does not know zebra, wug; such words all read the same\. It knows 5 words: a, red, ball, rolls"
    with pytest.warns(CineSceneWarning, match=sentence) as heard:
        rows = vocabulary.encode("a zebra wug zebra")
    assert [warning.filename for warning in heard] == [__file__]  # it points at whoever gave the prompt
    expected = vocabulary.embedding.weight[1] + vocabulary.positions[1:4]
    assert torch.equal(rows[0, 1:4], expected)


def test_known_words_and_tokens_do_not_warn(vocabulary):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocabulary.encode("a red ball rolls")
        assert vocabulary.unknown_words("A red ball rolls!") == []
        # Whoever reads many prompts asks for the words, and says it once.
        assert vocabulary.unknown_words("A zebra, a wug, a Zebra") == ["zebra", "wug"]
        assert vocabulary.tokenize("a zebra").tolist() == [2, 1, 0, 0, 0, 0]


def test_a_prompt_longer_than_the_table_is_refused(vocabulary):
    assert torch.count_nonzero(vocabulary.encode("a a a a a a")[0, 5]) > 0
    with pytest.raises(ValueError, match=r"has 7 words; this text encoder reads at most 6\. Shorten it by 1\."):
        vocabulary.encode("a a a a a a a")


def test_gradients_reach_words_and_places_but_not_padding(vocabulary):
    vocabulary(torch.stack([vocabulary.tokenize("a red"), vocabulary.tokenize("ball")])).sum().backward()
    # Each use of a row adds 1; rows 0 (padding) and 1 (unknown) are not used.
    assert vocabulary.embedding.weight.grad[:, 0].tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert vocabulary.positions.grad[:, 0].tolist() == [2, 1, 0, 0, 0, 0]


def test_a_vocabulary_survives_the_bundle(tmp_path, vocabulary):
    path = tmp_path / "nano.safetensors"
    save_bundle(path, {"text": vocabulary.state_dict()}, {"text": vocabulary.record()})
    loaded = VocabularyEncoder.from_state_dict(*read_bundle_part(path, "text"))
    assert torch.equal(loaded.encode("a red ball"), vocabulary.encode("a red ball"))
    assert loaded.length == 6


def test_half_precision_files_compute_in_float32(vocabulary):
    halved = {name: value.bfloat16() for name, value in vocabulary.state_dict().items()}
    rows = VocabularyEncoder.from_state_dict(halved, vocabulary.record()).encode("a")
    expected = halved["embedding.weight"][2].float() + halved["positions"][0].float()
    assert torch.equal(rows[0, 0], expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s, r: r.update(format=2), r"record has format 2 .* this version knows format 1 .* Update CineScene"),
        (lambda s, r: r.update(casing="upper"), r"the fields \['casing', 'format', 'words'\]"),
        (lambda s, r: r["words"].append("more"), r"embedding\.weight must have shape \[8, 8\]; got \[7, 8\]"),
        (
            lambda s, r: s.pop("positions"),
            r"must hold the tensors 'embedding\.weight' and 'positions'; got \['embedding",
        ),
        (lambda s, r: s.update(positions=torch.zeros(8)), r"positions must have shape \[length, width\]; got \[8\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(vocabulary, change, sentence):
    state, record = vocabulary.state_dict(), vocabulary.record()
    change(state, record)
    with pytest.raises(CheckpointError, match=sentence):
        VocabularyEncoder.from_state_dict(state, record)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["Red"], r"each once; got unusable \['Red'\] and repeated \[\]"),
        (["two words"], r"unusable \['two words'\]"),
        (["red", "ball", "red"], r"repeated \['red'\]"),
    ],
)
def test_words_that_no_prompt_matches_are_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        VocabularyEncoder(words, width=4)
