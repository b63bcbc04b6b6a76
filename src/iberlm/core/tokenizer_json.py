"""What every reader of a Hugging Face `tokenizer.json` needs: its steps laid flat, and how its pieces spell bytes and spaces."""

import json
import re
from collections.abc import Iterator
from typing import Any

Spec = dict[str, Any]
"""A tokenizer.json, or a part of one, parsed."""

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How vocabularies with byte fallback spell a byte."""


def _alphabet() -> dict[int, str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


CHARACTERS = _alphabet()
"""The printable character of each byte in vocabularies of the byte-level kind (Radford et al. 2019, GPT-2)."""
BYTES = {character: byte for byte, character in CHARACTERS.items()}
_TO_ALPHABET = {byte: ord(character) for byte, character in CHARACTERS.items()}


def to_alphabet(token: bytes) -> str:
    """The spelling of bytes in a byte-level vocabulary."""
    return token.decode("latin-1").translate(_TO_ALPHABET)


def from_alphabet(token: str) -> bytes:
    """Inverse of `to_alphabet`; a token with other characters stands for its own spelling, and no text reaches it."""
    try:
        return bytes(BYTES[character] for character in token)
    except KeyError:
        return token.encode()


def steps(part: Any) -> Iterator[Spec]:
    """The steps of a normalizer, pre-tokenizer or decoder, sequences within sequences laid out; none for what is no step."""
    if not isinstance(part, dict):
        return
    inner = next((part[key] for key in ("normalizers", "pretokenizers", "decoders") if isinstance(part.get(key), list)), None)
    if part.get("type") == "Sequence" and inner is not None:
        for entry in inner:
            yield from steps(entry)
    else:
        yield part


def replacement(step: Spec) -> tuple[str, str] | None:
    """(what, by what) of a decoder's step that replaces one spelling by another: how pieces spell the space."""
    if step["type"] == "Replace" and isinstance(step.get("pattern"), dict) and "String" in step["pattern"]:
        return step["pattern"]["String"], step["content"]
    return (step.get("replacement", "\u2581"), " ") if step["type"] == "Metaspace" else None


def without_prefix(spec: Spec) -> Spec:
    """The same tokenizer, but nothing is put before a text."""
    changed: Spec = json.loads(json.dumps({name: spec.get(name) for name in ("normalizer", "pre_tokenizer")}))
    kept = [step for step in steps(changed["normalizer"]) if step["type"] != "Prepend"]
    for step in steps(changed["pre_tokenizer"]):
        step |= {"add_prefix_space": False} if step["type"] in ("ByteLevel", "Metaspace") else {}
        step |= {"prepend_scheme": "never"} if step["type"] == "Metaspace" else {}
    return spec | changed | {"normalizer": {"type": "Sequence", "normalizers": kept} if kept else None}
