"""The data card as a pydantic model: its fields, their types and their choices. What spans fields is in `rules`.

Unknown keys are refused everywhere. Descriptions become the mend of a message about a missing field.
"""

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

SCHEMA_VERSION = 1

Use = Literal["pretrain", "sft", "preference", "eval", "redistribute"]
USES: tuple[str, ...] = ("pretrain", "sft", "preference", "eval", "redistribute")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{2,63}$")]
Semver = Annotated[str, StringConstraints(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Email = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """Base of every mapping in a card: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class LanguageShare(Part):
    """One language of a data set and its share of it."""

    tag: Text = Field(description="a BCP 47 tag, e.g. ca-valencia")
    proportion: Share = Field(description="a share from 0 to 1; all shares sum to 1")
    basis: Literal["tokens", "bytes", "documents"] = Field(description="what the proportion counts: tokens, bytes or documents")
    script: str | None = None


class Upstream(Part):
    """Something that this data set was made from."""

    name: Text
    url: Text
    revision: Text = Field(description="a commit, a version or a date: what was taken")


class Evidence(Part):
    """How the licence is known, and since when."""

    kind: Literal["url", "file", "email", "contract"] = Field(description="url, file, email or contract")
    ref: Text = Field(description="the address, file name or reference number of the evidence")
    checked_on: date = Field(description="the day (YYYY-MM-DD) on which somebody last looked")


class Licence(Part):
    """Licence of the data, not of the code."""

    spdx: Text = Field(description="an SPDX expression, e.g. CC-BY-4.0")
    url: Text = Field(description="where the licence can be read")
    evidence: Evidence = Field(description="a mapping of kind, ref and checked_on")
    attribution: str | None = None
    share_alike: bool | None = None


class Tdm(Part):
    """Reservation of rights against text and data mining (Directive (EU) 2019/790, article 4)."""

    status: Literal["no_reservation", "honoured", "licence_overrides", "not_applicable"] = Field(
        description="no_reservation, honoured, licence_overrides or not_applicable"
    )
    protocols: list[Literal["robots.txt", "ai.txt", "tdmrep", "x-robots-tag", "terms", "registry"]] = []
    checked_on: date | None = None


class Crawl(Part):
    """How a crawled data set was collected."""

    crawlers: list[Text] = Field(min_length=1)
    user_agent: Text
    behaviour: Text = Field(description="rates, robots.txt handling, what was left out")
    from_: date = Field(alias="from")
    to: date
    domains_file: Text = Field(description="a file with the crawled domains and their sizes")


class Generator(Part):
    """A model that wrote synthetic data."""

    model: Text
    licence: Text = Field(description="licence or terms of the generator's output")
    url: str | None = None


class Synthetic(Part):
    """How synthetic data was made."""

    generators: list[Generator] = Field(min_length=1)
    method: Text = Field(description="prompting, selection and checks, in a few sentences")


class PersonalData(Part):
    """Personal data in the meaning of the GDPR (article 4), special categories in that of article 9."""

    present: Literal["none", "incidental", "systematic"] = Field(description="none, incidental or systematic")
    special_categories: bool = Field(description="true or false")
    legal_basis: str | None = None
    basis_ref: str | None = None
    dpia: str | None = None


class Pii(Part):
    """In which state personal data reaches training."""

    status: Literal["raw", "redacted", "pseudonymised", "not_needed"] = Field(description="raw, redacted, pseudonymised or not_needed")
    detectors: list[Text] = []
    report: str | None = None


class Dates(Part):
    """When the data was collected and published."""

    collected_from: date
    collected_to: date
    published: date | None = None


class Tokens(Part):
    """A token count and the tokenizer that it holds for."""

    count: Count
    tokenizer: Text


class DataFile(Part):
    """One file of a data set; `path` is relative to the folder that holds `data_cards/`."""

    path: Text
    sha256: Sha256 = Field(description="64 hexadecimal digits, as sha256sum prints them")
    bytes: Count
    documents: Count | None = None
    tokens: Tokens | None = None


class Source(Part):
    """Data that the toolkit fetches or carries itself, instead of a list of files."""

    kind: Literal["repository", "debian", "huggingface"] = Field(description="repository, debian or huggingface")
    paths: list[Text] = []
    packages: list[Text] = []
    dataset: str | None = None
    config_name: str | None = None
    revision: Commit | None = None


class Split(Part):
    """A named part of a data set: the files (or patterns) that make it up."""

    name: Literal["train", "validation", "test"] = Field(description="train, validation or test")
    files: list[Text] = Field(min_length=1)
    documents: Count


class Quality(Part):
    """What is known to be wrong with the data, and what was done to it before it came here."""

    known_issues: list[Text] = Field(description="a list of sentences, at least one: no data set is without issues", min_length=1)
    dedup: str | None = None
    filters: str | None = None
    human_reviewed: Share | None = None


class Maintainer(Part):
    """Who answers questions about the data set."""

    name: Text
    email: Email


class Takedown(Part):
    """Where to ask for removal, and how soon it is answered."""

    contact: Text = Field(description="an address for removal requests")
    sla_days: Annotated[int, Field(ge=1, le=30)] = Field(description="days until an answer, 1 to 30")


Register = Literal[
    "administrative", "legal", "parliamentary", "journalistic", "literary", "academic", "educational", "conversational", "web", "technical", "mixed"
]


class Card(Part):
    """A data card: one YAML file a data set."""

    schema_version: Literal[1] = Field(description="1")
    name: Name = Field(description="the file name without .yaml: small letters, digits, '-' and '_', 3 to 64 characters")
    title: Text
    description: Annotated[str, StringConstraints(strip_whitespace=True, min_length=80)] = Field(description="what the data is, at least 80 characters")
    version: Semver = Field(description="a semantic version, e.g. 1.0.0")
    citation: str | None = None
    languages: list[LanguageShare] = Field(description="a list of tag, proportion and basis", min_length=1)
    registers: list[Register] = Field(description="a list of registers, e.g. [administrative, technical]", min_length=1)
    modality: Literal["text", "code", "structure"] = Field(description="text, code or structure")
    source_type: Literal["public_dataset", "licensed_third_party", "private_third_party", "crawled", "user_data", "synthetic", "other"] = Field(
        description="public_dataset, licensed_third_party, private_third_party, crawled, user_data, synthetic or other"
    )
    upstream: list[Upstream] = []
    licence: Licence = Field(description="a mapping of spdx, url and evidence")
    tdm: Tdm = Field(description="a mapping with status")
    crawl: Crawl | None = None
    synthetic: Synthetic | None = None
    personal_data: PersonalData = Field(description="a mapping of present and special_categories")
    pii: Pii = Field(description="a mapping with status")
    dates: Dates = Field(description="a mapping of collected_from and collected_to")
    files: list[DataFile] = []
    source: Source | None = None
    splits: list[Split] = Field(description="a list of name, files and documents", min_length=1)
    quality: Quality = Field(description="a mapping with known_issues")
    permitted_uses: list[Use] = Field(description=f"a list out of {', '.join(USES)}", min_length=1)
    prohibited_uses: list[Text] = []
    maintainer: Maintainer = Field(description="a mapping of name and email")
    takedown: Takedown = Field(description="a mapping of contact and sla_days")
