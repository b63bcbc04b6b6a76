"""Rules that span the fields of a data card. Each is a pure function that yields findings; `RULES` is all of them."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

from iberlm.cards import licences
from iberlm.cards.problems import Finding
from iberlm.cards.schema import Card

MAX_EVIDENCE_AGE_DAYS = 365
PROPORTION_TOLERANCE = 0.01

Rule = Callable[[Card, Path, date], Iterator[Finding]]


def language_tags(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """Tags are valid BCP 47 in their shortest form. langcodes accepts 'val', which nobody here means."""
    import langcodes

    seen: set[str] = set()
    for position, language in enumerate(card.languages):
        tag, location = language.tag, ("languages", position, "tag")
        if tag.lower() == "val":
            yield Finding(location, "'val' is the Vehes language of Papua New Guinea", "for Valencian write 'ca-valencia'")
        elif tag.lower() == "va":
            yield Finding(location, "'va' is not a language", "for Valencian write 'ca-valencia'")
        elif not langcodes.tag_is_valid(tag.replace("_", "-")):
            yield Finding(location, f"'{tag}' is not a BCP 47 tag", "write one such as es, ca, ca-valencia, eu or gl")
        elif (standard := langcodes.standardize_tag(tag)) != tag:
            yield Finding(location, f"'{tag}' is not the BCP 47 spelling", f"write '{standard}'")
        if tag in seen:
            yield Finding(location, f"'{tag}' is listed twice", "give each language one entry")
        seen.add(tag)


def proportions(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """Shares sum to 1 and count the same thing."""
    total = sum(language.proportion for language in card.languages)
    if abs(total - 1) > PROPORTION_TOLERANCE:
        yield Finding(("languages",), f"the proportions sum to {total:.3f}", f"make them sum to 1 (within {PROPORTION_TOLERANCE})")
    bases = sorted({language.basis for language in card.languages})
    if len(bases) > 1:
        yield Finding(("languages",), f"the proportions count different things ({', '.join(bases)})", "use one basis for all languages")


def licence_expression(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """The licence is an SPDX expression; an own licence has its text beside."""
    location = ("licence", "spdx")
    if (found := licences.problem_of(card.licence.spdx)) is not None:
        yield Finding(location, *found)
        return
    for name in licences.own_licences(card.licence.spdx):
        places = [folder / "LICENSES" / f"{name}.txt" for folder in (path.parent, path.parent.parent)]
        if not any(place.is_file() for place in places):
            yield Finding(location, f"the text of '{name}' is nowhere", f"put it in {places[0]}")


def licence_evidence(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """Licences of data sets change: the evidence is looked at once a year."""
    checked, location = card.licence.evidence.checked_on, ("licence", "evidence", "checked_on")
    if checked > today + timedelta(days=1):  # where its writer is, the next day may have begun
        yield Finding(location, f"{checked} is in the future", "give the day on which the licence was checked")
    elif today - checked > timedelta(days=MAX_EVIDENCE_AGE_DAYS):
        yield Finding(location, f"the licence was last checked {(today - checked).days} days ago", "check it again and update the date", warning=True)


def licence_against_uses(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """NoDerivatives forbids curated copies and leaves training open to doubt; NonCommercial must be handed on."""
    spdx, location = card.licence.spdx, ("permitted_uses",)
    training = [use for use in card.permitted_uses if use in ("pretrain", "sft", "preference")]
    if licences.is_no_derivatives(spdx):
        for use in (*training, *(use for use in card.permitted_uses if use == "redistribute")):
            yield Finding(location, f"'{use}' against {spdx}, which permits no adaptations", f"remove '{use}' or get a licence that allows it")
    if licences.is_non_commercial(spdx):
        if "redistribute" in card.permitted_uses:
            yield Finding(location, f"'redistribute' against {spdx}: a released corpus could be used commercially", "remove 'redistribute'")
        if training and not any("commercial" in use.lower() for use in card.prohibited_uses):
            yield Finding(location, f"'{training[0]}' with {spdx} but no word on commercial use", "add 'commercial use' to prohibited_uses")


def origin(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """Crawled data say how they were crawled, synthetic data who wrote them."""
    if card.source_type == "crawled" and card.crawl is None:
        yield Finding(("crawl",), "is missing, and source_type is 'crawled'", "add crawlers, user_agent, behaviour, from, to and domains_file")
    if card.source_type == "synthetic" and card.synthetic is None:
        yield Finding(("synthetic",), "is missing, and source_type is 'synthetic'", "add generators and method")
    if card.crawl is not None:
        if data_path(path, card.crawl.domains_file) is None:
            yield Finding(("crawl", "domains_file"), f"'{card.crawl.domains_file}' does not exist", f"put the list of domains below {data_root(path)}")
        if card.crawl.from_ > card.crawl.to:
            yield Finding(("crawl", "to"), f"{card.crawl.to} is before from ({card.crawl.from_})", "swap them")


def personal_data(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """Personal data needs a legal basis (GDPR art. 6), special categories an impact assessment (art. 35)."""
    declared = card.personal_data
    if declared.present != "none" and not declared.legal_basis:
        yield Finding(("personal_data", "legal_basis"), f"is missing, and present is '{declared.present}'", "name the legal basis, e.g. legitimate_interest")
    if declared.special_categories and declared.present == "none":
        yield Finding(("personal_data", "special_categories"), "is true, but present is 'none'", "say whether personal data is there")
    if declared.special_categories and not declared.dpia:
        yield Finding(("personal_data", "dpia"), "is missing, and special_categories is true", "refer to the data protection impact assessment")


def raw_personal_data(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """Raw personal data is not pre-trained on: it cannot be taken out again."""
    if card.pii.status == "raw" and "pretrain" in card.permitted_uses:
        yield Finding(("pii", "status"), "'raw' against 'pretrain' in permitted_uses", "redact or pseudonymise the data, or remove 'pretrain'")
    if card.pii.status == "not_needed" and card.personal_data.present == "systematic":
        yield Finding(("pii", "status"), "'not_needed', but personal_data.present is 'systematic'", "redact or pseudonymise the data, or say 'raw'")


def dates(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """Collection ends after it begins, and not in the future."""
    if card.dates.collected_from > card.dates.collected_to:
        yield Finding(("dates", "collected_to"), f"{card.dates.collected_to} is before collected_from", "swap the dates")
    if card.dates.collected_to > today:
        yield Finding(("dates", "collected_to"), f"{card.dates.collected_to} is in the future", "give the day of the last collection")


def file_name(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """A card is found by its file name."""
    if path.suffix != ".yaml" or path.stem != card.name:
        yield Finding(("name",), f"'{card.name}' is not the file name '{path.name}'", f"rename the file to {card.name}.yaml or mend the name")


def files_or_source(card: Card, path: Path, today: date) -> Iterator[Finding]:
    """A card lists its files, or says where the toolkit gets them, pinned."""
    if not card.files and card.source is None:
        yield Finding(("files",), "is missing", "list path, sha256 and bytes of each file, or give a `source` that the toolkit fetches")
    if card.files and card.source is not None:
        yield Finding(("source",), "stands beside `files`", "keep one of the two")
    if card.source is None:
        return
    needed = {"repository": ("paths",), "debian": ("packages",), "huggingface": ("dataset", "revision")}[card.source.kind]
    for key in ("paths", "packages", "dataset", "config_name", "revision"):
        value = getattr(card.source, key)
        if key in needed and not value:
            yield Finding(("source", key), f"is missing, and kind is '{card.source.kind}'", "a commit of 40 digits" if key == "revision" else "add it")
        elif value and key not in needed and not (key == "config_name" and card.source.kind == "huggingface"):
            yield Finding(("source", key), f"does not go with kind '{card.source.kind}'", "remove it")


RULES: tuple[Rule, ...] = (
    file_name,
    language_tags,
    proportions,
    licence_expression,
    licence_evidence,
    licence_against_uses,
    origin,
    personal_data,
    raw_personal_data,
    dates,
    files_or_source,
)


def data_root(card_path: Path) -> Path:
    """Folder that a card's relative paths start from: the one that holds `data_cards/`, or else the card's own."""
    folder = card_path.absolute().parent
    return folder.parent if folder.name == "data_cards" else folder


def data_path(card_path: Path, name: str) -> Path | None:
    """A file that a card names, looked up below `data_root`, then below the current folder; None when it is not here."""
    for candidate in (data_root(card_path) / name, Path(name).absolute()):
        if candidate.is_file():
            return candidate
    return None
