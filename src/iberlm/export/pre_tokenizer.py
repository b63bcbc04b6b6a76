"""Pre-tokenizers that llama.cpp knows by name, recognised from the steps of a tokenizer.json.

Only those are listed whose ids were found equal (tests/export). llama.cpp knows more names, but approximates some: its pattern for
gpt-4o takes accented capitals also for small letters, and cuts `ÀREA` into `À` and `REA`.
"""

import json
from typing import Any

from iberlm.core.errors import ConfigError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_DIGIT = r"\p{N}"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN35 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"

PRE_TOKENIZERS: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGIT, _GPT2), False): "smollm",
    ((_QWEN2,), False): "qwen2",
    ((_QWEN35,), False): "qwen35",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
}
"""Patterns that split a text one after the other, and whether a word that is a token is taken without merging: llama.cpp's name."""


def pre_tokenizer_name(steps: list[dict[str, Any]], *, ignore_merges: bool, where: str) -> str:
    """llama.cpp's name for the steps (sequences opened) of a byte-level pre-tokenizer. Raises `ConfigError` when it has none."""
    patterns = tuple(pattern for step in steps for pattern in _patterns(step))
    name = PRE_TOKENIZERS.get((patterns, ignore_merges))
    if name is None or not steps or steps[-1]["type"] != "ByteLevel" or any(step.get("add_prefix_space") for step in steps):
        known = ", ".join(sorted(set(PRE_TOKENIZERS.values())))
        found = json.dumps(steps, ensure_ascii=False)
        raise ConfigError(f"{where}: its pre-tokenizer is none that llama.cpp is known to reproduce ({known}); it is {found}, ignore_merges={ignore_merges}")
    return name


def _patterns(step: dict[str, Any]) -> list[str]:
    """The patterns that a step splits by; one that no name has for a step of another kind."""
    if step["type"] == "ByteLevel":
        return [_GPT2] if step.get("use_regex", True) else []
    if step["type"] == "Digits":
        return [_DIGIT if step["individual_digits"] else r"\p{N}+"]
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"] and "Regex" in step["pattern"]:
        return [step["pattern"]["Regex"]]
    return [f"({step['type']})"]
