"""Another model's tokenizer as it is: its files are copied, and what `tokenize` and `pretrain` ask of a tokenizer is looked at first.

Nothing is trained, and no id changes: what is tokenized with the result is what the model behind the base was trained on.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.files import publish
from iberlm.core.progress import say
from iberlm.tokenizer.extend import COPIED_FILES, COPIED_FOLDERS, OUTDATED_FILES, TOKENIZER_FILE, tokenizer_folder
from iberlm.tokenizer.gates import BYTES, COST, DEAD_PIECES, DETERMINISTIC, Verdict
from iberlm.tokenizer.load import LoadedTokenizer, load_tokenizer

SETTINGS_FILE = "tokenizer_config.json"
COMPANIONS = (*COPIED_FILES, *OUTDATED_FILES)
"""What is copied beside tokenizer.json: settings, special tokens, chat templates, and the same vocabulary in other formats, which stays right here."""
_ENDS = ("bos_token", "eos_token")
_SHOWN = 6
"""Special tokens that a message names."""


def keep(base: Path, folder: Path) -> LoadedTokenizer:
    """Copy the tokenizer in `base` into `folder`, byte for byte, and return it loaded. Weights and Python files are never copied.

    `base` is a Hugging Face folder with a tokenizer.json and a tokenizer_config.json that names two different special
    tokens, one to begin documents with and one to end them. Raises `ConfigError` that says what is missing and how to name
    it, also for a tokenizer that needs Python code of its own or whose ids have holes; `CorruptError` for a damaged file.
    """
    source = tokenizer_folder(base)
    tokenizer = load_tokenizer(source / TOKENIZER_FILE)
    settings = _settings(source)
    if "AutoTokenizer" in (settings.get("auto_map") or {}):
        raise ConfigError(
            f"{source / SETTINGS_FILE}: tokenizer.base: needs Python code from its own folder (auto_map), which is never run; "
            "if tokenizer.json says all, take auto_map out of it in a copy of the folder"
        )
    added = json.loads((source / TOKENIZER_FILE).read_text(encoding="utf-8")).get("added_tokens") or []
    _check_ids(source, added, tokenizer)
    _check_ends(source, settings, added, tokenizer)
    names = [TOKENIZER_FILE, *(name for name in COMPANIONS if (source / name).is_file())]
    names += [str(file.relative_to(source)) for place in COPIED_FOLDERS for file in sorted((source / place).rglob("*")) if file.is_file()]
    for name in names:
        with publish(folder / name) as temporary:
            shutil.copyfile(source / name, temporary)
    say(f"keep: the tokenizer of {source} with its {tokenizer.vocabulary_size:,} ids: {', '.join(names)}")
    return load_tokenizer(folder)


def verdicts(measured: dict[str, Verdict]) -> dict[str, Verdict]:
    """The verdicts of `gates.check`, with those on training replaced, since there was none, and mends that do not ask for another one."""
    changed = measured | {
        DEAD_PIECES: {"passed": True, "value": 0.0, "limit": None, "message": "no piece was learnt here: all are the base's, whose text is not at hand"},
        DETERMINISTIC: {"passed": True, "value": True, "limit": True, "message": "nothing was trained: the files are the base's, byte for byte"},
    }
    for name in (BYTES, COST):
        if changed[name]["passed"] is False:
            said = changed[name]["message"].rpartition("; ")[0]
            mend = f"add pieces with tokenizer.algorithm=extend, or train with this one all the same: pretrain waived_gates=[{name}]"
            changed[name] = changed[name] | {"message": f"{said}; {mend}"}
    return changed


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        example = '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}'
        raise ConfigError(f"{path}: tokenizer.base: there is no such file, which names the tokens that begin and end a document; write it, such as {example}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptError(f"{path}: cannot be read ({error}); copy or download it again") from error
    if not isinstance(value, dict):
        raise CorruptError(f"{path}: holds no settings, but {type(value).__name__}; copy or download it again")
    return value


def _check_ids(folder: Path, added: list[dict[str, Any]], tokenizer: LoadedTokenizer) -> None:
    """Raise `ConfigError` for added tokens that load with another id than is written, and for ids without a token, which a token store refuses."""
    path = folder / TOKENIZER_FILE
    loaded = Tokenizer.from_file(str(path))
    for token in added:
        if (found := loaded.token_to_id(token["content"])) != token["id"]:
            raise ConfigError(f"{path}: tokenizer.base: its added token '{token['content']}' has the id {token['id']}, but loads as {found}; mend the file")
    holes = sorted(set(range(tokenizer.vocabulary_size)) - set(loaded.get_vocab(with_added_tokens=True).values()))
    if holes:
        others = f" (nor {len(holes) - 1} others)" if len(holes) > 1 else ""
        raise ConfigError(
            f"{path}: tokenizer.base: no token has the id {holes[0]}{others}, and the largest id is {tokenizer.vocabulary_size - 1}; "
            "name each there, in added_tokens, as an unused special token"
        )


def _check_ends(folder: Path, settings: dict[str, Any], added: list[dict[str, Any]], tokenizer: LoadedTokenizer) -> None:
    """Raise `ConfigError` unless the settings name two different special tokens of the vocabulary that begin and end documents."""
    path, ids = folder / SETTINGS_FILE, []
    special = ", ".join([entry["content"] for entry in added if entry.get("special")][:_SHOWN]) or "none"
    rule = "documents begin with one token and end with another"
    for key in _ENDS:
        token = settings.get(key)
        token = token.get("content") if isinstance(token, dict) else token  # transformers writes either
        if not token:
            raise ConfigError(f'{path}: tokenizer.base: has no {key}; {rule}: name it there, "{key}": "TOKEN", a special token of tokenizer.json ({special})')
        found = [entry["id"] for entry in added if entry["content"] == token]
        if not found:
            raise ConfigError(f"{path}: tokenizer.base: {key} is '{token}', which is no added token of {TOKENIZER_FILE}; special tokens there: {special}")
        if any(found[0] in made for made in tokenizer.encode([token, f"a {token} b"])):
            raise ConfigError(f"{folder / TOKENIZER_FILE}: tokenizer.base: {key} '{token}' is found in text that spells it; mark it \"special\": true there")
        ids.append(found[0])
    if ids[0] == ids[1]:
        raise ConfigError(
            f"{path}: tokenizer.base: bos_token and eos_token are the same, '{token}'; {rule}: name another special token there as \"bos_token\" "
            f"({special}), or add one to {TOKENIZER_FILE} and give the model a row for it with `iberlm resize-embeddings`"
        )
