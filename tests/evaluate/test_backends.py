"""A server gives the answers that the model in this process gives, or a refusal that says what is wrong."""

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lm_eval.api.instance import Instance

from iberlm.core.errors import ConfigError, DataError, IberlmError, ResourceError
from iberlm.evaluate.backends import Backend, Slices, open_backend, openai, transformers, vllm
from iberlm.evaluate.backends.config import BackendConfig
from iberlm.evaluate.backends.server import ask_server
from iberlm.evaluate.config import EvaluateConfig, SuiteConfig
from iberlm.evaluate.evaluate import run
from iberlm.evaluate.quiet import quiet_harness
from iberlm.evaluate.store.journal import Journal
from iberlm.export.gguf import export_gguf
from tests.evaluate.local_server import NAME, TEMPLATE, LocalServer, serving
from tests.evaluate.tiny import CONTEXT_TOKENS, sample_texts

SUITE = SuiteConfig(tasks=["reading"], languages=["es"])
LONG = " ".join(sample_texts("gl")[0].split()[:60])
PAIRS = [
    ("La capital de Galicia es", " Santiago"),
    ("La capital de Galicia es", " Lugo"),
    ("La capital de Galicia es ", "Vigo"),  # the space belongs to the answer
    ("", "Bon dia"),
    ("<s>Egun on", ", zer moduz?"),
    (LONG[:60], " ñandú ¿qué tal?"),
]


@pytest.fixture(scope="module")
def server(model: Path) -> LocalServer:
    """The model whose tokenizer adds BOS."""
    return LocalServer(model)


@pytest.fixture
def url(server: LocalServer) -> Iterator[str]:
    with serving(server) as address:
        yield address
    fresh = {"key": "", "fault": "", "failing": [], "requests": [], "most_at_once": 0}
    server.__dict__.update(fresh)
    server.released.clear()
    server.entry |= {"id": NAME, "max_model_len": server.context_tokens, "root": NAME}


def server_config(url: str, tokenizer: Path | None, *, chat_template: bool = False, **changes: Any) -> EvaluateConfig:
    backend: dict[str, Any] = {"kind": "openai", "url": url, "model": NAME, "revision": "1", "tokenizer": str(tokenizer or ""), "attempts": 1} | changes
    return EvaluateConfig(suite=SUITE, backend=BackendConfig(**backend), chat_template=chat_template)


def requests_of(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=entry, idx=0, metadata=("t", number, 1)) for number, entry in enumerate(arguments)]


def ask(backend: Backend, kind: str, arguments: list[tuple[Any, ...]], folder: Path) -> list[Any]:
    """Through a journal of its own, as an evaluation asks."""
    with quiet_harness(), Journal(folder, f"{backend.name} {kind} {len(arguments)}") as journal:
        answers = backend.answer(kind, requests_of(kind, arguments), Slices(journal))
        journal.discard()
    return answers


def opened(config: EvaluateConfig) -> openai.ServerBackend:
    with quiet_harness():
        return openai.open_backend(config)


def in_process(folder: Path) -> Backend:
    with quiet_harness():
        return transformers.open_backend(EvaluateConfig(model_folder=str(folder), suite=SUITE, batch_size=1, device="cpu"))


@pytest.mark.parametrize("bos", ["added by the tokenizer", "left to the caller"])
def test_log_likelihoods_are_those_of_the_model_in_this_process(bos: str, model: Path, plain_model: Path, tmp_path: Path) -> None:
    folder = model if bos == "added by the tokenizer" else plain_model
    with serving(LocalServer(folder)) as url:
        backend = opened(server_config(url, folder))
        found = ask(backend, "loglikelihood", PAIRS, tmp_path)
        rolled = ask(backend, "loglikelihood_rolling", [("Egun on, mundua.",), ("ñ",), (LONG[:70],)], tmp_path)
    local = in_process(folder)
    expected = ask(local, "loglikelihood", PAIRS, tmp_path)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-5, abs=1e-5)
    assert len({round(value, 3) for value, _ in found}) == len(PAIRS)
    assert rolled == pytest.approx(ask(local, "loglikelihood_rolling", [("Egun on, mundua.",), ("ñ",), (LONG[:70],)], tmp_path), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("bos", ["added by the tokenizer", "left to the caller"])
def test_generated_texts_are_those_of_the_model_in_this_process(bos: str, model: Path, plain_model: Path, tmp_path: Path) -> None:
    folder = model if bos == "added by the tokenizer" else plain_model
    prompts = [(text, {"until": ["\n\n", "e", "x", "y", "z"], "max_gen_toks": 16}) for text in ("Egun on", "La capital de Galicia es", "<s>Bon dia", LONG)]
    prompts += [("Moi bos días", {"until": [], "max_gen_toks": 20, "do_sample": False})]
    with serving(LocalServer(folder)) as url:
        backend = opened(server_config(url, folder))
        found = ask(backend, "generate_until", prompts[:3] + prompts[4:], tmp_path)
    assert found == ask(in_process(folder), "generate_until", prompts[:3] + prompts[4:], tmp_path)
    assert any(found)
    assert not any(letter in text for text in found[:3] for letter in "exyz")


def test_prompts_beyond_the_context_are_cut_at_the_left_and_told(server: LocalServer, url: str, model: Path, tmp_path: Path) -> None:
    backend = opened(server_config(url, model))
    assert backend.context_tokens == CONTEXT_TOKENS
    ((value, _), _) = ask(backend, "loglikelihood", [(LONG, " sí"), ("Ola", " sí")], tmp_path)
    assert value < 0
    assert backend.truncated() == {(LONG, " sí")}
    ask(backend, "generate_until", [(LONG, {"until": [], "max_gen_toks": 8}), ("Ola", {"until": [], "max_gen_toks": 8})], tmp_path)
    assert backend.truncated() == {(LONG,)}
    document = sample_texts("eu")[0][:500]
    (rolled,) = ask(backend, "loglikelihood_rolling", [(document,)], tmp_path)
    # windows of two tokens less, since a server must generate one: not the same contexts, but every token once
    (expected,) = ask(in_process(model), "loglikelihood_rolling", [(document,)], tmp_path)
    assert rolled == pytest.approx(expected, rel=0.02)
    assert max(len(request["prompt"][0]) for request in server.requests) + 1 == CONTEXT_TOKENS
    with pytest.raises(ConfigError, match=r"answers of 96 tokens, and the model's context has 96; leave the task out"):
        ask(backend, "generate_until", [("Ola", {"until": [], "max_gen_toks": CONTEXT_TOKENS})], tmp_path)
    with pytest.raises(DataError, match="does not fit the context of 96"):
        ask(backend, "loglikelihood", [("Ola", LONG)], tmp_path)


def test_the_server_may_render_the_conversation_or_our_tokenizer(server: LocalServer, url: str, model: Path, tmp_path: Path) -> None:
    history = [{"role": "user", "content": "Què fem?"}]
    asked = {"until": ["\n"], "max_gen_toks": 12}
    chat = opened(server_config(url, None, endpoint="chat", chat_template=True))
    rendered = chat.lm.apply_chat_template(history)
    assert json.loads(rendered) == history
    found = ask(chat, "generate_until", [(rendered, asked)], tmp_path)
    assert server.requests[-1]["messages"] == history
    with pytest.raises(ConfigError, match=r"needs log-likelihoods, which the chat endpoint does not give; use backend\.endpoint=completions"):
        ask(chat, "loglikelihood", [(rendered, " res")], tmp_path)
    server.tokenizer.chat_template = TEMPLATE
    server.tokenizer.save_pretrained(tmp_path / "tokenizer")
    completions = opened(server_config(url, tmp_path / "tokenizer", chat_template=True))
    assert completions.lm.apply_chat_template(history) == "user: Què fem?\nassistant:"
    assert ask(completions, "generate_until", [("user: Què fem?\nassistant:", asked)], tmp_path) == found
    with pytest.raises(ConfigError, match=r"chat_template: the tokenizer of .* has none"):
        opened(server_config(url, model, chat_template=True))
    with pytest.raises(ConfigError, match=r"chat_template: needs backend\.tokenizer"):
        opened(server_config(url, None, chat_template=True))
    with pytest.raises(ConfigError, match=r"say chat_template=true, or use backend\.endpoint=completions"):
        opened(server_config(url, None, endpoint="chat"))


def test_texts_need_no_tokenizer_and_log_likelihoods_do(server: LocalServer, url: str, model: Path, tmp_path: Path) -> None:
    prompt = ("Bon dia", {"until": ["\n"], "max_gen_toks": 10})
    backend = opened(server_config(url, None))
    assert ask(backend, "generate_until", [prompt], tmp_path) == ask(in_process(model), "generate_until", [prompt], tmp_path)
    assert server.requests[-1]["prompt"] == "Bon dia"
    with pytest.raises(ConfigError, match=r"backend\.tokenizer: must be given for tasks that need log-likelihoods"):
        ask(backend, "loglikelihood", PAIRS[:1], tmp_path)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no echo", r"gives no log-likelihoods of prompts.*it returns log-probabilities of 1; it ignores 'echo'"),
        ("no logprobs", r"gives no log-likelihoods of prompts.*returns no logprobs for the completions endpoint"),
        ("null logprobs", "gives no log-likelihoods of prompts.*echoes the prompt without its log-probabilities"),
        ("adds BOS", "gives no log-likelihoods of prompts.*returns log-probabilities of|makes .* tokens of a prompt of"),
        ("other tokens", r"backend\.tokenizer: its tokens for .* are '%.*' to the server: it is not the tokenizer of the model 'tiny'"),
        ("not JSON", "gives no log-likelihoods of prompts.*the answer is not JSON"),
    ],
)
def test_log_likelihoods_that_would_be_wrong_are_refused(server: LocalServer, url: str, model: Path, tmp_path: Path, fault: str, message: str) -> None:
    backend = opened(server_config(url, model))
    server.fault = fault
    with pytest.raises(ConfigError, match=message):
        ask(backend, "loglikelihood", PAIRS, tmp_path)
    assert len(server.requests) <= 1  # nothing was scored


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, DataError, "says 400: .*made to fail with 400.*; the server does not take the request"),
        (401, ConfigError, "says 401.*the environment variable OPENAI_API_KEY is not set"),
        (404, ConfigError, r"says 404.*look at backend\.url, backend\.model \('tiny'\) and backend\.endpoint"),
        (500, ResourceError, "says 500.*look at the server's log. The same command goes on"),
        (503, ResourceError, "says 503"),
    ],
)
def test_a_refusal_is_said(
    server: LocalServer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[IberlmError], message: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    backend = opened(server_config(url, None, attempts=2))
    server.failing = [status] * 2
    with pytest.raises(kind, match=message):
        ask(backend, "generate_until", [("Ola", {"until": [], "max_gen_toks": 8})], tmp_path)
    assert len(server.requests) == (2 if status >= 500 else 1)  # what will not pass is not tried again


def test_what_passes_is_tried_again(server: LocalServer, url: str, model: Path, tmp_path: Path) -> None:
    backend = opened(server_config(url, model, attempts=3))
    expected = ask(backend, "loglikelihood", PAIRS, tmp_path)
    server.failing = [500, 503, 429]
    assert ask(backend, "loglikelihood", PAIRS, tmp_path) == expected


def test_copies_of_a_prompt_are_sampled_apart_and_the_same_in_every_run(server: LocalServer, url: str, model: Path, tmp_path: Path) -> None:
    prompts = [("Bon dia", {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0})] * 3
    backend = opened(server_config(url, model))
    found = ask(backend, "generate_until", prompts, tmp_path)
    assert len(set(found)) == 3
    assert ask(opened(server_config(url, model, concurrent_requests=1)), "generate_until", prompts, tmp_path) == found
    assert len({request["seed"] for request in server.requests}) == 3


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens"])
def test_the_length_of_an_answer_is_kept_to_under_each_of_its_names(server: LocalServer, url: str, model: Path, tmp_path: Path, name: str) -> None:
    prompts = [("Bon dia", {"until": [], name: 7, "num_beams": 1}), (LONG, {"until": [], name: 7})]
    backend = opened(server_config(url, model))
    found = ask(backend, "generate_until", prompts[:1], tmp_path)
    assert found == ask(in_process(model), "generate_until", prompts[:1], tmp_path)
    ask(backend, "generate_until", prompts, tmp_path)
    assert backend.truncated() == {(LONG,)}
    assert [(request["max_tokens"], "max_new_tokens" in request, "num_beams" in request) for request in server.requests] == [(7, False, False)] * 3


def test_a_search_with_beams_is_refused(url: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a search with beams \(num_beams\); use backend\.kind=transformers, or leave the task out"):
        ask(opened(server_config(url, model)), "generate_until", [("Bon dia", {"until": [], "max_gen_toks": 7, "num_beams": 4})], tmp_path)


def test_a_template_that_refuses_the_system_s_words_is_filled_without_them(server: LocalServer, url: str, model: Path, tmp_path: Path) -> None:
    server.tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    server.tokenizer.save_pretrained(tmp_path / "tokenizer")
    backend = opened(server_config(url, tmp_path / "tokenizer", chat_template=True))
    history = [{"role": "system", "content": "Respon."}, {"role": "user", "content": "Què fem?"}]
    assert backend.lm.apply_chat_template(history) == "user: Què fem?\nassistant:"


def test_requests_are_sent_as_many_at_once_as_is_said(server: LocalServer, url: str, model: Path, tmp_path: Path) -> None:
    one = opened(server_config(url, model, concurrent_requests=1))
    expected = ask(one, "loglikelihood", PAIRS, tmp_path)
    assert server.most_at_once == 1
    several = opened(server_config(url, model, concurrent_requests=3))
    assert ask(several, "loglikelihood", PAIRS, tmp_path) == expected
    assert server.most_at_once <= 3


def test_a_server_that_is_silent_or_gone_is_said(server: LocalServer, url: str, model: Path, tmp_path: Path) -> None:
    backend = opened(server_config(url, model, timeout_seconds=3))
    server.fault = "silent"
    with pytest.raises(ResourceError, match=r"did not answer within 3 s \(backend\.timeout_seconds\)"):
        ask(backend, "generate_until", [("Ola", {"until": [], "max_gen_toks": 8})], tmp_path)
    with serving(LocalServer(model)) as other:
        gone = opened(server_config(other, model))
    with pytest.raises(ResourceError, match=r"is gone .*start it again\. The same command goes on from what is answered"):
        ask(gone, "generate_until", [("Ola", {"until": [], "max_gen_toks": 8})], tmp_path)
    with pytest.raises(ResourceError, match=r"backend\.url: no server answers at http://127\.0\.0\.1:\d+/v1 \(.*refused\); start it, or mend the address"):
        opened(server_config(other, model))


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    server: LocalServer, url: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "sk-very-secret"
    server.key = secret
    config = server_config(url, model, key_variable="THEIR_KEY")
    monkeypatch.delenv("THEIR_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"says 401: .*wrong key.*the environment variable THEIR_KEY is not set"):
        opened(config)
    monkeypatch.setenv("THEIR_KEY", "another")
    with pytest.raises(ConfigError, match="the environment variable THEIR_KEY holds a key that it does not take") as refused:
        opened(config)
    assert "another" not in str(refused.value)
    monkeypatch.setenv("THEIR_KEY", secret)
    backend = opened(config)
    ask(backend, "loglikelihood", PAIRS, tmp_path)
    for fault, failing in (("not JSON", []), ("", [401] * 20), ("", [500] * 20), ("no logprobs", [])):
        server.fault, server.failing = fault, failing
        with pytest.raises(IberlmError) as error:
            ask(backend, "loglikelihood", PAIRS, tmp_path)
        assert secret not in str(error.value)
    assert secret not in json.dumps([backend.model, backend.software]) + repr(config) + "".join(capfd.readouterr())
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_text()]


def test_a_proxy_of_the_environment_is_not_used(server: LocalServer, url: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask(opened(server_config(url, model)), "loglikelihood", PAIRS[:1], tmp_path)


def test_the_model_is_known_by_what_server_and_user_say_and_never_by_the_address(server: LocalServer, url: str, model: Path, plain_model: Path) -> None:
    def key(address: str = url, tokenizer: Path | None = model, **changes: Any) -> str:
        config = server_config(address, tokenizer, **changes)
        return ask_server(config.backend, config.cluster).model

    first = key()
    server.entry |= {"created": 2, "permission": [{"id": "random"}]}
    with serving(server) as moved:
        assert key(moved) == first
    assert len({first, key(revision="2"), key(tokenizer=None), key(tokenizer=plain_model)}) == 4
    server.entry["root"] = "/models/other"
    assert key() != first
    server.entry |= {"root": NAME, "meta": {"n_params": 7}}
    assert key() != first
    del server.entry["meta"]
    assert key() == first
    assert opened(server_config(url, model)).model == first


def test_a_wrong_model_or_address_is_said_with_what_there_is(server: LocalServer, url: str, model: Path) -> None:
    with pytest.raises(ConfigError, match=r"backend\.model: http://.* has no model 'latxa'; it has: tiny"):
        opened(server_config(url, model, model="latxa"))
    with pytest.raises(ConfigError, match=r"says 404.*look at backend\.url"):
        opened(server_config(url.removesuffix("/v1"), model))
    server.entry["max_model_len"] = None
    with pytest.raises(ConfigError, match=r"backend\.context_tokens: must be given"):
        opened(server_config(url, model))
    assert opened(server_config(url, model, context_tokens=64)).context_tokens == 64
    with pytest.raises(ConfigError, match=r"backend\.tokenizer: .* has no tokenizer files"):
        opened(server_config(url, model.parent / "nothing"))


def test_llama_cpp_itself_gives_texts_and_is_refused_for_log_likelihoods(model: Path, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("tests.export.llama_cpp", reason="needs xllamacpp")
    export_gguf(model, tmp_path / "tiny.gguf", precision="f32")
    program = llama_cpp.LlamaCpp(tmp_path / "tiny.gguf")
    url = f"{program._server.listening_address}/v1"
    prompts = [("Bon dia", {"until": ["z"], "max_gen_toks": 12}), ("Egun on", {"until": ["z"], "max_gen_toks": 12})]
    expected = ask(in_process(model), "generate_until", prompts, tmp_path)
    for tokenizer in (None, model):
        backend = opened(server_config(url, tokenizer, model=str(tmp_path / "tiny.gguf")))
        assert ask(backend, "generate_until", prompts, tmp_path) == expected
        assert (backend.software["server"], backend.context_tokens) == ("llamacpp", CONTEXT_TOKENS)
    with pytest.raises(ConfigError, match="gives no log-likelihoods of prompts"):
        ask(backend, "loglikelihood", PAIRS, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "ollama"}, r"backend\.kind: unknown value 'ollama'; choose among transformers, vllm, openai"),
        ({"kind": "openai"}, r"backend\.url: must be given"),
        ({"kind": "openai", "url": "localhost:8000"}, r"backend\.url: 'localhost:8000' is no address of a server; write it like http://localhost:8000/v1"),
        ({"kind": "openai", "url": "http://me:secret@host/v1"}, r"^backend\.url: must have neither a password nor (?!.*secret)"),
        ({"kind": "openai", "url": "http://host/v1/chat/completions"}, r"backend\.url: .* is an endpoint; give the root"),
        ({"kind": "openai", "url": "http://host/v1"}, r"backend\.model: must be given"),
        ({"kind": "openai", "url": "http://host/v1", "model": "m"}, r"backend\.revision: must be given, since a server does not say which weights it has"),
        ({"url": "http://host/v1"}, r"backend\.url: belongs to backend\.kind=openai, and this is 'transformers'"),
        ({"endpoint": "responses"}, r"backend\.endpoint: unknown value 'responses'"),
        ({"key_variable": "sk-secret"}, r"^backend\.key_variable: must be the name of an environment variable(?!.*secret)"),
        ({"attempts": 0}, r"backend\.attempts: 0 is too small"),
        ({"timeout_seconds": 0}, r"backend\.timeout_seconds: 0 is too small"),
        ({"gpu_memory_share": 1.5}, r"backend\.gpu_memory_share: 1\.5 is out of range"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BackendConfig(**settings)


@pytest.mark.parametrize(
    ("backend", "mend"),
    [
        ({"kind": "vllm"}, r"give backend\.tensor_parallel the number of GPUs, and leave processes=1"),
        ({"kind": "openai", "url": "http://host/v1", "model": "m", "revision": "r"}, "a server shares the work by itself, and leave processes=1"),
    ],
)
def test_several_processes_are_for_transformers_alone(model: Path, backend: dict[str, Any], mend: str) -> None:
    with pytest.raises(ConfigError, match=rf"processes: 2 with backend\.kind={backend['kind']}; {mend}"):
        open_backend(EvaluateConfig(model_folder=str(model), suite=SUITE, backend=BackendConfig(**backend), processes=2))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_it_is_said_what_to_do(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"backend\.kind: vllm is not installed here; install it .* backend\.kind=openai, or use backend\.kind=transformers"):
        vllm.open_backend(EvaluateConfig(model_folder=str(model), suite=SUITE, backend=BackendConfig(kind="vllm")))


def test_settings_and_the_server_s_description_import_nothing_heavy() -> None:
    code = "import sys, iberlm.evaluate.backends.server as s; print([n for n in ('torch', 'lm_eval', 'transformers', 'aiohttp') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_stage_through_a_server_has_the_scores_of_the_model_in_this_process_and_asks_once(server: LocalServer, url: str, model: Path, tmp_path: Path) -> None:
    suite = SuiteConfig(tasks=["minimal_pairs"], languages=["eu"])
    backend = BackendConfig(kind="openai", url=url, model=NAME, revision="1", tokenizer=str(model), attempts=1)
    config = EvaluateConfig(suite=suite, backend=backend, store=str(tmp_path / "store"), limit=12)
    first = run(config, [], tmp_path / "first")
    alone = run(EvaluateConfig(model_folder=str(model), suite=suite, limit=12), [], tmp_path / "alone/out")
    assert first.metrics["minimal_pairs"]["eu"]["value"] == alone.metrics["minimal_pairs"]["eu"]["value"]
    sent = len(server.requests)
    second = run(config, [], tmp_path / "second")
    assert second.metrics == first.metrics
    assert sent > 0
    assert len(server.requests) == sent
    (row, *_) = pq.read_table(second.path("results.parquet")).to_pylist()
    assert (row["backend"], row["dtype"], row["parameters"]) == ("openai", "unknown", None)
    assert "backend.kind=openai" in row["command"]


def test_a_longer_context_is_another_model(server: LocalServer, url: str, model: Path) -> None:
    configs = [server_config(url, model, context_tokens=tokens) for tokens in (0, 40)]
    keys = [ask_server(config.backend, config.cluster).model for config in configs]
    assert keys[0] != keys[1]


def test_prompts_that_were_cut_are_told_after_a_kill_too(server: LocalServer, url: str, model: Path, tmp_path: Path) -> None:
    config = server_config(url, model, context_tokens=24)
    requests = [Instance("loglikelihood", {}, (LONG, " bé"), 0, metadata=("t", 0, 1)), Instance("loglikelihood", {}, ("Bon", " dia"), 1, metadata=("t", 1, 1))]
    told = []
    for _ in range(2):  # the second time all comes from the journal
        backend = opened(config)
        with Journal(tmp_path, "j") as journal, quiet_harness():
            backend.answer("loglikelihood", requests, Slices(journal))
        told.append(backend.truncated())
    assert told[0] == told[1] == {(LONG, " bé")}


def test_the_key_does_not_follow_to_another_server(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    received: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Forwarding(Elsewhere):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{other.server_address[1]}/v1/models")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other, ThreadingHTTPServer(("127.0.0.1", 0), Forwarding) as first:
        for running in (other, first):
            threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        config = server_config(f"http://127.0.0.1:{first.server_address[1]}/v1", model)
        with pytest.raises(ConfigError, match="sends requests on to"):
            ask_server(config.backend, config.cluster)
        for running in (other, first):
            running.shutdown()
    assert received == []
