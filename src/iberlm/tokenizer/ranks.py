"""Vocabularies stored as ranked byte strings: tiktoken's `.tiktoken` files and Mistral's `tekken.json`, as tokenizers of `tokenizers`.

Both are byte-level BPE: text is cut by a regular expression, and in each part the two neighbours whose joint bytes have the lowest rank
are merged until none have one. Their files hold the ranks; the merges follow from them.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.tokenizer_json import to_alphabet

_ENGLISH = "'s|'t|'re|'ve|'m|'ll|'d"
_R50K = rf"{_ENGLISH}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_CL100K = rf"(?i:{_ENGLISH})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:{_ENGLISH})?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:{_ENGLISH})?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "o200k": _O200K,
    "cl100k": _CL100K,
    "llama3": _CL100K,
    "r50k": _R50K,
    "p50k": _R50K,
    "gpt2": _R50K,
    "qwen": _CL100K.replace(r"\p{N}{1,3}", r"\p{N}"),
}
"""How text is cut before it is merged, by a word in the file's name: a `.tiktoken` file does not say. As published with each vocabulary."""
NFC = ("qwen",)
"""Vocabularies whose published code brings text into NFC first."""


@dataclass(frozen=True)
class Ranks:
    """Rank of each token, from 0; an id is the rank plus the number of `special` ids, which come first."""

    tokens: dict[bytes, int]
    pattern: str
    special: int = 0
    nfc: bool = False


def known_names() -> str:
    """What a rank file may be called, in words."""
    return f"NAME.tiktoken with one of {', '.join(PATTERNS)} in NAME, which tells how text is cut before it is merged"


def looks_like_ranks(data: bytes) -> bool:
    """Whether a file begins like a `.tiktoken` file, whatever its name: Llama 3's is called tokenizer.model."""
    return re.fullmatch(rb"[A-Za-z0-9+/]+={0,2} \d+", data[:200].split(b"\n")[0].rstrip()) is not None


def read_tiktoken(file: Path) -> Ranks:
    """Read a file of lines 'BASE64 RANK'. Raises `ConfigError` when its name tells no pattern, `CorruptError` for a line that is none."""
    stem = re.sub(r"[-_.]", "", file.stem.lower())
    name = next((name for name in PATTERNS if name in stem), None)
    if name is None:
        raise ConfigError(f"{file}: a rank file does not say how text is cut before it is merged, and its name is not known; call it {known_names()}")
    tokens: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            tokens[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CorruptError(f"{file}:{number}: not a line 'BASE64 RANK' ({error}); copy or download the file again") from error
    return _checked(file, Ranks(tokens, PATTERNS[name], nfc=name in NFC))


def is_tekken(value: Any) -> bool:
    """Whether a JSON value has the layout of Mistral's tekken.json."""
    return isinstance(value, dict) and isinstance(value.get("config"), dict) and isinstance(value.get("vocab"), list) and "pattern" in value["config"]


def read_tekken(file: Path, value: dict[str, Any]) -> Ranks:
    """Read Mistral's layout: special tokens have the first ids, and as many of the ranked tokens follow as the vocabulary has room for."""
    try:
        special, size = int(value["config"]["default_num_special_tokens"]), int(value["config"]["default_vocab_size"])
        entries = ((base64.b64decode(entry["token_bytes"], validate=True), int(entry["rank"])) for entry in value["vocab"])
        tokens = {token: rank for token, rank in entries if rank < size - special}
        return _checked(file, Ranks(tokens, str(value["config"]["pattern"]), special))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"{file}: begins like Mistral's tekken.json, but is not one ({type(error).__name__}: {error}); copy or download it again") from error


def _checked(file: Path, found: Ranks) -> Ranks:
    if not found.tokens:
        raise CorruptError(f"{file}: has no tokens; copy or download it again")
    if len(set(found.tokens.values())) != len(found.tokens) or min(found.tokens.values()) < 0 or b"" in found.tokens:
        raise CorruptError(f"{file}: its ranks are not one for each token; copy or download it again")
    return found


def tokenizer_of(found: Ranks) -> Tokenizer:
    """The tokenizer that gives the ids of the ranks (plus `special`).

    A pair may merge when its joint bytes are a token, and ranks before another when that token does; so every way to cut a token into two
    tokens is a merge. The library ranks each pair, where tiktoken takes the leftmost of equal rank: the two could only disagree where
    A B C stand in a row and AB = BC, so pairs whose first part is a period of the token come first.
    """
    merges: list[tuple[str, str]] = []
    for token in sorted(found.tokens, key=found.tokens.__getitem__):
        cuts = [cut for cut in range(1, len(token)) if token[:cut] in found.tokens and token[cut:] in found.tokens]
        cuts.sort(key=lambda cut: (token[cut:] != token[:-cut], cut))
        merges += [(to_alphabet(token[:cut]), to_alphabet(token[cut:])) for cut in cuts]
    vocabulary = {to_alphabet(token): rank + found.special for token, rank in found.tokens.items()}
    # a part of the text that is a token is taken at once, also one that no merges lead to
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    if found.nfc:
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(found.pattern), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
