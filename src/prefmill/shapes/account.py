"""What became of records: the account of a reshaping, for reports and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefmill.shown import amount


@dataclass(frozen=True)
class Account:
    """What became of records: those that gave rows, and the reasons of the others."""

    records: int
    rows: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    lost_votes: int = 0
    longest: int = 1
    #: pairs that their scores contradict, by what becomes of them
    contradicted: Mapping[str, int] = field(default_factory=dict)

    def as_mapping(self) -> dict[str, object]:
        """For reports.

        >>> Account(3, 4, {"no_answers": 1}).as_mapping()
        {'in': 3, 'rows': 4, 'dropped': {'no_answers': 1}, 'votes_without_verdict': 0}
        """
        return {
            "in": self.records,
            "rows": self.rows,
            "dropped": dict(self.dropped),
            "votes_without_verdict": self.lost_votes,
            **self.contradicted,
        }

    def and_more(self, other: Account) -> Account:
        """The account of further records as well.

        >>> Account(2, 4, {"filtered": 1}).and_more(Account(1, 0, {"filtered": 1})).dropped
        {'filtered': 2}
        """
        reasons = sorted({*self.dropped, *other.dropped})
        return Account(
            self.records + other.records,
            self.rows + other.rows,
            {name: self.dropped.get(name, 0) + other.dropped.get(name, 0) for name in reasons},
            self.lost_votes + other.lost_votes,
            max(self.longest, other.longest),
            {
                word: self.contradicted.get(word, 0) + count
                for word, count in other.contradicted.items()
            },
        )

    def line(self) -> str:
        """For people.

        >>> Account(350, 700, {"unknown_verdict": 3}).line()
        '350 records -> 700 rows, 3 records dropped: unknown_verdict'
        """
        return line_of(self.as_mapping())


def line_of(account: Mapping[str, Any]) -> str:
    """The account of records for people."""
    dropped: Mapping[str, int] = account["dropped"]
    drops = (f"{amount(count, 'record')} dropped: {reason}" for reason, count in dropped.items())
    text = ", ".join(
        [f"{amount(account['in'], 'record')} -> {amount(account['rows'], 'row')}", *drops]
    )
    if lost := account["votes_without_verdict"]:
        text += f", {amount(lost, 'vote')} without a verdict left out"
    for word in ("flipped", "kept"):
        if count := account.get(word):
            text += f", {amount(count, 'pair')} {word}: the rejected answer scores higher"
    return text
