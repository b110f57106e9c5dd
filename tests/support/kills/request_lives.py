"""Run as a program by disk/test_kills.py: killed before and after every request of a store.

    python request_lives.py FOLDER [--case NAME]... [--moment before,after]

For n = 1, 2, ... until a life passes. After each kill what stands is old or new; the same command
then ends in the new output, and it leaves nothing else; nor does it once more. Prints the kills by
case and moment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kill_lives
from kill_cases import CASES

from prefmill.disk.stores import ObjectStore

#: What changes a store. What one calls of another counts once for each.
REQUESTS = ("put_where_none", "_upload", "_put_if", "copy", "delete")


class Requests(kill_lives.Lives):
    """One case after another, killed at every request."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        super().__init__(folder, names, random.Random(3))
        self.counts: Counter[str] = Counter()

    def request(self, name: str, stood: bool, moment: str, number: int) -> bool:
        """A life killed at one request, and what comes after; whether the life got so far."""
        where = f"{name}, {stood=}: {moment} request {number}"
        self.begin(name, stood)
        case, draw = CASES[name], random.Random(self.draw.random())

        def work() -> None:
            arm(moment, number)
            case.run(self.place, "new", stood, draw)

        code = kill_lives.ended(kill_lives.started(work))
        assert code in (0, -signal.SIGKILL), f"{where}: ends with {code}"
        if code == 0:
            return False
        self.counts[f"{name}: {moment}"] += 1
        try:
            self.judge(name, stood, self.reader.ask("content", name), still=True)
            self.again(name, stood)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from None
        return True


def arm(moment: str, number: int) -> None:
    """Let this process die at a request."""
    calls = 0

    def deadly(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            mine = calls == number
            if mine and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            answer = method(*given, **named)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return call

    for name in REQUESTS:
        setattr(ObjectStore, name, deadly(getattr(ObjectStore, name)))


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("folder", type=Path)
    words.add_argument("--case", action="append")
    words.add_argument("--moment", default="before,after")
    given = words.parse_args()
    names = given.case or [name for name, case in CASES.items() if case.group == "objects"]
    kill_lives.prepare(given.folder, names)
    requests = Requests(given.folder, names)
    for name in names:
        for stood in CASES[name].stood:
            requests.unbroken(name, stood)
            for moment in given.moment.split(","):
                number = 1
                while requests.request(name, stood, moment, number):
                    number += 1
    print(json.dumps(requests.counts))


if __name__ == "__main__":  # pytest imports every file, for doctests
    main()
