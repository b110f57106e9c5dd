"""How batches of requests travel: over OpenAI's `/v1/batches`, or as files for a batch runner.

Both speak one format. A line of a request file is
`{"custom_id", "method", "url", "body"}`, and a line of an answer file
`{"custom_id", "response": {"status_code", "body"}, "error"}`, in any order.
Source: the batch guide and reference of OpenAI, and `vllm run-batch`, which reads the same files.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefmill.disk import whole
from prefmill.errors import BadArgument, RequestFailed
from prefmill.models.batch_store import Batch, BatchStore, Settled
from prefmill.models.client import OF_REQUEST, Again, Client, Sent, message_of

Outcome = Literal["working", "done", "expired", "cancelled", "failed", "later", "gone"]
#: statuses of the server, and what they come to; any other one is work that goes on
_OUTCOMES: Mapping[str, Outcome] = {
    "completed": "done",
    "expired": "expired",
    "cancelled": "cancelled",
    "failed": "failed",
}
_PAGES = 50  #: of a hundred batches, in which a batch is looked for
_NO_SUCH = (404, 405, 501)
_NOT_TAKEN = (400, 404, 409, 422)


@dataclass(frozen=True)
class Look:
    """How a batch is.

    outcome   what its status comes to; `later`: the server has too much to do for this account
    status    the server's own word
    answered  requests that are done
    files     where its answers lie, should there be any
    why       what the server says
    """

    outcome: Outcome
    status: str
    answered: int = 0
    files: tuple[str, ...] = ()
    why: str = ""


class TooLarge(Exception):
    """The server does not take a file of this size."""


class Carrier(ABC):
    """Takes batches away and brings answers back."""

    #: whether a call may wait for answers
    can_wait = True

    def __init__(self, url: str) -> None:
        #: what each request is sent to, as its line says it: `/v1/chat/completions`
        self.url = url

    @abstractmethod
    def submit(self, store: BatchStore, batch: Batch, scratch: Path) -> Batch:
        """Send `batch`, which may have been begun before; it is `submitted` then.

        Raises `TooLarge`, and `RequestFailed`.
        """

    @abstractmethod
    def look(self, batch: Batch) -> Look:
        """How a batch is that was submitted."""

    @abstractmethod
    def lines(self, look: Look, scratch: Path) -> Iterator[str]:
        """The lines of its answers."""

    def cancel(self, batch: Batch) -> None:  # noqa: B027 - files are only left alone
        """Tell that nobody wants its answers."""

    def hint(self, batches: list[Batch]) -> str:
        """What people do until answers are there."""
        return "the same command goes on where this one is; without --no-wait it waits."

    def around(self) -> int:
        """Bytes of a line that are not the request's own."""
        return len(self.line("0" * 32, "")) + 1

    def line(self, key: str, body: str) -> str:
        """The line of a request whose body is this JSON."""
        about = json.dumps({"custom_id": key, "method": "POST", "url": self.url})
        return f'{about[:-1]}, "body": {body}}}'

    def _write(self, store: BatchStore, batch: Batch, path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for key, body in store.bodies(batch.name):
                file.write(self.line(key, body) + "\n")


class BatchApi(Carrier, Client):
    """A server with `/files` and `/batches` next to its `/chat/completions`."""

    def __init__(self, url: str, path: str, window: str, **client: Any) -> None:
        Client.__init__(self, url, **client)
        Carrier.__init__(self, f"/v1/{path}")
        self._window = window
        #: whether the server cannot say which batches it has
        self.is_blind = False

    def submit(self, store: BatchStore, batch: Batch, scratch: Path) -> Batch:
        """Upload the file, then ask for the batch: once, whatever happens in between."""
        if batch.state == "drafted":
            self._write(store, batch, scratch)
            try:
                batch = store.move(batch, "uploaded", file=self._upload(batch, scratch))
            finally:
                scratch.unlink(missing_ok=True)
        # From here on the server may have it, whether or not we hear so.
        was_sent, batch = batch.state == "sending", store.move(batch, "sending")
        try:
            name = self._create(batch, was_sent)
        except RequestFailed as error:
            # Said of the file, which may be gone since: the next try has a new one.
            if error.status in _NOT_TAKEN:
                store.drop(batch)
            raise
        return store.move(batch, "submitted", id=name)

    def _upload(self, batch: Batch, path: Path) -> str:
        name = f"prefmill-{batch.name}.jsonl"

        def send() -> Sent:
            with path.open("rb") as file:
                files = {"file": (name, file, "application/jsonl")}
                return self._ask("POST", "files", data={"purpose": "batch"}, files=files)

        try:
            return str(self._answer("files", send, "id")["id"])
        except RequestFailed as error:
            if error.status == 413:
                raise TooLarge from error
            raise

    def _create(self, batch: Batch, was_sent: bool) -> str:
        body = {
            "input_file_id": batch.file,
            "endpoint": self.url,
            "completion_window": self._window,
            "metadata": {"prefmill": batch.name},
        }
        # What is looked for may be listed a moment later than it was taken.
        settles = threading.Event()

        def send() -> Sent:
            nonlocal was_sent
            if was_sent:
                there = self._there(batch)
                if there is None:
                    settles.wait(4 * self._backoff)
                    there = self._there(batch)
                if there is not None:
                    return 200, {}, json.dumps({"id": there})
            was_sent = True
            return self._ask("POST", "batches", json=body)

        return str(self._answer("batches", send, "id")["id"])

    def _there(self, batch: Batch) -> str | None:
        """The server's name of a batch that it may have; None: it has none."""
        after: dict[str, str] = {}
        try:
            for _ in range(_PAGES):
                page = self._get("batches", "data", params={"limit": "100", **after})
                for each in page["data"]:
                    marks = (each.get("metadata") or {}).get("prefmill"), each.get("input_file_id")
                    if marks[0] == batch.name or (batch.file and marks[1] == batch.file):
                        return str(each["id"])
                if not page["data"] or not page.get("has_more"):
                    break
                after = {"after": page["data"][-1]["id"]}
        except RequestFailed as error:
            if error.status not in _NO_SUCH:
                raise
            self.is_blind = True
        return None

    def look(self, batch: Batch) -> Look:
        """What the server says of it."""
        try:
            said = self._get(f"batches/{batch.id}", "status")
        except RequestFailed as error:
            if error.status != 404:
                raise
            return Look("gone", "gone", why=error.message)
        status = str(said["status"]).lower()
        counts = said.get("request_counts") or {}
        answered = (counts.get("completed") or 0) + (counts.get("failed") or 0)
        files = tuple(filter(None, (said.get("output_file_id"), said.get("error_file_id"))))
        codes, why = _problems_in(said.get("errors"))
        outcome = _OUTCOMES.get(status, "working")
        if outcome == "failed" and "token_limit_exceeded" in codes:
            outcome = "later"
        return Look(outcome, status, answered, files, self._clean(why))

    def lines(self, look: Look, scratch: Path) -> Iterator[str]:
        """Both files, one after the other, through a file here."""
        for name in look.files:
            self._load(name, scratch)
            try:
                with scratch.open(encoding="utf-8", errors="replace") as file:
                    yield from file
            finally:
                scratch.unlink(missing_ok=True)

    def _load(self, name: str, path: Path) -> None:
        """The content of a file, into `path`."""
        place = f"files/{name}/content"
        url = self._url_of(place)

        def send() -> Sent:
            with self._http.stream("GET", url) as response:
                if not 200 <= response.status_code < 300:
                    text = response.read().decode("utf-8", "replace")
                    return response.status_code, response.headers, text
                with path.open("wb") as file:
                    for part in response.iter_bytes():
                        file.write(part)
            return 200, {}, ""

        def once() -> None:
            self._exchange(0, url, send)

        self._insist(0, place, once, _never())

    def cancel(self, batch: Batch) -> None:
        """Cancel it; one that is over, or is not known, is left as it is."""
        with contextlib.suppress(RequestFailed):
            path = f"batches/{batch.id}/cancel"
            self._answer(path, lambda: self._ask("POST", path), "id")

    # Talking

    def _get(self, path: str, needs: str, **how: Any) -> Any:
        return self._answer(path, lambda: self._ask("GET", path, **how), needs)

    def _ask(self, method: str, path: str, **how: Any) -> Sent:
        response = self._http.request(method, self._url_of(path), **how)
        return response.status_code, response.headers, response.text

    def _answer(self, path: str, send: Callable[[], Sent], needs: str) -> Any:
        """The JSON object with `needs` that `send` brings, tried again like every request."""

        def once() -> Any:
            text = self._exchange(0, self._url_of(path), send)
            try:
                answer = json.loads(text)
            except ValueError:
                answer = None
            if not isinstance(answer, dict) or answer.get(needs) is None:
                raise Again("broken answer", f"broken answer: {self._clean(text[:80])!r}")
            return answer

        return self._insist(0, path, once, _never())


class BatchFolder(Carrier):
    """Request files in a folder, to be answered by a program that reads such files."""

    can_wait = False

    def __init__(self, folder: Path, path: str, model: str) -> None:
        super().__init__(f"/v1/{path}")
        self._folder, self._model = folder, model

    def submit(self, store: BatchStore, batch: Batch, scratch: Path) -> Batch:
        """Write the file of its requests, whole or not at all."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadArgument(
                f"batch: no folder for batch files; got {str(self._folder)!r}: {error.strerror}."
            ) from None
        path = self._path(batch, "requests")
        whole.put(path, lambda hidden: self._write(store, batch, hidden))
        return store.move(batch, "submitted", id=path.name)

    def _path(self, batch: Batch, what: str) -> Path:
        return self._folder / f"prefmill-{batch.name}.{what}.jsonl"

    def look(self, batch: Batch) -> Look:
        """Done when its answer file has a whole line for every request."""
        path = self._path(batch, "answers")
        try:
            with path.open("rb") as file:
                lines = sum(line.endswith(b"\n") and bool(line.strip()) for line in file)
                size = file.tell()
                file.seek(max(0, size - 1))
                # The last line may have no end, where the program writes none.
                lines += size > 0 and file.read(1) != b"\n"
        except FileNotFoundError:
            return Look("working", "no answers yet")
        if lines < batch.requests:
            return Look("working", "half answered", lines)
        return Look("done", "answered", lines, (str(path),))

    def lines(self, look: Look, scratch: Path) -> Iterator[str]:
        """The lines of the answer file."""
        for name in look.files:
            with open(name, encoding="utf-8", errors="replace") as file:
                yield from file

    def hint(self, batches: list[Batch]) -> str:
        """The command that answers them."""
        shown = self._path(batches[0], "requests")
        answers = self._path(batches[0], "answers")
        return (
            f"answer them, for example: vllm run-batch -i {shown} -o {answers}"
            f" --model {self._model}; then the same command goes on."
        )


def settled_in(lines: Iterator[str]) -> Iterator[tuple[str, Settled]]:
    """What the lines of an answer file say of each request.

    A line that is not JSON, or names no request, says nothing of any: such a request has no answer.

    >>> line = '{"custom_id": "a", "response": {"status_code": 500, "body": {"error": "busy"}}}'
    >>> list(settled_in(iter([line, "half a li"])))
    [('a', Settled(answer=None, failure='500 busy', is_final=False))]
    """
    for line in lines:
        try:
            said = json.loads(line)
            key = said["custom_id"]
        except (ValueError, TypeError, LookupError, RecursionError):
            continue
        if isinstance(key, str):
            yield key, _settled(said)


def _settled(said: Mapping[str, Any]) -> Settled:
    response, error = said.get("response"), said.get("error")
    status = response.get("status_code") if isinstance(response, dict) else None
    if type(status) is not int:
        return Settled(None, _message(error) if error else "an answer without a status")
    assert isinstance(response, dict)
    if 200 <= status < 300 or status in OF_REQUEST:
        return Settled({"status": status, "body": response.get("body")})
    # The key, the model or the path are wrong: asking again in a day says the same.
    is_final = 400 <= status < 500 and status not in (408, 425, 429)
    what = _message(response.get("body") or error)
    return Settled(None, f"{status} {what}", is_final)


def _message(said: Any) -> str:
    """What an error object says: its words, else its code."""
    if isinstance(said, dict):
        inner = said.get("error", said)
        if isinstance(inner, dict) and not inner.get("message") and inner.get("code"):
            return str(inner["code"])
    return message_of(json.dumps(said, ensure_ascii=False))


def _problems_in(errors: Any) -> tuple[set[str], str]:
    """The codes of a batch's errors, and what the first of them says."""
    every = errors.get("data") if isinstance(errors, dict) else errors
    every = [each for each in every or () if isinstance(each, dict)]
    if not every:
        return set(), str(errors) if errors else ""
    line = f"line {every[0]['line']}: " if every[0].get("line") else ""
    return {str(each.get("code")) for each in every}, f"{line}{_message(every[0])}"


def _never() -> threading.Event:
    """An event that does not come."""
    return threading.Event()


def wait(seconds: float) -> None:
    """Sleep; in a place of its own, so that tests may look at it."""
    time.sleep(seconds)
