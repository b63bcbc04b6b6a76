"""The pieces of a Hugging Face tokenizer as bytes, and how it spells the pieces of another one.

`tokenizer.json` is read as it is; nothing is fetched, no code of the folder is run.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.tokenizer_json import BYTE_PIECE, from_alphabet, replacement, steps, to_alphabet, without_prefix

TOKENIZER_FILE = "tokenizer.json"
ROLES = ("bos", "eos", "pad", "unk")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's ids: each is a text piece, a byte, or special."""

    folder: Path
    size: int
    """The highest id plus one."""
    text: dict[int, bytes]
    """UTF-8 bytes (in byte-level vocabularies also parts of characters) by id; a space is a space."""
    byte: dict[int, bytes]
    """The byte pieces <0x00>..<0xFF> of byte fallback by id."""
    special: dict[int, str]
    """Spelling of special tokens and of all that stand in for what cannot be written, by id."""
    roles: dict[str, int]
    """Id by role: `bos`, `eos`, `pad`, `unk`, as far as the tokenizer has them."""
    byte_level: bool
    _whole: Tokenizer = field(repr=False)
    _bare: Tokenizer = field(repr=False)

    def spell(self, pieces: Sequence[bytes]) -> list[list[int]]:
        """Ids by which this tokenizer writes each piece inside a text: no BOS, no space before it, nothing for what it cannot write."""
        texts = [_decoded(piece) for piece in pieces]
        whole = iter(self._whole.encode_batch_fast([text for text in texts if text is not None], add_special_tokens=False))
        found = [next(whole).ids if text is not None else self._spell_bytes(piece) for text, piece in zip(texts, pieces, strict=True)]
        return [[index for index in ids if index not in self.special] for ids in found]

    def _spell_bytes(self, piece: bytes) -> list[int]:
        """The same for bytes that are no whole UTF-8: by merges of bytes, or the characters as text and the other bytes each alone."""
        if self.byte_level:
            ids: list[int] = self._bare.encode(to_alphabet(piece), add_special_tokens=False).ids
            return ids
        ids_of = {data: index for index, data in self.byte.items()}
        ids = []
        for part in re.findall(r"[\udc80-\udcff]|[^\udc80-\udcff]+", piece.decode("utf-8", "surrogateescape")):
            data = part.encode("utf-8", "surrogateescape")
            ids += ([ids_of[data]] if data in ids_of else []) if _decoded(data) is None else self._whole.encode(part, add_special_tokens=False).ids
        return ids


def _decoded(piece: bytes) -> str | None:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return None


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the tokenizer in `folder` (models BPE and Unigram). Raises `ConfigError` and `CorruptError`."""
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise ConfigError(f"{folder}: no {TOKENIZER_FILE}; make one with `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`")
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(path))
        model = spec["model"]
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise CorruptError(f"{path}: cannot be read as a tokenizer ({error}); fetch it again") from error
    kind = model.get("type") or ("BPE" if "merges" in model else "of no stated type")
    if kind not in ("BPE", "Unigram") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ConfigError(f"{path}: its model is {kind}; pieces can be compared for BPE and Unigram without marks of the place in a word")
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    roles = _roles(folder, spec, ids)
    added = {token["content"]: token for token in spec.get("added_tokens") or []}
    special = {index: piece for piece, index in ids.items() if index in roles.values() or (piece in added and added[piece]["special"])}
    byte_level = any(step["type"] == "ByteLevel" for part in ("normalizer", "pre_tokenizer", "decoder") for step in steps(spec.get(part)))
    fallback = {} if byte_level else {index: bytes([int(found[1], 16)]) for piece, index in ids.items() if (found := BYTE_PIECE.fullmatch(piece))}
    replaced = [pair for step in steps(spec.get("decoder")) if (pair := replacement(step))]
    text = {
        index: piece.encode() if piece in added else from_alphabet(piece) if byte_level else _plain_bytes(piece, replaced)
        for piece, index in ids.items()
        if index not in special and index not in fallback
    }
    unprefixed = without_prefix(spec) | {"post_processor": None}
    whole = Tokenizer.from_str(json.dumps(unprefixed))
    whole.encode_special_tokens = True
    whole.no_truncation()
    whole.no_padding()
    bare = Tokenizer.from_str(json.dumps(unprefixed | {"normalizer": None, "pre_tokenizer": None, "added_tokens": []})) if byte_level else whole
    return Vocabulary(folder, max(ids.values(), default=-1) + 1, text, fallback, special, roles, byte_level, whole, bare)


def _roles(folder: Path, spec: dict[str, Any], ids: dict[str, int]) -> dict[str, int]:
    roles: dict[str, int] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the second, which AutoTokenizer reads, has the last word
        try:
            value = json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).is_file() else {}
        except ValueError as error:
            raise CorruptError(f"{folder / name}: not JSON ({error}); fetch it again") from error
        for role in ROLES:
            token = value.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token in ids:
                roles[role] = ids[token]
    model = spec["model"]
    unknown = ids.get(model["unk_token"]) if model.get("unk_token") else model.get("unk_id")
    return roles | ({"unk": unknown} if unknown is not None else {})


def _plain_bytes(piece: str, replaced: list[tuple[str, str]]) -> bytes:
    for old, new in replaced:
        piece = piece.replace(old, new)
    return piece.encode()
