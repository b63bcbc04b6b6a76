"""The five languages, their neighbours, and the one place that knows their file-safe spelling.

Tags are BCP 47. `ca-valencia` is registered as the variant `valencia` of `ca`; 'val' is another language (Vehes, of
Papua New Guinea) and 'va' is not a language at all, so both are refused with the mend.
"""

from iberlm.core.errors import ConfigError

LANGUAGES = ("es", "ca", "ca-valencia", "eu", "gl")
"""The languages that IberLM trains for, in the order of every table."""

NEIGHBOURS = ("pt", "fr", "it", "oc", "ast", "an", "en")
"""Languages that live beside ours in the same sources: identified so that they can be told apart, and dropped."""

UNDETERMINED = "und"
"""BCP 47 tag of a text whose language could not be told."""

NAMES = {
    "es": "Spanish",
    "ca": "Catalan",
    "ca-valencia": "Valencian",
    "eu": "Basque",
    "gl": "Galician",
    "pt": "Portuguese",
    "fr": "French",
    "it": "Italian",
    "oc": "Occitan",
    "ast": "Asturian",
    "an": "Aragonese",
    "en": "English",
    UNDETERMINED: "undetermined",
}

_MENDS = {
    "val": "'val' is the Vehes language of Papua New Guinea; for Valencian write 'ca-valencia'",
    "va": "'va' is not a language; for Valencian write 'ca-valencia'",
    "ca_valencia": "this is the spelling for file names; the tag is 'ca-valencia'",
    "eus": "write 'eu'",
    "baq": "write 'eu'",
    "spa": "write 'es'",
    "cat": "write 'ca'",
    "glg": "write 'gl'",
    "cast": "write 'es'",
}


def check_language(tag: str, where: str = "language", *, among: tuple[str, ...] = LANGUAGES) -> str:
    """Return `tag` if it is one of `among`; raise `ConfigError` naming `where`, the value and the choices otherwise."""
    if tag in among:
        return tag
    mend = _MENDS.get(tag.lower()) or f"choose among {', '.join(among)}"
    raise ConfigError(f"{where}: unknown language '{tag}': {mend}")


def file_safe(tag: str) -> str:
    """Spelling of a tag for file names, task names and configuration keys: 'ca-valencia' -> 'ca_valencia'."""
    return tag.replace("-", "_")


def from_file_safe(name: str) -> str:
    """Inverse of `file_safe`: 'ca_valencia' -> 'ca-valencia'."""
    return name.replace("_", "-")
