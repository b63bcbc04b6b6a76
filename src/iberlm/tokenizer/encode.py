"""Documents to ids: by gigatoken where it gives the ids of the tokenizer itself, else by the tokenizer itself.

The reference is `tokenizers` on the folder's tokenizer.json: what AutoTokenizer runs. An encoder adds neither <s> nor
</s>, and takes a text that spells a special token as ordinary text. The fast encoder is made from the same
tokenizer.json, and is not believed: when it is opened it must give the ids of the reference for all of
`encoder_check.texts`, and whoever encodes much compares some documents as it goes (`first_difference`).
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from iberlm.core.errors import CorruptError
from iberlm.core.files import sha256_file
from iberlm.tokenizer import encoder_check
from iberlm.tokenizer.gigatoken_encoder import FastEncoderError, GigatokenEncoder
from iberlm.tokenizer.reference_encoder import DocumentEncoder, Ids, Lengths, ReferenceEncoder, is_panic

__all__ = ["DocumentEncoder", "FastEncoderError", "GigatokenEncoder", "ReferenceEncoder", "first_difference", "open_encoder"]

FILE = "tokenizer.json"


def open_encoder(folder: Path, fast: bool = True, *, checked: bool = False) -> DocumentEncoder:
    """The encoder of a folder with a tokenizer.json: with `fast`, gigatoken unless there is a `reason` against it.

    The check takes about a second; `checked` leaves it out, for the workers of a process that has done it. A process reads
    and checks a tokenizer once. Raises `CorruptError` for a file that cannot be read.
    """
    path = folder / FILE
    try:
        checksum = sha256_file(path)
    except OSError as error:
        raise CorruptError(f"{path}: cannot be read ({error}); give a folder with a {FILE}, or train the tokenizer again") from error
    if not fast:
        return open_reference(path, checksum)
    try:
        encoder = _open_fast(path, checksum)
        if not checked:
            _check(path, checksum)
    except FastEncoderError as error:
        return open_reference(path, checksum).because(str(error))
    return encoder


@lru_cache(maxsize=2)
def open_reference(path: Path, checksum: str) -> ReferenceEncoder:
    """The reference encoder of a tokenizer.json with this checksum."""
    try:
        text = path.read_text(encoding="utf-8")
        return ReferenceEncoder(Tokenizer.from_str(text), json.loads(text))
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):  # tokenizers raises plain exceptions, and panics on some files
            raise
        raise CorruptError(f"{path}: cannot be read ({error}); train the tokenizer again") from error


@lru_cache(maxsize=2)
def _open_fast(path: Path, checksum: str) -> GigatokenEncoder:
    reference = open_reference(path, checksum)
    return GigatokenEncoder(reference.definition, reference)


@lru_cache(maxsize=2)
def _check(path: Path, checksum: str) -> None:
    reference = open_reference(path, checksum)
    encoder_check.check(_open_fast(path, checksum), reference, reference.tokenizer)


def first_difference(reference: ReferenceEncoder, column: pa.Array, ids: Ids, lengths: Lengths, chosen: npt.NDArray[np.int64]) -> int | None:
    """The first among the `chosen` texts of `column`, indices in order, whose ids (flat, with `lengths`) are not those of the reference; None if none is."""
    marked = np.zeros(len(lengths), bool)
    marked[chosen] = True
    some, bounds = ids[np.repeat(marked, lengths)], np.cumsum(lengths[chosen])
    expected, expected_lengths = reference.encode_column(column.take(pa.array(chosen)))
    if np.array_equal(lengths[chosen], expected_lengths) and np.array_equal(some, expected):
        return None
    pairs = zip(np.split(some, bounds[:-1]), np.split(expected, np.cumsum(expected_lengths)[:-1]), strict=True)
    return int(chosen[next(place for place, (ours, theirs) in enumerate(pairs) if not np.array_equal(ours, theirs))])
