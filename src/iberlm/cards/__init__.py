"""Data cards: what a data set is, where it comes from, under which licence, and what it may be used for."""

from iberlm.cards.load import check_card, find_card, load_card, require
from iberlm.cards.schema import USES, Card

__all__ = ["USES", "Card", "check_card", "find_card", "load_card", "require"]
