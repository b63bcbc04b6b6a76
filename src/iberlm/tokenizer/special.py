"""The special tokens of our tokenizers, in the order of their ids, and the characters that always get a piece."""

UNKNOWN, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"
"""Ids 0 to 3. <unk> is never produced: what has no piece is written as bytes."""

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
"""Ids 4 and 5: around each turn of a conversation, see `chat_template.jinja`."""

BYTE_PIECES = 256

_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_LETTERS = "áàâäãéèêëíìîïóòôöõúùûüçñýŀ"
_SIGNS = "·«»“”‘’¿¡…–—ºª€°"

SPACE, LITERAL_SPACE = "\u2581", "\ufdd0"
"""SentencePiece writes a space as U+2581, so a U+2581 of the text itself would come back as a space. It is carried as
U+FDD0, a code point that Unicode sets aside for internal use (a noncharacter) and that therefore occurs in no text."""

REQUIRED_CHARACTERS = _ASCII + _LETTERS + _LETTERS.upper() + _SIGNS
"""Get a piece however small the sample: ASCII, the letters of our languages (with the point of l·l) and their signs."""


def control_tokens(reserved: int) -> list[str]:
    """Special tokens after the first four: those of the chat template and `reserved` unused ones."""
    return [TURN_START, TURN_END, *(f"<|reserved_{index}|>" for index in range(reserved))]


def special_tokens(reserved: int) -> list[str]:
    """All special tokens in the order of their ids, from 0."""
    return [UNKNOWN, BOS, EOS, PAD, *control_tokens(reserved)]


def fixed_pieces(reserved: int) -> int:
    """Ids that every vocabulary has: special tokens, bytes, the space and the required characters."""
    return len(special_tokens(reserved)) + BYTE_PIECES + 1 + len(set(REQUIRED_CHARACTERS))
