"""Words for what curation counts: why documents are dropped, kinds of personal data, verdicts. What is not listed is spelled from its name."""

from iberlm.report.wording import line, spoken

REASONS: dict[str, tuple[str, str]] = {
    "removed": ("removed on request", "A request for removal or a block list names it."),
    "reserved": ("reserved by the page", "The page or its headers reserve its use for text and data mining or for training."),
    "robots": ("refused by robots.txt", "The robots file of its site refuses it to those who train models."),
    "language": ("other language", "Identified as none of the languages of the run."),
    "language_score": ("unsure language", "The identification is not sure enough."),
    "mixed_language": ("mixed languages", "Too much of it is surely in another language than the whole."),
    "too_short": ("too short", "Too few words to be a document."),
    "too_long": ("too long", "More words than any document: a dump or a list."),
    "placeholder": ("placeholder text", "Filler of a page that was never written, such as lorem ipsum."),
    "duplicate_lines": ("repeated lines", "Too many of its lines repeat another of its lines."),
    "duplicate_paragraphs": ("repeated paragraphs", "Too many of its paragraphs repeat another of its paragraphs."),
    "top_ngrams": ("one phrase dominates", "One phrase of 2 to 4 words makes up too much of it."),
    "duplicate_ngrams": ("repeated phrases", "Too much of it stands in phrases of 5 to 10 words that occurred before."),
    "stop_words": ("few function words", "Too few function words: it is not made of sentences."),
    "word_length": ("odd word length", "Its mean word length is not that of the language."),
    "alpha_words": ("few words with letters", "Tables, code or numbers."),
    "symbols": ("many symbols", "Too many hash signs or ellipses for its words."),
    "bullets": ("nearly all bullets", "Nearly all of its lines are bullets."),
    "ellipses": ("broken-off lines", "Too many of its lines end in an ellipsis: teasers."),
    "line_punctuation": ("lines without full stops", "Too few of its lines end as sentences do: menus."),
    "short_lines": ("short lines", "Too many of its lines have a few words: menus and lists."),
    "new_lines": ("many line breaks", "Too many line breaks for its words: lists."),
    "curly_brackets": ("curly brackets", "Code or a template."),
    "policy_lines": ("notices", "Too many of its lines speak of cookies, JavaScript or terms of use."),
    "quality": ("low quality score", "The quality classifier of the run scores it below the limit."),
    "contaminated": ("evaluation items", "It holds texts of an evaluation's items."),
    "little_left": ("little left", "The passages that were cut leave too little of it."),
    "url_duplicate": ("older copy of an address", "A newer document of the same address and language is kept."),
    "duplicate": ("same text", "Another document with the same words is kept."),
    "near_duplicate": ("near duplicate", "A better or longer document that is nearly the same is kept."),
}
"""Reasons of the selection: (name, meaning)."""

KINDS = {
    "email": "E-mail address",
    "credentials": "Credentials in an address",
    "ip": "IP address",
    "phone": "Telephone number",
    "dni": "DNI",
    "nie": "NIE",
    "cif": "CIF",
    "nuss": "Social Security number",
    "iban": "IBAN",
    "ccc": "CCC (bank account)",
    "card": "Payment card",
    "passport": "Passport",
    "health_card": "Health card",
    "plate": "Number plate",
    "cadastre": "Cadastral reference",
    "gps": "Position",
}
"""Kinds of personal data."""

VERDICTS = {
    "allowed": "Allowed",
    "disallowed": "Refused",
    "no_file": "No robots file",
    "unparsable": "Answer not understood",
    "no_url": "No address",
}
"""Verdicts of robots files."""


def reason_name(reason: str) -> str:
    """A reason in words: those of extraction keep what tells quarantine from what was passed over."""
    return REASONS[reason][0] if reason in REASONS else spoken(reason)


def reason_meaning(reason: str) -> str:
    """One sentence on a reason, empty for one that is not known."""
    return REASONS[reason][1] if reason in REASONS else ""


def kind_name(kind: str) -> str:
    """A kind of personal data in words."""
    return KINDS.get(kind) or spoken(kind).capitalize()


def agent_name(agent: str) -> str:
    """To whom a robots file refuses a page."""
    return {"*": "everyone (*)", "content-signal": "training, by a Content-Signal or Content-Usage line"}.get(agent) or line(agent)
