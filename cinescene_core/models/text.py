"""Prompts to the rows the transformer's cross-attention reads: UMT5 outside a host, a word list for nano."""

import html
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..checks import CheckpointError, CineSceneWarning, check_shape

MAX_TOKENS = 512
"""Rows of a Wan2.1 prompt; the transformer reads all of them, so shorter prompts are padded with zeros."""
PADDING, UNKNOWN = 0, 1
"""Rows of a `VocabularyEncoder`'s table in front of its words."""
RECORD_FORMAT = 1
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def check_prompt(prompt: str) -> None:
    """Require that a prompt says something. An empty negative prompt is legal and needs no check.

    Raises:
        ValueError: nothing but white space.
    """
    if not prompt.strip():
        raise ValueError("The prompt is empty. Describe what moves in the place, such as 'a red ball rolls forward'.")


class UMT5Encoder(nn.Module):
    """Wan2.1's text encoder (a `types.TextEncoder`) over transformers.

    Args:
        network: transformers' UMT5EncoderModel; it is frozen here.
        tokenizer: its tokenizer.
    """

    def __init__(self, network: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.network: Any = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], dtype: torch.dtype = torch.bfloat16) -> Self:
        """Load from a Wan2.1 release as diffusers lays it out; nothing is downloaded.

        Args:
            folder: holds `text_encoder/` and `tokenizer/`.
            dtype: precision of the network.

        Raises:
            CheckpointError: a folder is missing, or does not hold a complete UMT5 encoder.
            ImportError: transformers is not installed, or a release that loads UMT5 wrongly.
        """
        try:
            from transformers import AutoTokenizer, UMT5EncoderModel
        except ImportError as error:
            raise ImportError(
                'The text encoder needs transformers. Install it with: pip install "cinescene[cli]"'
            ) from error
        parts = Path(folder) / "text_encoder", Path(folder) / "tokenizer"
        for part in parts:
            if not part.is_dir():
                raise CheckpointError(
                    f"{part} does not exist. Name the folder of a Wan2.1 release for diffusers: it holds "
                    "text_encoder, tokenizer and vae."
                )
        try:
            loaded: Any = UMT5EncoderModel.from_pretrained(
                parts[0], dtype=dtype, local_files_only=True, output_loading_info=True
            )
            network, report = loaded
            tokenizer = AutoTokenizer.from_pretrained(parts[1], local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder} holds no text encoder that can be loaded: {str(error).splitlines()[0]} Download it again."
            ) from error
        missing = sorted(report["missing_keys"])
        if missing:
            raise CheckpointError(
                f"{parts[0]} lacks {len(missing)} tensors of UMT5, the first is {missing[0]}. Download it again."
            )
        # Early releases of transformers 5 left the input embedding at zero and said nothing.
        if network.encoder.embed_tokens.weight.data_ptr() != network.shared.weight.data_ptr():
            raise ImportError(
                "The installed transformers does not load UMT5's word embedding. Update it: pip install -U transformers"
            )
        return cls(network, tokenizer)

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """One prompt to [1, 512, 4096]: a row per token, then zeros.

        Text is cleaned as in Wan's training: mended encoding, no HTML entities, single spaces.

        Raises:
            ValueError: more than 512 tokens.
        """
        tokens = self.tokenizer(clean_text(prompt), return_tensors="pt").input_ids
        count = tokens.shape[1]
        if count > MAX_TOKENS:
            raise ValueError(
                f"The prompt has {count} tokens; the text encoder reads at most {MAX_TOKENS}. "
                f"Shorten it by {count - MAX_TOKENS}; a word is one to three tokens."
            )
        rows = self.network(tokens.to(self.network.device)).last_hidden_state
        return pad(rows, (0, 0, 0, MAX_TOKENS - count))


def clean_text(text: str) -> str:
    """Mend wrongly decoded characters and HTML entities, and reduce white space to single spaces."""
    try:
        import ftfy
    except ImportError as error:
        raise ImportError('The text encoder needs ftfy. Install it with: pip install "cinescene[cli]"') from error
    # Twice: captions from the web are often escaped twice ("&amp;quot;").
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


class VocabularyEncoder(nn.Module):
    """A small text encoder (a `types.TextEncoder`): a learned row per word, plus one per place in the sentence.

    Args:
        words: the vocabulary, lower case, each once.
        width: channels of a row.
        length: most words of a prompt; shorter ones are padded with zeros.

    Raises:
        ValueError: a word that no prompt can match, or one that stands twice.
    """

    def __init__(self, words: Sequence[str], width: int, length: int = 32) -> None:
        super().__init__()
        bad = [word for word in words if split_words(word) != [word]]
        twice = sorted({word for word in words if words.count(word) > 1})
        if bad or twice:
            raise ValueError(
                f"A vocabulary holds single lower-case words, each once; got unusable {bad} and repeated {twice}."
            )
        self.words = tuple(words)
        self.length = length
        self.rows = {word: row for row, word in enumerate(self.words, start=UNKNOWN + 1)}
        self.embedding = nn.Embedding(UNKNOWN + 1 + len(self.words), width)
        self.positions = nn.Parameter(torch.zeros(length, width))

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], record: Mapping[str, Any]) -> Self:
        """Build the encoder that `state_dict()` and `record()` describe; it computes in float32.

        Raises:
            CheckpointError: the two do not belong together, or the record is of a later format.
        """
        if record.get("format") != RECORD_FORMAT or set(record) != {"format", "words"}:
            raise CheckpointError(
                f"The text encoder's record has format {record.get('format')!r} and the fields {sorted(record)}; this "
                f"version knows format {RECORD_FORMAT} with ['format', 'words']. Update CineScene."
            )
        missing = {"embedding.weight", "positions"} ^ set(state_dict)
        if missing:
            raise CheckpointError(
                f"The text encoder must hold the tensors 'embedding.weight' and 'positions'; got {sorted(state_dict)}."
            )
        try:
            sizes = check_shape("positions", state_dict["positions"], "length width")
            rows = UNKNOWN + 1 + len(record["words"])
            check_shape("embedding.weight", state_dict["embedding.weight"], f"{rows} {sizes['width']}")
            encoder = cls(record["words"], **sizes)
        except ValueError as error:
            raise CheckpointError(f"The text encoder cannot be loaded: {error}") from error
        encoder.load_state_dict(state_dict)
        return encoder.eval()

    def record(self) -> dict[str, Any]:
        """What the state dict does not show, for the file's metadata."""
        return {"format": RECORD_FORMAT, "words": list(self.words)}

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt outside the vocabulary, each once; they all read the same."""
        return list(dict.fromkeys(word for word in split_words(prompt) if word not in self.rows))

    def tokenize(self, prompt: str) -> Tensor:
        """One prompt to [length] rows of the table; `unknown_words` share one.

        Raises:
            ValueError: too many words.
        """
        words = split_words(prompt)
        if len(words) > self.length:
            raise ValueError(
                f"The prompt has {len(words)} words; this text encoder reads at most {self.length}. "
                f"Shorten it by {len(words) - self.length}."
            )
        rows = [self.rows.get(word, UNKNOWN) for word in words]
        return torch.tensor(rows + [PADDING] * (self.length - len(rows)))

    def forward(self, rows: Tensor) -> Tensor:
        """[b, length] rows of the table to [b, length, width]; padding gives zeros."""
        rows = rows.to(self.positions.device)
        return (self.embedding(rows) + self.positions) * (rows != PADDING)[..., None]

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """One prompt to [1, length, width]; an empty one to zeros. Errors as `tokenize`.

        Warns:
            CineSceneWarning: the prompt has `unknown_words`.
        """
        unknown = self.unknown_words(prompt)
        if unknown:
            warnings.warn(
                f"The text encoder does not know {', '.join(unknown)}; such words all read the same. "
                f"It knows {len(self.words)} words: {', '.join(self.words[:8])}, ...",
                CineSceneWarning,
                stacklevel=3,  # the caller's line: `no_grad` stands between
            )
        return self(self.tokenize(prompt)[None])


def split_words(prompt: str) -> list[str]:
    """Lower-case words; punctuation separates and disappears, an apostrophe inside a word stays."""
    return _WORD.findall(prompt.lower().replace("\u2019", "'"))
