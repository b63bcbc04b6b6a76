"""Where recipes, data cards, evaluation tasks and cluster profiles are: in the clone, or inside the installed wheel."""

import os
from functools import cache
from pathlib import Path

from iberlm.core.errors import ResourceError

CARDS = "IBERLM_CARDS"
"""Variable with folders of the user's data cards, ':' apart."""
KINDS = ("recipes", "data_cards", "eval", "slurm")


@cache
def resource_dir(kind: str) -> Path:
    """Absolute folder of one kind of resource (`recipes`, `data_cards`, `eval`, `slurm`).

    A clone (editable installation) is recognised by its `pyproject.toml` two folders above the package; a wheel carries
    the same folders under `iberlm/_resources`. Raises `ResourceError` if neither is there.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of resource '{kind}': choose among {', '.join(KINDS)}")
    package = Path(__file__).resolve().parents[1]
    clone = package.parents[1]
    for folder in (package / "_resources" / kind, clone / kind):
        if folder.is_dir() and (folder.parent.name == "_resources" or (clone / "pyproject.toml").is_file()):
            return folder
    raise ResourceError(f"the folder '{kind}' of IberLM was found neither in {package / '_resources'} nor in {clone}")


def user_card_dirs() -> list[Path]:
    """Folders of the user's own data cards: `data_cards/` below the current folder and those in IBERLM_CARDS (':' apart)."""
    listed = [Path(entry) for entry in os.environ.get(CARDS, "").split(os.pathsep) if entry]
    return [folder.resolve() for folder in (Path("data_cards"), *listed) if folder.is_dir()]
