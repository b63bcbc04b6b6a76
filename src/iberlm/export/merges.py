"""Ranked merges of a Hugging Face BPE as scores of pieces, where that says the same.

SentencePiece, and llama.cpp after it, joins the two neighbours whose union has the best score, the leftmost of equals. Hugging Face
joins the pair with the lowest rank. Both come to the same when every pair of pieces that makes a piece is a merge, and the merges of
a piece stand together. That holds for a SentencePiece model, and no longer when merges were added to it.
"""

from collections.abc import Sequence
from typing import Any


def read_merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs in the order of their ranks, of the `model` in a tokenizer.json; older files write a pair as one string."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def obstacle(merges: Sequence[tuple[str, str]], pieces: set[str]) -> str:
    """Why scores cannot say what the ranks say, with an example; empty when they can. `pieces` are those that may be merged."""
    cuts: dict[str, set[int]] = {}
    last = ""
    for left, right in merges:
        piece = left + right
        if piece != last and piece in cuts:
            return f"the merges that make '{piece}' do not stand together"
        cuts.setdefault(piece, set()).add(len(left))
        last = piece
    for piece in sorted(pieces):
        if len(piece) > 1 and not pieces.issuperset(piece):
            return f"a character of the piece '{piece}' has no piece of its own"
        possible = {cut for cut in range(1, len(piece)) if piece[:cut] in pieces and piece[cut:] in pieces}
        if absent := possible - cuts.get(piece, set()):
            cut = min(absent)
            return f"'{piece[:cut]}' and '{piece[cut:]}' are pieces, and so is their union, but no merge makes it of them"
    return ""


def overlap(merges: Sequence[tuple[str, str]]) -> str:
    """A piece of which two copies may overlap in a text (A B C with AB = BC), and the ranks prefer the right one; empty when there is none.

    Scores prefer the left one there, as SentencePiece does.
    """
    rank: dict[tuple[str, str], int] = {}
    for number, pair in enumerate(merges):
        rank.setdefault(pair, number)
    for left, right in rank:
        piece = left + right
        tail = piece[len(right) :]
        if not piece.startswith(right) or (len(right) < len(left) and piece.startswith(tail)):  # the second: both overlap, the shorter goes first
            continue
        if rank.get((right, tail), len(rank)) < rank[left, right]:
            return piece
    return ""


def scores(merges: Sequence[tuple[str, str]], tokens: Sequence[str], pieces: set[str], other: float) -> list[float]:
    """Scores of `tokens`: minus the order in which pieces are first made, as SentencePiece numbers them; `other` for what is no piece."""
    order = {piece: -float(number) for number, piece in enumerate(dict.fromkeys(left + right for left, right in merges))}
    for token in tokens:
        if token in pieces:
            order.setdefault(token, -float(len(order)))
    return [order[token] if token in pieces else other for token in tokens]
