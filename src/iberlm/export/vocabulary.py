"""A Hugging Face tokenizer folder as a vocabulary of llama.cpp that cuts text into the same ids, or an error that says why it cannot.

`tokenizer.json` is the reference: it is what `AutoTokenizer` reads. llama.cpp has three fitting types. "llama" merges the two neighbours
whose union has the best score, as SentencePiece's BPE does. "gemma4" is the same with ranked merges. "gpt2" is byte-level BPE: a known
pre-tokenizer and ranked merges. None of them normalises text, so all want NFC.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.tokenizer_json import steps as laid_out
from iberlm.export.merges import obstacle, overlap, read_merges, scores
from iberlm.export.pre_tokenizer import pre_tokenizer_name

SCORED, RANKED, BYTE_LEVEL = "llama", "gemma4", "gpt2"
"""Types of vocabularies, as `tokenizer.ggml.model` names them."""

SPACE = "\u2581"
"""How SentencePiece writes a space inside a piece."""

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>")
"""Tokens that end a turn in the chat templates of ChatML and of Llama 3."""

_SPECIAL_SCORE = -1_000_000.0
"""Below the score of every piece: llama.cpp looks also special tokens up when it merges."""


@dataclass
class Vocabulary:
    """What the `tokenizer.ggml.*` keys of a GGUF file hold. `tokens`, `types` (and `scores`, where there are any) are as many as the model has rows."""

    model: str
    """SCORED, RANKED or BYTE_LEVEL."""
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)
    """Ids by role: bos, eos, unk, pad, eot; those that the tokenizer has."""
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    notes: list[str] = field(default_factory=list)
    """What llama.cpp does differently from the Hugging Face tokenizer, in words."""


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of a model folder whose embedding matrix has `rows` rows.

    Raises `DataError` when there is no tokenizer.json, `CorruptError` when it cannot be read or has more tokens than the
    model has rows, and `ConfigError` for a tokenizer that llama.cpp would not reproduce.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{folder}: has no tokenizer.json; put the tokenizer that the model was trained with into the folder")
    try:
        definition = json.loads(path.read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise CorruptError(f"{path}: not a tokenizer ({error})") from error
    tokens = _tokens(tokenizer, rows, path)
    model = definition["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "of an unknown type")  # older files do not say
    if kind != "BPE":
        raise ConfigError(f"{path}: its model is {kind}; {_NOT_BPE.get(kind, 'llama.cpp has no type for it')}; the export knows BPE only")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ConfigError(f"{path}: {key} is {model[key]}; llama.cpp does not know it")
    vocabulary = (_sentencepiece if model.get("byte_fallback") else _byte_level)(definition, tokens, path)
    _mark_added(vocabulary, definition, path)
    _name_special(vocabulary, folder)
    _read_framing(vocabulary, tokenizer, path)
    if vocabulary.model == SCORED:
        _store_merges(vocabulary, definition, path)
    if vocabulary.model == SCORED:
        _note_spelled(vocabulary)
    if len(set(vocabulary.tokens)) != rows:
        raise ConfigError(f"{path}: two ids have the same spelling, and llama.cpp needs them to differ")
    return vocabulary


_NOT_BPE = {
    "Unigram": "llama.cpp merges greedily under its type 'llama' and has no byte fallback under 't5', so texts would get other ids",
}


def _tokens(tokenizer: Tokenizer, rows: int, path: Path) -> list[str]:
    """Tokens by id; rows of the model that no token has are named [PAD<id>], as llama.cpp's converter does."""
    tokens = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    if (last := max(tokens, default=0)) >= rows:
        raise CorruptError(f"{path}: has the id {last}, and the model has {rows} rows; the tokenizer is not the one of the model")
    return [tokens.get(index, f"[PAD{index}]") for index in range(rows)]


def _sentencepiece(definition: dict[str, Any], tokens: list[str], path: Path) -> Vocabulary:
    """BPE with bytes for what has no piece, over whole texts whose spaces are U+2581: llama.cpp's type "llama"."""
    prefix = _space_handling(definition, path)
    types = [TokenType.UNUSED] * len(tokens)
    for token, index in definition["model"]["vocab"].items():
        types[index] = TokenType.BYTE if token in _BYTES else TokenType.NORMAL
    if missing := _BYTES - {token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.BYTE}:
        raise ConfigError(f"{path}: has no piece {min(missing)}; llama.cpp needs all 256 bytes")
    vocabulary = Vocabulary(SCORED, "default", tokens, [int(kind) for kind in types], add_space_prefix=prefix)
    vocabulary.notes += [
        f"llama.cpp does not put text into {form}: give it text in that form"
        for form in (step["type"] for step in laid_out(definition.get("normalizer")) if step["type"] == "NFC")
    ]
    if any(step.get("pattern") == {"String": SPACE} for step in laid_out(definition.get("normalizer"))):
        vocabulary.notes.append("llama.cpp takes the character U+2581 in a text for a space")
    return vocabulary


_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}


def _space_handling(definition: dict[str, Any], path: Path) -> bool:
    """Whether a space is put before a text. Raises `ConfigError` for what llama.cpp's type "llama" does not do to a text."""
    prefix = replaced = False
    for step in laid_out(definition.get("normalizer")):
        if step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == SPACE:
            replaced = True
        elif step["type"] == "Prepend" and step["prepend"] == SPACE:
            prefix = True
        elif step["type"] != "NFC" and not (step["type"] == "Replace" and step["pattern"] == {"String": SPACE}):
            raise ConfigError(f"{path}: its normaliser has the step {json.dumps(step, ensure_ascii=False)}, which llama.cpp does not do")
    for step in laid_out(definition.get("pre_tokenizer")):
        if step["type"] == "Metaspace" and step["replacement"] == SPACE and step.get("prepend_scheme") == "never" and not step.get("split", True):
            replaced = True
        else:
            raise ConfigError(f"{path}: its pre-tokenizer has the step {json.dumps(step, ensure_ascii=False)}, which llama.cpp's type 'llama' does not do")
    if not replaced:
        raise ConfigError(f"{path}: does not write spaces as U+2581, which llama.cpp's type 'llama' always does")
    return prefix


def _store_merges(vocabulary: Vocabulary, definition: dict[str, Any], path: Path) -> None:
    """As scores where these say what the ranks of the merges say; else as ranks, under a type that only newer programs know."""
    merges = read_merges(definition["model"])
    pieces = _of_type(vocabulary, TokenType.NORMAL)
    why = obstacle(merges, pieces)
    if not why:
        vocabulary.scores = scores(merges, vocabulary.tokens, pieces, _SPECIAL_SCORE)
        if piece := overlap(merges):
            vocabulary.notes.append(f"llama.cpp cuts repetitions such as '{piece}' from the left, as SentencePiece does, and this tokenizer.json does not")
        return
    mixed = [piece for piece in pieces if "\n" in piece and piece.strip("\n")]
    if mixed or vocabulary.add_space_prefix or not vocabulary.add_bos:
        also = f"'{mixed[0]}' joins a line break to other text" if mixed else "a space is put before texts" if vocabulary.add_space_prefix else "no BOS is"
        raise ConfigError(f"{path}: {why}, and {also}; llama.cpp has no type for both")
    vocabulary.model = vocabulary.pre = RANKED
    vocabulary.merges = [" ".join(pair) for pair in merges]
    vocabulary.notes.append(
        f"{why}, so merges are stored by rank (type {RANKED}); this needs llama.cpp of May 2026 or newer: older ones refuse the file, or lose characters"
    )


def _of_type(vocabulary: Vocabulary, *types: TokenType) -> set[str]:
    return {token for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind in types}


def _byte_level(definition: dict[str, Any], tokens: list[str], path: Path) -> Vocabulary:
    """Byte-level BPE: llama.cpp's type "gpt2"."""
    steps = list(laid_out(definition.get("normalizer")))
    if others := [step["type"] for step in steps if step["type"] != "NFC"]:
        raise ConfigError(f"{path}: its normaliser is {', '.join(others)}, which llama.cpp does not do")
    ignore_merges = bool(definition["model"].get("ignore_merges"))
    pre = pre_tokenizer_name(list(laid_out(definition.get("pre_tokenizer"))), ignore_merges=ignore_merges, where=str(path))
    types = [int(TokenType.UNUSED)] * len(tokens)
    for index in definition["model"]["vocab"].values():
        types[index] = int(TokenType.NORMAL)
    vocabulary = Vocabulary(BYTE_LEVEL, pre, tokens, types, merges=[" ".join(pair) for pair in read_merges(definition["model"])])
    vocabulary.notes += ["llama.cpp does not put text into NFC: give it text in that form" for _ in steps]
    return vocabulary


def _mark_added(vocabulary: Vocabulary, definition: dict[str, Any], path: Path) -> None:
    """Types of added tokens: special ones are CONTROL, so that text that spells them is not read as such; others are USER_DEFINED."""
    stripped = []
    for added in definition.get("added_tokens") or []:
        index, token = added["id"], added["content"]
        if added["special"]:
            vocabulary.types[index] = int(TokenType.UNKNOWN if token == definition["model"].get("unk_token") else TokenType.CONTROL)
            stripped += [token] if added["lstrip"] or added["rstrip"] else []
        elif added["lstrip"] or added["rstrip"] or added["single_word"]:
            raise ConfigError(f"{path}: the added token '{token}' takes spaces with it or must be a word alone, which llama.cpp does not know")
        else:
            vocabulary.types[index] = int(TokenType.USER_DEFINED)
            if vocabulary.model == SCORED:
                vocabulary.tokens[index] = token.replace(SPACE, " ")  # found in the text before spaces are replaced
    if stripped:
        vocabulary.notes.append(f"llama.cpp keeps the spaces beside {', '.join(stripped)}")


def _note_spelled(vocabulary: Vocabulary) -> None:
    """Say when two pieces can meet and spell a special token: llama.cpp would then merge them into it."""
    pieces = _of_type(vocabulary, TokenType.NORMAL)
    others = sorted(_of_type(vocabulary, TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE))
    if spelled := [token for token in others if any(token[:cut] in pieces and token[cut:] in pieces for cut in range(1, len(token)))]:
        vocabulary.notes.append(f"llama.cpp reads text that spells {', '.join(spelled[:5])} as the special token, even where it is asked not to")


def _name_special(vocabulary: Vocabulary, folder: Path) -> None:
    """Fill `special` from the names in the tokenizer's files, and where these say nothing from the ids in config.json."""
    names = {**_json(folder / "special_tokens_map.json"), **_json(folder / "tokenizer_config.json")}
    config, generation = _json(folder / "config.json"), _json(folder / "generation_config.json")
    index = {token: number for number, token in enumerate(vocabulary.tokens)}
    for role in ("bos", "eos", "unk", "pad"):
        named = names.get(f"{role}_token")
        token = named.get("content") if isinstance(named, dict) else named
        numbers = _ids(config.get(f"{role}_token_id"))
        if token is not None and token not in index:
            raise CorruptError(f"{folder}: the {role} token '{token}' of its tokenizer_config.json is not in tokenizer.json")
        if token is not None or numbers:
            vocabulary.special[role] = index[token] if token is not None else numbers[0]
    ends = [token for token in _TURN_ENDS if token in index]
    turn_ends = [index[token] for token in ends] or [number for number in _ids(generation.get("eos_token_id")) if number != vocabulary.special.get("eos")]
    if turn_ends:
        vocabulary.special["eot"] = turn_ends[0]
    for role, number in vocabulary.special.items():
        if not 0 <= number < len(vocabulary.tokens):
            raise CorruptError(f"{folder}: the {role} token has the id {number}, and there are {len(vocabulary.tokens)} tokens")


def _ids(value: Any) -> list[int]:
    return [] if value is None else [int(number) for number in (value if isinstance(value, list) else [value])]


def _read_framing(vocabulary: Vocabulary, tokenizer: Tokenizer, path: Path) -> None:
    """Whether BOS and EOS are put around a text, from what the tokenizer does. Raises `ConfigError` for anything else."""
    bare, framed = (tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
    start = next((start for start in range(len(framed)) if framed[start : start + len(bare)] == bare), 0)
    before, after = framed[:start], framed[start + len(bare) :]
    bos, eos = vocabulary.special.get("bos"), vocabulary.special.get("eos")
    if before not in ([], [bos]) or after not in ([], [eos]):
        raise ConfigError(f"{path}: makes the tokens {framed} of {bare}; llama.cpp can only put BOS ({bos}) before a text and EOS ({eos}) after it")
    vocabulary.add_bos, vocabulary.add_eos = bool(before), bool(after)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CorruptError(f"{path}: not a JSON object")
    return value
