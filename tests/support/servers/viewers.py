"""A page of `prefmill view` on this machine's loopback, and what it answers."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from urllib.parse import urlencode

from prefmill.viewer.view import viewing


@contextmanager
def served(inputs, flags):
    """A running server."""
    with viewing(inputs, flags=flags) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def fetched(url, body=None, headers=()):
    """(status, headers, content) of a URL."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def told(server, path, **words):
    """What the page is told."""
    status, _, content = fetched(f"{server.url}{path}?{urlencode({'q': json.dumps(words)})}")
    answer = json.loads(content)
    assert status == 200, answer
    return answer["told"]


def flagged(server, row, on=True):
    """Flag a row; the rows that are flagged."""
    status, _, content = fetched(f"{server.url}flag", {"row": row, "on": on})
    assert status == 200, content
    return json.loads(content)["told"]
