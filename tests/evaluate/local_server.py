"""A server on loopback that serves a real model through OpenAI's interface, with the faults that real servers have."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NAME = "tiny"
STOPS = 4
"""Stop strings that a request may have: to OpenAI, and to vLLM 0.32."""
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"


class LocalServer:
    """One model. Attributes may be changed while it serves."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.entry: dict[str, Any] = {"id": NAME, "object": "model", "owned_by": "tests", "root": NAME, "created": 1, "max_model_len": self.context_tokens}
        self.key = ""
        """Key that it wants."""
        self.failing: list[int] = []
        """Statuses that the next requests are answered with."""
        self.fault = ""
        """no echo, no logprobs, null logprobs, adds BOS, other tokens, not JSON, silent: how it answers completions."""
        self.requests: list[dict[str, Any]] = []
        """Bodies that it was sent."""
        self.most_at_once = 0
        self._at_once = 0
        self._count = threading.Lock()
        self._model = threading.Lock()
        self.released = threading.Event()
        """Ends the wait of a silent server."""

    @property
    def context_tokens(self) -> int:
        return int(self.model.config.max_position_embeddings)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON for a request."""
        with self._count:
            self.requests.append(body)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            failing = self.failing.pop(0) if self.failing else 0
        try:
            if failing:
                return failing, {"error": {"message": f"made to fail with {failing}"}}
            if len(body.get("stop") or []) > STOPS or "" in (body.get("stop") or []):
                return 400, {"error": {"message": f"stop: at most {STOPS} strings, and none of them empty"}}
            if body["model"] != self.entry["id"]:
                return 404, {"error": {"message": f"no model {body['model']}"}}
            with self._model, torch.no_grad():
                return self._completions(body) if path == "/v1/completions" else self._chat(body)
        finally:
            with self._count:
                self._at_once -= 1

    def _completions(self, body: dict[str, Any]) -> tuple[int, Any]:
        prompt = body["prompt"][0] if isinstance(body["prompt"], list) else self.tokenizer(body["prompt"])["input_ids"]
        if self.fault == "adds BOS":
            prompt = [self.tokenizer.bos_token_id, *prompt]
        if len(prompt) + body["max_tokens"] > self.context_tokens:
            return 400, {"error": {"message": f"the context has {self.context_tokens} tokens, not {len(prompt)} + {body['max_tokens']}"}}
        new = self._generate(prompt, body)
        text = self._stopped(self.tokenizer.decode(new, skip_special_tokens=True), body)
        choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}
        if body.get("logprobs") is not None and self.fault != "no logprobs":
            echo = bool(body.get("echo")) and self.fault != "no echo"
            choice["logprobs"] = self._logprobs(prompt, new, echo)
            if echo:
                choice["text"] = ("%" if self.fault == "other tokens" else "") + self.tokenizer.decode([*prompt, *new], skip_special_tokens=True)
        return 200, {"object": "text_completion", "choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(new)}}

    def _chat(self, body: dict[str, Any]) -> tuple[int, Any]:
        text = self.tokenizer.apply_chat_template(body["messages"], chat_template=TEMPLATE, tokenize=False)
        new = self._generate(self.tokenizer(text)["input_ids"], body)
        content = self._stopped(self.tokenizer.decode(new, skip_special_tokens=True), body)
        return 200, {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "length"}]}

    def _generate(self, prompt: list[int], body: dict[str, Any]) -> list[int]:
        ids = torch.tensor([prompt])
        sampled = {"do_sample": True, "temperature": body["temperature"]} if body["temperature"] > 0 else {"do_sample": False}
        options = {"max_new_tokens": body["max_tokens"], "pad_token_id": self.tokenizer.eos_token_id} | sampled
        with torch.random.fork_rng():
            torch.manual_seed(body["seed"])  # as vLLM: what is sampled follows from the request alone
            found = self.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return [int(token) for token in found[0, len(prompt) :]]

    def _stopped(self, text: str, body: dict[str, Any]) -> str:
        for stop in body.get("stop") or []:
            text = text.split(stop)[0]
        return text

    def _logprobs(self, prompt: list[int], new: list[int], echo: bool) -> dict[str, Any]:
        tokens = [*prompt, *new]
        logs = self.model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
        own: list[Any] = [None]
        best: list[Any] = [None]
        for place, token in enumerate(tokens[1:]):
            top = int(logs[place].argmax())
            own.append(float(logs[place, token]))
            best.append({self.tokenizer.convert_ids_to_tokens(index): float(logs[place, index]) for index in (top, token)})
        start = 0 if echo else len(prompt)
        if self.fault == "null logprobs":
            own[1 : len(prompt)] = [None] * (len(prompt) - 1)
        return {"tokens": self.tokenizer.convert_ids_to_tokens(tokens[start:]), "token_logprobs": own[start:], "top_logprobs": best[start:]}


@contextmanager
def serving(server: LocalServer) -> Iterator[str]:
    """Root of the interface, while the server runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self._allowed():
                self._reply(200, {"object": "list", "data": [server.entry]}) if self.path == "/v1/models" else self._reply(404, {"error": "no such path"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if server.fault == "silent":
                server.released.wait()
            if not self._allowed():
                return
            if server.fault == "not JSON":
                self._send(200, b"<html>a portal</html>", "text/html")
            elif self.path in ("/v1/completions", "/v1/chat/completions"):
                self._reply(*server.answer(self.path, body))
            else:
                self._reply(404, {"error": "no such path"})

        def _allowed(self) -> bool:
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                self._reply(401, {"error": {"message": "wrong key"}})
                return False
            return True

        def _reply(self, status: int, value: Any) -> None:
            self._send(status, json.dumps(value).encode(), "application/json")

        def _send(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    class Loopback(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # clients that went away
            pass

    with Loopback(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}/v1"
        finally:
            server.released.set()
            listener.shutdown()
            thread.join()
