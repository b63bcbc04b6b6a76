"""What was trained, as a Hugging Face tokenizer folder that gives the same ids.

The folder is written as plain JSON: it loads with `AutoTokenizer` of transformers 4 and 5 alike, offline, without
remote code. The ids of a BPE model are those of SentencePiece. Of a unigram model they are, except where several ways
to cut a text are equally likely to within the 32-bit sums of SentencePiece (3 of 3,217 documents): there the fast
tokenizer, with 64-bit sums, is the reference.

`tokenizer_class` must stay PreTrainedTokenizerFast: under LlamaTokenizer, transformers 5 takes only the vocabulary and
the merges from tokenizer.json and builds the rest anew, with a space before the text and without NFC.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from iberlm.core.files import publish, write_json, write_text
from iberlm.tokenizer.special import BOS, EOS, LITERAL_SPACE, PAD, SPACE, UNKNOWN, special_tokens

SENTENCEPIECE_FILE = "tokenizer.model"
"""The name by which other programs, llama.cpp's converter among them, look for it."""
UNREACHABLE_SCORE = -10_000.0
"""Log probability of special and byte pieces in a unigram model: they may not be found in text that spells them. Their
spelling is ASCII, whose characters all have pieces, and the few that spell one are together likelier than this."""


def export_sentencepiece(model: bytes, folder: Path, *, model_max_length: int) -> None:
    """Write a SentencePiece model: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and `tokenizer.model`."""
    proto = model_pb2.ModelProto.FromString(model)
    with publish(folder / SENTENCEPIECE_FILE) as temporary:
        temporary.write_bytes(model)
    special = [piece.piece for piece in proto.pieces if piece.type in (piece.UNKNOWN, piece.CONTROL)]
    _write(fast_tokenizer(proto).to_str(pretty=True), special, folder, model_max_length)


def export_byte_level(tokenizer_json: str, folder: Path, *, reserved_tokens: int, model_max_length: int) -> None:
    """Write a byte-level tokenizer: `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`."""
    _write(Tokenizer.from_str(tokenizer_json).to_str(pretty=True), special_tokens(reserved_tokens), folder, model_max_length)


def _write(tokenizer_json: str, special: list[str], folder: Path, model_max_length: int) -> None:
    write_text(folder / "tokenizer.json", tokenizer_json)
    named = {"unk_token": UNKNOWN, "bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "additional_special_tokens": special[4:]}
    write_json(folder / "special_tokens_map.json", named)
    write_json(folder / "tokenizer_config.json", named | _settings(special, model_max_length))


def _settings(special: list[str], model_max_length: int) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "added_tokens_decoder": {str(index): {"content": token, **plain} for index, token in enumerate(special)},
        "chat_template": files("iberlm.tokenizer").joinpath("chat_template.jinja").read_text(encoding="utf-8"),
    }


def fast_tokenizer(proto: Any) -> Tokenizer:
    """The fast tokenizer of a SentencePiece `ModelProto`: NFC, no space before the text, <s> before and no </s> after it."""
    tokenizer = Tokenizer(_bpe(proto) if proto.trainer_spec.model_type == model_pb2.TrainerSpec.BPE else _unigram(proto))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(SPACE, LITERAL_SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Replace(LITERAL_SPACE, SPACE)]  # a lone U+FDD0 may be bytes
    )
    special = [piece.piece for piece in proto.pieces if piece.type in (piece.UNKNOWN, piece.CONTROL)]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def _bpe(proto: Any) -> models.BPE:
    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    mergeable = {piece.piece for piece in proto.pieces if piece.type == piece.NORMAL}
    merges: list[tuple[str, str]] = []
    for piece in sorted((piece for piece in proto.pieces if piece.type == piece.NORMAL), key=lambda piece: -piece.score):
        merges += _splits(piece.piece, mergeable)
    return models.BPE(vocab=vocabulary, merges=merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)


def _splits(piece: str, mergeable: set[str]) -> list[tuple[str, str]]:
    """The pairs that merge into `piece`, in the order that makes ranked merges agree with SentencePiece.

    SentencePiece gives all pairs of a piece one score and takes the leftmost in the text; merges have a rank each. The
    two disagree only where A B C stand in a row and AB = BC = `piece`: there `piece` has the period len(A), so pairs
    whose first part is a period of the piece come first.
    """
    cuts = sorted(range(1, len(piece)), key=lambda cut: (piece[cut:] != piece[:-cut], cut))
    return [(piece[:cut], piece[cut:]) for cut in cuts if piece[:cut] in mergeable and piece[cut:] in mergeable]


def _unigram(proto: Any) -> models.Unigram:
    scores = [(piece.piece, piece.score if piece.type == piece.NORMAL else UNREACHABLE_SCORE) for piece in proto.pieces]
    return models.Unigram(scores, unk_id=proto.trainer_spec.unk_id, byte_fallback=True)
