"""The chat template of a model folder, as engines other than transformers read it."""

import json
import re
from pathlib import Path

from iberlm.core.errors import CorruptError

_GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


def read_chat_template(folder: Path) -> str | None:
    """The template in `chat_template.jinja`, or else in tokenizer_config.json (of several, the one named default); None when there is none."""
    alone, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if alone.is_file():
        return alone.read_text(encoding="utf-8")
    if not config.is_file():
        return None
    template = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    if isinstance(template, list):
        template = next((entry.get("template") for entry in template if isinstance(entry, dict) and entry.get("name") == "default"), None)
    if template is not None and not isinstance(template, str):
        raise CorruptError(f"{config}: chat_template is neither a text nor a list of named texts")
    return template


def portable(template: str) -> str:
    """The template without `{% generation %}` blocks: they mark answers for training, and only transformers knows the tag.

    Each becomes a block of a condition that always holds, so that the white space around it is cut as before.
    """
    return _GENERATION.sub(lambda found: f"{{%{found[1]} {'endif' if found[2] else 'if true'} {found[3]}%}}", template)
