"""The requests of a run in batches: sent, waited for, fetched; stopped anywhere, gone on with.

A batch is half the price at most servers, and takes up to a day. So everything that a run will ask
is gathered first, and nothing is asked twice: `batch_store.py` says what is written when.
"""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path

from prefmill.errors import BatchesUnderWay, RequestFailed
from prefmill.models import batch_carriers
from prefmill.models.batch_carriers import Carrier, Look, TooLarge, settled_in
from prefmill.models.batch_store import Batch, BatchStore
from prefmill.progress import Progress

#: batches in which a request may stay without an answer
_TRIES = 3
#: times in a row that a server may have too much to do, while none of our batches is under way
_PATIENCE = 50
_NAMES = 5  # of batches in a message


class Batches:
    """What one sampler asks in batches.

    most, size    requests of a file, and its bytes
    waits         whether `settle` waits for answers, or raises `BatchesUnderWay`
    poll          seconds between two looks at a batch, at most; they begin at one
    """

    def __init__(
        self, path: Path, carrier: Carrier, *, most: int, size: int, waits: bool, poll: float
    ) -> None:
        self.store, self._carrier = BatchStore(path), carrier
        self._scratch = path.with_suffix(".part")
        self._most, self._size, self._poll = most, size, poll
        self._waits = waits and carrier.can_wait
        self._is_held = False  #: the server takes no more for now
        self._refusals = 0

    def begin(self) -> None:
        """Send everything that is wanted, as far as the server takes it."""
        for batch in self.store.batches("drafted", "uploaded", "sending"):
            self._submit(batch)
        while not self._is_held:
            new = self.store.cut(self._most, self._size, self._carrier.around())
            if new is None:
                return
            self._submit(new)

    def _submit(self, batch: Batch) -> None:
        try:
            self._carrier.submit(self.store, batch, self._scratch)
        except TooLarge as error:
            self.store.drop(batch)
            if batch.requests == 1:
                raise RequestFailed(
                    "batch: the server does not take a file of one request."
                ) from error
            self._most = -(-batch.requests // 2)

    def settle(self, tell: Progress) -> None:
        """Until every request that is wanted has an answer.

        Raises `BatchesUnderWay` where it is not to wait; `RequestFailed` for a batch that the
        server failed, that somebody cancelled, or whose requests had no answer in three batches.
        What is answered is kept, and the next call asks for the rest.
        """
        pause = min(1.0, self._poll)
        while True:
            self.begin()
            under_way = self.store.batches("submitted")
            if not under_way and not self._is_held:
                return
            looks = [(batch, self._carrier.look(batch)) for batch in under_way]
            over = [(batch, look) for batch, look in looks if look.outcome != "working"]
            problems = [self._end(batch, look) for batch, look in over]
            self._hold([(batch, look) for batch, look in looks if look.outcome == "later"], looks)
            self._raise_first(problems)
            working = [(batch, look) for batch, look in looks if look.outcome == "working"]
            if any(look.outcome != "later" for _, look in over):
                self._is_held, self._refusals, pause = False, 0, min(1.0, self._poll)
                continue
            self._tell(tell, working)
            if not self._waits:
                self._leave([batch for batch, _ in working])
            batch_carriers.wait(pause)
            pause = min(self._poll, 1.5 * pause)
            # Others of the account may have been in the way: it is tried again.
            self._is_held = self._is_held and bool(working)

    def _end(self, batch: Batch, look: Look) -> RequestFailed | None:
        """Keep what a batch that is over has brought; what is wrong with it."""
        name = f"batch {batch.id}"
        if look.outcome == "later":
            self.store.drop(batch)
            return None
        if look.outcome == "gone" or (look.outcome == "failed" and not look.files):
            self.store.drop(batch)
            what = f"{name} failed" if look.outcome == "failed" else f"{name} is gone"
            return RequestFailed(
                f"batch: {what}; the server says {look.why.rstrip('.') or 'nothing'}.",
                hint=f"the same command sends its {batch.requests:,} requests again.",
            )
        try:
            lines = settled_in(self._carrier.lines(look, self._scratch))
            final = self.store.keep(batch, lines, _MISSING.get(look.outcome, "no line of answer"))
        except RequestFailed as error:
            if error.status != 404:
                raise
            self.store.keep(batch, (), "its answers are gone")
            return error.about(f"The answers of {name} are gone.")
        left = self.store.unanswered_of(batch)
        if look.outcome == "cancelled" and left:
            return RequestFailed(
                f"batch: {name} was cancelled; {left:,} of its {batch.requests:,} requests have"
                " no answer.",
                hint="the same command asks for them again.",
            )
        if final is not None:
            return RequestFailed(
                f"batch: requests of {name} were refused; got {final.rstrip('.')}.",
                hint="is the model's name right, and the key? The same command asks again.",
            )
        return None

    def _hold(self, refused: list[tuple[Batch, Look]], all_of_ours: Sized) -> None:
        """The server has too much of ours, or of our account's: the rest waits for what is done.

        Where nothing of ours is under way, files become smaller.
        """
        if not refused:
            return
        self._is_held = True
        if len(refused) < len(all_of_ours):
            return
        self._most = max(1, max(batch.requests for batch, _ in refused) // 2)
        self._refusals += 1
        if self._refusals > _PATIENCE:
            raise RequestFailed(
                f"batch: the server takes no batch; it says {refused[0][1].why.rstrip('.')}.",
                hint="what is answered is kept: the same command goes on.",
            )

    def _raise_first(self, problems: list[RequestFailed | None]) -> None:
        for problem in problems:
            if problem is not None:
                raise problem
        number, failure = self.store.given_up(_TRIES)
        if number:
            raise RequestFailed(
                f"batch: {number:,} requests had no answer in {_TRIES} batches; one of them:"
                f" {failure}.",
                hint="what is answered is kept, and the same command asks for the rest again.",
            )

    def _tell(self, tell: Progress, working: list[tuple[Batch, Look]]) -> None:
        every, answered = self.store.counts()
        answered += sum(min(look.answered, batch.requests) for batch, look in working)
        states = ", ".join(sorted({look.status for _, look in working})) or "waiting to be taken"
        tell(
            f"batches: {answered:,} of {every:,} requests answered,"
            f" {len(working)} under way ({states})",
            answered / max(1, every),
        )

    def _leave(self, working: list[Batch]) -> None:
        every, answered = self.store.counts()
        names = [str(batch.id) for batch in working]
        shown = ", ".join(names[:_NAMES]) + ("" if len(names) <= _NAMES else ", ...")
        raise BatchesUnderWay(
            f"batch: {len(names)} under way, {answered:,} of {every:,} requests are answered;"
            f" waiting for {shown or 'a server that takes the rest'}.",
            hint=self._carrier.hint(working),
            batches=names,
        )

    def withdraw(self) -> None:
        """Cancel what is under way, and forget everything."""
        for batch in self.store.batches("submitted"):
            self._carrier.cancel(batch)
        self.store.forget()

    def remark(self) -> str | None:
        """What was asked in batches; None: nothing."""
        ended = self.store.batches("ended")
        if not ended:
            return None
        names = [f"{batch.id} ({batch.requests:,})" for batch in ended]
        shown = ", ".join(names[:_NAMES]) + ("" if len(names) <= _NAMES else ", ...")
        word = "batch" if len(ended) == 1 else "batches"
        return f"asked in {len(ended)} {word}, with so many requests: {shown}."


_MISSING = {"expired": "the batch expired", "cancelled": "the batch was cancelled"}
