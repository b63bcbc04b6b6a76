"""Settings of what computes the answers."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from iberlm.core.config import at_least, between, given, one_of
from iberlm.core.errors import ConfigError
from iberlm.core.stage import place

KINDS = ("transformers", "vllm", "openai")
ENDPOINTS = ("completions", "chat")


@dataclass(kw_only=True)
class BackendConfig:
    """What computes the answers (`backend`): a model in this process, or any server that speaks OpenAI's protocol.

    A server's answers belong to what it says of its model, to `model` and to `revision`: never to its address.
    """

    kind: str = "transformers"
    """transformers: the model in this process; vllm: the same by vLLM; openai: a server."""
    # of a server
    url: str = place("")
    """Root of the interface: http://localhost:8000/v1."""
    model: str = ""
    """Name of the model as the server lists it (`URL/models`)."""
    revision: str = ""
    """What tells these weights from others of the same name, as you know it: a commit of the hub, a checksum of the file."""
    endpoint: str = "completions"
    """completions: prompts as they are, or in the chat template of `tokenizer`; chat: the server puts them into its template."""
    tokenizer: str = place("")
    """Folder with the model's tokenizer, or OWNER/NAME@COMMIT: log-likelihoods need it. Its content is part of the model's key."""
    context_tokens: int = 0
    """Tokens that a prompt and its answer may have; 0: what the server says."""
    concurrent_requests: int = place(8)
    """Requests that the server is sent at once."""
    timeout_seconds: float = place(300.0)
    """Longest wait for one answer."""
    attempts: int = place(8)
    """How often a request is sent before the evaluation stops: the waits in between double from 0.1 s on, 13 s in all with 8."""
    key_variable: str = place("OPENAI_API_KEY")
    """Environment variable that holds the server's key; only its name is ever written anywhere."""
    # of vLLM
    tensor_parallel: int = place(1)
    """GPUs that share one copy of the model."""
    gpu_memory_share: float = place(0.9)
    """Share of each GPU's memory that vLLM takes; on a CPU, of the machine's memory."""
    eager: bool = place(False)
    """Without the compilation at the start: it starts sooner and answers slower."""

    def __post_init__(self) -> None:
        one_of("backend.kind", self.kind, KINDS)
        one_of("backend.endpoint", self.endpoint, ENDPOINTS)
        at_least("backend.context_tokens", self.context_tokens, 0)
        at_least("backend.concurrent_requests", self.concurrent_requests, 1)
        at_least("backend.attempts", self.attempts, 1)
        at_least("backend.tensor_parallel", self.tensor_parallel, 1)
        between("backend.gpu_memory_share", self.gpu_memory_share, 0.01, 1.0)
        if not self.timeout_seconds > 0:
            raise ConfigError(f"backend.timeout_seconds: {self.timeout_seconds:g} is too small; it must be above 0")
        if not self.key_variable.isidentifier():  # the value itself may have been given: it must not be repeated
            raise ConfigError("backend.key_variable: must be the name of an environment variable, such as OPENAI_API_KEY, not the key")
        server_only = {name: getattr(self, name) for name in ("url", "model", "revision", "tokenizer")}
        if self.kind == "openai":
            _check_url(self.url)
            given("backend.model", self.model)
            if not self.revision:
                raise ConfigError(
                    "backend.revision: must be given, since a server does not say which weights it has: a commit of the hub, a date, a checksum of the "
                    "file; answers of another revision are never taken for those of this one"
                )
        elif named := next((name for name, value in server_only.items() if value), ""):
            raise ConfigError(f"backend.{named}: belongs to backend.kind=openai, and this is '{self.kind}'")


def _check_url(url: str) -> None:
    given("backend.url", url)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"backend.url: '{url}' is no address of a server; write it like http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        # not repeated: there may be a password in it
        raise ConfigError("backend.url: must have neither a password nor '?' or '#'; the server's key belongs in the environment (backend.key_variable)")
    if parts.path.rstrip("/").endswith("completions"):
        raise ConfigError(f"backend.url: '{url}' is an endpoint; give the root of the interface, which mostly ends in /v1, and backend.endpoint")
