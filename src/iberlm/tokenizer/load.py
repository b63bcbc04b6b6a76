"""Any tokenizer from a local path, behind one small interface: what `measure` and `gates` need to judge it.

Read are Hugging Face folders (`tokenizer.json`, models BPE and Unigram), SentencePiece models, and the rank files of tiktoken and of
Mistral (`ranks`). Nothing is fetched and no code of a tokenizer's folder is run.
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import Tokenizer

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.tokenizer_json import BYTE_PIECE, BYTES, from_alphabet, replacement
from iberlm.core.tokenizer_json import steps as laid_out
from iberlm.tokenizer import ranks
from iberlm.tokenizer.special import SPACE

TOKENIZERS, SENTENCEPIECE, TIKTOKEN = "tokenizers", "sentencepiece", "tiktoken"
NAMES = ("tokenizer.json", "tekken*.json", "tokenizer.model", "sentencepiece.model", "*.model", "*.model.v*", "*.tiktoken")
"""Files that are looked for in a folder, the first found wins: `tokenizer.json` is what a model is trained and served with."""


class LoadedTokenizer(Protocol):
    """A tokenizer that can be measured."""

    name: str
    """Last part of the path."""
    path: Path
    kind: str
    """`tokenizers`, `sentencepiece` or `tiktoken`: which format it was read from."""
    vocabulary_size: int
    """The highest id plus one: special ones included, and holes if there are any."""
    special_ids: frozenset[int]
    byte_ids: frozenset[int]
    """Ids that stand for one byte whatever it means: all single bytes of a byte-level vocabulary, `<0xNN>` of SentencePiece's."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text. No BOS or EOS is added, and a text that spells a special token is text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; U+FFFD where their bytes are no UTF-8."""
        ...

    def normalise(self, text: str) -> str:
        """What a lossless round trip gives back: the text after the normalisation that the tokenizer declares.

        Unicode's noncharacters, where a tokenizer has one as a mark of its own, come back as what they mark. Marks that are ordinary
        characters, such as SentencePiece's U+2581, are not excused: a tokenizer that loses them does not give the text back.
        """
        ...

    def piece(self, index: int) -> bytes | None:
        """The UTF-8 bytes, maybe a part of a character, that an id stands for; None for special and unused ids. A space is a space."""
        ...


def load_tokenizer(path: Path) -> LoadedTokenizer:
    """Read the tokenizer in a folder, in the folder of a train-tokenizer stage, or in one file.

    Raises `ConfigError` for what is no tokenizer or one of a kind that cannot be measured, and `CorruptError` for a file that is damaged.
    """
    file = _find(path)
    try:
        if file.suffix == ".json":
            return _from_json(path, file)
        if file.suffix == ".tiktoken":
            return _from_ranks(path, file, ranks.read_tiktoken(file))
        return _from_sentencepiece(path, file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error


def load_tokenizers(paths: Sequence[Path]) -> list[LoadedTokenizer]:
    """Read several, and give them names that differ: as many last parts of each path as it takes, and a number when a path comes twice."""
    loaded = [load_tokenizer(path) for path in paths]
    for tokenizer, name in zip(loaded, unique_names([tokenizer.path for tokenizer in loaded]), strict=True):
        tokenizer.name = name
    return loaded


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for each path, see `load_tokenizers`."""
    every = [Path(os.path.normpath(path.absolute())).parts for path in paths]
    lengths = dict.fromkeys(every, 1)
    while True:
        short = {parts: "/".join(parts[-length:]).replace("//", "/") for parts, length in lengths.items()}
        counted = Counter(short.values())
        grow = [parts for parts, length in lengths.items() if counted[short[parts]] > 1 and length < len(parts)]
        if not grow:
            break
        for parts in grow:
            lengths[parts] += 1
    names: list[str] = []
    for parts in every:
        tries = (short[parts] if number == 1 else f"{short[parts]} ({number})" for number in itertools.count(1))
        names.append(next(name for name in tries if name not in names))
    return names


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such folder or file; give a tokenizer's folder, or one of its files ({', '.join(NAMES)})")
    for folder in (path, path / "tokenizer"):  # the second is where the train-tokenizer stage has it
        for name in NAMES:
            found = sorted(folder.glob(name))
            if len(found) > 1:
                raise ConfigError(f"{folder}: has several tokenizers ({', '.join(file.name for file in found)}); give the file that is meant")
            if found:
                return found[0]
    raise ConfigError(f"{path}: has no tokenizer; looked for {', '.join(NAMES)}")


def _name(path: Path) -> str:
    return Path(os.path.normpath(path.absolute())).name


class FastTokenizer:
    """A tokenizer of the library `tokenizers`; see `LoadedTokenizer`."""

    def __init__(self, path: Path, kind: str, tokenizer: Tokenizer, pieces: dict[int, bytes], special: Iterable[int], byte_ids: Iterable[int]) -> None:
        self.name, self.path, self.kind = _name(path), path, kind
        self.special_ids, self.byte_ids = frozenset(special), frozenset(byte_ids)
        self.vocabulary_size = max((*pieces, *self.special_ids), default=-1) + 1
        self._tokenizer = tokenizer
        self._pieces = [None if index in self.special_ids else pieces.get(index) for index in range(self.vocabulary_size)]
        self._normalise: Callable[[str], str] | None = None
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `LoadedTokenizer.encode`."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """See `LoadedTokenizer.decode`."""
        # some decoders of the library panic on nothing
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False)) if len(ids) else ""

    def normalise(self, text: str) -> str:
        """See `LoadedTokenizer.normalise`."""
        return self._normalise(text) if self._normalise else text

    def piece(self, index: int) -> bytes | None:
        """See `LoadedTokenizer.piece`."""
        return self._pieces[index]


def _from_json(path: Path, file: Path) -> LoadedTokenizer:
    try:
        text = file.read_text(encoding="utf-8")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{file}: not valid JSON ({error}); copy or download it again") from error
    if ranks.is_tekken(value):
        return _from_ranks(path, file, ranks.read_tekken(file, value))
    if not (isinstance(value, dict) and isinstance(value.get("model"), dict)):
        raise ConfigError(f"{file}: neither a tokenizer of the library tokenizers (it has no 'model') nor Mistral's tekken.json (no 'config' and 'vocab')")
    _check_model(file, value["model"])
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise CorruptError(f"{file}: tokenizers {tokenizers.__version__} cannot read it ({error}); copy or download it again, or update tokenizers") from error
    return _hugging_face(path, tokenizer, value)


def _check_model(file: Path, model: dict[str, Any]) -> None:
    """Raise `ConfigError` for models whose pieces do not stand for the same bytes everywhere, or that hide what they cannot write."""
    kind = model.get("type") or ("BPE" if "merges" in model else "of no stated type")
    if kind not in ("BPE", "Unigram"):
        raise ConfigError(f"{file}: its model is {kind}; BPE and Unigram can be measured. WordPiece and WordLevel write what they do not know as one token")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ConfigError(
                f"{file}: its pieces carry the mark '{model[key]}' ({key}) in place of spaces; only vocabularies that write spaces can be measured"
            )


def _hugging_face(path: Path, tokenizer: Tokenizer, value: dict[str, Any]) -> FastTokenizer:
    steps = {key: list(laid_out(value.get(key))) for key in ("normalizer", "pre_tokenizer", "decoder")}
    added = {int(entry["id"]): entry for entry in value.get("added_tokens") or []}
    special = {index for index, entry in added.items() if entry.get("special")}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    model = value["model"]
    unknown = model.get("unk_id") if model.get("type") == "Unigram" else vocabulary.get(model.get("unk_token"))
    special |= {unknown} if unknown is not None else set()
    if any(step["type"] == "ByteLevel" for name in steps for step in steps[name]):
        to_bytes: Callable[[str], bytes] = from_alphabet
        byte_ids = {index for token, index in vocabulary.items() if token in BYTES and index not in added}
    else:
        to_bytes = _unescaped(steps["decoder"], byte_fallback=bool(model.get("byte_fallback")))
        byte_ids = {index for token, index in vocabulary.items() if model.get("byte_fallback") and BYTE_PIECE.fullmatch(token)}
    pieces = {index: token.encode() if index in added else to_bytes(token) for token, index in vocabulary.items()}
    loaded = FastTokenizer(path, TOKENIZERS, tokenizer, pieces, special, byte_ids)
    lossy = [step for step in steps["normalizer"] if not _undone(step, steps["decoder"])]
    if lossy := lossy + [step for step in steps["decoder"] if _is_own_mark(step)]:
        loaded._normalise = _normaliser(lossy)
    return loaded


def _undone(step: dict[str, Any], decoder: list[dict[str, Any]]) -> bool:
    """Whether a step of the normaliser only spells the text for the model, and the decoder takes it back."""
    if step["type"] in ("Prepend", "ByteLevel"):
        return True
    found = replacement(step)
    return found is not None and any(replacement(back) == (found[1], found[0]) for back in decoder)


def _is_own_mark(step: dict[str, Any]) -> bool:
    """Whether a decoder reads a noncharacter (set aside by Unicode for internal use, so that no text should have it) as something else."""
    found = replacement(step)
    return step["type"] == "Replace" and found is not None and len(found[0]) == 1 and "\ufdd0" <= found[0] <= "\ufdef"


def _normaliser(steps: list[dict[str, Any]]) -> Callable[[str], str]:
    # the library builds normalisers from JSON only as a part of a tokenizer
    empty = {"version": "1.0", "normalizer": {"type": "Sequence", "normalizers": steps}, "model": {"type": "BPE", "vocab": {}, "merges": []}}
    normalise: Callable[[str], str] = Tokenizer.from_str(json.dumps(empty)).normalizer.normalize_str
    return normalise


def _unescaped(decoder: list[dict[str, Any]], *, byte_fallback: bool) -> Callable[[str], bytes]:
    """From a piece as the vocabulary spells it to the bytes of the text that it stands for."""
    replacements = [found for step in decoder if (found := replacement(step)) is not None]

    def to_bytes(token: str) -> bytes:
        if byte_fallback and (found := BYTE_PIECE.fullmatch(token)):
            return bytes([int(found[1], 16)])
        for old, new in replacements:
            token = token.replace(old, new)
        return token.encode()

    return to_bytes


def _from_ranks(path: Path, file: Path, found: ranks.Ranks) -> FastTokenizer:
    try:
        tokenizer = ranks.tokenizer_of(found)
    except Exception as error:  # the library raises nothing narrower
        raise CorruptError(f"{file}: no tokenizer can be made of it ({error}); copy or download it again") from error
    pieces = {rank + found.special: token for token, rank in found.tokens.items()}
    byte_ids = {index for index, token in pieces.items() if len(token) == 1}
    loaded = FastTokenizer(path, TIKTOKEN, tokenizer, pieces, range(found.special), byte_ids)
    if found.nfc:
        loaded._normalise = _normaliser([{"type": "NFC"}])
    return loaded


class SentencePieceTokenizer:
    """A SentencePiece model with its own normaliser; see `LoadedTokenizer`."""

    def __init__(self, path: Path, processor: sentencepiece.SentencePieceProcessor) -> None:
        self.name, self.path, self.kind = _name(path), path, SENTENCEPIECE
        self._processor = processor
        proto = model_pb2.ModelProto.FromString(processor.serialized_model_proto())
        self._normaliser = _plain_normaliser(proto.normalizer_spec)
        self._denormaliser = _plain_normaliser(proto.denormalizer_spec) if proto.denormalizer_spec.precompiled_charsmap else None
        self.vocabulary_size = len(proto.pieces)
        kinds = dict(enumerate(piece.type for piece in proto.pieces))
        entry = model_pb2.ModelProto.SentencePiece
        self.special_ids = frozenset(index for index, kind in kinds.items() if kind in (entry.UNKNOWN, entry.CONTROL))
        self.byte_ids = frozenset(index for index, kind in kinds.items() if kind == entry.BYTE)
        absent = (entry.UNKNOWN, entry.CONTROL, entry.UNUSED)
        self._pieces = [None if kinds[index] in absent else self._bytes(index, piece.piece) for index, piece in enumerate(proto.pieces)]

    def _bytes(self, index: int, piece: str) -> bytes:
        if index in self.byte_ids:
            return bytes([int(piece[3:5], 16)])
        return self._back(piece.replace(SPACE, " ")).encode()

    def _back(self, text: str) -> str:
        return self._denormaliser.Normalize(text) if self._denormaliser else text

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `LoadedTokenizer.encode`."""
        ids: list[list[int]] = self._processor.encode(list(texts), out_type=int)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `LoadedTokenizer.decode`."""
        return str(self._processor.decode(list(ids), out_type=str))

    def normalise(self, text: str) -> str:
        """See `LoadedTokenizer.normalise`."""
        return self._back(self._normaliser.Normalize(text))

    def piece(self, index: int) -> bytes | None:
        """See `LoadedTokenizer.piece`."""
        return self._pieces[index]


def _plain_normaliser(spec: Any) -> sentencepiece.SentencePieceNormalizer:
    """The normalisation of a model without the marks that SentencePiece puts for spaces and before the text, which decoding takes away."""
    return sentencepiece.SentencePieceNormalizer(normalizer_spec=spec, add_dummy_prefix=False, escape_whitespaces=False)


def _from_sentencepiece(path: Path, file: Path) -> SentencePieceTokenizer:
    model = file.read_bytes()
    if ranks.looks_like_ranks(model):
        raise ConfigError(f"{file}: is a rank file of tiktoken, not a SentencePiece model; name it like one: {ranks.known_names()}")
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
        return SentencePieceTokenizer(path, processor)
    except (RuntimeError, ValueError) as error:
        raise CorruptError(f"{file}: not a SentencePiece model ({error}); copy or download it again") from error
