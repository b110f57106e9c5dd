"""From words to a shape: every path is found, and every contradiction is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from prefmill.errors import BadArgument
from prefmill.shapes import repeats, verdicts
from prefmill.shapes.cells import (
    RECORD,
    Answer,
    Cell,
    Column,
    Inside,
    Joined,
    Named,
    Text,
)
from prefmill.shapes.conditions import All, Empty, First, Is, Not, Null, Some
from prefmill.shapes.named import with_names
from prefmill.shapes.paths import EXTRA, Path, is_message, is_messages
from prefmill.shapes.reader import Reader
from prefmill.shapes.scores import Scores
from prefmill.shapes.shape import REASON, Join, Shape, Variant
from prefmill.shapes.turns import (
    Asked,
    Beginning,
    Begun,
    CommonTurns,
    Exchanges,
    Hh,
    Messages,
    Rest,
)
from prefmill.shapes.verdicts import Verdict
from prefmill.shapes.words import COMMON, Rows
from prefmill.table.messages import is_text

#: Names of scores that count from the best on: they compare inside one list only.
_RANKS = ("rank", "ranking")
_ONE_OR_EACH = ("id", "annotator", "aspect", "stage", "weight", "logprob", "conclusion", "source")


def shape_of(
    rows: Rows,
    schema: pl.Schema,
    *,
    where: str = "rows",
    joins: Sequence[Join] = (),
    score: bool = True,
    completion: bool = True,
    extra: Sequence[str] = (),
    system_in_prompt: bool = False,
) -> Shape:
    """The shape of a table of `schema`, of whose columns those of `joins` are some.

    `score` and `completion` say whether the caller needs these roles; `extra` are further paths
    that become columns of their own text's name; `system_in_prompt` that the prompt begins with
    the system prompt, which is a column else. Raises `ColumnMissing`, `BadArgument`.
    """
    rows = with_names(rows, schema, where, score=score, completion=completion)
    reader = Reader(rows, schema, where)
    reader.each = [reader.list_of(text) for text in reader.texts("each")]
    answers = reader.texts("completion") if completion else []
    maker = _Maker(rows, reader, answers, score, where)
    maker.system_in_prompt = system_in_prompt
    return maker.shape(tuple(joins), extra)


class _Maker:
    """A shape in the making."""

    def __init__(
        self, rows: Rows, reader: Reader, answers: list[Any], score: bool, where: str
    ) -> None:
        self.rows, self.reader, self.where = rows, reader, where
        self.answers, self.needs_score = answers, score
        self.helpers: list[dict[str, Cell]] = [{}, {}, {}]
        self.reasons: list[tuple[str, Cell]] = []
        self.names = [self._name(text) for text in answers]
        self.scores = Scores(rows, reader, self.names, where)
        self.system_in_prompt = False
        self.prompt_parts: tuple[str, ...] = ()

    def _name(self, text: Any) -> str:
        path = self.reader.find(str(text), "completion")
        return path.text

    @property
    def several(self) -> bool:
        """Whether answers stand side by side."""
        return len(self.answers) > 1

    def shape(self, joins: tuple[Join, ...], extra: Sequence[str]) -> Shape:
        """All of it."""
        self._filters()
        for place in range(len(joins)):
            self.reasons.append(("unmatched", Not(Column(f"_matched{place}"))))
        conversations = self._common() if self._is_common else None
        verdicts = self._verdicts()
        if (test := self.scores.disagreement) is not None:
            self.reasons.append(("disagreement", test))
        variants = [
            self._variant(judge, place, conversations, extra)
            for judge in range(max(1, len(verdicts)))
            for place in range(max(1, len(self.answers)))
        ]
        if verdicts and len(verdicts) > 1:
            count = len(self.answers)
            variants = [
                replace(each, vote=Not(Null(Column(f"_verdict{number // count}"))))
                for number, each in enumerate(variants)
            ]
        lists = [path for each in variants for path in each.lists]
        own_group = self.rows.group is None and (
            self.several or (bool(lists) and self.scores.negate and self._is_rank)
        )
        reason = First(tuple(self.reasons))
        if self.rows.repeats == "drop":
            keys = self._keys(variants, verdicts)
            self.helpers[2:] = repeats.stages(reason, keys, name=REASON, record=RECORD)
        else:
            self.helpers[2][REASON] = reason
        produced = set(variants[0].cells)
        consumed = self.reader.consumed | {self._column(text) for text in self._side_by_side()}
        return Shape(
            words=self.rows,
            helpers=tuple(stage for stage in self.helpers if stage),
            variants=tuple(variants),
            roles=self._roles(produced, own_group),
            carried=tuple(name for name in self.reader.schema if name not in produced),
            consumed=frozenset(consumed),
            answers=max(1, len(self.answers)),
            own_group=own_group,
            joins=joins,
            votes=len(verdicts) > 1,
            prompt_parts=self.prompt_parts,
            contradicted=self.scores.contradicted,
        )

    def _side_by_side(self) -> list[str]:
        texts = [*self.answers, *self.reader.texts("score")] if self.several else []
        return [
            text for text in texts if isinstance(text, str) and not self.scores.is_constant(text)
        ]

    def _column(self, text: str) -> str:
        return self.reader.find(
            text.removeprefix("-") if text not in self.reader.schema else text
        ).column

    @property
    def _is_rank(self) -> bool:
        paths = [text for text in self.reader.texts("score") if isinstance(text, str)]
        lasts = [self.reader.find(text.removeprefix("-")).last.lower() for text in paths]
        return any(last in _RANKS for last in lasts)

    def _roles(self, produced: set[str], own_group: bool) -> dict[str, Any]:
        roles: dict[str, Any] = {
            role: role
            for role in ("prompt", "completion", "score", *_ONE_OR_EACH[:-1])
            if role in produced
        }
        groups = self.reader.texts("group")
        if groups:
            roles["group"] = tuple(map(str, groups))
        elif own_group:
            roles["group"] = (RECORD,)
        return roles

    # Records

    def _filters(self) -> None:
        for text, words in (self.rows.where or {}).items():
            path = self.reader.find(text, "where")
            if path.list_inside is not None:
                raise BadArgument(
                    f"{self.where}: where {text!r} leads into a list; got the type {path.dtype}.",
                    hint="name a value of the record.",
                )
            self.reasons.append(("filtered", Not(Is(Inside(path), path.dtype, words))))

    @property
    def _is_common(self) -> bool:
        return self.rows.prompt == COMMON and COMMON not in self.reader.schema

    def _common(self) -> list[Cell]:
        """The answers as whole conversations, and how many turns they have in common."""
        if len(self.answers) != 2:
            raise BadArgument(
                f"{self.where}: prompt 'common' is the common beginning of two conversations;"
                f" got {len(self.answers)} answers.",
                hint="name two: --completion chosen,rejected.",
            )
        cells: list[Cell] = []
        for place, text in enumerate(self.answers):
            cell, dtype = self.reader.cell(text, "completion", [])
            if is_messages(dtype):
                self.helpers[0][f"_whole{place}"] = cell
            elif dtype is not None and is_text(dtype):
                self.helpers[0][f"_whole{place}"] = Hh(cell)
            else:
                raise BadArgument(
                    f"{self.where}: prompt 'common' needs conversations; {text!r} has the type"
                    f" {dtype}.",
                    hint="name the prompt's column: --prompt COLUMN.",
                )
            cells.append(Column(f"_whole{place}"))
        self.helpers[1]["_common"] = CommonTurns(*cells)
        return cells

    def _verdicts(self) -> list[str]:
        """Helper columns with the number of the answer that wins: one for each judge."""
        texts = self.reader.texts("winner")
        if not texts:
            if self.rows.wins or self.rows.ties:
                raise BadArgument(
                    f"{self.where}: wins and ties are words of a verdict; got no winner.",
                    hint="name its column: --winner COLUMN.",
                )
            return []
        if not self.several:
            raise BadArgument(
                f"{self.where}: a winner is one of several answers; got {len(self.answers)}.",
                hint="name the answers: --completion response_a,response_b.",
            )
        paths = [self.reader.find(text, "winner") for text in texts]
        cells = [Inside(path) for path in paths]
        verdicts.refuse_numbered(paths, self.names, self.rows, self.where)
        if verdicts.is_one_hot(paths, self.names, self.rows):
            made = [verdicts.one_hot(cells, paths, len(self.names))]
            empty: Cell = All(tuple(Null(cell) for cell in cells))
        else:
            sources = self._sources()
            made = [
                verdicts.by_words(cell, path, self.names, self.rows, sources)
                for cell, path in zip(cells, paths, strict=True)
            ]
            empty = All(tuple(Empty(cell) for cell in cells))
        columns = [f"_verdict{place}" for place in range(len(made))]
        for name, verdict in zip(columns, made, strict=True):
            self._help(name, verdict)
        self.helpers[0]["_no_verdict"] = empty
        self.reasons.append(("null_verdict", Column("_no_verdict")))
        unknown = All(tuple(Null(Column(name)) for name in columns))
        self.reasons.append(("unknown_verdict", unknown))
        return columns

    def _help(self, name: str, verdict: Verdict) -> None:
        """A verdict over helper columns that say what makes each answer win."""
        tests = {f"{name}_wins{place}": Some(each) for place, each in enumerate(verdict.wins)}
        tests[f"{name}_tie"] = Some(verdict.ties)
        self.helpers[0] |= tests
        *wins, tie = map(Column, tests)
        self.helpers[1][name] = Verdict(tuple((each,) for each in wins), (tie,))

    def _sources(self) -> list[Cell]:
        texts = self.reader.texts("source")
        if len(texts) != len(self.answers):
            return []
        return [self.reader.cell(text, "source", [])[0] for text in texts]

    def _keys(self, variants: Sequence[Variant], verdicts: Sequence[str]) -> list[Cell]:
        """What records have in common that repeat one another: prompt, answers, who is preferred.

        Of two answers with scores that is which of them is higher, of more the scores.
        """
        count = len(self.answers)
        if count < 2 or any(each.lists for each in variants):
            raise BadArgument(
                f"{self.where}: repeats is for answers side by side; got {self.names or 'one'}.",
                hint="repeated answers of a prompt are merged by --aggregate mean.",
            )
        keys = [
            variants[0].cells[name] for name in ("prompt", "system") if name in variants[0].cells
        ]
        keys += [each.cells["completion"] for each in variants[:count]]
        keys += [Column(name) for name in verdicts]
        if verdicts or self.rows.disagree == "keep" or len(self.scores.columns) != count:
            return keys
        if (two := self.scores.two) is not None:
            return [*keys, two.not_above, two.not_below]
        return [*keys, *(each.cells["score"] for each in variants)]

    # Rows

    def _variant(
        self, judge: int, place: int, conversations: list[Cell] | None, extra: Sequence[str]
    ) -> Variant:
        lists: list[Path] = [] if self.several else list(self.reader.each)
        cells: dict[str, Cell] = {}
        cells["prompt"] = self._prompt(lists, conversations)
        system = self.reader.texts("system")
        if system:
            cell, _ = self.reader.cell(system[0], "system", lists)
            if self.system_in_prompt:
                cells["prompt"] = Begun(cell, cells["prompt"], self.prompt_is_text)
            else:
                cells["system"] = cell
        if self.answers:
            cells["completion"] = self._completion(place, lists, conversations)
        if self.needs_score:
            cells["score"] = self.scores.of(judge, place, lists)
        for role in _ONE_OR_EACH:
            if (own := self._one_or_each(role, place, lists)) is not None:
                cells[role] = own
        if len(self.reader.texts("winner")) > 1 and "annotator" not in cells and judge >= 0:
            cells |= self._annotator(judge)
        groups = [str(text) for text in self.reader.texts("group")]
        for text in [*groups, *extra]:
            if text in cells or text in self.reader.schema:
                continue
            role = "group" if text in groups else EXTRA
            cells[text] = self.reader.cell(text, role, lists)[0]
        return Variant(cells, tuple(lists))

    def _prompt(self, lists: list[Path], conversations: list[Cell] | None) -> Cell:
        self.prompt_is_text = False
        if conversations:
            return Beginning(conversations[0], Column("_common"))
        texts = self.reader.texts("prompt")
        found = [self.reader.cell(text, "prompt", lists) for text in texts]
        if len(found) == 1:
            cell, dtype = found[0]
            if dtype is not None and is_message(dtype):
                cell, dtype = Answer(cell, dtype, anybody=True), pl.String()
        else:
            for text, (_, dtype) in zip(texts, found, strict=True):
                if dtype is not None and not _can_be_text(dtype):
                    raise BadArgument(
                        f"{self.where}: several columns of a prompt are joined as text;"
                        f" {text!r} has the type {dtype}.",
                        hint="earlier turns are --history COLUMN.",
                    )
            self.prompt_parts = tuple(map(str, texts))
            cell, dtype = Joined(tuple(Text(each) for each, _ in found)), pl.String()
        self.prompt_is_text = self.rows.history is None and not is_messages(dtype)
        if self.rows.history is None:
            return cell if dtype is None or not _is_plain(dtype) else Text(cell)
        (text,) = self.reader.texts("history")
        history, kind = self.reader.cell(text, "history", lists)
        if is_messages(kind):
            turns: Cell = Messages(history, kind)  # type: ignore[arg-type]
        elif isinstance(kind, pl.List) and isinstance(kind.inner, pl.List):
            turns = Exchanges(history)
        else:
            raise BadArgument(
                f"{self.where}: history {text!r} is no list of turns; got the type {kind}, expected"
                " a list of [question, answer], or of messages.",
                hint="leave it out, or name another column.",
            )
        return Asked(turns, cell)

    def _completion(self, place: int, lists: list[Path], conversations: list[Cell] | None) -> Cell:
        if conversations:
            return Rest(conversations[place], Column("_common"))
        text = self.answers[place]
        cell, dtype = self.reader.cell(text, "completion", lists)
        if dtype is not None and is_message(dtype):
            return Answer(cell, dtype)
        if isinstance(dtype, pl.List) and not is_messages(dtype):
            raise BadArgument(
                f"{self.where}: the completion {text!r} is a list; got the type {dtype}.",
                hint=f"its elements become rows with --each {text}.",
            )
        return Text(cell) if dtype is not None and _is_plain(dtype) else cell

    def _one_or_each(self, role: str, place: int, lists: list[Path]) -> Cell | None:
        texts = self.reader.texts(role)
        if not texts:
            if role == "source" and self.several and str(self.rows.completion).endswith(".*"):
                return Named(self.reader.find(str(self.answers[place])).last)
            return None
        if len(texts) not in (1, max(1, len(self.answers))):
            raise BadArgument(
                f"{self.where}: {len(self.answers)} answers and {len(texts)} columns of {role};"
                f" got {texts}.",
                hint="name one column, or one for each answer.",
            )
        text = texts[place if len(texts) > 1 else 0]
        return self.reader.cell(text, role, lists)[0]

    def _annotator(self, judge: int) -> dict[str, Cell]:
        texts = self.reader.texts("winner")
        paths = [self.reader.find(text, "winner") for text in texts]
        if verdicts.is_one_hot(paths, self.names, self.rows):
            return {}
        return {"annotator": Named(str(texts[judge]))}


def _is_plain(dtype: pl.DataType) -> bool:
    """Whether values are numbers, booleans or dates, which a text role takes as text."""
    return dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean


def _can_be_text(dtype: pl.DataType) -> bool:
    return is_text(dtype) or _is_plain(dtype)
