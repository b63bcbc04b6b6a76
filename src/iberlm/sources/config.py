"""Settings of `iberlm fetch`: a corpus is a set of named sources, each of one kind and under one data card."""

import re
from dataclasses import dataclass, field, fields

from iberlm.core.config import StageConfig, at_least, given, one_of
from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, NEIGHBOURS, UNDETERMINED, check_language

FORMATS = ("jsonl", "parquet", "text", "html", "gettext", "docbook", "man", "warc", "wet", "wiki")
"""Formats that extraction reads; each but parquet may be compressed (.gz, .bz2, .zst), web archives in .gz, .zst and .lz4."""

KINDS = {
    "sample": frozenset[str](),
    "path": frozenset({"path", "format", "text_field", "id_field", "language", "languages"}),
    "huggingface": frozenset({"dataset", "config_name", "revision", "split", "text_field", "id_field", "language", "max_documents"}),
    "debian": frozenset({"packages", "include", "language", "languages"}),
}
"""Kinds of sources and the keys that each of them understands, beside `kind` and `card`."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(kw_only=True)
class SourceConfig:
    """One source. It is flat: OmegaConf knows no unions; keys that do not go with `kind` are refused by `check`."""

    kind: str = ""
    """sample, path, huggingface or debian."""
    card: str = ""
    """Data card that covers the source; it must permit 'pretrain'."""
    language: str = ""
    """What the source says its language is; empty when it says nothing."""
    languages: dict[str, str] = field(default_factory=dict)
    """Path pattern -> language, for sources in several; the first that matches holds, before `language`."""
    path: str = ""
    """A file, a folder (all files below it) or a glob pattern (`**` for any depth)."""
    format: str = ""
    """jsonl, parquet, text, html, gettext, docbook, man, warc, wet or wiki; empty to go by file name, then by content."""
    text_field: str = "text"
    id_field: str = "id"
    dataset: str = ""
    """Name on the hub, or a local folder that begins with '/', './' or '../'."""
    config_name: str = ""
    revision: str = ""
    """Commit of a hub data set: 40 hexadecimal digits, never a branch."""
    split: str = "train"
    max_documents: int = 0
    """Rows to take; 0 means all."""
    packages: list[str] = field(default_factory=list)
    """Debian packages: 'name', 'name=version' or './file.deb'."""
    include: list[str] = field(default_factory=list)
    """Patterns of paths inside the packages (no leading '/'); '*' matches '/' too."""

    @property
    def is_local_dataset(self) -> bool:
        """Whether `dataset` is a folder on this machine."""
        return self.dataset.startswith(("/", "./", "../"))

    def check(self, key: str) -> None:
        """Raise `ConfigError` for the first setting that is wrong; `key` is where this source stands in the recipe."""
        one_of(f"{key}.kind", self.kind, KINDS)
        given(f"{key}.card", self.card)
        self._refuse_foreign_keys(key)
        if self.format:
            one_of(f"{key}.format", self.format, FORMATS)
        known = (*LANGUAGES, *NEIGHBOURS, UNDETERMINED)
        if self.language:
            check_language(self.language, f"{key}.language", among=known)
        for pattern, tag in self.languages.items():
            check_language(tag, f"{key}.languages['{pattern}']", among=known)
        if self.kind == "path":
            given(f"{key}.path", self.path)
        elif self.kind == "huggingface":
            self._check_huggingface(key)
        elif self.kind == "debian":
            given(f"{key}.packages", self.packages)
            given(f"{key}.include", self.include)
            for package in self.packages:
                if not re.fullmatch(r"(\.{0,2}/.*\.deb)|[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?", package):
                    raise ConfigError(f"{key}.packages: '{package}' is no package; write 'name', 'name=version' or './file.deb'")

    def _check_huggingface(self, key: str) -> None:
        given(f"{key}.dataset", self.dataset)
        given(f"{key}.split", self.split)
        given(f"{key}.text_field", self.text_field)
        at_least(f"{key}.max_documents", self.max_documents, 0)
        if self.is_local_dataset:
            if self.revision:
                raise ConfigError(f"{key}.revision: '{self.revision}' with the local folder '{self.dataset}': a folder has no revision; remove it")
        elif not _COMMIT.fullmatch(self.revision):
            raise ConfigError(
                f"{key}.revision: '{self.revision}' is not a commit; pin the data set by its 40 hexadecimal digits "
                f"(a branch such as 'main' can change under you): see 'History' among the files of {self.dataset} on the hub"
            )

    def _refuse_foreign_keys(self, key: str) -> None:
        default = SourceConfig()
        for entry in fields(self):
            if entry.name in ("kind", "card") or entry.name in KINDS[self.kind]:
                continue
            if getattr(self, entry.name) != getattr(default, entry.name):
                choices = ", ".join(sorted(KINDS[self.kind])) or "only kind and card"
                raise ConfigError(f"{key}.{entry.name}: does not go with kind '{self.kind}', which understands {choices}; remove it")


@dataclass(kw_only=True)
class CorpusConfig:
    """A corpus: sources by name, fetched in the order of their names."""

    name: str = ""
    sources: dict[str, SourceConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, source in self.sources.items():
            if not _NAME.fullmatch(name):
                raise ConfigError(f"corpus.sources: '{name}' is no name for a source; use small letters, digits, '_', '.' and '-'")
            source.check(f"corpus.sources.{name}")


@dataclass(kw_only=True)
class FetchConfig(StageConfig):
    """Settings of the fetch stage."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
