"""The HTTP client of samplers and scorers over servers, against a server that says what it was told
to.
"""

from __future__ import annotations

import email.utils
import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import serving

from prefmill.errors import BadArgument, BadRow, RequestFailed
from prefmill.sampling import Answer, EndpointSampler, Request

pytest.importorskip("httpx2", reason="needs the extra prefmill[endpoint]")

ASKED = [Request(f"q{i}", 0.5, i) for i in range(12)]


class Script:
    """Says the given answers to the first requests, and then echoes the prompt; keeps what it was
    asked.
    """

    def __init__(self, *said: Any, wait: float = 0.0) -> None:
        self.said, self.wait = list(said), wait
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        self.at: list[float] = []
        self.busy, self.most = 0, 0
        self.lock = threading.Lock()

    def __call__(self, path: str, body: Any, headers: dict[str, str]) -> Any:
        with self.lock:
            self.asked.append((path, body, headers))
            self.at.append(time.monotonic())
            said = self.said.pop(0) if self.said else None
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(self.wait)
        with self.lock:
            self.busy -= 1
        if callable(said):
            said = said()
        return said or (200, {}, serving.chat(f"re: {body['messages'][-1]['content']}"))


def sampler(url: str, **more: Any) -> EndpointSampler:
    return EndpointSampler(**{"url": f"{url}/v1", "model": "m", "backoff": 0.01, **more})


def test_answers_in_order_and_what_is_sent() -> None:
    script = Script(wait=0.02)
    with serving.server(script) as url:
        asked = sampler(
            url,
            concurrency=4,
            top_p=0.9,
            max_new_tokens=7,
            stop=["\n"],
            seed_bits=32,
            extra={"top_k": 3},
        )
        found = asked.sample([Request("q", 0.0, 2**40 + 5), *ASKED])
    assert [answer.text for answer in found] == ["re: q", *(f"re: q{i}" for i in range(12))]
    assert script.most == 4, "so many requests at a time, and no more"
    path, body, _ = next(each for each in script.asked if each[1]["messages"][0]["content"] == "q")
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "q"}],
        "temperature": 0.0,
        "top_p": 0.9,
        "max_tokens": 7,
        "seed": 5,
        "stop": ["\n"],
        "logprobs": True,
        "top_k": 3,
    }
    usage = asked.usage
    assert (usage.requests, usage.tokens_in, usage.tokens_out) == (
        13,
        130,
        sum(len(a.text) for a in found),
    )


def test_what_an_answer_means() -> None:
    tokens = [{"token": "a", "logprob": -1.5, "top_logprobs": []}, {"token": "b", "logprob": -0.25}]
    plain = {
        "choices": [
            {
                "text": "abcSTOP",
                "finish_reason": "stop",
                "logprobs": {"tokens": ["abc"], "token_logprobs": [-2.0]},
            }
        ]
    }
    said = [
        serving.chat("ab", "length", logprobs={"content": tokens}),
        serving.chat("none", "content_filter"),
        {**serving.chat(None)},
    ]
    with serving.server(Script(*((200, {}, each) for each in said))) as url:
        got = sampler(url, concurrency=1).sample(ASKED[:3])
    assert got == [
        Answer("ab", "length", -1.75, 2),
        Answer("none", "content_filter", None, 4),
        Answer("", "stop", None, 0),
    ]
    with serving.server(Script((200, {}, plain))) as url:
        text = sampler(url, api="completions", stop="STOP").sample([Request("p", 1.0, 0)])
        with pytest.raises(RequestFailed, match="messages cannot go"):
            sampler(url, api="completions").sample(
                [Request([{"role": "user", "content": "p"}], 1.0, 0)]
            )
    assert text == [Answer("abc", "stop", -2.0, 1)]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_tried_again(status: int) -> None:
    with serving.server(Script(*[(status, {}, {"error": "busy"})] * 2)) as url:
        asked = sampler(url)
        assert asked.sample(ASKED[:2]) == [Answer(f"re: q{i}", "stop", None, 6) for i in range(2)]
    assert asked.usage.retries == {str(status): 2}
    assert asked.usage.requests == 4


@pytest.mark.parametrize(
    "half",
    [
        b'{"choices": [{"message"',
        b"",
        b"<html>",
        b"[]",
        b"null",
        {"choices": []},
        {"choices": [{"message": {}, "finish_reason": "stop"}]},
        serving.chat("x", None),
        {"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]},
        {"error": "in an answer that is 200"},
    ],
)
def test_half_an_answer_is_no_answer(half: Any) -> None:
    with serving.server(Script((200, {}, half))) as url:
        asked = sampler(url)
        assert asked.sample(ASKED[:1]) == [Answer("re: q0", "stop", None, 6)]
    assert asked.usage.retries == {"broken answer": 1}


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (
            400,
            {"error": {"message": "temperature must be small", "code": 3}},
            'got 400 temperature must be small. The prompt was "q0"',
        ),
        (401, {"error": "no key"}, "got 401 no key"),
        (404, {"detail": "Not Found"}, "got 404 Not Found"),
        (
            422,
            {"detail": [{"loc": ["a"], "msg": "b"}]},
            r'got 422 \[\{"loc": \["a"\], "msg": "b"\}\]',
        ),
        (501, b"<html>\n no  way</html>", "no way"),
        (307, b"", "got 307"),
    ],
)
def test_final(status: int, said: Any, words: str) -> None:
    script = Script(*[(status, {}, said)] * 20)
    with (
        serving.server(script) as url,
        pytest.raises((RequestFailed, BadRow), match=words) as caught,
    ):
        sampler(url, concurrency=1).sample(ASKED)
    assert len(script.asked) == 1, "nothing is asked after it"
    failed = caught.value.__cause__ if isinstance(caught.value, BadRow) else caught.value
    assert isinstance(failed, RequestFailed)
    assert (failed.status, failed.index, caught.value.exit_code) == (status, 0, 1)
    assert isinstance(caught.value, BadRow) == (status in (400, 422)), (
        "the others are the server's fault"
    )


def test_gives_up() -> None:
    with serving.server(Script(*[(500, {}, {"error": {"message": "out of memory"}})] * 20)) as url:
        with pytest.raises(
            RequestFailed, match="gave no answer, asked 3 times; the last time 500 out of memory"
        ) as caught:
            sampler(url, retries=2).sample(ASKED[:1])
        assert "Hint: is the server up? What is done is kept" in str(caught.value)
    with pytest.raises(RequestFailed, match="asked once; the last time ConnectError"):
        sampler(url, retries=0).sample(ASKED[:1])


def test_server_that_comes_up_late() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    from http.server import ThreadingHTTPServer

    asked = sampler(f"http://127.0.0.1:{port}", backoff=0.1, retries=8)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(asked.sample(ASKED[:2])))
    thread.start()
    time.sleep(0.3)
    original = ThreadingHTTPServer.__init__
    try:
        ThreadingHTTPServer.__init__ = lambda self, _, handler: original(
            self, ("127.0.0.1", port), handler
        )
        with serving.server(Script()):
            thread.join(20)
    finally:
        ThreadingHTTPServer.__init__ = original
    assert [answer.text for answer in found] == ["re: q0", "re: q1"]
    assert asked.usage.retries["no connection"] >= 2


def test_slow_answers() -> None:
    """One that is late, and one that drips: neither a read nor the whole may take longer than the
    timeout.
    """
    first = threading.Event()

    def answer(path: str, body: Any, headers: dict[str, str]) -> Any:
        if not first.is_set():
            first.set()
            time.sleep(1.0)
        return 200, {}, serving.chat("here")

    with serving.server(answer) as url:
        asked = sampler(url, timeout=0.3)
        assert asked.sample(ASKED[:1])[0].text == "here"
    assert asked.usage.retries == {"timeout": 1}

    def drip() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(80):
                try:
                    client.sendall(b" ")
                except OSError:
                    return
                time.sleep(0.05)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        started = time.monotonic()
        with pytest.raises(RequestFailed, match="ReadTimeout: the answer was not whole in time"):
            sampler(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3, retries=0).sample(
                ASKED[:1]
            )
        assert time.monotonic() - started < 3
        thread.join(5)


def test_retry_after_holds_all_requests() -> None:
    for dated in (False, True):
        script = Script(
            lambda dated=dated: (
                429,
                {
                    "Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)
                    if dated
                    else "1"
                },
                {},
            ),
            wait=0.01,
        )
        with serving.server(script) as url:
            sampler(url, concurrency=2).sample(ASKED)
        gaps = [after - before for before, after in zip(script.at, script.at[1:], strict=False)]
        assert max(gaps) > 0.8
        assert sum(at - script.at[0] < 0.8 for at in script.at) <= 3, (
            "those under way, and none after"
        )
    with (
        serving.server(Script((503, {"Retry-After": "7200"}, {}))) as url,
        pytest.raises(RequestFailed, match="asked once"),
    ):
        sampler(url).sample(ASKED[:1])


def test_rate_limit() -> None:
    script = Script()
    with serving.server(script) as url:
        sampler(url, rate_limit="1200/min").sample(ASKED)
    gaps = [after - before for before, after in zip(script.at, script.at[1:], strict=False)]
    assert script.at[-1] - script.at[0] >= 11 / 20 * 0.95
    assert sorted(gaps)[len(gaps) // 2] > 0.02


def test_waits_double_and_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[list[float]] = []
    wait = threading.Event.wait
    for _ in range(2):
        here: list[float] = []

        def at_once(self, timeout=None, here=here):
            # Monitors of progress bars that other tests left behind wait as well.
            if threading.current_thread().name == "tqdm_monitor":
                return wait(self, timeout)
            here.append(timeout)
            return wait(self, 0)

        monkeypatch.setattr(threading.Event, "wait", at_once)
        with serving.server(Script(*[(500, {}, {})] * 5)) as url:
            sampler(url, backoff=8.0).sample(ASKED[:1])
        monkeypatch.undo()
        waits.append([each for each in here if each and each > 2])
    assert waits[0] == waits[1]
    assert [
        base / 2 <= each <= base for base, each in zip((8, 16, 32, 60, 60), waits[0], strict=True)
    ] == [True] * 5


def test_the_key_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-very-secret")
    script = Script((401, {}, {"error": {"message": "Incorrect API key provided: sk-very-secret"}}))
    with serving.server(script) as url:
        asked = sampler(url, api_key_env="A_KEY")
        with pytest.raises(RequestFailed, match=r"Incorrect API key provided: \*\*\*") as caught:
            asked.sample(ASKED[:1])
        assert asked.sample(ASKED[:1])[0].text == "re: q0"
    assert script.asked[0][2]["authorization"] == "Bearer sk-very-secret"
    for text in (
        str(caught.value),
        repr(asked),
        str(asked.fingerprint),
        str(pickle.dumps(asked)),
        str(caught.value.__dict__),
    ):
        assert "secret" not in text
    again = pickle.loads(pickle.dumps(asked))
    assert again == asked
    assert not again._state
    monkeypatch.delenv("A_KEY")
    with pytest.raises(BadArgument, match="no environment variable 'A_KEY'"):
        again.sample(ASKED[:1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "localhost:8000"},
        {"url": "http://user:pw@host/v1"},
        {"url": "ftp://host"},
        {"url": "http://host/v1?key=1"},
        {"concurrency": 0},
        {"retries": -1},
        {"timeout": 0},
        {"backoff": float("nan")},
        {"rate_limit": "fast"},
        {"rate_limit": 0},
        {"rate_limit": "3/fortnight"},
        {"api": "chats"},
        {"top_p": 0},
        {"max_new_tokens": 0},
        {"stop": [""]},
        {"seed_bits": 0},
    ],
)
def test_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadArgument) as caught:
        EndpointSampler(**{"url": "http://h", "model": "m", **wrong})
    assert "pw" not in str(caught.value)


def test_refusals_can_be_answers() -> None:
    with serving.server(
        Script((400, {}, {"detail": "too long"}), (413, {}, {"error": "large"}))
    ) as url:
        found = sampler(url, concurrency=1).replies(ASKED[:3], refusals=True)
    assert [reply.answer.finish_reason for reply in found] == ["refused", "refused", "stop"]
    assert "too long" in found[0].answer.text
    with (
        serving.server(Script((404, {}, {"detail": "no model"}))) as url,
        pytest.raises(RequestFailed, match="no model"),
    ):
        sampler(url, concurrency=1).replies(ASKED[:3], refusals=True)


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C while the server hangs: the program ends at once, and sends nothing more."""
    script = Script(wait=8.0)
    program = (
        "import sys\nfrom prefmill.sampling import EndpointSampler, Request\n"
        "try:\n    EndpointSampler(url=sys.argv[1], model='m', concurrency=3).sample([Request('q', "
        "0, i) for i in range(50)])\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    with serving.server(script) as url:
        child = subprocess.Popen([sys.executable, "-c", program, f"{url}/v1"])
        ends = time.monotonic() + 20
        while len(script.asked) < 3 and time.monotonic() < ends:
            time.sleep(0.02)
        child.send_signal(2)
        asked = time.monotonic()
        assert child.wait(10) == 130
        assert time.monotonic() - asked < 5
        assert len(script.asked) == 3
