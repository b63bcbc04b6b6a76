"""gigatoken (MIT licence) as a `DocumentEncoder`: what it is given, and what it is not.

Measured on version 0.10.0, and relied on:
- `encode_batch(..., parallel=False)` starts no thread.
- Merges have the ranks of the file, so it is given the folder's tokenizer.json and not tokenizer.model, whose merges it
  would rank by a rule of its own. It refuses NFC for vocabularies with byte fallback, and for others has its own tables:
  normal form C is done before (`normal_form`).
- In a pre-tokenizer it looks for patterns that it knows, and passes over other steps (`_is_followed`).
- A byte without a piece is left out, where `tokenizers` gives <unk>; a tokenizer without some byte fails a gate.
- Added tokens are matched anywhere in the text, special or not. It is given none; texts that hold an added token that is
  not special go to the reference.
- Its tables of letters and digits are of Unicode 17, those of `tokenizers` older: 13 code points, all unassigned to
  Python up to 3.14, are cut differently by byte-level vocabularies. Texts with unassigned code points go to the reference.
- A byte-level tokenizer keeps every distinct word that it met, without bound: 1.2 GB after 100 MB of random words. It is
  therefore made anew from time to time. With byte fallback the words are forgotten after each call.
- Time and memory are linear in a text without a space: 50 MB of random letters take 44 s and 1.7 GB, of prose 0.5 s and 0.4 GB.
- Bytes that are not UTF-8 end the process with a segmentation fault: whoever hands over a column has validated it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iberlm.tokenizer import normal_form
from iberlm.tokenizer.reference_encoder import Ids, Lengths, ReferenceEncoder, is_panic

_FRESH_BYTES = 256 << 20
"""UTF-8 bytes after which a byte-level tokenizer is made anew: half a second for 128,000 pieces. Text in five languages takes some 250 MB of memory
until then, text without a word that comes twice 3 GB."""


class FastEncoderError(Exception):
    """The fast encoder cannot be used, or not be believed; the message is the reason."""


class GigatokenEncoder:
    """See `reference_encoder.DocumentEncoder`. Raises `FastEncoderError` when gigatoken is missing, refuses the tokenizer, or panics."""

    def __init__(self, definition: dict[str, Any], reference: ReferenceEncoder) -> None:
        try:
            import awkward
            import gigatoken
        except ImportError as error:
            raise FastEncoderError(f"gigatoken cannot be imported ({error})") from error
        if not _is_followed(definition.get("pre_tokenizer")):
            raise FastEncoderError("gigatoken: its pre-tokenizer has steps, or settings of steps, that gigatoken may pass over")
        self._awkward, self._module = awkward, gigatoken
        self.reference, self.tokenizer = reference, reference.tokenizer
        self.name, self.reason = f"gigatoken {version('gigatoken')}", ""
        self._steps = normal_form.split(definition.get("normalizer"))
        rest = {"type": "Sequence", "normalizers": self._steps.rest} if self._steps.rest else None
        self._json = json.dumps(definition | {"normalizer": rest, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None})
        added = {token["content"] for token in definition.get("added_tokens", ()) if not token["special"]}
        self._added = "|".join(map(re.escape, sorted(added | set(map(self._steps.normalise, added)))))  # some are matched in the normalised text
        self._forgets = bool(definition["model"].get("byte_fallback"))
        self._fed_bytes = 0
        self._fast = self._made()

    def _made(self) -> Any:
        with _faults():
            return self._module.Tokenizer.from_json(self._json)

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """Ids of all texts one after the other, int32[total], and the number of ids of each, int64[n]."""
        return self.encode_column(pa.array(texts, pa.large_string()))

    def encode_column(self, column: pa.Array) -> tuple[Ids, Lengths]:
        """The same of an Arrow column of strings without nulls, of valid UTF-8."""
        column = column.cast(pa.large_string())
        needs = self._steps.needs(*_utf8(column))
        if self._added:
            matched = pc.match_substring_regex(column, self._added).to_numpy(zero_copy_only=False)
            needs[matched | (needs == normal_form.NORMALISE)] = normal_form.REFERENCE
        changed, referred = np.flatnonzero(needs == normal_form.NORMALISE), np.flatnonzero(needs == normal_form.REFERENCE)
        if not len(changed) + len(referred):
            return self._encode(column)
        theirs = column.take(pa.array(referred)).to_pylist()
        ours = [self._steps.normalise(text) for text in column.take(pa.array(changed)).to_pylist()]
        new: list[str] = [""] * len(column)
        for index, text in zip(changed.tolist(), ours, strict=True):
            new[index] = text
        ids, lengths = self._encode(pc.if_else(pa.array(needs == normal_form.PLAIN), column, pa.array(new, pa.large_string())))
        return _spliced(ids, lengths, referred, *self.reference.encode(theirs)) if theirs else (ids, lengths)

    def _encode(self, column: pa.Array) -> tuple[Ids, Lengths]:
        data, offsets = _utf8(column)
        self._fed_bytes += int(offsets[-1] - offsets[0])
        if self._fed_bytes > _FRESH_BYTES and not self._forgets:
            self._fast, self._fed_bytes = self._made(), 0
        contents = self._awkward.contents
        characters = contents.NumpyArray(data, parameters={"__array__": "char"})
        texts = contents.ListOffsetArray(self._awkward.index.Index64(offsets), characters, parameters={"__array__": "string"})
        with _faults():
            layout = self._fast.encode_batch(self._awkward.Array(texts), parallel=False).layout
        bounds = np.asarray(layout.offsets.data, np.int64)
        return layout.content.data[bounds[0] : bounds[-1]].view(np.int32), np.diff(bounds)


def _is_followed(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether a "pre_tokenizer" has only what gigatoken follows or refuses: patterns that cut, or Metaspace, and the writing of bytes."""
    match pre_tokenizer:
        case None | {"type": "ByteLevel" | "Metaspace"} | {"type": "Split", "pattern": {"Regex": _}, "behavior": "Isolated", "invert": False}:
            return True
        case {"type": "Sequence", "pretokenizers": steps}:
            return all(_is_followed(step) for step in steps)
    return False


@contextmanager
def _faults() -> Iterator[None]:
    """Turn an error or a panic of gigatoken into a `FastEncoderError`."""
    try:
        yield
    except Exception as error:
        raise FastEncoderError(f"gigatoken: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise FastEncoderError(f"gigatoken panicked: {error}") from error


def _utf8(column: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of a column of large strings and where each begins in them, uint8[] and int64[n + 1]; views."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1] if offsets else np.zeros(1, np.int64)
    return (np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)), bounds


def _spliced(ids: Ids, lengths: Lengths, places: npt.NDArray[np.int64], new: Ids, new_lengths: Lengths) -> tuple[Ids, Lengths]:
    """The ids with those of the texts at `places`, which were empty, put in."""
    lengths = lengths.copy()
    lengths[places] = new_lengths
    chosen = np.zeros(len(lengths), bool)
    chosen[places] = True
    is_new = np.repeat(chosen, lengths)
    out = np.empty(len(is_new), np.int32)
    out[is_new], out[~is_new] = new, ids
    return out, lengths
