"""Servers for tests: one that says what it was told to, and one that runs tiny models behind the
wire formats of vLLM, SGLang and TEI.

The formats are written from the servers' documentation; none of their code runs here.
`transformers serve`, a real server, is started by the test itself.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: status, headers, body (JSON if it is no bytes)
Said = tuple[int, dict[str, str], Any]


@contextmanager
def server(answer: Callable[[str, Any, dict[str, str]], Said]) -> Iterator[str]:
    """The URL of a server that gives `answer(path, JSON, headers)`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, said = answer(
                self.path, body, {name.lower(): value for name, value in self.headers.items()}
            )
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # the client has gone
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(
        target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def chat(text: str | None, reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    """A chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": reason,
        **more,
    }
    return {
        "choices": [choice],
        "usage": {"prompt_tokens": 10, "completion_tokens": len(text or "")},
    }


def schema_in(body: Any) -> dict[str, Any]:
    """The schema of a request, in OpenAI's form and by its rules for `strict` ones."""
    form = body["response_format"]
    assert set(form) == {"type", "json_schema"}
    assert form["type"] == "json_schema"
    assert set(form["json_schema"]) == {"name", "schema", "strict"}
    assert form["json_schema"]["strict"] is True
    schema: dict[str, Any] = form["json_schema"]["schema"]
    assert set(schema) == {"type", "properties", "required", "additionalProperties"}
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(schema["properties"])
    for value in schema["properties"].values():
        assert value["type"] in ("integer", "number", "boolean", "string")
        assert set(value) <= {"type", "enum"}
    return schema


def first_by(schema: dict[str, Any]) -> dict[str, Any]:
    """The first object that a schema allows."""
    firsts = {"integer": 1, "number": 0.5, "boolean": False}
    return {
        name: value["enum"][0] if "enum" in value else firsts[value["type"]]
        for name, value in schema["properties"].items()
    }


class TinyServer:
    """A causal model behind `/v1/chat/completions` and `/v1/completions`, and a reward model behind
    `/classify` and its like.
    """

    def __init__(
        self,
        causal: Path,
        reward: Path,
        *,
        activation: bool | None = None,
        longest: int | None = None,
    ) -> None:
        from transformers import (
            AutoModelForCausalLM,
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )

        self.tok = AutoTokenizer.from_pretrained(causal)
        self.causal = AutoModelForCausalLM.from_pretrained(causal).eval()
        self.reward = AutoModelForSequenceClassification.from_pretrained(reward).eval()
        #: activation: what the server does whatever it is asked for (None: what it is asked for);
        #: longest: tokens that it takes
        self.activation, self.longest = activation, longest
        self.lock = threading.Lock()

    def __call__(self, path: str, body: Any, headers: dict[str, str]) -> Said:
        try:
            with self.lock:  # a model is no place for threads
                return 200, {}, self._answer(path, body)
        except ValueError as error:
            return 400, {}, {"error": {"message": str(error)}}

    def _answer(self, path: str, body: Any) -> Any:
        if path.endswith("completions"):
            return self._complete(body, chat="chat" in path)
        if path == "/classify" and "text" in body:  # SGLang
            return [
                {"embedding": [self._score(self.tok(text)["input_ids"], False)]}
                for text in body["text"]
            ]
        if path in ("/classify", "/pooling"):
            if "messages" in body:
                rows = [
                    self.tok.apply_chat_template(
                        body["messages"],
                        add_generation_prompt=body["add_generation_prompt"],
                        return_dict=False,
                    )
                ]
            else:
                rows = [
                    row if isinstance(row, list) else self.tok(row)["input_ids"]
                    for row in body["input"]
                ]
            values = [[self._score(row, body.get("use_activation", True))] for row in rows]
            name = "probs" if path == "/classify" else "data"
            data = [
                {"index": i, "label": "LABEL_0", name: value, "num_classes": 1}
                for i, value in enumerate(values)
            ]
            return {"data": data[::-1], "usage": {"prompt_tokens": sum(map(len, rows))}}
        if path == "/score":
            rows = [self.tok(body["text_1"], text)["input_ids"] for text in body["text_2"]]
            return {
                "data": [
                    {"index": i, "score": self._score(row, body.get("use_activation", True))}
                    for i, row in enumerate(rows)
                ]
            }
        squash = not body.get("raw_scores", False)
        if path == "/predict":
            rows = [self.tok(*texts)["input_ids"] for texts in body["inputs"]]
            return [[{"label": "LABEL_0", "score": self._score(row, squash)}] for row in rows]
        if path == "/rerank":
            rows = [self.tok(body["query"], text)["input_ids"] for text in body["texts"]]
            found = [{"index": i, "score": self._score(row, squash)} for i, row in enumerate(rows)]
            return sorted(found, key=lambda each: -each["score"])
        raise ValueError(f"no such path {path}")

    def _score(self, ids: list[int], squash: bool) -> float:
        import torch

        if self.longest is not None and len(ids) > self.longest:
            raise ValueError(f"{len(ids)} tokens are more than {self.longest}")
        with torch.inference_mode():
            logit = self.reward(torch.tensor([ids])).logits[0, 0].item()
        squash = squash if self.activation is None else self.activation
        return float(torch.sigmoid(torch.tensor(logit))) if squash else logit

    def _complete(self, body: Any, *, chat: bool) -> Any:
        import torch

        if chat:
            ids = self.tok.apply_chat_template(
                body["messages"], add_generation_prompt=True, return_dict=False
            )
        else:
            ids = self.tok(body["prompt"])["input_ids"]
        draw = torch.Generator().manual_seed(body["seed"])
        bias = torch.zeros(len(self.tok))
        for token, value in (body.get("logit_bias") or {}).items():
            bias[int(token)] = value
        made: list[int] = []
        told = []
        ended = False
        while len(made) < body["max_tokens"] and not ended:
            with torch.inference_mode():
                logits = self.causal(torch.tensor([ids + made])).logits[0, -1].double() + bias
            logprobs = logits.log_softmax(-1)
            if body["temperature"] == 0:
                token = int(logits.argmax())
            else:
                token = int(
                    torch.multinomial((logits / body["temperature"]).softmax(-1), 1, generator=draw)
                )
            made.append(token)
            top = logprobs.topk(body.get("top_logprobs") or 1)
            others = [
                {"token": self.tok.decode([int(other)]), "logprob": float(logprob)}
                for logprob, other in zip(top.values, top.indices, strict=True)
            ]
            told.append(
                {
                    "token": self.tok.decode([token]),
                    "logprob": float(logprobs[token]),
                    "top_logprobs": others,
                }
            )
            ended = token == self.tok.eos_token_id
        text = self.tok.decode(made, skip_special_tokens=True)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if ended else "length"}
        if chat:
            choice |= {
                "message": {"role": "assistant", "content": text},
                "logprobs": {"content": told} if body.get("logprobs") else None,
            }
        else:
            lists = {
                "tokens": [t["token"] for t in told],
                "token_logprobs": [t["logprob"] for t in told],
                "top_logprobs": None,
            }
            choice |= {"text": text, "logprobs": lists if "logprobs" in body else None}
        return {
            "choices": [choice],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(made)},
        }
