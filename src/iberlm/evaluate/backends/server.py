"""What a server with OpenAI's interface says of the model that it serves: its key in the result store, and its context. Nothing heavy is imported."""

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from iberlm.core.cluster import ClusterConfig
from iberlm.core.errors import ConfigError, DataError, ResourceError
from iberlm.core.files import sha256_file, sha256_json
from iberlm.core.needs import local_folder
from iberlm.evaluate.backends.config import BackendConfig

_SAID = ("id", "root", "parent", "owned_by")
_MEASURED = ("vocab_type", "n_vocab", "n_embd", "n_params", "size", "ftype")
"""Of llama.cpp's `meta`. Times and permissions, which differ with every start of some servers, and the context are left out."""
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.jinja", "*.model")


@dataclass(frozen=True)
class Server:
    """A server's model."""

    model: str
    """Its key in the result store."""
    program: str
    """Who made the server, as it says itself: vllm, llamacpp, sglang; empty where it does not."""
    context_tokens: int | None
    """Tokens of prompt and answer, by the settings, else by the server."""


def ask_server(config: BackendConfig, cluster: ClusterConfig) -> Server:
    """Ask `URL/models` for the model.

    Raises `ResourceError` when no server answers, `ConfigError` when it has no model of that name or refuses the key, and `DataError`
    when what answers does not have this interface.
    """
    listed = _models(config)
    entry = next((entry for entry in listed if entry.get("id") == config.model), None)
    if entry is None:
        names = ", ".join(str(entry.get("id")) for entry in listed) or "none"
        raise ConfigError(f"backend.model: {config.url} has no model '{config.model}'; it has: {names}")
    meta = entry.get("meta")
    measured: dict[str, Any] = meta if isinstance(meta, dict) else {}
    said: dict[str, Any] = {name: entry.get(name) for name in _SAID} | {name: measured.get(name) for name in _MEASURED}
    context = config.context_tokens or next((value for value in (entry.get("max_model_len"), measured.get("n_ctx")) if isinstance(value, int)), None)
    # where a prompt is cut off decides what is answered
    who = {"said": said, "model": config.model, "revision": config.revision, "context": context}
    key = sha256_json(who | {"tokenizer": tokenizer_files(config, cluster)})
    return Server(key, str(entry.get("owned_by") or ""), context)


def tokenizer_files(config: BackendConfig, cluster: ClusterConfig) -> dict[str, str]:
    """SHA-256 by name of the tokenizer's files; empty without one. Raises `ConfigError` for a folder that has none."""
    if not config.tokenizer:
        return {}
    folder = local_folder(config.tokenizer, cluster)
    paths = sorted({path for pattern in _TOKENIZER_FILES for path in Path(folder).glob(pattern) if path.is_file()})
    if not paths:
        raise ConfigError(f"backend.tokenizer: {folder} has no tokenizer files; give the folder of the model that the server runs")
    return {path.name: sha256_file(path) for path in paths}


def headers(config: BackendConfig) -> dict[str, str]:
    """The key, if the environment has one."""
    key = os.environ.get(config.key_variable, "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def refusal(config: BackendConfig, status: int, body: str) -> Exception:
    """What a server's refusal of a request means to the user."""
    said = f"{config.url} says {status}" + (f": {' '.join(body.split())[:300]}" if body.strip() else "")
    if status in (401, 403):
        held = "holds a key that it does not take" if os.environ.get(config.key_variable) else "is not set"
        return ConfigError(f"{said}; the environment variable {config.key_variable} {held}")
    if status in (404, 405):
        return ConfigError(f"{said}; look at backend.url, backend.model ('{config.model}') and backend.endpoint ({config.endpoint})")
    if status == 429 or status >= 500:
        return ResourceError(f"{said}; look at the server's log. The same command goes on from what is answered")
    return DataError(f"{said}; the server does not take the request")


class _SameServer(urllib.request.HTTPRedirectHandler):
    """Follows no redirect to another server: the key would go with it."""

    def redirect_request(self, request: Any, *rest: Any) -> Any:
        address = rest[-1]
        before, after = urlsplit(request.full_url), urlsplit(address)
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            raise ConfigError(f"backend.url: {before.netloc} sends requests on to {after.scheme}://{after.netloc}; give the address of the server itself")
        return super().redirect_request(request, *rest)


def _models(config: BackendConfig) -> list[dict[str, Any]]:
    # proxies of the environment are meant for the internet: a prompt must not leave by one unasked
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _SameServer())
    request = urllib.request.Request(f"{config.url.rstrip('/')}/models", headers=headers(config))  # noqa: S310 - http or https by the settings
    try:
        with opener.open(request, timeout=min(config.timeout_seconds, 30.0)) as response:
            found = json.loads(response.read())["data"]
        return [dict(entry) for entry in found]
    except urllib.error.HTTPError as error:
        with error:
            raise refusal(config, error.code, error.read(2000).decode(errors="replace")) from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ResourceError(f"backend.url: no server answers at {config.url} ({reason}); start it, or mend the address") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"backend.url: what answers at {config.url}/models is no list of models; the address mostly ends in /v1") from None
