"""One request to the Hugging Face libraries, in a process of its own: they read their folders and switches from the environment at import.

`python -m iberlm.launch.offline.hub` reads a request from standard input, as JSON, and prints the answer, or `{"error": KIND, "message": ...}`.
No code from a hub is run, and no pickle is read: models come as safetensors, data sets through the builders of the library.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iberlm.core.progress import say
from iberlm.launch.offline.rows import RowsError, stage

OFFLINE, UNREACHABLE, GATED, UNKNOWN, DISK, REFUSED, FAILED = "offline", "unreachable", "gated", "unknown", "disk", "refused", "failed"

SETTINGS = ["config.json", "generation_config.json", "*.safetensors.index.json", "LICENSE*", "README.md"]
TOKENIZER = ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.jinja", "*.model", "*.tiktoken", "tekken.json"]
WEIGHTS = ["*.safetensors"]
_VOCABULARIES = ("tokenizer.json", ".model", ".tiktoken", "tekken.json", "vocab.json", "vocab.txt")
_SPARE_BYTES = 64 << 20


class RequestError(Exception):
    """What the asking process is told."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def repository(name: str, revision: str, kind: str) -> dict[str, Any]:
    """Commit of a repository at a revision (empty: its main branch)."""
    from huggingface_hub import HfApi

    return {"commit": str(HfApi().repo_info(name, repo_type=kind, revision=revision or None).sha)}


def model(name: str, revision: str, tokenizer_only: bool) -> dict[str, Any]:
    """Download what a stage reads of a model: its folder in the cache, and the names of the files."""
    from huggingface_hub import hf_hub_download, snapshot_download

    repository(name, revision, "model")  # tells at once what is wrong; the calls below try again for half a minute
    chosen: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": [*SETTINGS, *TOKENIZER, *([] if tokenizer_only else WEIGHTS)],
        "ignore_patterns": ["*/*"],
    }
    planned = {entry.filename: entry for entry in snapshot_download(name, dry_run=True, **chosen)}
    if tokenizer_only and not any(file.endswith(_VOCABULARIES) for file in planned):
        raise RequestError(REFUSED, "has no file of a tokenizer that IberLM reads (tokenizer.json, *.model, *.tiktoken, tekken.json)")
    if not tokenizer_only:
        if "config.json" not in planned:
            raise RequestError(REFUSED, "has no config.json: it is no model that transformers reads")
        if not any(file.endswith(".safetensors") for file in planned):
            raise RequestError(REFUSED, "has no *.safetensors; other formats of weights can carry code and are not taken")
        if "auto_map" in json.loads(Path(hf_hub_download(name, "config.json", revision=revision)).read_text(encoding="utf-8")):
            raise RequestError(REFUSED, "needs Python code from its own repository (auto_map), which is never run; choose a model that transformers knows")
    wanted = [entry.file_size for entry in planned.values() if entry.will_download]
    say(f"prefetch: {name}: {len(wanted)} files to download, {sum(wanted):,} bytes")
    _check_space(sum(wanted))
    return {"folder": snapshot_download(name, **chosen), "files": sorted(planned)}


def _check_space(wanted: int) -> None:
    folder = Path(os.environ["HF_HUB_CACHE"])
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if wanted + _SPARE_BYTES * (wanted > _SPARE_BYTES) > free:
        raise RequestError(DISK, f"needs {wanted:,} bytes, and {free:,} are free")


ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {"repository": repository, "model": model, "stage": stage}


def explain(error: BaseException) -> tuple[str, str]:
    """(kind, message) of what these libraries raise: a dozen unrelated types, wrapped in one another."""
    from huggingface_hub import errors

    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__ or error
    text = " ".join(str(chain[0]).split())[:300]
    if isinstance(chain[0], RequestError):
        return chain[0].kind, text
    if isinstance(chain[0], RowsError):
        return REFUSED, text
    if any(isinstance(entry, OSError) and entry.errno in (errno.ENOSPC, errno.EDQUOT) for entry in chain) or "No space left" in text:
        return DISK, text
    names = {kind.__name__ for entry in chain for kind in type(entry).__mro__}
    modules = {type(entry).__module__.partition(".")[0] for entry in chain}
    if "OfflineModeIsEnabled" in names:
        return OFFLINE, text
    if "GatedRepoError" in names or "is a gated dataset" in text:
        return GATED, text
    statuses = {getattr(entry.response, "status_code", 0) for entry in chain if isinstance(entry, errors.HfHubHTTPError)}
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError", "DatasetNotFoundError"} or 404 in statuses:
        return UNKNOWN, text
    if names & {"ConnectionError", "TimeoutError", "LocalEntryNotFoundError", "HfHubHTTPError"} or modules & {"httpx", "httpx2", "httpcore", "httpcore2"}:
        return UNREACHABLE, text
    return FAILED, f"{type(chain[0]).__name__}: {text}"


def main() -> int:
    """Carry out one request."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they like: it belongs into the log
    request = json.load(sys.stdin)
    try:
        answer = ACTIONS[request.pop("action")](**request)
    except Exception as error:
        kind, message = explain(error)
        answer = {"error": kind, "message": message}
    json.dump(answer, answers)
    answers.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
