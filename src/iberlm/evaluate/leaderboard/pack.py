"""Data inside a page: JSON, compressed, as text that no HTML can be made of; the page unpacks it with the browser's own means."""

import base64
import gzip
import hashlib
import json
from typing import Any


def pack(value: Any) -> str:
    """Base64 of the compressed JSON; the same value gives the same text. NaN is not JSON and must not be in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode("ascii")


def script_policy(*scripts: str) -> str:
    """Content security policy of a page that may run these programs, and nothing else: no request of any kind leaves it."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
