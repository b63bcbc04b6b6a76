"""The health of a vocabulary: pieces that no text reaches, that the training sample does not use, or hardly ever.

The embedding of a piece that training never shows stays as it was made, and a model that then meets it behaves oddly: Land and Bartolo
2024 ("Fishing for Magikarp", arXiv 2405.05417) find such glitch tokens by their embeddings. Here they are found before there is a model,
by counting.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from iberlm.tokenizer.load import LoadedTokenizer

MAX_GLITCH_SHARE = 1e-7
"""A piece that is at most this share of the tokens of the sample is a glitch token: 10 billion training tokens like the sample would show it
at most 1,000 times, where a piece of the ordinary tail of a vocabulary is shown some 10,000 times."""
EXAMPLES = 20
"""Pieces named of each kind."""
_ANCHORS = ("", "\n", "\ue000")
"""What a piece may stand behind when it is tried: nothing; a line end, for tokenizers that put a space before the text; and a character that
no vocabulary has (private use), for those that turn line ends into spaces."""
_BATCH = 20_000


def usage(tokenizer: LoadedTokenizer, words: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """How often each id occurs when every word is encoded by itself, as often as it counts: int64[vocabulary_size].

    The words have their leading space, as `words.count_words` leaves them.
    """
    counts = np.zeros(tokenizer.vocabulary_size, np.int64)
    batch: list[str] = []
    times: list[int] = []
    for word, count in words.items():
        batch.append(word)
        times.append(count)
        if len(batch) == _BATCH:
            _add(counts, tokenizer.encode(batch), times)
            batch, times = [], []
    _add(counts, tokenizer.encode(batch) if batch else [], times)
    return counts


def _add(counts: npt.NDArray[np.int64], encoded: Sequence[Sequence[int]], times: Sequence[int]) -> None:
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    ids = np.fromiter((index for ids in encoded for index in ids), np.int64, int(lengths.sum()))
    np.add.at(counts, ids, np.repeat(np.asarray(times, np.int64), lengths))


def piece_health(tokenizer: LoadedTokenizer, counts: npt.NDArray[np.int64] | None, *, first_id: int = 0) -> dict[str, Any]:
    """Count the pieces that are of no use. `counts`: `usage` on the training sample, int64[vocabulary_size]; None when it is unknown.

    Only learnt pieces are judged: special tokens, bytes and single characters are there by decision, and ids below `first_id` belong to the
    tokenizer that was extended, whose text is not at hand. All numbers but the last are of the pieces that are judged.

    - `trained`: how many there are; `partial` of them are no whole UTF-8, so that no text is exactly this piece
    - `unreachable`: encoding the piece's own text gives something else, so no text holds it
    - `unused`: reachable, but nowhere in the sample; `intermediate` of them are the beginning or the end of another piece, on the way to
      which BPE made them. None without counts
    - `dead`, `dead_share`: unreachable or unused, and their share of `trained`
    - `glitch_count`, `glitch`: pieces that are in the sample, but as at most `MAX_GLITCH_SHARE` of its tokens, and examples. Without counts 0
    - `missing_bytes`: values of the 256 bytes that have no id, so that some text cannot be written
    """
    pieces = {index: piece for index in range(tokenizer.vocabulary_size) if (piece := tokenizer.piece(index)) is not None}
    texts = {index: text for index, piece in pieces.items() if (text := _text(piece)) is not None}
    learnt = [index for index in pieces if index not in tokenizer.byte_ids and (index not in texts or len(texts[index]) > 1)]
    trained = [index for index in learnt if index >= first_id]
    # what the sample has is reachable, however the tokenizer cuts text before it looks for pieces
    unreachable = _unreachable(tokenizer, {index: texts[index] for index in trained if index in texts and (counts is None or not counts[index])})
    result: dict[str, Any] = {
        "trained": len(trained),
        "partial": sum(index not in texts for index in trained),
        "unreachable": len(unreachable),
        "unreachable_examples": [texts[index] for index in sorted(unreachable)[:EXAMPLES]],
        **_use(pieces, [index for index in trained if index not in unreachable], counts),
    }
    result["dead"] = result["unreachable"] + (result["unused"] or 0)
    result["dead_share"] = round(result["dead"] / len(trained), 4) if trained else 0.0
    single = {piece for piece in pieces.values() if len(piece) == 1}
    result["missing_bytes"] = [byte for byte in range(256) if bytes([byte]) not in single]
    return result


def _text(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


def _unreachable(tokenizer: LoadedTokenizer, texts: Mapping[int, str]) -> set[int]:
    """Ids whose text is encoded as something else, wherever it stands.

    What a text becomes by itself it becomes inside another one too: in BPE its merges are the same in the same order, in a unigram model a
    better way to cut it stays better. Only a tokenizer that first cuts text by a regular expression may cut it elsewhere inside another one
    (" I'" of o200k is a piece before "D" alone), so that a few of such a one's pieces are called unreachable that are merely rare.
    """
    missing = set(texts)
    for anchor in _ANCHORS:
        (before,) = tokenizer.encode([anchor])
        tried = sorted(missing)
        for start in range(0, len(tried), _BATCH):
            batch = tried[start : start + _BATCH]
            encoded = tokenizer.encode([anchor + texts[index] for index in batch])
            missing -= {index for index, ids in zip(batch, encoded, strict=True) if ids == [*before, index]}
    return missing


def _use(pieces: Mapping[int, bytes], reachable: Sequence[int], counts: npt.NDArray[np.int64] | None) -> dict[str, Any]:
    if counts is None:
        return {"unused": None, "unused_examples": [], "intermediate": None, "glitch_count": 0, "glitch": []}
    unused = [index for index in reachable if not counts[index]]
    limit = MAX_GLITCH_SHARE * int(counts.sum())
    glitch = [index for index in reachable if 0 < counts[index] <= limit]
    parts = {part for piece in pieces.values() for cut in range(1, len(piece)) for part in (piece[:cut], piece[cut:])}
    return {
        "unused": len(unused),
        "unused_examples": [_shown(pieces[index]) for index in unused[:EXAMPLES]],
        "intermediate": sum(pieces[index] in parts for index in unused),
        "glitch_count": len(glitch),
        "glitch": [_shown(pieces[index]) for index in sorted(glitch, key=lambda index: (counts[index], index))[:EXAMPLES]],
    }


def _shown(piece: bytes) -> str:
    return piece.decode("utf-8", "backslashreplace")
