"""Which items of an evaluation the training corpus holds, and which texts of them it is searched for.

Curation and evaluation meet through files only: `write_items` writes the items of tasks, `iberlm curate` searches the corpus for them
(`decontaminate.evaluation`), and `seen_items` reads the `items.parquet` that it leaves, a row a text of an item.

An item is clean when every text of it that was looked for has at most the share `contamination_share` of its n-grams in the corpus. The
default, CONTAMINATION_SHARE, is that none has any: GPT-3's rule, with its 13 words in a row (Brown et al. 2020, arXiv 2005.14165, appendix
C). What is set apart too much makes the clean part smaller and its interval wider; what is set apart too little makes it false. Others allow
more: Llama 2 called a sample clean with fewer than 20 % of its tokens in matches (Touvron et al. 2023, arXiv 2307.09288, appendix A.6), PaLM
with fewer than 70 % of its 8-grams found (Chowdhery et al. 2022, arXiv 2204.02311, section 8), Llama 3 chose a share a task (Grattafiori et
al. 2024, arXiv 2407.21783, section 5.1.4).
"""

import base64
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import publish, sha256_file, sha256_json
from iberlm.core.manifest import find_manifest
from iberlm.core.stage import shown

CONTAMINATION_SHARE = 0.0
"""Of an item's n-grams: above it the item is not clean."""
SEARCHED = "items.parquet"
"""What `iberlm curate` leaves in RUN_DIR/decontaminate; its columns are told in iberlm.curate.decontaminate."""
REMOVING = ("drop", "cut")
"""Values of `select.contaminated` after which the training corpus holds nothing of what was found."""
_COLUMNS = ("suite", "item", "share_seen")
_SEARCH = "search the corpus for them: iberlm items suite=NAME --out FOLDER, then iberlm curate 'decontaminate.evaluation=[FOLDER]'"


def item_hash(doc: Mapping[str, Any]) -> str:
    """SHA-256 of a record in canonical JSON: the same whatever the order of its keys and the library that read it.

    Values that JSON has none for: NumPy's become plain numbers and lists, bytes base64, all else (dates) its text.
    """
    return sha256_json(_plain(doc))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is valid in JSON and not in UTF-8
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return _plain(value.tolist())
    return str(value)


@dataclass(frozen=True)
class Seen:
    """What a search of the training corpus found of the items of tasks."""

    folder: Path
    shares: dict[str, dict[str, float | None]]
    """By task and item: the highest share of a text's n-grams that the corpus holds; None where no text of the item can be looked for."""
    removed: str = ""
    """What curation did to documents with items (`drop` or `cut`), so that nothing of them is in the training corpus; empty: they were kept."""

    def searched(self, task: str) -> bool:
        """Whether the corpus was searched for items of this task."""
        return task in self.shares

    def share(self, task: str, item_hash: str, id: str | None) -> float | None:
        """0..1, the highest over the texts of an item; None: it was not looked for. Found by its hash, else by its own name."""
        items = self.shares.get(task, {})
        return items[item_hash] if item_hash in items else items.get(id or "")


def seen_items(folder: Path, tasks: Iterable[str]) -> Seen:
    """Read what the search that lies in `folder` (RUN_DIR/decontaminate) found of the items of `tasks`.

    The search is of the documents before the selection. Where the selection beside it (RUN_DIR/curate) read it and dropped the documents, or
    cut the passages, every item that was looked for has a share of 0. Tasks that were not searched for have no entry: `not_searched` says
    so. Raises `ConfigError` for a folder without items.parquet, and `DataError` for one that cannot be read.
    """
    path = _searched(folder)
    try:
        rows = pq.read_table(path, columns=[*_COLUMNS], filters=[("suite", "in", sorted(set(tasks)))]) if (tasks := list(tasks)) else None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as the items of a search ({error}); run iberlm curate again") from error
    removed = _removed(folder)
    shares: dict[str, dict[str, float | None]] = {}
    for task, item, share in zip(*(rows.column(name).to_pylist() for name in _COLUMNS), strict=True) if rows is not None else ():
        items = shares.setdefault(task, {})
        before = items.get(item)
        items[item] = before if share is None else 0.0 if removed else max(share, before or 0.0)
    return Seen(folder, shares, removed)


def search_fingerprint(folder: Path) -> list[str]:
    """What decides the clean scores, for the key of a stage: the search's items, and what was removed. Raises as `seen_items`."""
    return [sha256_file(_searched(folder)), _removed(folder)]


def _searched(folder: Path) -> Path:
    path = folder / SEARCHED
    if not path.is_file():
        below = folder / "decontaminate"
        hint = f"did you mean {shown(below)}?" if (below / SEARCHED).is_file() else f"give RUN_DIR/decontaminate of a finished search; to {_SEARCH}"
        raise ConfigError(f"contamination: {shown(folder)} has no {SEARCHED}; {hint}")
    return path


def _removed(folder: Path) -> str:
    """`drop` or `cut` where the selection beside the search read it and removed what it found."""
    try:
        search, selection = find_manifest(folder), find_manifest(folder.parent / "curate")
    except CorruptError as error:
        raise DataError(f"contamination: {error}") from error
    if search is None or selection is None or all(entry.get("key") != search.key for entry in selection.inputs):
        return ""
    handled = str(selection.config.get("contaminated"))
    return handled if handled in REMOVING else ""


def not_searched(seen: Seen, tasks: Iterable[str]) -> str:
    """A sentence on the tasks that the corpus was not searched for; empty when there is none."""
    left = sorted({task for task in tasks if not seen.searched(task)})
    if not left:
        return ""
    return f"contamination: {shown(seen.folder)} did not look for {', '.join(left)}: nothing is known of their items; to {_SEARCH}"


def shares_of(rows: Sequence[Mapping[str, Any]], seen: Seen) -> list[float | None]:
    """The column `seen` of item rows (`task`, `item_hash`, `id`)."""
    return [seen.share(row["task"], row["item_hash"], row["id"]) for row in rows]


def clean_mask(rows: Sequence[Mapping[str, Any]], seen: Seen, contamination_share: float = CONTAMINATION_SHARE) -> list[bool] | None:
    """Which item rows were looked for and are clean; None when none of them was looked for.

    An item that was not looked for (its texts are shorter than six words, or part of a template) is not counted as clean: nobody knows.
    """
    shares = shares_of(rows, seen)
    return None if all(share is None for share in shares) else [share is not None and share <= contamination_share for share in shares]


def write_items(folder: Path, task: str, docs: Iterable[tuple[Mapping[str, Any], Sequence[str]]]) -> int:
    """Publish FOLDER/TASK.jsonl, a line an item: `id`, its hash, and the texts of the record; returns the number of items.

    `docs`: records, each with what is asked of it as a model is given it (prompt, choices, target), which tells the texts of the question
    from addresses, licences and notes in the record. Equal records are one line.
    """
    lines: dict[str, str] = {}
    for doc, asked in docs:
        key = item_hash(doc)
        lines.setdefault(key, json.dumps({"id": key, **item_texts(doc, asked)}, ensure_ascii=False) + "\n")
    with publish(folder / f"{task}.jsonl") as temporary:
        temporary.write_text("".join(lines.values()), encoding="utf-8")
    return len(lines)


def asked_texts(task: Any, doc: Mapping[str, Any]) -> list[str]:
    """What an lm-eval task asks of a record: the prompt, the choices of a multiple choice, the targets, as far as they are texts."""
    parts = [task.doc_to_text(doc), task.doc_to_target(doc)]
    if task.OUTPUT_TYPE == "multiple_choice":
        parts += task.doc_to_choice(doc)
    listed = [entry for part in parts for entry in (part if isinstance(part, list | tuple) else [part])]
    return [entry for entry in listed if isinstance(entry, str) and entry]


def item_texts(doc: Mapping[str, Any], asked: Sequence[str]) -> dict[str, Any]:
    """The texts of a record that stand in what is asked, by its own keys, nested as in the record (null where one is left out).

    Texts are compared by their words: a template may change case and punctuation. Where none stands in it (a function has made the question
    out of something else), what is asked itself: `asked`, a list. A record's texts are better, since no passage of a corpus has a template's
    words around it.
    """
    shown_words = f" {' '.join(word for text in asked for word in _words(text))} "

    def kept(value: Any) -> Any:
        if isinstance(value, str):
            words = _words(value)
            return value if words and f" {' '.join(words)} " in shown_words else None
        if isinstance(value, Mapping):
            return {str(key): kept(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [kept(entry) for entry in value]
        return None

    plain: dict[str, Any] = _plain(doc)
    found = {key: text for key, value in plain.items() if key != "id" and any(_strings(text := kept(value)))}
    return found or {"asked": [_plain(text) for text in asked]}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _strings(entry)
