"""Records with answers side by side: ready pairs, and answers with scores or a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from prefmill.errors import ColumnMissing
from prefmill.shapes import names
from prefmill.shapes.look import Table, Words, can_answer, common, is_list_of_texts, prompts
from prefmill.shapes.names import Family
from prefmill.shapes.paths import is_messages
from prefmill.shapes.seen import answers_said, begin_with, begins_with_asking, words_seen
from prefmill.shapes.verdict_words import explained, one_hots
from prefmill.shapes.words import Rows
from prefmill.table.messages import is_text

Found = list[tuple[str, Words]]
PAIRS = "pairs of a chosen and a rejected answer"
SCORED = "answers side by side with scores"
JUDGED = "answers side by side with a verdict"
_SIDE = "answers side by side"
#: Sides that name a model as often as an answer, unless their names say which.
_UNCLEAR = (("winner", "loser"), ("win", "lose"), ("w", "l"))
_MOST_WORDS = 3


def pairs(table: Table) -> Found:
    """Records of a chosen and a rejected answer."""
    if any(getattr(table.named, word) is not None for word in ("winner", "wins", "completion")):
        return []
    found: Found = []
    answers = table.where(lambda dtype: can_answer(dtype) or is_list_of_texts(dtype))
    for both, named in names.sides(answers).items():
        for rest, columns in named.items():
            if both in _UNCLEAR and not rest:
                continue
            if (not rest or names.is_answer(rest)) and not _is_label(table, columns[0]):
                found += [(PAIRS, words) for words in _pairs(table, both, columns)]
    return found


def _is_label(table: Table, path: str) -> bool:
    """Whether the words of a column are those that tell answers apart: `A`, `B`."""
    if not is_text(table.paths[path]) or not _answers(table):
        return False
    words = words_seen(table.head, path)
    return bool(words) and set(words or ()) <= names.LABELS


def _pairs(table: Table, both: tuple[str, str], columns: tuple[str, str]) -> list[Words]:
    base: Words = {"completion": columns}
    if is_list_of_texts(table.paths[columns[0]]):
        if table.named.each is not None:
            return []
        base["each"] = columns
    elif table.named.each is not None:
        return []
    others = names.sides([path for path in table.paths if path not in columns]).get(both, {})
    numbers = {rest: two for rest, two in others.items() if all(map(table.is_number, two))}
    sources = {
        rest: two
        for rest, two in others.items()
        if names.is_source(rest) and all(is_text(table.paths[path]) for path in two)
    }
    if sources and table.named.source is None and "each" not in base:
        base["source"] = next(iter(sources.values()))
    measured = [two for rest, two in numbers.items() if names.is_score(rest)]
    ranked = [_negated(two) for rest, two in numbers.items() if names.is_score(rest, names.RANKS)]
    scored: list[Words] = [{"score": two} for two in measured or ranked] or [{"score": (1, 0)}]
    if not table.score or table.named.score is not None or "each" in base:
        scored = [{"score": (1, 0)} if table.score and table.named.score is None else {}]
    return [
        {**prompt, **base, **score}
        for prompt in asked(table, columns, _used([base, *scored]))
        for score in scored
    ]


def _negated(columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"-{path}" for path in columns)


def _used(several: Iterable[Words]) -> list[str]:
    """The paths that words name."""
    used: list[str] = []
    for words in several:
        for value in words.values():
            values = [value] if isinstance(value, str) else value
            used += [each.removeprefix("-") for each in values if isinstance(each, str)]
    return used


def asked(table: Table, answers: Sequence[str], taken: Sequence[str]) -> list[Words]:
    """The possible prompts of answers, which may be whole conversations."""
    if table.named.prompt is not None:
        return [{}]
    named = prompts(table, taken)
    whole = [begins_with_asking(table.head, path) for path in answers]
    together = common(answers)
    if are_whole(table, answers):
        return [together]
    if len(named) == 1 and begin_with(table.head, answers, named[0].get("prompt")):
        table.problems.append(_prompt_twice(answers, named[0]["prompt"]))
        return []
    if not together or not can_be_whole(table, answers) or False in whole:
        return named
    messages = is_messages(table.paths[answers[0]])
    if table.head is None and messages and named:
        return [together, *named]  # whether they are whole, only values say
    if named:
        return named
    return [together] if messages or table.head is None else []  # some are whole


def _prompt_twice(answers: Sequence[str], prompt: str) -> ColumnMissing:
    line = Rows(prompt=prompt, completion=tuple(answers)).options()
    return ColumnMissing(
        f"rows: all answers in {list(answers)} begin with their {prompt!r}, so they hold the prompt"
        " once more.",
        hint=f"cut it off first (prefmill sql); if they are meant so: {line}.",
    )


def are_whole(table: Table, answers: Sequence[str]) -> bool:
    """Whether two answers are whole conversations, as far as was seen."""
    if len(answers) != 2 or not can_be_whole(table, answers):
        return False
    return all(begins_with_asking(table.head, path) for path in answers)


def can_be_whole(table: Table, answers: Sequence[str]) -> bool:
    """Whether the types of answers are those of conversations."""
    kinds = [table.paths[path] for path in answers]
    return all(is_messages(kind) for kind in kinds) or all(kind == pl.String for kind in kinds)


def side_by_side(table: Table) -> Found:
    """Records of several answers, with a score of each, or a verdict."""
    if table.named.each is not None:
        return []
    found: Found = []
    for family in _answers(table):
        found += _readings(table, family)
    return found


def _answers(table: Table) -> list[Family]:
    texts = table.texts("completion")
    if len(texts) > 1 and all(text in table.paths for text in texts):
        made = names.families(texts)
        fitting = [each for each in made if set(each.paths.values()) == set(texts)]
        return [Family(each.common, each.paths) for each in fitting]
    if texts:
        return []
    made = names.families(table.where(can_answer))
    return [each for each in made if names.is_answer(each.common)]


def _readings(table: Table, family: Family) -> Found:
    columns = tuple(family.paths.values())
    base: Words = {} if table.named.completion is not None else {"completion": columns}
    beside = _beside(table, family)
    texts = [each for each in beside if all(is_text(table.paths[p]) for p in each.paths.values())]
    sources = [each for each in texts if names.is_source(each.common)]
    source = sorted(sources, key=lambda each: _place(each.common))[:1]
    if source and table.named.source is None:
        base["source"] = tuple(source[0].paths.values())
    if _judged_by_turn(table, family):
        return []
    if not table.score or table.named.score is not None:
        decided: Found = [(_SIDE, {})]
    else:
        decided = _decided(table, family, beside, base)
    found: Found = []
    for name, words in decided:
        taken = [*columns, *_used([base, words])]
        found += [(name, {**prompt, **base, **words}) for prompt in asked(table, columns, taken)]
    return found


def _judged_by_turn(table: Table, family: Family) -> bool:
    """Whether a column says which turn of longer conversations the verdict is about: then the
    whole is not what was judged.
    """
    columns = list(family.paths.values())
    turn = next((path for path in table.pools()[0] if names.plain(path) == "turn"), None)
    said = answers_said(table.head, columns[0])
    if turn is None or said is None or table.head is None or table.named.where is not None:
        return False
    if not table.paths[turn].is_integer():
        return False
    turns = pl.DataFrame({"turn": table.head[turn], "said": said}).drop_nulls()
    if not (turns["turn"] < turns["said"]).any():
        return False
    first = [f"{path}[1]" for path in columns]
    winner = next(iter(_winners(table, family)), None)
    line = Rows(
        where=f"{turn}=1", prompt=f"{columns[0]}[:1]", completion=first, winner=winner
    ).options()
    table.problems.append(
        ColumnMissing(
            f"rows: a verdict over {list(columns)} is about one turn, that in {turn!r}, and the"
            " conversations have more.",
            hint=f"name the judged turn; for the first: {line}.",
        )
    )
    return True


def _place(common: Sequence[str]) -> int:
    return min(names.SOURCES.index(word) for word in common if word in names.SOURCES)


def _beside(table: Table, family: Family) -> list[Family]:
    """Families with the labels of the answers."""
    free = [path for path in table.paths if path not in family.paths.values()]
    return [each for each in names.families(free) if each.labels == family.labels]


def _decided(table: Table, family: Family, beside: Sequence[Family], base: Words) -> Found:
    """The scores of answers, or verdicts over them."""
    scored: Found = []
    if table.named.winner is None:
        numbers = [each for each in beside if all(map(table.is_number, each.paths.values()))]
        one_hot = one_hots(table, family, numbers)
        scored = [
            (SCORED, {"score": tuple(each.paths.values())})
            for each in numbers
            if names.is_score(each.common)
        ] or [
            (SCORED, {"score": _negated(each.paths.values())})
            for each in numbers
            if names.is_score(each.common, names.RANKS)
        ]
        if one_hot:
            return [*scored, (JUDGED, {"winner": one_hot})]
    clear, unclear, unknown = _verdicts(table, family, base)
    verdicts = clear or ([] if scored else unclear)
    if not scored and not verdicts:
        table.problems.append(_nothing_decides(family, unknown))
    return [*scored, *verdicts]


def _verdicts(
    table: Table, family: Family, base: Words
) -> tuple[Found, Found, dict[str, list[str]]]:
    """Verdicts that are clear, those that can be read in several ways, and words of no answer."""
    clear: Found = []
    unclear: Found = []
    unknown: dict[str, list[str]] = {}
    sources = base.get("source", ())
    for winner in _winners(table, family):
        ways = explained(table, list(family.paths.values()), sources, winner)
        if isinstance(ways, list) and len(ways) == 1:
            clear += [(JUDGED, words) for words in ways]
        elif isinstance(ways, list):
            unclear += _told(ways)
        elif ways is not None:
            unknown[",".join(winner)] = list(ways)
    return clear, unclear, unknown


def _told(ways: Sequence[Words]) -> Found:
    """Ways to read a verdict, with what becomes of words that name no answer."""
    ties = [",".join(words["ties"]) for words in ways if "ties" in words]
    if len(ties) in (0, len(ways)):
        return [(JUDGED, words) for words in ways]
    kinds = [f"{JUDGED} ({ties[0]!r} is a tie)", f"{JUDGED} ({ties[0]!r} is left out)"]
    return [(kinds["ties" not in words], words) for words in ways]


def _winners(table: Table, family: Family) -> list[tuple[str, ...]]:
    """Columns that can hold a verdict: one, or one for each judge."""
    if table.named.winner is not None:
        return [tuple(table.texts("winner"))]
    used = set(family.paths.values())
    free = [path for path in table.pools(used)[0] if _can_be_verdict(table.paths[path])]
    inside = [path for path in table.pools(used)[1] if _can_be_verdict(table.paths[path])]
    single = [path for path in free if names.is_verdict(names.words(path))]
    single = single or [path for path in inside if names.is_verdict(names.words(path))]
    found = [(path,) for path in single]
    judges = [
        each
        for each in names.families(free)
        if names.is_verdict(each.common) or set(each.common) <= names.JUDGES
    ]
    return [*found, *(tuple(each.paths.values()) for each in judges)]


def _can_be_verdict(dtype: pl.DataType) -> bool:
    return is_text(dtype) or dtype.is_numeric() or dtype == pl.Boolean


def _nothing_decides(family: Family, unknown: dict[str, list[str]]) -> ColumnMissing:
    columns = list(family.paths.values())
    answers = Rows(completion=tuple(columns)).options()
    if not unknown:
        return ColumnMissing(
            f"rows: no scores of the answers {columns}, and no verdict over them, were found.",
            hint=f"name them: {answers} --winner COLUMN, or --score COLUMN,COLUMN.",
        )
    winner, words = next(iter(unknown.items()))
    shown = f"; got {words[:_MOST_WORDS]}" if words else ""
    marks = ",".join(f"WORDS_OF_{label.upper()}" for label in family.labels)
    return ColumnMissing(
        f"rows: the verdict {winner!r} over the answers {columns} has words, or numbers, of which"
        f" nobody says what they mean{shown}.",
        hint=f"say which words mean which answer, with | between words of one: {answers}"
        f" --winner {winner} --wins {marks} (--ties WORDS).",
    )
