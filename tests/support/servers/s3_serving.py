"""An S3 server of this process, on a port of the loopback: moto's."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

SECRET = "wJalrXUtnFEMI-never-to-be-printed"
KEY_ID = "AKIAOFATEST"


@dataclass
class S3:
    """A server and one bucket of its own. `environ` are the variables that lead to it."""

    port: int
    bucket: str = field(default_factory=lambda: f"bucket-{uuid.uuid4().hex[:12]}")

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def environ(self) -> dict[str, str]:
        return environ(self.port)

    def lead_here(self, monkeypatch: pytest.MonkeyPatch) -> S3:
        """Let the environment of the test lead to this bucket."""
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)
        return self

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )

    def keys(self, prefix: str = "") -> list[str]:
        answer = self.client().list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [each["Key"] for each in answer.get("Contents", [])]

    def get(self, key: str) -> bytes:
        body: bytes = self.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def put(self, key: str, data: bytes) -> None:
        self.client().put_object(Bucket=self.bucket, Key=key, Body=data)


def environ(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


#: Spoils a request: takes the server's own answer to a WSGI call, and gives another.
Spoil = Callable[[dict[str, Any], Callable[..., Iterable[bytes]], Any], Iterable[bytes]]


@contextmanager
def s3_server(spoil: Spoil | None = None) -> Iterator[int]:
    """The port of a server, while it runs."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = DomainDispatcherApplication(create_backend_app)

    def app(request: dict[str, Any], start: Any) -> Iterable[bytes]:
        return moto(request, start) if spoil is None else spoil(request, moto, start)

    server = make_server("127.0.0.1", 0, app, True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Faults:
    """Of every `spacing` requests one is spoiled, with each of `kinds` in turn.

    503   the server is busy, and does nothing
    lost  the server does it, and says that it failed
    cut   the server does it, and breaks off in the middle of the answer
    slow  the answer comes after `seconds`
    """

    def __init__(self, *kinds: str, spacing: int = 3, seconds: float = 1.5) -> None:
        self.kinds, self.spacing, self.seconds = kinds, spacing, seconds
        self.calls = 0
        self.done: Counter[str] = Counter()
        self.on = False
        self._lock = threading.Lock()

    def _next(self) -> str | None:
        with self._lock:
            self.calls += 1
            turn, rest = divmod(self.calls, self.spacing)
            if rest or not self.on:
                return None
            kind = self.kinds[turn % len(self.kinds)]
            self.done[kind] += 1
            return kind

    def __call__(self, request: dict[str, Any], moto: Any, start: Any) -> Iterable[bytes]:
        kind = self._next()
        if kind == "503":
            start("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        if kind == "lost":
            list(moto(request, lambda *_: lambda data: None))
            start("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        if kind == "slow":
            time.sleep(self.seconds)
        answer = moto(request, start)
        if kind == "cut":
            data = b"".join(answer)
            return [data[: len(data) // 2]]
        return answer


def new_bucket(port: int) -> S3:
    server = S3(port)
    server.client().create_bucket(Bucket=server.bucket)
    return server


def without_others() -> dict[str, str]:
    """This process's variables but those of any store."""
    stores = ("AWS_", "GOOGLE_", "AZURE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(stores)}
