"""What becomes of a span: kept, replaced by a tag, or replaced by a pseudonym of the same shape that can be nobody's.

Pseudonyms are drawn from a keyed hash (BLAKE2b) of the release key, the document and the value, so that a release is
reproducible to the byte, one value has one pseudonym within a document however it is written there, and no two documents
can be linked by theirs. Without the key a pseudonym cannot be led back to a value, not even by trying all values.
"""

import hashlib
from collections.abc import Iterable, Mapping

from iberlm.curate.pii.spans import KINDS, Span

POLICIES = ("keep", "tag", "pseudonym")
"""keep: the text stays. tag: <EMAIL>. pseudonym: an invented value in the same format."""


def redact(text: str, spans: Iterable[Span], policies: str | Mapping[str, str] = "tag", *, document: str = "", key: str = "") -> str:
    """The text with each span treated as `policies` says: one policy for all kinds, or one a kind (a kind that is not named is kept).

    `spans`: as `find` gives them, not overlapping. `document` (its id) and `key` (of the release, kept secret) matter for pseudonyms only.
    Raises `ValueError` for an unknown policy or kind, and for pseudonyms without a key.
    """
    by_kind = dict.fromkeys(KINDS, policies) if isinstance(policies, str) else dict(policies)
    _check(by_kind, key)
    pseudonyms = _Pseudonyms(document, key)
    pieces: list[str] = []
    position = 0
    for span in sorted(spans):
        policy = by_kind.get(span.kind, "keep")
        if policy == "keep":
            continue
        value = text[span.start : span.end]
        pieces += [text[position : span.start], f"<{span.kind.upper()}>" if policy == "tag" else pseudonyms.of(span.kind, value)]
        position = span.end
    return "".join([*pieces, text[position:]])


def _check(by_kind: Mapping[str, str], key: str) -> None:
    for kind, policy in by_kind.items():
        if kind not in KINDS:
            raise ValueError(f"unknown kind of personal data '{kind}'; choose among {', '.join(KINDS)}")
        if policy not in POLICIES:
            raise ValueError(f"unknown policy '{policy}' for {kind}; choose among {', '.join(POLICIES)}")
    if not key and "pseudonym" in by_kind.values():
        raise ValueError("pseudonyms need a key: without a secret, anyone could lead them back to the values by trying them all")


class _Pseudonyms:
    """The pseudonyms of one document, given out in the order of the text."""

    def __init__(self, document: str, key: str) -> None:
        self._document = document
        # BLAKE2b takes a key of at most 64 bytes; any key is brought to that length
        self._key = hashlib.blake2b(key.encode("utf-8", "surrogatepass")).digest()
        self._given: dict[tuple[str, str], int] = {}
        self._taken: dict[str, str] = {}

    def of(self, kind: str, value: str) -> str:
        """The pseudonym of a value, in the value's format."""
        # the generators load the numbering plans and stdnum
        from iberlm.curate.pii.pseudonyms import GENERATORS, canonical

        plain = canonical(kind, value)
        attempt = self._given.get((kind, plain), 0)
        while True:
            pseudonym = GENERATORS[kind](value, self._draw(kind, plain, attempt))
            written = f"{kind} {canonical(kind, pseudonym)}"
            # small ranges collide: of two values of one document the second takes its next draw; after many, they share
            if self._taken.setdefault(written, plain) == plain or attempt >= 100:
                self._given[kind, plain] = attempt
                return pseudonym
            attempt += 1

    def _draw(self, kind: str, plain: str, attempt: int) -> bytes:
        message = repr((self._document, kind, plain, attempt)).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(message, key=self._key).digest()
