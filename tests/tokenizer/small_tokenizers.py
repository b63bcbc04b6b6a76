"""Small real tokenizers of every format that can be loaded, trained on the texts of these tests."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizer_corpus import TEXTS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from iberlm.core.tokenizer_json import from_alphabet
from iberlm.tokenizer import ranks

LINES = [line for text in TEXTS.values() for line in text.split("\n")]
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level(vocabulary_size: int = 700) -> Tokenizer:
    """A byte-level BPE as Qwen's: NFC, digits apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(ranks.PATTERNS["qwen"]), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, normalized=False, special=True) for token in SPECIAL]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def metaspace_unigram() -> Tokenizer:
    """A unigram model with a space put before the text and without byte fallback, as XLM-R's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def llama_like() -> Tokenizer:
    """A BPE with byte fallback whose normaliser puts a space before the text and writes spaces as U+2581, as Llama 2's."""
    letters = sorted({letter for line in LINES for letter in line} - {" "})
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters])}
    merges = [("l", "a"), ("e", "s"), ("\u2581", "la"), ("\u2581", "es"), ("\u2581", "\u2581")]
    vocabulary |= {left + right: len(vocabulary) + index for index, (left, right) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return tokenizer


def write_hugging_face(folder: Path, tokenizer: Tokenizer) -> Path:
    """A folder with tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def sentencepiece_model(**settings: Any) -> bytes:
    """A SentencePiece BPE with byte fallback; its defaults are the library's: nmt_nfkc, a space before the text, runs of spaces made one."""
    writer = io.BytesIO()
    chosen = {"vocab_size": 560, "model_type": "bpe", "byte_fallback": True, "num_threads": 1, "minloglevel": 2} | settings
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(LINES), model_writer=writer, **chosen)
    return writer.getvalue()


def ranked(tokenizer: Tokenizer) -> dict[bytes, int]:
    """The tokens of a byte-level BPE as tiktoken has them: the bytes first, then the merges in their order."""
    tokens = [from_alphabet(token) for token, _ in sorted(tokenizer.get_vocab(with_added_tokens=False).items(), key=lambda entry: entry[1])]
    tokens = [token for token in tokens if token.decode("utf-8", "replace") not in SPECIAL]
    ordered = [bytes([byte]) for byte in range(256)] + [token for token in tokens if len(token) > 1]
    return {token: rank for rank, token in enumerate(ordered)}


def tiktoken_lines(tokens: dict[bytes, int]) -> str:
    """The text of a .tiktoken file."""
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in tokens.items())


def tekken(tokens: dict[bytes, int], special: int = 10, unused: int = 5) -> str:
    """The text of a tekken.json with `special` ids before the tokens, and room for all but the last `unused` of them."""
    entries = [{"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None} for token, rank in tokens.items()]
    size = len(tokens) + special - unused
    config = {"pattern": ranks.PATTERNS["o200k"], "num_vocab_tokens": len(tokens), "default_vocab_size": size, "default_num_special_tokens": special}
    return json.dumps({"config": config | {"version": "v3"}, "vocab": entries})
