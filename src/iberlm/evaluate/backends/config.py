"""Settings of what computes the answers."""

from dataclasses import dataclass

from iberlm.core.config import one_of

KINDS = ("transformers", "vllm", "openai")


@dataclass(kw_only=True)
class BackendConfig:
    """What computes the answers (`backend`)."""

    kind: str = "transformers"
    """transformers: in this process; openai: a server with the OpenAI protocol; vllm."""
    url: str = ""
    model: str = ""
    revision: str = ""
    tokenizer: str = ""

    def __post_init__(self) -> None:
        one_of("backend.kind", self.kind, KINDS)
