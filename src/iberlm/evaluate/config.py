"""Settings of `iberlm evaluate`."""

import difflib
import re
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

from iberlm.core.config import StageConfig, at_least, between, given, one_of
from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, check_language
from iberlm.core.resources import resource_dir
from iberlm.core.stage import place
from iberlm.evaluate.backends.config import BackendConfig
from iberlm.evaluate.catalogue import own_families
from iberlm.evaluate.suite import BITS_PER_BYTE, families, resolve
from iberlm.evaluate.tasks import read_file

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(kw_only=True)
class SuiteConfig:
    """What is asked (`suite=`): families of our own tasks in languages, and tasks that lm-eval brings."""

    name: str = "unnamed"
    """What results are filed under (`title`); the recipes have names, and a suite of your own should."""
    tasks: list[str] = field(default_factory=lambda: ["minimal_pairs", "reading", BITS_PER_BYTE])
    """Families: the files `eval/LANG/FAMILY_LANG.yaml`."""
    languages: list[str] = field(default_factory=lambda: list(LANGUAGES))
    """BCP 47 tags."""
    upstream: dict[str, list[str]] = field(default_factory=dict)
    """Names of further tasks by language, e.g. {eu: [belebele_eus_Latn]}: of the catalogue, or any of lm-eval's. A name that the
    catalogue does not have needs a licence below, and start-up takes some 15 s longer, in which lm-eval reads all its task files."""
    licences: dict[str, str] = field(default_factory=dict)
    """SPDX licences of the data of tasks that the catalogue has without one, or not at all: {some_task: CC-BY-4.0}; LicenseRef-NAME for others."""

    def __post_init__(self) -> None:
        if not self.tasks and not self.upstream:
            raise ConfigError("suite: has neither tasks nor upstream tasks")
        known = families()
        for name in self.tasks:
            _check_family(name, known)
        for key, tags in (("suite.languages", self.languages), ("suite.upstream", list(self.upstream))):
            for tag in tags:
                check_language(tag, key)
        if self.tasks:
            given("suite.languages", self.languages)
        upstream = [name for names in self.upstream.values() for name in names]
        for key, values in (("suite.tasks", self.tasks), ("suite.languages", self.languages), ("suite.upstream", upstream)):
            if repeated := sorted({value for value in values if values.count(value) > 1}):
                raise ConfigError(f"{key}: '{repeated[0]}' is listed twice")
        self.licences = {task: _checked_licence(task, licence) for task, licence in self.licences.items()}

    @property
    def title(self) -> str:
        """The name for results: with ` (changed)` where `recipes/suite/` has a suite of this name that asks other tasks."""
        recipe = suite_recipe(self.name) if self.name in suite_recipes() else self
        return self.name if set(resolve(recipe)[0]) == set(resolve(self)[0]) else f"{self.name} (changed)"


def suite_recipes() -> dict[str, Path]:
    """Files of the suites in `recipes/suite/` by name."""
    return {path.stem: path for path in sorted((resource_dir("recipes") / "suite").glob("*.yaml"))}


@cache
def suite_recipe(name: str) -> SuiteConfig:
    """The suite of `recipes/suite/NAME.yaml` as it stands there."""
    settings, _ = read_file(suite_recipes()[name])
    known = {entry.name for entry in fields(SuiteConfig)}
    return SuiteConfig(**{key: value for key, value in settings.items() if key in known})


@dataclass(kw_only=True)
class EvaluateConfig(StageConfig):
    """Settings of the stage `evaluate`.

    The model and the validation documents are places: what decides is the content of their files.
    """

    model_folder: str = place("")
    """Hugging Face model folder (safetensors, config.json, tokenizer files)."""
    validation: str = place("")
    """Folder with `validation.LANGSAFE.parquet` (or `documents/validation.LANGSAFE.parquet`); for `bits_per_byte`."""
    suite: SuiteConfig = field(default_factory=SuiteConfig)
    num_fewshot: int = 0
    """Solved examples before each question; tasks that allow none keep none. -1: as many as each task's authors report."""
    limit: int = 0
    """Items a task, for trying things out; 0 means all."""
    backend: BackendConfig = field(default_factory=BackendConfig)
    """What computes the answers."""
    batch_size: int = place(0)
    """Sequences a forward pass; 0: as many as `batch_tokens` hold."""
    batch_tokens: int = place(8192)
    """Tokens a forward pass, padding included: long questions come in small batches, short ones in large ones."""
    processes: int = place(1)
    """Copies of the model, one a GPU (on CPU one a process), that share the items of every task; 0: as many as GPUs are visible."""
    device: str = place("auto")
    """auto, cpu, cuda, cuda:N, or `spread`: one model over all the GPUs that are visible."""
    dtype: str = "auto"
    """Type of the weights; auto is the type that the model folder names."""
    seed: int = 1234
    """Of the choice of solved examples (the default is lm-eval's)."""
    chat_template: bool = False
    """Put questions in the model's chat template; tasks that score raw text never are."""
    store: str = place("")
    """Folder of the result store, which any number of models and runs share."""
    data_folder: str = place("")
    """Folder with the tasks' data that `iberlm prefetch` filled; empty: `cluster.bundle`."""
    contamination: str = place("")
    """Folder `decontaminate` of a curated corpus that was searched for the tasks' items: scores on what it does not hold stand beside the full ones."""
    contamination_share: float = 0.0
    """An item counts as clean when the corpus holds at most this share of the word sequences of each of its texts."""
    compare_with: str = place("")
    """Folder that another evaluation wrote (`out`): the two are compared item by item."""
    step: int = place(-1)
    """Training step of the checkpoint that is evaluated; -1 for what is none."""

    def __post_init__(self) -> None:
        if self.in_process:
            given("model_folder", self.model_folder)
        at_least("num_fewshot", self.num_fewshot, -1)
        at_least("limit", self.limit, 0)
        at_least("batch_size", self.batch_size, 0)
        at_least("batch_tokens", self.batch_tokens, 1)
        at_least("processes", self.processes, 0)
        at_least("step", self.step, -1)
        between("contamination_share", self.contamination_share, 0.0, 1.0)
        one_of("dtype", self.dtype, DTYPES)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|spread", self.device):
            raise ConfigError(f"device: unknown value '{self.device}'; choose among auto, cpu, cuda, cuda:N, spread")
        if BITS_PER_BYTE in self.suite.tasks and not self.validation:
            raise ConfigError(f"validation: must be given for the task '{BITS_PER_BYTE}': the 'curate' folder of a run")

    @property
    def in_process(self) -> bool:
        """Whether the model is a folder on this machine, and not behind a server."""
        return self.backend.kind != "openai"


def _check_family(name: str, known: dict[str, list[str]]) -> None:
    if name in known:
        return
    choices = f"choose among {', '.join(own_families())}, or a family of docs/reference/evaluation-tasks.md"
    close = difflib.get_close_matches(name, known, 3, 0.5)
    matches = " or ".join(f"'{match}'" for match in close)
    hint = f"did you mean {matches}?" if close else choices
    if any(name.startswith(f"{family}_") for family in known):
        hint = f"name the family and give suite.languages; {choices}"
    raise ConfigError(f"suite.tasks: unknown task '{name}'; {hint} (tasks of lm-eval itself go under suite.upstream)")


def _checked_licence(task: str, licence: str) -> str:
    """The licence without needless blanks."""
    from iberlm.cards.licences import problem_of  # brings pydantic: only when a licence is given

    expression = " ".join(str(licence or "").split())
    given(f"suite.licences.{task}", expression)
    if problem := problem_of(expression):
        message = "; ".join(problem)
        others = "" if "LicenseRef-NAME" in message else " (SPDX, or LicenseRef-NAME for what is not on its list)"
        raise ConfigError(f"suite.licences.{task}: {message}{others}")
    return expression
