"""vLLM itself, in this process and as a server, answers as transformers does, in float32.

Needs vLLM: the build for CPUs is enough. The first model takes half a minute on two cores, most of it to import vLLM.
"""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lm_eval.api.instance import Instance
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from iberlm.core.errors import ConfigError, DataError
from iberlm.evaluate.backends import Backend, Slices, openai, transformers, vllm
from iberlm.evaluate.backends.config import BackendConfig
from iberlm.evaluate.config import EvaluateConfig, SuiteConfig
from iberlm.evaluate.evaluate import run
from iberlm.evaluate.quiet import quiet_harness
from iberlm.evaluate.store.journal import Journal
from tests.evaluate.tiny import CONTEXT_TOKENS, sample_texts, tiny_tokenizer, write_model

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (docs/howto/evaluate-through-a-server.md says how)")

NAME = "tiny"
SUITE = SuiteConfig(tasks=["minimal_pairs", "bits_per_byte"], languages=["eu"])
TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
)
"""Begins with BOS, as those of models do: vLLM's server puts none before a conversation, whatever the tokenizer does."""
LONG = " ".join(sample_texts("gl")[0].split()[:60])
PAIRS = [
    ("La capital de Galicia es", " Santiago"),
    ("La capital de Galicia es ", "Lugo"),  # the space belongs to the answer
    ("", "Bon dia"),
    ("<s>Egun on", ", zer moduz?"),
    (LONG[:60], " ñandú ¿qué tal?"),
]
DOCUMENTS = [("Egun on, mundua.",), ("ñ",), (LONG[:70],)]
ANSWERS = [
    ("Egun on", {"until": ["\n\n", "e", "x", "y", "z", "w"], "max_gen_toks": 16}),
    ("<s>Bon dia", {"until": [], "max_gen_toks": 12}),
    ("Moi bos días", {"until": [], "max_new_tokens": 20, "do_sample": False, "num_beams": 1}),
]
CLOSE = {"rel": 1e-5, "abs": 1e-4}
"""Sums of up to 400 nats differed by at most 4e-5: in float32, from other kernels."""


def save(folder: Path, *, adds_bos: bool = True) -> Path:
    """A Llama like that of the other tests, but with attention heads of 32 numbers: vLLM has no kernel for 16 on a CPU."""
    settings = LlamaConfig(
        vocab_size=384, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS, initializer_range=0.3, bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(settings).save_pretrained(folder)
    tokenizer = tiny_tokenizer(adds_bos=adds_bos)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """On a CPU vLLM takes 1 GiB, and nothing beyond this machine is asked for an address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_HOST_IP", "127.0.0.1")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("vllm") / "model")


@pytest.fixture(scope="module", autouse=True)
def server(folder: Path, small: None) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The program, its address and its log: started before the first test, since it takes as long as the tests in this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # not `vllm serve`: that command of the build for CPUs looks for a package named vllm
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", NAME, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--dtype", "float32", "--enforce-eager", "--gpu-memory-utilization", "0.05"]
    log = folder.parent / "server.log"
    with log.open("wb") as stream:
        program = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, env=os.environ | {"VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
        )
    try:
        yield program, f"http://127.0.0.1:{port}/v1", log
    finally:
        program.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)  # its engine and its worker, where they are left
        program.wait()


@pytest.fixture(scope="module")
def url(server: tuple[subprocess.Popen[bytes], str, Path]) -> str:
    """Address of the server when it answers."""
    program, address, log = server
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{address}/models", timeout=5):
                return address
        except (urllib.error.URLError, OSError):
            assert program.poll() is None, log.read_text(encoding="utf-8", errors="replace")[-3000:]
            time.sleep(0.2)
    raise AssertionError(log.read_text(encoding="utf-8", errors="replace")[-3000:])


def config_of(
    folder: Path, *, kind: str = "vllm", chat_template: bool = False, device: str = "auto", batch_tokens: int = 8192, **backend: Any
) -> EvaluateConfig:
    given = {"eager": True} | backend if kind == "vllm" else backend
    return EvaluateConfig(
        model_folder=str(folder), suite=SUITE, validation=str(folder), backend=BackendConfig(kind=kind, **given), chat_template=chat_template,
        device=device, batch_tokens=batch_tokens, dtype="float32",
    )  # fmt: skip


def opened(folder: Path, **changes: Any) -> vllm.VllmBackend:
    with quiet_harness():
        return vllm.open_backend(config_of(folder, **changes))


def behind(url: str, tokenizer: Path | None, **changes: Any) -> openai.ServerBackend:
    backend = BackendConfig(kind="openai", url=url, model=NAME, revision="1", tokenizer=str(tokenizer or ""), attempts=1, **changes)
    suite = SuiteConfig(tasks=["minimal_pairs"], languages=["eu"])
    with quiet_harness():
        return openai.open_backend(EvaluateConfig(suite=suite, backend=backend, chat_template=changes.get("endpoint") == "chat"))


@pytest.fixture(scope="class")
def loaded(folder: Path) -> vllm.VllmBackend:
    """One for a class of tests: a process has one model at a time."""
    return opened(folder)


@pytest.fixture(scope="module")
def local(folder: Path) -> Backend:
    with quiet_harness():
        return transformers.open_backend(config_of(folder, kind="transformers", device="cpu"))


def requests_of(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=entry, idx=0, metadata=("t", number, 1)) for number, entry in enumerate(arguments)]


def ask(backend: Backend, kind: str, arguments: list[tuple[Any, ...]], folder: Path) -> list[Any]:
    """Through a journal of its own, as an evaluation asks."""
    with quiet_harness(), Journal(folder, f"{backend.name} {kind} {len(arguments)}") as journal:
        answers = backend.answer(kind, requests_of(kind, arguments), Slices(journal, random_seed=1))
        journal.discard()
    return answers


def same_scores(found: list[Any], expected: list[Any]) -> None:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], **CLOSE)
    assert len({round(value, 2) for value, _ in found}) == len(found)


class TestOneModel:
    """With one engine for all of them."""

    def test_log_likelihoods_and_texts_are_those_of_transformers(self, loaded: vllm.VllmBackend, local: Backend, tmp_path: Path) -> None:
        same_scores(ask(loaded, "loglikelihood", PAIRS, tmp_path), ask(local, "loglikelihood", PAIRS, tmp_path))
        assert ask(loaded, "loglikelihood_rolling", DOCUMENTS, tmp_path) == pytest.approx(ask(local, "loglikelihood_rolling", DOCUMENTS, tmp_path), **CLOSE)
        texts = ask(loaded, "generate_until", ANSWERS, tmp_path)
        assert texts == ask(local, "generate_until", ANSWERS, tmp_path)
        assert all(texts[:1] + texts[2:])
        assert not any(letter in texts[0] for letter in "exyzw")

    def test_the_most_likely_answer_is_greedy_and_others_are_not(self, loaded: vllm.VllmBackend, local: Backend, tmp_path: Path) -> None:
        lm = loaded.lm
        prompt = lm.tok_encode("Bos días")
        (best,) = lm.engine.generate([{"prompt_token_ids": prompt}], lm._sampling({"until": [], "max_gen_toks": 3, "do_sample": False}, 1), use_tqdm=False)
        tokens = list(best.outputs[0].token_ids)
        other = [tokens[0], (tokens[1] + 1) % 384, *tokens[2:]]
        found = lm._loglikelihood_tokens([(None, prompt, tokens), (None, prompt, other)])
        assert [greedy for _, greedy in found] == [True, False]
        local.lm.slices = Slices(Journal(tmp_path, "greedy"))
        with local.lm.slices.journal, quiet_harness():
            expected = local.lm._loglikelihood_tokens([(None, prompt, tokens), (None, prompt, other)])
        same_scores(found, expected)

    def test_the_backend_says_what_computes(self, loaded: vllm.VllmBackend, folder: Path) -> None:
        assert loaded.device == str(importlib.import_module("vllm.platforms").current_platform.device_type)
        assert loaded.software["vllm"] == importlib.import_module("vllm").__version__
        assert (loaded.name, loaded.dtype, loaded.context_tokens) == ("vllm", "float32", CONTEXT_TOKENS)
        assert os.environ["VLLM_NO_USAGE_STATS"] == "1"

    def test_prompts_beyond_the_context_are_cut_at_the_left_and_told(self, loaded: vllm.VllmBackend, local: Backend, tmp_path: Path) -> None:
        pairs = [(LONG, " sí"), ("Ola", " sí")]
        found = ask(loaded, "loglikelihood", pairs, tmp_path)
        assert loaded.truncated() == {(LONG, " sí")}
        # vLLM must generate a token: the prompt that is scored has two tokens less than in transformers, which needs no room for the last one either
        tokens = loaded.lm.tok_encode(LONG + " sí")[-(CONTEXT_TOKENS - 1) :]
        known = len(tokens) - (len(loaded.lm.tok_encode(LONG + " sí")) - len(loaded.lm.tok_encode(LONG)))
        local.lm.slices = Slices(Journal(tmp_path, "cut"))
        with local.lm.slices.journal, quiet_harness():
            ((expected, _),) = local.lm._loglikelihood_tokens([(None, tokens[:known], tokens[known:])])
        assert found[0][0] == pytest.approx(expected, **CLOSE)
        texts = [(LONG, {"until": [], "max_gen_toks": 50}), ("Ola", {"until": [], "max_gen_toks": CONTEXT_TOKENS - 1})]
        assert ask(loaded, "generate_until", texts, tmp_path) == ask(local, "generate_until", texts, tmp_path)
        assert loaded.truncated() == local.truncated() == {(LONG,), ("Ola",)}
        document = [(sample_texts("eu")[0][:500],)]
        # other windows, so other contexts, but every token once
        assert ask(loaded, "loglikelihood_rolling", document, tmp_path) == pytest.approx(ask(local, "loglikelihood_rolling", document, tmp_path), rel=0.02)
        with pytest.raises(ConfigError, match=r"answers of 96 tokens, and the model's context has 96; leave the task out"):
            ask(loaded, "generate_until", [("Ola", {"until": [], "max_gen_toks": CONTEXT_TOKENS})], tmp_path)
        with pytest.raises(DataError, match="does not fit the context of 96"):
            ask(loaded, "loglikelihood", [("Ola", LONG)], tmp_path)

    def test_the_chat_template_is_the_tokenizer_s(self, loaded: vllm.VllmBackend, local: Backend, tmp_path: Path) -> None:
        history = [{"role": "system", "content": "Respon."}, {"role": "user", "content": "Què fem?"}]
        rendered = loaded.lm.apply_chat_template(history)
        assert rendered == local.lm.apply_chat_template(history) == "<s>user: Què fem?\nassistant:"
        prompts = [(rendered, {"until": ["\n"], "max_gen_toks": 12})]
        assert ask(loaded, "generate_until", prompts, tmp_path) == ask(local, "generate_until", prompts, tmp_path)
        assert loaded.lm.chat_template(True) == local.lm.chat_template(True) == TEMPLATE

    def test_copies_of_a_prompt_are_sampled_apart_and_the_same_in_every_run(self, loaded: vllm.VllmBackend, tmp_path: Path) -> None:
        prompts = [("Bon dia", {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0, "top_p": 0.95})] * 3
        found = ask(loaded, "generate_until", prompts, tmp_path)
        assert len(set(found)) == 3
        assert ask(loaded, "generate_until", prompts, tmp_path) == found
        with pytest.raises(ConfigError, match=r"vLLM does not give answers as the task asks for them \(.*penalty_alpha.*\); use backend\.kind=transformers"):
            ask(loaded, "generate_until", [("Bon dia", {"until": [], "max_gen_toks": 12, "penalty_alpha": 0.6})], tmp_path)

    def test_an_evaluation_that_was_ended_goes_on_with_the_same_answers(self, loaded: vllm.VllmBackend, tmp_path: Path) -> None:
        requests = requests_of("loglikelihood", PAIRS)
        whole = ask(loaded, "loglikelihood", PAIRS, tmp_path)
        loaded.slice_requests = 2

        def end(_: int) -> None:
            raise KeyboardInterrupt

        try:
            with pytest.raises(KeyboardInterrupt), Journal(tmp_path, "j") as journal, quiet_harness():
                loaded.answer("loglikelihood", requests, Slices(journal, done=end))
            with Journal(tmp_path, "j") as journal, quiet_harness():
                slices = Slices(journal)
                found = loaded.answer("loglikelihood", requests, slices)
        finally:
            loaded.slice_requests = vllm.SLICE_REQUESTS
        assert slices.computed == len(PAIRS) - 2
        assert [value for value, _ in found] == pytest.approx([value for value, _ in whole], **CLOSE)


def test_bos_that_is_left_to_the_caller_passes_in_pieces_and_a_shorter_context(tmp_path: Path) -> None:
    plain = save(tmp_path / "plain", adds_bos=False)
    backend = opened(plain, batch_tokens=16, context_tokens=48)  # so that prompts are computed in pieces
    with quiet_harness():
        local = transformers.open_backend(config_of(plain, kind="transformers", device="cpu"))
    assert backend.context_tokens == 48
    assert backend.model != local.model
    same_scores(ask(backend, "loglikelihood", PAIRS[:4], tmp_path), ask(local, "loglikelihood", PAIRS[:4], tmp_path))
    assert ask(backend, "loglikelihood_rolling", DOCUMENTS[:2], tmp_path) == pytest.approx(
        ask(local, "loglikelihood_rolling", DOCUMENTS[:2], tmp_path), **CLOSE
    )
    assert ask(backend, "generate_until", ANSWERS, tmp_path) == ask(local, "generate_until", ANSWERS, tmp_path)


def test_a_stage_has_the_scores_of_transformers_and_answers_from_the_store(folder: Path, validation: Path, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for kind in ("vllm", "transformers"):
        config = config_of(folder, kind=kind)
        config.validation, config.limit, config.store = str(validation), 12, str(tmp_path / "store")
        found[kind] = run(config, [], tmp_path / kind)
    ours, theirs = (found[kind].metrics for kind in ("vllm", "transformers"))
    assert ours["minimal_pairs"]["eu"]["value"] == theirs["minimal_pairs"]["eu"]["value"]
    # documents longer than the context are cut into other windows
    assert ours["bits_per_byte"]["eu"]["value"] == pytest.approx(theirs["bits_per_byte"]["eu"]["value"], rel=0.02)
    rows = pq.read_table(found["vllm"].path("results.parquet")).to_pylist()
    assert {(row["backend"], row["dtype"]) for row in rows} == {("vllm", "float32")}
    assert {row["device"] for row in rows} == {str(importlib.import_module("vllm.platforms").current_platform.device_type)}
    assert "vllm" in json.loads(rows[0]["software"])
    config = config_of(folder, tensor_parallel=64)  # more than any machine has: whoever opens vLLM fails
    config.validation, config.limit, config.store = str(validation), 12, str(tmp_path / "store")
    assert run(config, [], tmp_path / "again").metrics == ours


def test_the_model_s_own_generation_settings_are_kept_to(folder: Path, local: Backend, tmp_path: Path) -> None:
    changed = save(tmp_path / "changed")
    settings = json.loads((changed / "generation_config.json").read_text(encoding="utf-8"))
    (changed / "generation_config.json").write_text(json.dumps(settings | {"repetition_penalty": 3.0}), encoding="utf-8")
    prompts = [(LONG[:40], {"until": [], "max_gen_toks": 40})]
    with quiet_harness():
        penalised = transformers.open_backend(config_of(changed, kind="transformers", device="cpu"))
    expected = ask(penalised, "generate_until", prompts, tmp_path)
    assert expected != ask(local, "generate_until", prompts, tmp_path)
    assert ask(opened(changed), "generate_until", prompts, tmp_path) == expected


def test_what_vllm_cannot_load_or_compute_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vLLM cannot load it \(.*max_model_len.*max_model_len backend\.context_tokens"):
        opened(folder, context_tokens=4096)
    damaged = save(tmp_path / "damaged")
    weights = load_file(damaged / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"damaged: 1 weights are missing .*\(model\.layers\.1\.mlp\.down_proj\.weight\)"):
        opened(damaged)
    if importlib.import_module("vllm.platforms").current_platform.device_type == "cpu":
        small_heads = write_model(tmp_path / "small", adds_bos=True)  # heads of 16 numbers
        with pytest.raises(DataError, match=r"vLLM cannot compute this model's answers \(RuntimeError: .*head_dim=16.*; backend\.kind=transformers may"):
            ask(opened(small_heads), "loglikelihood", PAIRS[:1], tmp_path)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:1", r"device: vLLM takes the first GPUs that it sees, not 'cuda:1'; choose them with CUDA_VISIBLE_DEVICES and leave device=auto"),
        ("spread", r"device: 'spread' belongs to backend\.kind=transformers; give backend\.tensor_parallel the number of GPUs"),
    ],
)
def test_another_device_than_vllm_s_is_refused(folder: Path, device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(folder, device=device)
    here = str(importlib.import_module("vllm.platforms").current_platform.device_type)
    with pytest.raises(ConfigError, match=rf"device: vLLM computes on '{here}' here, not on "):
        opened(folder, device="cuda" if here == "cpu" else "cpu")


def test_the_server_of_vllm_gives_the_log_likelihoods_and_texts_of_transformers(url: str, folder: Path, local: Backend, tmp_path: Path) -> None:
    backend = behind(url, folder)
    assert (backend.software["server"], backend.context_tokens) == ("vllm", CONTEXT_TOKENS)
    same_scores(ask(backend, "loglikelihood", PAIRS, tmp_path), ask(local, "loglikelihood", PAIRS, tmp_path))
    assert ask(backend, "loglikelihood_rolling", DOCUMENTS, tmp_path) == pytest.approx(ask(local, "loglikelihood_rolling", DOCUMENTS, tmp_path), **CLOSE)
    # the server leaves out a last character that is not whole
    texts = [text.rstrip("\ufffd") for text in ask(local, "generate_until", ANSWERS, tmp_path)]
    assert [text.rstrip("\ufffd") for text in ask(backend, "generate_until", ANSWERS, tmp_path)] == texts
    untokenized = [ANSWERS[0], ANSWERS[2]]
    assert [text.rstrip("\ufffd") for text in ask(behind(url, None), "generate_until", untokenized, tmp_path)] == [texts[0], texts[2]]


def test_the_server_of_vllm_samples_copies_apart_and_fills_its_template(url: str, folder: Path, local: Backend, tmp_path: Path) -> None:
    sampled = [("Bon dia", {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0})] * 3
    backend = behind(url, folder)
    found = ask(backend, "generate_until", sampled, tmp_path)
    assert len(set(found)) == 3
    assert ask(backend, "generate_until", sampled, tmp_path) == found
    chat = behind(url, None, endpoint="chat")
    history = [{"role": "user", "content": "Què fem?"}]
    asked = {"until": ["\n", "a", "b", "c", "d"], "max_gen_toks": 12}
    (answer,) = ask(chat, "generate_until", [(chat.lm.apply_chat_template(history), asked)], tmp_path)
    (expected,) = ask(local, "generate_until", [(local.lm.apply_chat_template(history), asked)], tmp_path)
    assert answer.rstrip("\ufffd") == expected.rstrip("\ufffd")


def test_another_tokenizer_than_the_server_s_is_refused(url: str, tmp_path: Path) -> None:
    other = tiny_tokenizer(adds_bos=True)
    described = json.loads(other.backend_tokenizer.to_str())
    vocabulary = described["model"]["vocab"]
    vocabulary["E"], vocabulary["g"] = vocabulary["g"], vocabulary["E"]
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    backend = behind(url, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"its tokens for '.*' are '.*' to the server: it is not the tokenizer of the model 'tiny'"):
        ask(backend, "loglikelihood", PAIRS[:1], tmp_path)
