"""The part of a verb that a process is to do: of a cluster's job a share of the shards, or the stages up to one."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Scope:
    """The part of a verb that this process is to do; all of it when empty."""

    share: tuple[int, int] | None = None
    """(element, elements): only shards number element, element + elements, ... of the first map of the first stage that is not complete."""
    until: str = ""
    """The stage to end after; empty: the verb's last."""


class EnoughError(Exception):
    """Raised when the part that `Scope` names is done."""


_scope = Scope()


def scope() -> Scope:
    """The part that this process is to do."""
    return _scope


@contextlib.contextmanager
def within(part: Scope) -> Iterator[None]:
    """Inside, stages do no more than `part` and then raise `EnoughError`."""
    global _scope
    before, _scope = _scope, part
    try:
        yield
    finally:
        _scope = before
