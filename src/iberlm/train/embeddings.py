"""Another tokenizer for a model: embeddings of equal pieces are copied, the others begin as the mean of their old pieces.

That serves both ways of adapting a model to our languages. A tokenizer that was *extended* keeps its ids, and a new
piece begins where the sum of its parts was (Gee et al., "Fast Vocabulary Transfer", 2022, arXiv:2402.09977). A tokenizer
that was *replaced* keeps the rows of the pieces that both have; FLOR-6.3B, made of BLOOM so, gave all others the mean of
all rows (Hewitt, "Initializing New Word Embeddings", 2021), which is left here for what the old tokenizer cannot spell.

Weights are read from and written to safetensors tensor by tensor. Only the tensors with one row an id are ever in
memory, so the size of the model does not matter.
"""

import contextlib
import copy
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.files import TEMPORARY_SUFFIX, disk_errors, fsync, write_json
from iberlm.core.progress import say
from iberlm.train.vocabulary import TOKENIZER_FILE, Vocabulary, read_vocabulary
from iberlm.train.weights import Entry, read_json, read_shards, write_weights

TOKENIZER_FILES = (
    *(TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("tokenizer.model", "sentencepiece.model", "spiece.model", "chat_template.jinja", "chat_template.json"),
)
"""Files that belong to a tokenizer: none of the old ones is kept beside the new ones."""
CHAT_TEMPLATES = "additional_chat_templates"
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
_ID_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "sequence_bias", "forced_decoder_ids")
_CHUNK_ROWS = 4_096  # of float32 at a time, some 100 MB
_FLOATS = ("F64", "F32", "F16", "BF16")

SAME_BYTES, SAME_SPECIAL, SAME_ROLE, PIECES, ALL = "same bytes", "same special token", "same role", "pieces", "all rows"


@dataclass(frozen=True)
class Sources:
    """Where the rows of the new tensors come from."""

    copied: np.ndarray[Any, np.dtype[np.int64]]
    """int64[rows]: the old row that each new one is a copy of, or -1."""
    means: dict[int, list[int]]
    """New row -> the old rows whose mean it is. A row that is in neither is the mean of all old rows that have a token."""
    known: np.ndarray[Any, np.dtype[np.int64]]
    """Old rows that have a token."""
    reasons: Counter[str]
    """Rows by reason."""


def resize_embeddings(model: Path, tokenizer: Path, out: Path, *, pad_to_multiple: int = 1) -> dict[str, Any]:
    """Write the model in the Hugging Face folder `model` with the tokenizer of the folder `tokenizer` into the folder `out`.

    The new tensors have one row for each id of the new tokenizer (its highest id plus one, rounded up to a multiple of
    `pad_to_multiple`); rows by which the old ones were padded are dropped. Means are taken in float32, the dtype stays.
    All other weights are copied byte for byte. `config.json` and `generation_config.json` get the new size and ids.

    Returns {"rows", "rows_before", "copied", "mean", "overall", "reasons": {reason: rows}, "tensors": [names]}. Raises
    `ConfigError` for a folder that is no such model and for an `out` with something in it, `CorruptError` for damaged files.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already and is not an empty folder; choose another one")
    settings = read_json(model / "config.json", "give the folder of a Hugging Face model")
    shards = read_shards(model)
    tokenizer = tokenizer / "tokenizer" if not (tokenizer / TOKENIZER_FILE).exists() and (tokenizer / "tokenizer").is_dir() else tokenizer
    old, new = read_vocabulary(model), read_vocabulary(tokenizer)
    config = _configuration(model)
    rows = -(-new.size // pad_to_multiple) * pad_to_multiple
    tensors = _tensors_with_a_row_an_id(model, config, shards)
    sources = plan(old, new, config.vocab_size, rows)
    summary = _summary(sources, config.vocab_size, list(tensors))
    _say_plan(old, sources, summary)
    temporary = out.with_name(f".{out.name}{TEMPORARY_SUFFIX}")
    try:
        with disk_errors(out):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            shapes = {name: [rows, *entry.shape[1:]] for name, entry in tensors.items()}
            write_weights(model, temporary, shards, shapes, lambda tensor: _rows(tensor, sources))
            _write_settings(model, temporary, settings | {"vocab_size": rows}, old, new)
            _copy_files(model, tokenizer, temporary)
            temporary.replace(out)
            fsync(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{out}: {rows} rows, {summary['copied']} copied, {summary['mean']} the mean of their old pieces, {summary['overall']} the mean of all rows")
    return summary


def plan(old: Vocabulary, new: Vocabulary, rows_before: int, rows: int) -> Sources:
    """Find for each of `rows` new rows the old rows that it is made of; the old tensors have `rows_before`."""
    known = np.array([index for index in sorted({*old.text, *old.byte, *old.special}) if index < rows_before], np.int64)
    by_text, by_byte = ({data: index for index, data in sorted(part.items(), reverse=True) if index < rows_before} for part in (old.text, old.byte))
    by_special = {spelling: index for index, spelling in old.special.items() if index < rows_before}
    by_role = {index: old.roles[role] for role, index in reversed(new.roles.items()) if role in old.roles and old.roles[role] < rows_before}
    copied = np.full(rows, -1, np.int64)
    reasons: Counter[str] = Counter()
    unmatched: list[int] = []
    for index in range(new.size):
        spelling = new.special.get(index)
        data = spelling.encode() if spelling is not None else new.text.get(index, new.byte.get(index, b""))
        first, second = (by_byte, by_text) if index in new.byte else (by_text, by_byte)
        reason = SAME_BYTES if spelling is None else SAME_SPECIAL
        if spelling is not None:
            found = by_special.get(spelling, by_text.get(data))
            if found is None:
                found, reason = by_role.get(index), SAME_ROLE
        elif index < rows_before and data in (old.text.get(index), old.byte.get(index)):  # before others of the same bytes
            found = index
        else:
            found = first.get(data, second.get(data))
        if found is not None:
            copied[index] = found
            reasons[reason] += 1
        elif data and spelling is None:  # the letters of a special token say nothing of what it is for
            unmatched.append(index)
    spelt = old.spell([new.text.get(index, new.byte.get(index, b"")) for index in unmatched])
    within = ([part for part in parts if part < rows_before] for parts in spelt)
    means = {index: parts for index, parts in zip(unmatched, within, strict=True) if parts}
    reasons[PIECES] = len(means)
    reasons[ALL] = rows - int((copied >= 0).sum()) - len(means)
    return Sources(copied, means, known, reasons)


def _summary(sources: Sources, rows_before: int, names: list[str]) -> dict[str, Any]:
    reasons = sources.reasons
    return {
        "rows": len(sources.copied),
        "rows_before": rows_before,
        "copied": reasons[SAME_BYTES] + reasons[SAME_SPECIAL] + reasons[SAME_ROLE],
        "mean": reasons[PIECES],
        "overall": reasons[ALL],
        "reasons": dict(reasons),
        "tensors": names,
    }


def _say_plan(old: Vocabulary, sources: Sources, summary: dict[str, Any]) -> None:
    reasons, rows_before = sources.reasons, summary["rows_before"]
    say(f"resize-embeddings: {rows_before} rows become {summary['rows']} in {', '.join(summary['tensors'])}")
    say(f"resize-embeddings: copied: {', '.join(f'{name} {reasons[name]}' for name in (SAME_BYTES, SAME_SPECIAL, SAME_ROLE))}")
    if sources.means:
        parts = sum(map(len, sources.means.values())) / len(sources.means)
        say(f"resize-embeddings: mean of the old pieces: {reasons[PIECES]}, of {parts:.1f} pieces on average")
    say(f"resize-embeddings: mean of all rows (special tokens and pieces that the old tokenizer cannot write): {reasons[ALL]}")
    if rows_before > old.size:
        say(f"resize-embeddings: the {rows_before - old.size} rows beyond the old tokenizer's {old.size} ids are padding and are dropped")
    if rows_before < old.size:
        say(f"resize-embeddings: {old.size - rows_before} ids of the old tokenizer have no row, and count as unknown")


def _tensors_with_a_row_an_id(model: Path, config: Any, shards: Mapping[str, Mapping[str, Entry]]) -> dict[str, Entry]:
    """The tensors, as the files name them, whose first dimension is the vocabulary: embeddings, head, its bias.

    transformers builds the model without memory in two vocabulary sizes: the shapes that differ are those of these
    tensors, the names whose shapes do not differ are not theirs. (Names alone do not do: those of files and of versions
    of transformers differ.)
    """
    rows = config.vocab_size
    small, prefix = _shapes(model, config, rows)
    large, _ = _shapes(model, config, rows + 1)
    differing = {name: shape for name, shape in small.items() if large[name] != shape}
    if wrong := [name for name, shape in differing.items() if shape[0] != rows or large[name] != (rows + 1, *shape[1:])]:
        raise ConfigError(f"{model}: {wrong[0]} depends on the vocabulary in another way than by a row for each id; this model cannot be resized")
    fixed = {name.removeprefix(f"{prefix}.") for name in small if name not in differing}
    shapes = set(differing.values())
    entries = {name: entry for shard in shards.values() for name, entry in shard.items()}
    found = {name: entry for name, entry in sorted(entries.items()) if tuple(entry.shape) in shapes and name.removeprefix(f"{prefix}.") not in fixed}
    if wrong := [name for name, entry in found.items() if entry.dtype not in _FLOATS]:
        raise ConfigError(f"{model}: {wrong[0]} is of type {found[wrong[0]].dtype}; embeddings can be resized in {', '.join(_FLOATS)}")
    if len(found) < (1 if config.tie_word_embeddings else min(2, len(differing))):
        raise CorruptError(f"{model}: of the tensors with {rows} rows ({', '.join(differing)}) its files have {', '.join(found) or 'none'}; fetch it again")
    return found


def _configuration(model: Path) -> Any:
    """The model's configuration with all defaults. Raises `ConfigError` for one that is no single causal language model of transformers."""
    from transformers import AutoConfig

    with _quiet(model):
        config = AutoConfig.from_pretrained(str(model), local_files_only=True, trust_remote_code=False)
    if not isinstance(getattr(config, "vocab_size", None), int):
        raise ConfigError(f"{model / 'config.json'}: has no vocab_size of its own; models of several parts cannot be resized")
    return config


def _shapes(model: Path, config: Any, vocabulary_size: int) -> tuple[dict[str, tuple[int, ...]], str]:
    """Shapes of all tensors of the model with another vocabulary, and the prefix that files may leave out."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    config.vocab_size = vocabulary_size
    with _quiet(model), torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}, str(empty.base_model_prefix)


@contextlib.contextmanager
def _quiet(model: Path) -> Iterator[None]:
    """Let transformers say nothing, and turn what it raises into a `ConfigError`."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # whatever a model's constructor finds wrong with its configuration
        raise ConfigError(f"{model}: transformers cannot build a causal language model from its config.json ({error})") from error
    finally:
        logging.set_verbosity(verbosity)


def _rows(tensor: torch.Tensor, sources: Sources) -> torch.Tensor:
    """The new tensor, of the same dtype: rows copied, means of rows, and the mean of all rows."""
    made = torch.empty((len(sources.copied), *tensor.shape[1:]), dtype=tensor.dtype)
    total = torch.zeros(tensor.shape[1:], dtype=torch.float64)
    for start in range(0, len(sources.known), _CHUNK_ROWS):
        total += tensor[torch.from_numpy(sources.known[start : start + _CHUNK_ROWS])].double().sum(0)
    made[:] = (total / max(1, len(sources.known))).to(tensor.dtype)
    copied = np.flatnonzero(sources.copied >= 0)
    for start in range(0, len(copied), _CHUNK_ROWS):
        part = copied[start : start + _CHUNK_ROWS]
        made[torch.from_numpy(part)] = tensor[torch.from_numpy(sources.copied[part])]
    items = list(sources.means.items())
    for start in range(0, len(items), _CHUNK_ROWS):
        chunk = items[start : start + _CHUNK_ROWS]
        rows = tensor[torch.tensor([index for _, parts in chunk for index in parts])].float()
        lengths = torch.tensor([len(parts) for _, parts in chunk])
        made[torch.tensor([index for index, _ in chunk])] = torch.segment_reduce(rows, "mean", lengths=lengths).to(tensor.dtype)
    return made


# The small files: settings with ids, the tokenizer, licences and the like.


def _write_settings(model: Path, out: Path, settings: dict[str, Any], old: Vocabulary, new: Vocabulary) -> None:
    write_json(out / "config.json", _with_new_ids(settings, old, new))
    if (model / "generation_config.json").is_file():
        generation = _with_new_ids(read_json(model / "generation_config.json"), old, new)
        kept = all(new.text.get(index) == data for index, data in old.text.items())
        for key in () if kept else [key for key in _ID_LISTS if generation.get(key)]:
            say(f"resize-embeddings: generation_config.json: '{key}' names ids of the old tokenizer and is left out")
            del generation[key]
        write_json(out / "generation_config.json", generation)


def _with_new_ids(settings: dict[str, Any], old: Vocabulary, new: Vocabulary) -> dict[str, Any]:
    """Settings whose `..._token_id` keys name the new ids: what had a role in the old tokenizer, or has no namesake in the new
    one, becomes what has that role now; everything else becomes its namesake."""
    spelling = {spelt: index for index, spelt in new.special.items()}
    spelling |= {spelt: index for index, data in new.text.items() if (spelt := data.decode("utf-8", "replace")) in old.special.values()}
    changed = dict(settings)
    for key, value in settings.items():
        if not key.endswith("_token_id") or value is None:
            continue
        ids = [_moved(index, key.removesuffix("_token_id"), old, new, spelling) for index in (value if isinstance(value, list) else [value])]
        ids = list(dict.fromkeys(index for index in ids if index is not None))
        changed[key] = (ids or None) if isinstance(value, list) else ids[0] if ids else None
        if changed[key] is None:
            say(f"resize-embeddings: the new tokenizer has no token for '{key}' ({value}); it is unset")
    for role in ("bos", "eos", "pad"):
        if changed.get(f"{role}_token_id") is None and role in new.roles:
            changed[f"{role}_token_id"] = new.roles[role]
    return changed


def _moved(index: Any, role: str, old: Vocabulary, new: Vocabulary, spelling: dict[str, int]) -> int | None:
    if index == old.roles.get(role) and role in new.roles:
        return new.roles[role]
    if index in old.special and old.special[index] in spelling:
        return spelling[old.special[index]]
    if index in old.text and new.text.get(index) == old.text[index]:  # an ordinary piece in a special place, where ids did not change
        return int(index)
    return new.roles.get(role)


def _copy_files(model: Path, tokenizer: Path, out: Path) -> None:
    """The model's other files (licence, card), nothing of its old tokenizer nor weights in other formats, and the new tokenizer's files."""
    kept = [file for file in sorted(model.iterdir()) if file.name not in TOKENIZER_FILES and not file.name.endswith(_OTHER_WEIGHTS)]
    for file in [*kept, *(tokenizer / name for name in TOKENIZER_FILES)]:
        if file.is_file() and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)
            fsync(out / file.name)
    if (tokenizer / CHAT_TEMPLATES).is_dir():
        shutil.copytree(tokenizer / CHAT_TEMPLATES, out / CHAT_TEMPLATES)
    fsync(out)
