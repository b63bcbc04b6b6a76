"""More pieces for an existing tokenizer: its own BPE training, continued on the words of our languages.

The words are normalised, cut and encoded as the base does it, and BPE goes on from the ids that come out. Every new
merge therefore joins tokens that the base really puts side by side, which pieces of a second, independent training do
not: many of those are never reached. This is the continued BPE training of Purason, Chizhov, Yamshchikov and Fishel,
"Teaching Old Tokenizers New Words" (2025, arXiv:2512.03989).

What holds of the result, for any text:

- The new merges rank behind those of the base and make nothing but new pieces. So inside a word the base's merges are
  finished before the first new one, and none of them can follow it: with every new piece spelt out in the base tokens
  that it stands for (`Extension.parts`), the encoding is the base's. Tokens become fewer or stay as many.
- A new piece is made in some word of the sample, hence reachable, also under `ignore_merges` (Llama 3), where a word
  that is in the vocabulary is taken whole: the merges make the same piece of it.
- A merge whose result is spelt like something that the base has already is left out, with all that was built on it:
  the base's own merges do not make that token there (it is special, a byte such as <0x0A>, or only taken whole), and a
  model that knows the base has not seen it there.

Two things stay as the base has them. A character that it spells with bytes through byte fallback is never joined,
since its decoder knows such bytes by their spelling. And its added tokens are found before the model sees the text, so
words are cut there too.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, trainers

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import write_text
from iberlm.core.progress import say
from iberlm.core.tokenizer_json import BYTE_PIECE, Spec, steps, without_prefix

TOKENIZER_FILE = "tokenizer.json"
COPIED_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json")
"""Of the base beside tokenizer.json: right as they are, since no id of the base changes."""
COPIED_FOLDERS = ("additional_chat_templates",)
OUTDATED_FILES = ("tokenizer.model", "sentencepiece.model", "spiece.model", "vocab.json", "merges.txt")
"""The same vocabulary in other formats: not copied, since they lack the new pieces."""

MIN_FREQUENCY = 2
"""Times that a pair must occur to become a piece: what occurs once is nothing learnt."""
MAX_WORD_CHARACTERS = 1_000
"""Longer words teach nothing and are left out: they are data, not language."""
MAX_WORDS_FED = 100_000_000
"""The trainer counts words itself, at some 0.7 microseconds each. Beyond this, counts are scaled down: see `_fed`."""

_FIRST_CODE_POINT = 0x10000  # the characters that stand for ids: from here on there are no surrogates
_MAX_IDS = 0x110000 - _FIRST_CODE_POINT
_BATCH = 10_000


@dataclass(frozen=True)
class Extension:
    """A tokenizer with the ids of its base and `added` pieces after them."""

    base: Path
    """Folder of the base's tokenizer.json."""
    base_size: int
    """Ids of the base, special ones and holes included: the first new piece has this id."""
    tokenizer_json: str
    added: list[str]
    """Spelling of the new pieces inside tokenizer.json, in the order of their ids."""
    parts: list[list[int]]
    """For each new piece the ids of the base that it stands for, two or more."""
    passed_over: int
    """Merges that were learnt and left out, because the base has their result or because they were built on such a one."""

    @property
    def vocabulary_size(self) -> int:
        """All ids."""
        return self.base_size + len(self.added)

    def write(self, folder: Path) -> None:
        """Write the tokenizer into `folder`: see `write_extended`."""
        write_extended(self.base, self.tokenizer_json, folder)


def write_extended(base: Path, tokenizer_json: str, folder: Path) -> None:
    """Write an extended tokenizer.json into `folder` and copy the base's settings, special tokens and chat templates beside it.

    Weights are never copied, nor the vocabulary in other formats (`OUTDATED_FILES`), which would disagree.
    """
    base = tokenizer_folder(base)
    write_text(folder / TOKENIZER_FILE, tokenizer_json)
    for name in COPIED_FILES:
        if (base / name).is_file():
            write_text(folder / name, (base / name).read_text(encoding="utf-8"))
    for name in COPIED_FOLDERS:
        if (base / name).is_dir():
            shutil.copytree(base / name, folder / name, dirs_exist_ok=True)
    if outdated := [name for name in OUTDATED_FILES if (base / name).is_file()]:
        say(f"extend: {', '.join(outdated)} of {base} not copied: only tokenizer.json has the new pieces")


def extend(base: Path, words: Mapping[str, int], *, vocabulary_size: int) -> Extension:
    """Continue the BPE training of the tokenizer in `base` on `words` until it has `vocabulary_size` ids.

    `base` is a folder with a tokenizer.json of the BPE kind, byte-level (GPT-2, Llama 3, Qwen) or with byte fallback
    (Llama 2, Mistral, Gemma, ours). `words` are distinct words with their counts, each with the spaces before it. The
    same base and words give the same bytes. Raises `ConfigError` for another kind of base and for a `vocabulary_size`
    that is not above the base's, `DataError` when the words do not hold so many pieces.
    """
    folder, spec = _read_base(base)
    base_size = max(_all_ids(spec)) + 1
    if vocabulary_size <= base_size:
        raise ConfigError(f"tokenizer.vocabulary_size: {vocabulary_size} must be above the {base_size} ids that the base {folder} has already")
    sequences = _encoded(spec, _pre_tokenised(spec, words))
    number = vocabulary_size - base_size
    say(f"extend: {number:,} pieces after the {base_size:,} ids of {folder}, from {len(sequences):,} words that the base cuts into several tokens")
    merges, passed_over = _learn(spec, sequences, number)
    if passed_over:
        say(f"extend: {passed_over:,} merges passed over: the base has their results as tokens that its own merges do not make, or they build on such")
    if len(merges) < number:
        raise DataError(
            f"tokenizer.vocabulary_size: {vocabulary_size} is too large for this text: {len(merges)} pieces can be learnt after the {base_size} of the base, "
            f"so at most {base_size + len(merges)}; set that or less, or add documents"
        )
    spelling = _spelling(spec)
    added = ["".join(spelling[index] for index in _ids(left + right)) for left, right in merges]
    pairs = [["".join(spelling[index] for index in _ids(part)) for part in pair] for pair in merges]
    text = _joined(spec, added, pairs, base_size)
    _check_special(folder, spec, text)
    return Extension(folder, base_size, text, added, [_ids(left + right) for left, right in merges], passed_over)


def expected_saving(base: Path, extended: Path, texts: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """By language, the share of the base's tokens that the extended tokenizer saves: 1 - tokens after / tokens before.

    `base` and `extended` are folders with a tokenizer.json. Texts that spell a special token count as text; BOS and EOS
    are not counted. A language without a token is left out.
    """
    before, after = (Tokenizer.from_file(str(tokenizer_folder(folder) / TOKENIZER_FILE)) for folder in (base, extended))
    before.encode_special_tokens = after.encode_special_tokens = True
    saving = {}
    for tag, documents in texts.items():
        counts = [0, 0]
        for batch in _batches(documents, 256):
            for which, tokenizer in enumerate((before, after)):
                counts[which] += sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
        if counts[0]:
            saving[tag] = round(1 - counts[1] / counts[0], 4)
    return saving


def tokenizer_folder(folder: Path) -> Path:
    """The folder that holds tokenizer.json: `folder` itself, or `tokenizer/` in the folder of a train-tokenizer stage."""
    for candidate in (folder, folder / "tokenizer"):
        if (candidate / TOKENIZER_FILE).is_file():
            return candidate
    raise ConfigError(
        f"tokenizer.base: no {TOKENIZER_FILE} in {folder}; give the folder of a Hugging Face tokenizer "
        "(one with tokenizer.model alone is converted by `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(OTHER)`)"
    )


def _read_base(base: Path) -> tuple[Path, Spec]:
    folder = tokenizer_folder(base)
    path = folder / TOKENIZER_FILE
    try:
        spec: Spec = json.loads(path.read_text(encoding="utf-8"))
        kind = spec["model"].get("type") or ("BPE" if "merges" in spec["model"] else "of no stated type")
        loaded = Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise CorruptError(f"{path}: cannot be read as a tokenizer ({error}); fetch it again") from error
    model = spec["model"]
    byte_level = any(step["type"] == "ByteLevel" for name in ("normalizer", "pre_tokenizer") for step in steps(spec.get(name)))
    wanted = "tokenizer.base must be BPE, byte-level (Llama 3, Qwen) or with byte fallback (Llama 2, Mistral)"
    if kind != "BPE":
        raise ConfigError(f"{path}: its model is {kind}, which has no merges to go on with; {wanted}")
    if not byte_level and not model.get("byte_fallback"):
        raise ConfigError(f"{path}: its model is BPE, but neither byte-level nor with byte fallback; {wanted}")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ConfigError(f"{path}: its pieces are marked by their place in the word (continuing_subword_prefix, end_of_word_suffix); {wanted}")
    if model.get("dropout"):
        raise ConfigError(f"{path}: it merges at random (dropout {model['dropout']}); set dropout to null there")
    for token in spec.get("added_tokens") or []:
        if (found := loaded.token_to_id(token["content"])) != token["id"]:
            raise ConfigError(f"{path}: its added token '{token['content']}' has the id {token['id']}, but loads as {found}; mend the file, then extend it")
    if max(_all_ids(spec)) >= _MAX_IDS:
        raise ConfigError(f"{path}: its largest id is {max(_all_ids(spec))}; ids below {_MAX_IDS} can be extended")
    return folder, spec


def _all_ids(spec: Spec) -> Iterator[int]:
    yield from spec["model"]["vocab"].values()
    yield from (token["id"] for token in spec.get("added_tokens") or [])


def _spelling(spec: Spec) -> dict[int, str]:
    return {index: piece for piece, index in spec["model"]["vocab"].items()}


def _pre_tokenised(spec: Spec, words: Mapping[str, int]) -> Counter[str]:
    """What the base's model is given of the words, with counts: normalised, cut at added tokens and by the pre-tokenizer."""
    # the vocabulary plays no part here, and parsing it would take most of the time
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    tokenizer = Tokenizer.from_str(json.dumps(without_prefix(spec) | {"model": empty, "added_tokens": [], "post_processor": None, "decoder": None}))
    normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    contents = sorted((token["content"] for token in spec.get("added_tokens") or []), key=len, reverse=True)
    added = re.compile("|".join(map(re.escape, contents))) if contents else None
    counts: Counter[str] = Counter()
    for word, count in words.items():
        if len(word) > MAX_WORD_CHARACTERS:
            continue
        for part in added.split(word) if added else (word,):
            text = normalise(part)
            for piece in (piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)) if tokenizer.pre_tokenizer else (text,):
                counts[piece] += count
    return counts


def _encoded(spec: Spec, pieces: Mapping[str, int]) -> dict[str, int]:
    """The base's ids of what it cuts into several tokens, each id as one character (`_ids` is the way back), with counts.

    Cut again at bytes of byte fallback and at unknown characters, which may not be joined.
    """
    model = spec["model"]
    bare = Tokenizer.from_str(json.dumps(spec | {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "added_tokens": []}))
    fallback = {index for piece, index in model["vocab"].items() if BYTE_PIECE.fullmatch(piece)} if model.get("byte_fallback") else set()
    barriers = fallback | {model["vocab"].get(model.get("unk_token"))} - {None}
    cut = re.compile(f"[{''.join(chr(_FIRST_CODE_POINT + index) for index in sorted(barriers))}]+") if barriers else None
    sequences: Counter[str] = Counter()
    for batch in _batches(pieces):
        for piece, encoding in zip(batch, bare.encode_batch_fast(batch, add_special_tokens=False), strict=True):
            if len(encoding.ids) > 1:
                characters = (np.asarray(encoding.ids, "<u4") + _FIRST_CODE_POINT).tobytes().decode("utf-32-le")
                for part in cut.split(characters) if cut else (characters,):
                    if len(part) > 1:
                        sequences[part] += pieces[piece]
    return sequences


def _ids(characters: str) -> list[int]:
    return [ord(character) - _FIRST_CODE_POINT for character in characters]


def _learn(spec: Spec, sequences: Mapping[str, int], number: int) -> tuple[list[tuple[str, str]], int]:
    """At most `number` merges of sequences, in the order in which they were learnt, and how many were passed over."""
    spelling = _spelling(spec)
    extra = 0
    while True:
        learnt = _train(sequences, number + extra)
        taken = set(spec["model"]["vocab"]) | {token["content"] for token in spec.get("added_tokens") or []}
        kept: list[tuple[str, str]] = []
        dropped: set[str] = set()
        for left, right in learnt[: number + extra]:
            spelt = "".join(spelling[index] for index in _ids(left + right))
            if left in dropped or right in dropped or spelt in taken or BYTE_PIECE.fullmatch(spelt):
                dropped.add(left + right)
            elif len(kept) < number:
                taken.add(spelt)
                kept.append((left, right))
        if len(kept) == number or len(learnt) < number + extra:
            return kept, len(dropped)
        extra = 2 * (extra + number - len(kept))


def _train(sequences: Mapping[str, int], number: int) -> list[tuple[str, str]]:
    """The first `number` merges of BPE over sequences of characters, or all there are."""
    alphabet = set(chain.from_iterable(sequences))
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + number, min_frequency=MIN_FREQUENCY, show_progress=False)
    tokenizer.train_from_iterator(_fed(sequences), trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _fed(sequences: Mapping[str, int]) -> Iterator[str]:
    """Each sequence as often as it counts: the trainer takes no counts.

    Where that is more than `MAX_WORDS_FED`, every so manieth of the sequence of all (in alphabetical order): the share of
    each sequence stays what it is to within one, and rare ones that are left out stand for each other.
    """
    total, before, fed = sum(sequences.values()), 0, 0
    step = max(total, MAX_WORDS_FED)
    for sequence in sorted(sequences):
        before += sequences[sequence]
        times = before * MAX_WORDS_FED // step if step > MAX_WORDS_FED else before
        yield from repeat(sequence, times - fed)
        fed = times


def _joined(spec: Spec, added: list[str], merges: list[list[str]], first_id: int) -> str:
    """The tokenizer.json with the new pieces and merges behind the old ones."""
    model = spec["model"]
    # tokenizers gives an added token that the vocabulary lacks the id after the vocabulary, whatever its file says: list it there
    vocabulary = model["vocab"] | {token["content"]: token["id"] for token in spec.get("added_tokens") or []}
    vocabulary |= {piece: first_id + index for index, piece in enumerate(added)}
    old: list[Any] = model["merges"]
    if old and isinstance(old[0], str) and not any(" " in piece for piece in added):
        new: list[Any] = [" ".join(pair) for pair in merges]  # the notation of older files is kept where it can say it
    else:
        old, new = [merge.split(" ") if isinstance(merge, str) else merge for merge in old], merges
    return json.dumps(spec | {"model": model | {"vocab": vocabulary, "merges": old + new}}, ensure_ascii=False, indent=2) + "\n"


def _check_special(folder: Path, spec: Spec, extended_json: str) -> None:
    """Raise `ConfigError` if plain text that spells a special token would become that token, now that the vocabulary lists it."""
    before, after = Tokenizer.from_file(str(folder / TOKENIZER_FILE)), Tokenizer.from_str(extended_json)
    before.encode_special_tokens = after.encode_special_tokens = True
    for token in spec.get("added_tokens") or []:
        made = [token["id"] in tokenizer.encode(token["content"], add_special_tokens=False).ids for tokenizer in (before, after)]
        if made == [False, True]:
            raise ConfigError(f"{folder}: its special token '{token['content']}' is a word of plain text and would be found there; rename it in the base")


def _batches(items: Iterable[str], size: int = _BATCH) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
