"""Which documents of a curate stage belong to which split and language."""

from pathlib import Path

from iberlm.core.languages import LANGUAGES, from_file_safe
from iberlm.core.manifest import Manifest

TRAIN, VALIDATION = "train", "validation"
SPLITS = (TRAIN, VALIDATION)


def split_files(curated: Manifest, split: str) -> dict[str, list[Path]]:
    """Documents files of a split by language tag: our languages first and in their order, then others by name.

    The name is `documents/SPLIT.LANG.parquet`, or `documents/SPLIT.LANG.ANYTHING.parquet` where a language has several.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(curated.paths(f"documents/{split}.", ".parquet")):
        found.setdefault(from_file_safe(path.name.split(".")[1]), []).append(path)
    order = [*(tag for tag in LANGUAGES if tag in found), *sorted(set(found) - set(LANGUAGES))]
    return {tag: found[tag] for tag in order}
