"""Where completions begin in rows of ids: where each row leaves the ids of its prompt alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prefmill.errors import BadRow, refuse
from prefmill.models.tokens import Longs, common_prefix
from prefmill.table.conversations import Conversation


def beginnings(
    ids: list[list[int]],
    groups: Longs,
    talks: list[Conversation] | None,
    prompts_alone: Callable[[list[int]], list[list[int]]],
) -> list[int]:
    """Where each row leaves its prompt.

    Rows of one group share the prompt's own ids, unless each is a whole conversation.

    prompts_alone  the ids of the prompts of some rows, by the rows' numbers
    """
    distinct, place_of = _distinct(groups, talks)
    try:
        alone = prompts_alone(distinct)
    except BadRow as error:  # about one prompt, and so about every row that has it
        bad = []
        for each in error.found:
            bad += [each.at(row) for row, place in enumerate(place_of) if place == each.row]
        refuse(bad)
        raise
    heads = [np.asarray(each) for each in alone]
    rows = zip(place_of, ids, strict=True)
    return [common_prefix(heads[place], np.asarray(row)) for place, row in rows]


def moved(
    starts: Sequence[int], whole: list[list[int]], ids: list[list[int]], *, cuts_left: bool
) -> list[int]:
    """Where completions begin in `ids`, which were cut from the `whole` rows."""
    if cuts_left:
        rows = zip(starts, whole, ids, strict=True)
        return [max(0, start - len(full) + len(row)) for start, full, row in rows]
    return [min(start, len(row)) for start, row in zip(starts, ids, strict=True)]


def _distinct(groups: Longs, talks: list[Conversation] | None) -> tuple[list[int], list[int]]:
    """The first row of each distinct prompt, and the place of each row's prompt among them."""
    alike: dict[int, list[int]] = {}  # of each group: places among the distinct prompts
    distinct: list[int] = []
    place_of: list[int] = []
    for row, group in enumerate(groups.tolist()):
        places = alike.setdefault(group, [])
        for place in places:
            if talks is None or talks[distinct[place]].prompt == talks[row].prompt:
                break
        else:
            place = len(distinct)
            places.append(place)
            distinct.append(row)
        place_of.append(place)
    return distinct, place_of
