"""What is known of every evaluation task: what it measures, its data and their licence, chance, items. No lm-eval, no torch.

Three kinds of tasks: our own (`eval/LANG/FAMILY_LANG.yaml`, which say these things in their metadata), tasks of lm-eval's,
and those of lm-eval's that do not run any more and that we restate (`eval/LANG/NAME_iberlm.yaml`). Of the last two
`eval/catalogue/LANG.yml` says what their files do not, and `eval/catalogue/datasets.yml` the licences of their data.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, NAMES, file_safe
from iberlm.core.resources import resource_dir
from iberlm.evaluate.review import is_reviewed
from iberlm.evaluate.tasks import lm_eval_tasks, read_file

MEASURES = (
    "reading", "commonsense", "inference", "paraphrase", "maths", "acceptability", "summarisation", "exams", "truthfulness", "translation", "bias",
    "instructions", "knowledge", "variety", "fidelity", "language_modelling",
)  # fmt: skip
"""What a task can measure."""
MIN_ITEMS = 100
"""Tasks with fewer items are shown, not averaged."""
OWN, UPSTREAM, REPAIRED = "own", "upstream", "repaired"
UNKNOWN = "unknown"
"""Licence of data that nobody has stated one for."""
REPAIRED_ENDING = "_iberlm"
"""Of the names of our versions of lm-eval's tasks: a result under lm-eval's own name is always of lm-eval's own task."""


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What is known of a task without running it."""

    name: str
    family: str
    """The row of a table that has languages for columns; at most one task a family and language."""
    language: str
    measures: str
    """One of `MEASURES`."""
    file: Path
    """The task's YAML, ours or lm-eval's."""
    source: str
    """own, upstream (lm-eval's), or repaired (ours in place of one of lm-eval's)."""
    dataset: str
    """OWNER/NAME on the hub; `iberlm` for our own items."""
    dataset_config: str = ""
    revision: str = ""
    """Commit; empty where `iberlm prefetch` pins the newest."""
    licence: str
    """SPDX identifier or LicenseRef-...; `unknown` where none is stated."""
    licence_evidence: str = ""
    """URL or file that says so."""
    num_fewshot: int = 0
    """Solved examples with which the benchmark's authors report it."""
    metric: str
    """The primary one: `acc`, or `exact_match,flexible-extract` with a filter."""
    chance: float | None = None
    """Value of guessing; None where it is not known beforehand."""
    best: float | None = 1.0
    """The highest value there can be."""
    items: int | None = None
    """Of the split that is asked."""
    cluster: str = ""
    """Key of the record that items of one passage share; empty where each stands alone."""
    group: str = ""
    """Key of the record by which results are also split (phenomenon, subject)."""
    synthetic: bool = False
    human_reviewed: bool | None = None
    """Whether people have approved every item; None where nobody has said, as of most data of others."""
    raw_text: bool = False
    """Whether texts are scored as they are: such a task never goes into a chat template."""
    repairs: str = ""
    """Name of the task of lm-eval's that it stands for."""
    checked: str = ""
    """How sure licence and items are: `file`, `page` or `memory`."""
    remark: str = ""


@cache
def catalogue() -> dict[str, TaskFacts]:
    """Facts of every known task by name, our own first, in the order of languages and files.

    Raises `ConfigError` for an entry that is wrong: two tasks of one name, or of one family in a language.
    """
    found: dict[str, TaskFacts] = {}
    cells: dict[tuple[str, str], str] = {}
    for facts in [*_own_tasks(), *_listed_tasks()]:
        cell = (facts.family, facts.language)
        if facts.name in found:
            raise ConfigError(f"{facts.file}: there are two tasks '{facts.name}'; the other is {found[facts.name].file}")
        if cell in cells:
            raise ConfigError(f"{facts.file}: '{facts.name}' and '{cells[cell]}' are both of family '{facts.family}' in {facts.language}; name one anew")
        found[facts.name], cells[cell] = facts, facts.name
    return found


def task_facts(name: str, *, language: str = "", licences: Mapping[str, str] | None = None) -> TaskFacts:
    """Facts of a task of the catalogue, or of any of lm-eval's that `licences` (task: SPDX) names.

    `language` is that of a task that is not in the catalogue. Raises `ConfigError` for an unknown task and for one whose
    data have no known licence.
    """
    known, given = catalogue(), dict(licences or {})
    facts = known.get(name)
    if facts is None and name in given and language:
        facts = _uncatalogued(name, language)
    if facts is None:
        raise ConfigError(f"suite: unknown task '{name}'; {_hint(name)}")
    if name in given:
        facts = dataclasses.replace(facts, licence=given[name], licence_evidence="suite.licences")
    if facts.licence == UNKNOWN:
        raise ConfigError(
            f"suite: task without licence: nobody has stated one for the data of '{name}' ({facts.dataset}); add it to eval/catalogue/datasets.yml with "
            f"where it is stated, or name it: +suite.licences={{{name}: SPDX}}"
        )
    return facts


def own_families() -> dict[str, list[str]]:
    """Families of our own tasks and the languages that each has, both in a fixed order; found by their files alone."""
    found: dict[str, list[str]] = {}
    for language, path in _own_files():
        found.setdefault(_family(path, language), []).append(language)
    return found


def _own_files() -> list[tuple[str, Path]]:
    folders = [(language, resource_dir("eval") / file_safe(language)) for language in LANGUAGES]
    return [(language, path) for language, folder in folders for path in sorted(folder.glob(f"*_{file_safe(language)}.yaml"))]


def _family(path: Path, language: str) -> str:
    return path.stem.removesuffix(f"_{file_safe(language)}")


def _own_tasks() -> list[TaskFacts]:
    return [_own_facts(path, language) for language, path in _own_files()]


def _own_facts(path: Path, language: str) -> TaskFacts:
    settings, _ = read_file(path)
    metadata = settings.get("metadata") or {}
    if settings.get("task") != path.stem or metadata.get("language") != language:
        raise ConfigError(f"{path}: must be the task '{path.stem}' with metadata.language: {language}")
    _check_measures(str(metadata.get("measures")), f"{path}: metadata.measures")
    licence, evidence = _own_licence(path, metadata)
    return TaskFacts(
        name=path.stem,
        family=_family(path, language),
        language=language,
        measures=metadata["measures"],
        file=path,
        source=OWN,
        dataset="iberlm",
        licence=licence,
        licence_evidence=evidence,
        num_fewshot=int(settings.get("num_fewshot") or 0),
        metric=metadata.get("metric") or primary_metric(settings),
        chance=metadata.get("chance"),
        best=metadata.get("best", None if metadata["measures"] == "language_modelling" else 1.0),
        items=_own_items(path, language, metadata),
        cluster=metadata.get("cluster_field", ""),
        group=metadata.get("group_field", ""),
        synthetic=bool(metadata.get("synthetic", False)),
        human_reviewed=bool(metadata.get("human_reviewed", True)) or is_reviewed(path.stem),
        raw_text=bool(metadata.get("raw_text", False)),
        checked="file",
    )


def _own_licence(path: Path, metadata: dict[str, Any]) -> tuple[str, str]:
    if "licence" in metadata:
        return str(metadata["licence"]), path.name
    card = resource_dir("data_cards") / f"{metadata.get('card')}.yaml"
    return (str(read_file(card)[0]["licence"]["spdx"]), f"data_cards/{card.name}") if card.is_file() else (UNKNOWN, "")


def _own_items(path: Path, language: str, metadata: dict[str, Any]) -> int | None:
    if "items" in metadata:
        return int(metadata["items"])
    items = path.with_name(f"{_family(path, language)}.jsonl")
    return sum(1 for line in items.read_bytes().split(b"\n") if line) if items.is_file() else None


def primary_metric(settings: Mapping[str, Any]) -> str:
    """The first metric of a task's list, with the first filter where there is one other than lm-eval's `none`."""
    listed = settings.get("metric_list") or [{"metric": "acc" if settings.get("output_type") == "multiple_choice" else "exact_match"}]
    metric = str(listed[0]["metric"]).rpartition(".")[2]
    filters = settings.get("filter_list") or []
    return f"{metric},{filters[0]['name']}" if filters and filters[0]["name"] != "none" else metric


def _listed_tasks() -> list[TaskFacts]:
    datasets = dict(read_file(resource_dir("eval") / "catalogue" / "datasets.yml")[0])
    found = []
    for language in LANGUAGES:
        listing = resource_dir("eval") / "catalogue" / f"{file_safe(language)}.yml"
        for name, entry in (read_file(listing)[0] if listing.is_file() else {}).items():
            found.append(_listed_facts(name, entry, language, datasets, listing))
    return found


_ENTRY = {"shots": "num_fewshot", "config": "dataset_config"}
"""Shorter names in the catalogue's files."""


def _listed_facts(name: str, entry: dict[str, Any], language: str, datasets: dict[str, Any], listing: Path) -> TaskFacts:
    where = f"{listing.name}: {name}"
    fields = {_ENTRY.get(key, key): value for key, value in entry.items()}
    known = {field.name for field in dataclasses.fields(TaskFacts)}
    if unknown := sorted(set(fields) - known):
        raise ConfigError(f"{where}: unknown key '{unknown[0]}'; choose among {', '.join(sorted(known))}")
    if missing := [key for key in ("family", "measures", "dataset", "metric") if key not in fields]:
        raise ConfigError(f"{where}: '{missing[0]}' is missing")
    _check_measures(fields["measures"], where)
    if fields["dataset"] not in datasets:
        raise ConfigError(f"{where}: data set '{fields['dataset']}' is not in eval/catalogue/datasets.yml")
    data = datasets[fields["dataset"]]
    repaired = "repairs" in fields
    below = resource_dir("eval") / file_safe(language) / f"{name}.yaml" if repaired else lm_eval_tasks() / str(fields.pop("file", f"{name}.yaml"))
    common = {"revision": data.get("revision", ""), "licence": data["licence"], "licence_evidence": data.get("evidence", "")}
    checked = f"licence {data.get('checked', 'memory')}, items {fields.pop('checked', 'memory')}"
    return TaskFacts(**common | fields, name=name, language=language, file=below, source=REPAIRED if repaired else UPSTREAM, checked=checked)


def _check_measures(value: str, where: str) -> None:
    if value not in MEASURES:
        raise ConfigError(f"{where}: unknown value '{value}'; choose among {', '.join(MEASURES)}")


def _uncatalogued(name: str, language: str) -> TaskFacts:
    """A task of lm-eval's that only its file tells of."""
    path = find_upstream(name)
    if path is None:
        raise ConfigError(f"suite: unknown task '{name}': neither the catalogue nor lm-eval has it; {_hint(name)}")
    settings, _ = read_file(path)
    return TaskFacts(
        name=name, family=name, language=language, measures=UNKNOWN, file=path, source=UPSTREAM, dataset=str(settings.get("dataset_path", "")),
        dataset_config=str(settings.get("dataset_name") or ""), licence=UNKNOWN, num_fewshot=int(settings.get("num_fewshot") or 0),
        metric=primary_metric(settings), best=None, checked="file",
    )  # fmt: skip


_TASK_NAME = re.compile(rb"^[\"']?task[\"']?:[ \t]*[\"']?([^\"'#\n]*[^\"'#\s])", re.MULTILINE)


def find_upstream(name: str) -> Path | None:
    """The file of one of lm-eval's tasks by its name; None where there is none. The first question takes about a second."""
    return _upstream_files().get(name)


@cache
def _upstream_files() -> dict[str, Path]:
    """Files of lm-eval's tasks by name, by the text of the files alone: lm-eval's index parses them all, which takes ten times as long."""
    found: dict[str, Path] = {}
    for path in sorted(lm_eval_tasks().rglob("*.yaml"), key=Path.as_posix):
        if named := _TASK_NAME.search(path.read_bytes()):
            found.setdefault(named[1].decode(), path)
    return found


def _hint(name: str) -> str:
    known = catalogue()
    if stands := next((facts for facts in known.values() if facts.repairs == name), None):
        return f"lm-eval's task of this name does not run ({stands.remark}); '{stands.name}' asks the same"
    if name in {facts.family for facts in known.values()}:
        return "this is a family: name it in suite.tasks, with suite.languages"
    close = difflib.get_close_matches(name, known, 3, 0.6)
    matches = " or ".join(f"'{match}'" for match in close)
    hint = f"did you mean {matches}?" if close else "docs/reference/evaluation-tasks.md lists them"
    return f"{hint} (a task of lm-eval's that is not in the catalogue also needs its licence: +suite.licences={{{name}: SPDX}})"


_PAGE_HEAD = """# Evaluation tasks

Every task of the catalogue by language, written by `python -m iberlm.evaluate.catalogue`; a test compares this page with the catalogue.

- **family**: the row of a table that has languages for columns; what `suite.tasks` lists.
- **task**: its name in lm-evaluation-harness. In *italics* our own; with the ending `_iberlm` our version of one of lm-eval's that does not run
  any more, with the same prompts and scores; the others are lm-eval's, read where it is installed.
- **licence**: of the data, with where it is stated; † nobody has looked it up since it was noted. *unknown*: nobody has stated one. Such a
  task is in no suite of ours, and is asked only with `+suite.licences={TASK: SPDX}`.
- **shots**: solved examples with which the benchmark's authors report it (`num_fewshot=-1` takes these).
- **chance**: the value of guessing; without one the task is shown, not averaged.
- **items**: of the split that is asked; empty where it is known when the data are there. Tasks with fewer than LEAST are shown, not averaged.
- **revision**: the commit that is asked; where there is none `iberlm prefetch` pins the newest.
"""


def reference_page() -> str:
    """The page `docs/reference/evaluation-tasks.md`: a table a language."""
    sections = [_PAGE_HEAD.replace("LEAST", str(MIN_ITEMS))]
    heading = "| family | task | measures | data set | revision | licence | metric | shots | chance | items |\n|---|---|---|---|---|---|---|---|---|---|"
    for language in LANGUAGES:
        found = [facts for facts in catalogue().values() if facts.language == language]
        tasks = sorted(found, key=lambda facts: (MEASURES.index(facts.measures), facts.family))
        sections.append("\n".join([f"## {NAMES[language]} (`{language}`)\n", heading, *map(_page_row, tasks)]))
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _page_row(facts: TaskFacts) -> str:
    own = facts.source == OWN
    name = f"*`{facts.name}`*" if own else f"`{facts.name}`"
    if own:
        data = "own items" + (", synthetic" if facts.synthetic else "") + (", not reviewed" if facts.human_reviewed is False else "")
    else:
        data = f"[{facts.dataset}](https://huggingface.co/datasets/{facts.dataset})" + (f" {facts.dataset_config}" if facts.dataset_config else "")
    link = f"[{facts.licence}]({facts.licence_evidence})" if facts.licence_evidence.startswith("http") else facts.licence
    licence = f"*{UNKNOWN}*" if facts.licence == UNKNOWN else link + ("†" if facts.checked.startswith("licence memory") else "")
    chance = "" if facts.chance is None else f"{facts.chance:.3g}"
    items = "" if facts.items is None else f"{facts.items:,}"
    cells = [facts.family, name, facts.measures.replace("_", " "), data, facts.revision[:7], licence, facts.metric, str(facts.num_fewshot), chance, items]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(reference_page(), end="")
