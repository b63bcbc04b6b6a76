"""Texts on which a fast encoder must give the ids of the reference before it is used."""

import unicodedata
from collections.abc import Iterator
from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from iberlm.tokenizer.gigatoken_encoder import FastEncoderError
from iberlm.tokenizer.reference_encoder import DocumentEncoder

_TEXTS_AT_ONCE = 4096
_CHARACTERS_A_TEXT = 256
_FEW = 16

ODD = [
    "",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t\t x",
    " dos  espais   i més    ",
    "línia\nlínia\n\n  sagnada\r\n\tfi",
    "\x00",
    "a\x00b \x01\x02\x7f\x80\x9f\x1b[0m",
    "\u00a0\u2003\u2028\u2029\u200b\u200d\ufeff",
    "e\u0301 n\u0303 L\u00b7L l\u0140l a\u0327\u0301 \u0301 x\u0301\u0327\u0308",
    "\u1100\u1161\u11a8 \uac00\u11a8 \u0958 \u2126 \ufb01",
    "\u2581mal\u2581 \u2581\u2581 \ufdd0 \ufdd1 \ufffe \uffff \ufffd",
    "😀👩\u200d👧\u200d👦🇪🇸 🏴\U000e0067\U000e007f \U0010ffff \U000e0001",
    "1992 3.400 0x1F 1e-9 ½ ² Ⅷ ٣ ३",
    "l'home d'aigua s'hi n'és qu'il I'm DON'T we'LL they’ve '''",
    "col·legi COL·LEGI al·lucinant; ¿què? ¡sí! «cita» “cita” — fi…",
    "https://exemple.cat/?a=1&b=%20#x  correu@exemple.eus",
    "def f(x):\n    return {'a': [x**2, -1]}  # nota\n\n\nclass A: pass",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abababababababab anananananan tatatatata eleleleleles",
    "中文 日本語 한국어 Ελληνικά кириллица עברית العربية हिन्दी ไทย",
    " " * 300 + "x" + "\n" * 300 + "=" * 300 + "-" * 97,
    "x" * 5000,
]


def texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Odd texts; every added token as it is spelt, alone and in company; every piece; every assigned character between others.

    Of ideographs and syllables, which are many and alike, one in `_FEW`.
    """
    yield from ODD
    for token in tokenizer.get_added_tokens_decoder().values():
        yield token.content
        yield f"a{token.content} {token.content}{token.content}\n{token.content[:-1]}"
    size = tokenizer.get_vocab_size()
    yield from tokenizer.decode_batch([[index] for index in range(size)], skip_special_tokens=False)
    assigned = [character for character in map(chr, chain(range(0x40000), range(0xE0000, 0xE1000))) if _is_asked(character)]  # planes 4 to 13 are empty
    for first in range(0, len(assigned), _CHARACTERS_A_TEXT):
        yield "".join(f"a{character}b{character}1 {character}" for character in assigned[first : first + _CHARACTERS_A_TEXT])


def _is_asked(character: str) -> bool:
    category = unicodedata.category(character)
    return category not in ("Cn", "Cs", "Co") and (category != "Lo" or character < "\u3400" or ord(character) % _FEW == 0)


def check(encoder: DocumentEncoder, reference: DocumentEncoder, tokenizer: Tokenizer) -> None:
    """Raise `FastEncoderError` with an example when the ids of the two are not the same for all `texts`."""
    every = list(texts(tokenizer))
    for first in range(0, len(every), _TEXTS_AT_ONCE):
        some = every[first : first + _TEXTS_AT_ONCE]
        if not _same(encoder, reference, some):
            example = next(text for text in some if not _same(encoder, reference, [text]))
            raise FastEncoderError(f"gigatoken gives other ids than the tokenizer for {example[:40]!r}")


def _same(one: DocumentEncoder, other: DocumentEncoder, some: list[str]) -> bool:
    (ids, lengths), (other_ids, other_lengths) = one.encode(some), other.encode(some)
    return np.array_equal(ids, other_ids) and np.array_equal(lengths, other_lengths)
