"""What a run asks of scorers and of samplers alike; their own contracts are built on this one."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self, get_args

from prefmill.errors import BadArgument

OnBadRow = Literal["error", "null"]
#: members that give the part anew
_CHANGES = frozenset({"with_shape", "on_date", "on_device", "with_bad_rows"})


def check_on_bad_row(where: str, on_bad_row: object) -> None:
    """Raise `BadArgument` for a value that `on_bad_row` cannot have."""
    allowed = get_args(OnBadRow)
    if on_bad_row not in allowed:
        raise BadArgument(f"{where}: on_bad_row is not one of {allowed}; got {on_bad_row!r}.")


class Part(Protocol):
    """A scorer or a sampler, as a run sees it.

    A class that inherits from this has the defaults written here. An object that does not is given
    them for the members that it lacks (`completed`).
    """

    @property
    @abstractmethod
    def fingerprint(self) -> Mapping[str, str]:
        """What decides the results, by name.

        A resumed run with another value is refused, and the name is told.
        """

    @property
    def shape(self) -> Mapping[str, Any]:
        """What may move the last bit of a result: a resumed run goes on as it began."""
        return {}

    def with_shape(self, shape: Mapping[str, Any], /) -> Self:
        """The same with another `shape`."""
        return self

    @property
    def printed_date(self) -> str | None:
        """The date that its templates print, YYYY-MM-DD; None: they print none."""
        return None

    def on_date(self, date: str, /) -> Self:
        """The same on that date, where a template prints one and none was given."""
        return self

    def on_device(self, device: str, /) -> Self:
        """The same on another device, where it runs on one of this machine."""
        return self

    def with_bad_rows(self, on_bad_row: OnBadRow, /) -> Self:
        """The same, which with `null` leaves out all bad rows of a batch in one go."""
        return self

    @property
    def posts(self) -> tuple[tuple[Any, Any], ...]:
        """What of it asks in batches: each such scorer or sampler, with its `BatchSampler`.

        A run gathers what they ask before it works on the first chunk.
        """
        return ()

    def load(self) -> str:
        """Load everything now, and say how rows will be run."""
        return ""


class _Completed:
    """Somebody's own object, with a contract's defaults for the members that it lacks."""

    def __init__(self, own: Any, contract: type) -> None:
        self._own, self._contract = own, contract

    def __getattr__(self, name: str) -> Any:
        own, contract = self._own, self._contract
        value: Any = getattr(own, name, self)
        if value is not self:
            if name in _CHANGES:
                return lambda *values: _Completed(value(*values), contract)
            return value
        member = inspect.getattr_static(contract, name, None)
        if member is None or getattr(member, "__isabstractmethod__", False):
            raise AttributeError(f"{type(own).__name__} has no {name}")
        return member.__get__(self)

    def __reduce__(self) -> Any:  # before it is whole again, nothing is to be looked up in it
        return _Completed, (self._own, self._contract)


def completed(own: Any, contract: type) -> Any:
    """`own` with every member of `contract`: itself, if its class inherits from that."""
    # Not isinstance: that reads every member, and the fingerprint of a model is a hash of it.
    if contract in type(own).__mro__ or isinstance(own, _Completed):
        return own
    return _Completed(own, contract)


def on_its_date(part: Any, before: Mapping[str, Any]) -> Any:
    """`part` on one date for a whole run.

    The date is that of the run that goes on, whose fingerprint was `before`; else today's.
    """
    date = part.printed_date
    if date is None:
        return part
    begun = (value for name, value in before.items() if name.rpartition(".")[2] == "template_date")
    return part.on_date(next(begun, None) or date)
