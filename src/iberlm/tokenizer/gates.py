"""What a tokenizer must hold before a model is trained on it: five gates, each with its number, its limit and a mend."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from iberlm.tokenizer.config import GatesConfig
from iberlm.tokenizer.load import LoadedTokenizer

BYTES, DEAD_PIECES, DETERMINISTIC, ROUND_TRIP, COST = GATES = ("bytes", "dead_pieces", "deterministic", "round_trip", "cost")
Verdict = dict[str, Any]
"""{"passed": True, False, or None for what was not measured, "value", "limit", "message"}."""
_BATCH = 64
_SHOWN_CHARACTERS = 40


def _every_byte() -> Iterator[str]:
    """Characters whose UTF-8 together has every byte that occurs in UTF-8: all but C0, C1 and F5 to FF."""
    yield "".join(map(chr, range(0x80)))
    yield "".join(map(chr, range(0x80, 0x800, 31)))  # lead bytes C2..DF
    yield "".join(chr(0x80 + step) for step in range(0x40))  # continuation bytes 80..BF
    yield "".join(chr((lead << 12) + 0x800 if lead != 0xD else 0xD000) for lead in range(16))  # E0..EF
    yield "".join(chr(plane << 18 | 0x10000 if plane == 0 else plane << 18) for plane in range(5))  # F0..F4


ADVERSARIAL: tuple[str, ...] = (
    "",
    " ",
    "\n",
    "\r\n\t\v\f\x1c\x85\u2028\u2029",
    "a\x00b\x00\x00",
    "\x01\x02\x1b[31m\x7f\x9f",
    " leading and trailing  ",
    f"long{' ' * 300}run of spaces\n{' ' * 17}indented\n\n\n\n\tand tabs\t\t",
    "no\u00a0break, thin\u2009and zero\u200bwidth\ufeff spaces \u3000",
    "\u2581a \u2581\u2581 b\u2581",  # what SentencePiece writes for a space
    "\ufdd0a \ufdd0\u2581",  # what our own vocabulary writes for the character above
    "<s></s><unk><pad><|im_start|>user\n<|im_end|><0x41><|endoftext|>",
    "\u0301a lone mark, l\u0307 and e\u0301 decomposed, \u1100\u1161\u11a8",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1ea\U0001f1f8 \U00020bb7 \U0010ffff",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\ufffd\ufffe\uffff\ue000",
    "col\u00b7legi col\u2022legi col\u2027legi paral\u0140lel l'aigua l\u2019aigua",
    "x" * 3000,
    "3.1415926535 1e-9 0x1F \u0661\u0662\u0663 \u00bd \u216b",
    *_every_byte(),
)
"""Texts on which round trips fail where they can: every kind of control and space, what tokenizers use as marks, marks without a letter,
characters outside the basic plane, and every byte that UTF-8 has."""


def round_trip(tokenizer: LoadedTokenizer, texts: Iterable[str]) -> dict[str, Any]:
    """Encode and decode texts, and after them `ADVERSARIAL`; what comes back must be the text as the tokenizer normalises it.

    Returns {"texts", "failed", "example": the beginning of the first difference, in words, or None}.
    """
    tried = failed = 0
    example = None
    for batch in _batches(chain(texts, ADVERSARIAL)):
        for text, ids in zip(batch, tokenizer.encode(batch), strict=True):
            tried += 1
            expected, back = tokenizer.normalise(text), tokenizer.decode(ids)
            if back != expected:
                failed += 1
                example = example or _difference(expected, back)
    return {"texts": tried, "failed": failed, "example": example}


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _difference(expected: str, back: str) -> str:
    place = next((index for index, (one, other) in enumerate(zip(expected, back, strict=False)) if one != other), min(len(expected), len(back)))
    start = max(0, place - _SHOWN_CHARACTERS // 4)
    shown = [ascii(text[start : start + _SHOWN_CHARACTERS]) for text in (expected, back)]
    return f"at character {place}: {shown[0]} comes back as {shown[1]}"


def check(measured: dict[str, Any], *, round_trip: dict[str, Any], deterministic: bool | None, limits: GatesConfig) -> dict[str, Verdict]:
    """The verdict of each gate on what `measure.measure_tokenizer` and `round_trip` found.

    `deterministic`: whether a second training gave the same bytes; None when there was none.
    """
    return {
        BYTES: _bytes(measured["pieces"]),
        DEAD_PIECES: _dead_pieces(measured["pieces"], limits.max_dead_share),
        DETERMINISTIC: _deterministic(deterministic),
        ROUND_TRIP: _round_trip(round_trip),
        COST: _cost(measured["parallel"], limits.max_cost_ratio),
    }


def _verdict(passed: bool | None, value: Any, limit: Any, message: str) -> Verdict:
    return {"passed": passed, "value": value, "limit": limit, "message": message}


def _bytes(pieces: dict[str, Any]) -> Verdict:
    missing = pieces["missing_bytes"]
    if not missing:
        return _verdict(True, 0, 0, "every byte has an id, so any text can be written")
    named = " ".join(f"{byte:02X}" for byte in missing[:8]) + (" ..." if len(missing) > 8 else "")
    return _verdict(False, len(missing), 0, f"{len(missing)} of 256 bytes have no id ({named}), so some text cannot be written; train with byte fallback")


def _dead_pieces(pieces: dict[str, Any], limit: float) -> Verdict:
    share, trained = pieces["dead_share"], pieces["trained"]
    if pieces["unused"] is None and pieces["dead_share"] <= limit:
        return _verdict(None, None, limit, "how often the pieces are used was not counted; train it with this version of IberLM")
    parts = f"{pieces['unreachable']:,} unreachable, {pieces['unused'] or 0:,} not used in the training sample"
    said = f"{pieces['dead']:,} of {trained:,} pieces are dead ({share:.2%}: {parts})"
    if share <= limit:
        return _verdict(True, share, limit, f"{said}; at most {limit:.2%} may be")
    return _verdict(
        False, share, limit, f"{said}, and at most {limit:.2%} may be (gates.max_dead_share); take a smaller tokenizer.vocabulary_size or more text"
    )


def _deterministic(same: bool | None) -> Verdict:
    if same is None:
        return _verdict(None, None, True, "it was trained only once, so nothing is known; set tokenizer.check_determinism=true")
    if same:
        return _verdict(True, True, True, "a second training gave the same bytes")
    return _verdict(False, False, True, "a second training gave other bytes; the run cannot be repeated: look for a trainer with threads or a seed")


def _round_trip(found: dict[str, Any]) -> Verdict:
    if not found["texts"]:
        return _verdict(None, None, 0, "no text was encoded and decoded")
    if not found["failed"]:
        return _verdict(True, 0, 0, f"{found['texts']:,} texts came back as they were, after the normalisation that the tokenizer declares")
    said = f"{found['failed']:,} of {found['texts']:,} texts do not come back as they were ({found['example']})"
    return _verdict(False, found["failed"], 0, f"{said}; look at its normaliser and decoder: a model would be trained on other text")


def _cost(parallel: dict[str, Any], limit: float) -> Verdict:
    compared, missing, ratio = parallel["languages"], parallel["missing"], parallel["ratio"]
    if missing:
        mend = "set 'parallel' to a folder that has it"
        return _verdict(None, ratio, limit, f"there is no parallel text in {', '.join(missing)}, so its cost is not known; {mend}")
    if ratio is None:
        return _verdict(True, None, limit, f"one language ({', '.join(compared)}): there is none to compare it with")
    costs = {tag: parallel["tokens"][tag] for tag in compared}
    dearest, cheapest = max(costs, key=costs.__getitem__), min(costs, key=costs.__getitem__)
    said = f"the same content takes {ratio:.3f} times as many tokens in {dearest} as in {cheapest}"
    if ratio <= limit:
        return _verdict(True, ratio, limit, f"{said}; at most {limit:g} may be")
    mend = "set tokenizer.parity.rounds, or a mixture with more of the dear language"
    return _verdict(False, ratio, limit, f"{said}, and at most {limit:g} may be (gates.max_cost_ratio); {mend}")
