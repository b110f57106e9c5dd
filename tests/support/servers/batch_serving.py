"""A server with `/files` and `/batches` for tests, written from OpenAI's reference.

It refuses what that one refuses: lines that are not JSON, a `custom_id` twice, two models in one
file, a URL other than the batch's. Time is counted in looks at a batch.
"""

from __future__ import annotations

import email.parser
import email.policy
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: what becomes of a request: (status, body) of its answer, or a word: `expire`, `forget`
Fate = tuple[int, Any] | str


def chat_body(text: str, **more: Any) -> dict[str, Any]:
    """A chat completion whose usage counts characters."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    return {
        "choices": [{**choice, "finish_reason": "stop", **more}],
        "usage": {"prompt_tokens": 10, "completion_tokens": len(text)},
    }


@dataclass
class BatchServer:
    """The server's state; use `serve()`.

    answer     the fate of a request, from its body
    looks      at a batch before it is done
    most       requests that may be under way in all; more fail as over the token limit
    faults     called with (place of the HTTP request, `before` or `after`, path): may raise
               `ConnectionError`, which cuts the client off
    lists      whether it says which batches it has
    largest    bytes of a file
    """

    answer: Callable[[Any], Fate]
    looks: int = 1
    most: int | None = None
    faults: Callable[[int, str, str], None] = lambda *_: None
    lists: bool = True
    largest: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)  #: requests worked on, by body
    calls: list[tuple[str, str]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: Any = field(default_factory=threading.RLock)

    def handle(self, method: str, target: str, headers: Any, content: bytes) -> tuple[int, Any]:
        """Status, and JSON or bytes."""
        parts = urlsplit(target)
        path = parts.path.removeprefix("/v1/")
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        with self._lock:
            self.calls.append((method, path))
            place = len(self.calls)
            self.faults(place, "before", path)
            said = self._route(method, path, query, headers, content)
            self.faults(place, "after", path)
            return said

    def _route(
        self, method: str, path: str, query: dict[str, str], headers: Any, content: bytes
    ) -> tuple[int, Any]:
        match (method, path.split("/")):
            case ("POST", ["files"]):
                return self._upload(headers, content)
            case ("POST", ["batches"]):
                return self._create(json.loads(content))
            case ("GET", ["batches"]):
                return self._list(query) if self.lists else (404, {"error": "no such path"})
            case ("GET", ["batches", name]) if name in self.batches:
                return 200, self._look(self.batches[name])
            case ("POST", ["batches", name, "cancel"]) if name in self.batches:
                self.batches[name]["status"] = "cancelled"
                return 200, self._shown(self.batches[name])
            case ("GET", ["files", name, "content"]) if name in self.files:
                return 200, self.files[name]
        return 404, {"error": {"message": f"no {method} {path}"}}

    def _upload(self, headers: Any, content: bytes) -> tuple[int, Any]:
        if self.largest is not None and len(content) > self.largest:
            return 413, {"error": {"message": "too large"}}
        head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + content)
        fields = {
            part.get_param("name", header="content-disposition"): part
            for part in message.iter_parts()
        }
        assert fields["purpose"].get_content().strip() == "batch"
        assert fields["file"].get_filename().endswith(".jsonl")
        name = f"file-{next(self._numbers)}"
        self.files[name] = fields["file"].get_payload(decode=True)
        return 200, {"id": name, "object": "file", "purpose": "batch"}

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        assert set(body) == {"input_file_id", "endpoint", "completion_window", "metadata"}
        if body["input_file_id"] not in self.files:
            return 400, {"error": {"message": "no such file"}}
        name = f"batch_{next(self._numbers)}"
        self.batches[name] = {
            **body,
            "id": name,
            "object": "batch",
            "status": "validating",
            "looks": 0,
        }
        return 200, self._shown(self.batches[name])

    def _list(self, query: dict[str, str]) -> tuple[int, Any]:
        newest = list(self.batches.values())[::-1]
        names = [each["id"] for each in newest]
        first = names.index(query["after"]) + 1 if "after" in query else 0
        page = newest[first : first + min(2, int(query.get("limit", 20)))]
        has_more = first + len(page) < len(newest)
        return 200, {"data": [self._shown(each) for each in page], "has_more": has_more}

    def _shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in batch.items() if name != "looks"}

    def _look(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["status"] == "validating":
            self._validate(batch)
        elif batch["status"] == "in_progress":
            batch["looks"] += 1
            if batch["looks"] >= self.looks:
                self._work(batch)
        return self._shown(batch)

    def _lines(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]

    def _validate(self, batch: dict[str, Any]) -> None:
        problem = None
        try:
            lines = self._lines(batch)
        except ValueError:
            lines, problem = [], ("invalid_json_line", "not JSON")
        if len({line["custom_id"] for line in lines}) < len(lines):
            problem = ("duplicate_custom_id", "a custom_id twice")
        if len({line["body"]["model"] for line in lines}) > 1:
            problem = ("mismatched_model", "one model a batch")
        for line in lines:
            assert set(line) == {"custom_id", "method", "url", "body"}
            if (line["method"], line["url"]) != ("POST", batch["endpoint"]):
                problem = ("mismatched_endpoint", "another URL")
        under_way = [each for each in self.batches.values() if each["status"] == "in_progress"]
        load = sum(each["request_counts"]["total"] for each in under_way) + len(lines)
        if self.most is not None and load > self.most:
            problem = ("token_limit_exceeded", "Enqueued token limit reached")
        if problem is not None:
            code, message = problem
            batch["status"] = "failed"
            batch["errors"] = {"object": "list", "data": [{"code": code, "message": message}]}
            return
        batch["status"] = "in_progress"
        batch["request_counts"] = {"total": len(lines), "completed": 0, "failed": 0}

    def _work(self, batch: dict[str, Any]) -> None:
        done, failed, status = [], [], "completed"
        for number, line in enumerate(self._lines(batch)):
            fate = self.answer(line["body"])
            if fate == "forget":
                continue
            about = {"id": f"batch_req_{number}", "custom_id": line["custom_id"]}
            if fate == "expire":
                status = "expired"
                error = {"code": "batch_expired", "message": "This request could not be executed."}
                failed.append({**about, "response": None, "error": error})
                continue
            self.asked[json.dumps(line["body"], sort_keys=True)] += 1
            code, body = fate
            response = {"status_code": code, "request_id": f"req-{number}", "body": body}
            where = done if code == 200 else failed
            where.append({**about, "response": response, "error": None})
        batch["status"] = status
        batch["request_counts"] |= {"completed": len(done), "failed": len(failed)}
        # The answers come in no order.
        for key, lines in (("output_file_id", done[::-1]), ("error_file_id", failed)):
            if lines:
                batch[key] = f"file-{next(self._numbers)}"
                text = "\n".join(json.dumps(line) for line in lines)
                self.files[batch[key]] = text.encode() + b"\n"


@contextmanager
def serve(state: BatchServer) -> Iterator[str]:
    """The URL of `state`, with its `/v1`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                status, said = state.handle(self.command, self.path, self.headers, content)
                whole = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(whole)))
                self.end_headers()
                self.wfile.write(whole)
            except OSError:  # cut off, or the client has gone
                self.close_connection = True

        do_GET = do_POST = _handle

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(
        target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    finally:
        httpd.shutdown()
        httpd.server_close()
