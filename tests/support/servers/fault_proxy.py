"""A proxy that spoils every few requests between a client and a server, by a seeded schedule.

refused   the connection is reset, and for a moment nobody listens      lost      the server
answers, the client is cut off before it hears 429, 500  as said, the first with Retry-After
                  slow      the answer comes after the client has given up broken    the answer is
                  cut, and says it is whole                       half      the answer is cut, and
                  the connection with it
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from typing import Any

FAULTS = ("refused", "429", "500", "slow", "broken", "half", "lost")


class FaultProxy:
    """Listens on `url`; of every `spacing` requests one is spoiled, with each of `faults` in turn,
    in an order drawn from `seed`.
    """

    def __init__(
        self,
        port: int,
        *,
        seed: int,
        faults: tuple[str, ...] = FAULTS,
        spacing: int = 3,
        slow: float = 2.0,
    ) -> None:
        self.upstream, self.slow = port, slow
        deck = [*faults, *[None] * (len(faults) * (spacing - 1))]
        random.Random(seed).shuffle(deck)
        self._deck, self._dealt, self._lock = deck, 0, threading.Lock()
        self.done: Counter[str | None] = Counter()
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]
        self._closing = self._away = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: Any) -> None:
        self._closing = True
        self._thread.join()

    @staticmethod
    def _listen(port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        listener.settimeout(0.02)
        return listener

    def _accept(self) -> None:
        while not self._closing:
            if self._away:
                self._away = False
                self._listener.close()
                time.sleep(0.1)  # whoever connects now is refused
                self._listener = self._listen(self.port)
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        with client:
            client.settimeout(30)
            stream = client.makefile("rb")
            try:
                while (request := _request(stream)) is not None:
                    if not self._answer(client, *request):
                        return
            except (OSError, ValueError, http.client.HTTPException):
                return
            finally:
                stream.close()

    def _answer(self, client: socket.socket, path: str, body: bytes) -> bool:
        """Answer one request; whether the connection goes on."""
        with self._lock:
            fault = self._deck[self._dealt % len(self._deck)]
            self._dealt += 1
            self.done[fault] += 1
        if fault == "refused":
            self._reset(client)
            self._away = True
            return False
        if fault in ("429", "500"):
            client.sendall(
                _response(
                    int(fault),
                    b'{"error": {"message": "not now"}}',
                    {"Retry-After": "0.1"} if fault == "429" else {},
                )
            )
            return True
        status, answer = self._forward(path, body)
        if fault == "lost":
            self._reset(client)
            return False
        if fault == "slow":
            time.sleep(self.slow)
        whole = _response(status, answer[: len(answer) // 2] if fault == "broken" else answer)
        client.sendall(whole[: len(whole) - len(answer) // 2] if fault == "half" else whole)
        return fault != "half"

    def _forward(self, path: str, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    @staticmethod
    def _reset(client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


def _request(stream: Any) -> tuple[str, bytes] | None:
    """Path and body of the next request on a connection; None at its end."""
    line = stream.readline()
    if not line:
        return None
    length = 0
    while (header := stream.readline()) not in (b"\r\n", b""):
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return line.split()[1].decode(), stream.read(length)


def _response(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {http.client.responses[status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
