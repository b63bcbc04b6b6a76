"""The tokenizer itself as an encoder of documents: `tokenizers` on a tokenizer.json, which is what AutoTokenizer runs."""

import copy
import re
from collections.abc import Sequence
from importlib.metadata import version
from itertools import chain
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from iberlm.tokenizer import normal_form
from iberlm.tokenizer.special import SPACE

LONG_CHARACTERS = 1 << 20
"""Texts beyond this are cut for the reference where that changes no id: `tokenizers` takes about 80 bytes of memory a byte of one text."""

Ids = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int64]


class DocumentEncoder(Protocol):
    """What `open_encoder` returns."""

    name: str
    """Program and version, for example "gigatoken 0.10.0"."""
    reason: str
    """Why it is not the fast one although that was asked for; empty otherwise."""
    tokenizer: Tokenizer
    """The tokenizer itself."""

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """Ids of all texts one after the other, int32[total], and the number of ids of each, int64[n]."""
        ...

    def encode_column(self, column: pa.Array) -> tuple[Ids, Lengths]:
        """The same of an Arrow column of strings without nulls, of valid UTF-8."""
        ...


class ReferenceEncoder:
    """`tokenizers` itself."""

    def __init__(self, tokenizer: Tokenizer, definition: dict[str, Any], reason: str = "") -> None:
        self.name, self.reason = f"tokenizers {version('tokenizers')}", reason
        tokenizer.encode_special_tokens = True  # '</s>' in a text is text
        tokenizer.no_truncation()  # a tokenizer.json may ask for both
        tokenizer.no_padding()
        self.tokenizer, self.definition = tokenizer, definition
        self._cut_from = LONG_CHARACTERS if may_be_cut(definition) else 0

    def because(self, reason: str) -> "ReferenceEncoder":
        """The same encoder with a `reason`."""
        other = copy.copy(self)
        other.reason = reason
        return other

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """Ids of all texts one after the other, int32[total], and the number of ids of each, int64[n]."""
        if not self._cut_from or all(len(text) <= self._cut_from for text in texts):
            return self._encode(texts)
        # one part at a time: what `tokenizers` notes of a batch, it holds until all of the batch is encoded
        found = [[self._encode([part])[0] for part in cut(text, self._cut_from)] for text in texts]
        ids = [part for parts in found for part in parts]
        return np.concatenate(ids), np.array([sum(map(len, parts)) for parts in found], np.int64)

    def _encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        found = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum())), lengths

    def encode_column(self, column: pa.Array) -> tuple[Ids, Lengths]:
        """The same of an Arrow column of strings without nulls, of valid UTF-8."""
        return self.encode(column.to_pylist())


def is_panic(error: BaseException) -> bool:
    """Whether this is a panic of a library in Rust: no `Exception` in Python, but no reason to end the process."""
    return type(error).__name__ == "PanicException"


def may_be_cut(definition: dict[str, Any]) -> bool:
    """Whether a text may be cut before any run of spaces without a change of its ids.

    So it is for BPE that merges over the whole text (no pre-tokenizer), where a space becomes U+2581 and no piece has
    U+2581 after another character: no merge then goes across the cut. NFC does not either, since a space is neither
    reordered nor composed. Tokens that are matched in the text before (added and not special) would spoil it.
    """
    model = definition["model"]
    steps = normal_form.split(definition.get("normalizer"))
    replaces_spaces = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if definition.get("pre_tokenizer") or model.get("type") != "BPE" or model.get("dropout") or steps.rest != replaces_spaces:
        return False
    if any(not token["special"] for token in definition.get("added_tokens", ())):
        return False
    inside = re.compile(f"[^{SPACE}]{SPACE}")
    return SPACE in model["vocab"] and not any(inside.search(piece) for piece in model["vocab"])


def cut(text: str, length: int) -> list[str]:
    """Parts of a text of about `length` characters, each but the first beginning with a space after another character."""
    parts, start = [], 0
    while (end := text.find(" ", start + length)) > 0:
        if text[end - 1] != " ":
            parts.append(text[start:end])
            start = end
        else:  # inside a run of spaces: to its end, and on
            run = re.compile(" *").match(text, end)
            following = text.find(" ", run.end() if run else end)
            if following < 0:
                break
            parts.append(text[start:following])
            start = following
    return [*parts, text[start:]]
