"""From words to what is to be done with a table: a shape, in which every path is found.

    records ──helpers──▶ ──reason──▶ ──variants──▶ ──lists──▶ rows

A record passes unless a reason holds. It becomes a row for each variant (a judge's vote on an
answer), and for each element of the variant's lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from prefmill.errors import BadArgument, ColumnMissing, PrefmillError
from prefmill.shapes import verdicts
from prefmill.shapes.cells import (
    All,
    Answer,
    Cell,
    Column,
    Constant,
    Element,
    Empty,
    First,
    Inside,
    Is,
    Joined,
    Meaning,
    Not,
    NotAbove,
    Null,
    Scored,
    Text,
)
from prefmill.shapes.paths import Field, Part, Path, find, is_message, is_messages, is_path
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
from prefmill.shapes.words import COMMON, Rows, as_number, split
from prefmill.table.fits import fits_schema
from prefmill.table.messages import is_text
from prefmill.table.roles import ALIASES, LABEL, Roles

#: The record of a row, by its number; what groups where scores compare inside a record only.
RECORD = "_record"
#: What it is called in rows for people.
NUMBER = "record"
#: Why a record gives no row (a helper column), in the order in which reasons are tried.
REASON = "_reason"
#: Names of scores that count from the best on: they compare inside one list only.
_RANKS = ("rank", "ranking")
_ONE_OR_EACH = ("id", "annotator", "aspect", "stage", "weight", "logprob", "source")


@dataclass(frozen=True)
class Variant:
    """One of the rows, or lists of rows, that a record becomes."""

    cells: Mapping[str, Cell]  #: by the names of the columns of rows
    lists: tuple[Path, ...] = ()
    vote: Cell | None = None  #: whether there is such a row; None: always


@dataclass(frozen=True)
class Join:
    """Another file whose columns come along where keys are equal."""

    file: str
    keys: tuple[tuple[str, str], ...]  #: ours, and its own
    schema: pl.Schema  #: the columns that come along
    record: str = ""  #: the column that holds all of them, if they have a name
    fields: tuple[str, ...] = ()  #: of that record


@dataclass(frozen=True)
class Shape:
    """How the records of one table become rows."""

    words: Rows  #: all words, those that were found by names as well
    helpers: tuple[Mapping[str, Cell], ...]  #: columns of records, each stage over the one before
    variants: tuple[Variant, ...]
    roles: Mapping[str, Any]  #: names of columns of the rows, by role
    carried: tuple[str, ...]  #: columns of records that rows keep under their own names
    consumed: frozenset[str]  #: columns whose values are in the rows, so whole rows are without
    own_group: bool = False
    joins: tuple[Join, ...] = ()
    votes: bool = False
    prompt_parts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns of rows, roles first."""
        return [*self.variants[0].cells, *self.carried]

    @property
    def narrow(self) -> list[Path]:
        """Of each variant's lists the one that is cheapest to count: scores, if there are any."""

        def cost(path: Path) -> int:
            return int(path.dtype is None or not path.dtype.inner.is_numeric())  # type: ignore[attr-defined]

        return [min(each.lists, key=cost) for each in self.variants if each.lists]


@dataclass
class _Reader:
    """What is read of a table's types, word by word."""

    rows: Rows
    schema: pl.Schema
    where: str
    each: list[Path] = field(default_factory=list)
    consumed: set[str] = field(default_factory=set)

    def texts(self, role: str) -> list[Any]:
        """The paths, or numbers, of a word: a list, or a text with commas."""
        value = getattr(self.rows, role)
        if value is None:
            return []
        if isinstance(value, str):
            plain = value.removeprefix("-") if role == "score" else value
            value = [value] if plain in self.schema else split(value)
        found: list[Any] = []
        for text in value:
            found += self._fields(text) if isinstance(text, str) else [text]
        return found

    def _fields(self, text: str) -> list[str]:
        """A path that ends in `.*` as the paths of all fields."""
        if not text.endswith(".*") or text in self.schema:
            return [text]
        record = self.find(text[:-2])
        if not isinstance(record.dtype, pl.Struct):
            raise BadArgument(
                f"{self.where}: {text!r} needs a record; got the type {record.dtype}.",
                hint="name the columns one by one, with commas.",
            )
        return [f'{text[:-2]}."{each.name}"' for each in record.dtype.fields]

    def find(self, text: str, role: str = "path") -> Path:
        """A path, or `ColumnMissing`."""
        return find(text, self.schema, where=self.where, role=role)

    def cell(self, text: str, role: str, lists: list[Path]) -> tuple[Cell, pl.DataType | None]:
        """The value of a path and its type; what it goes through is added to `lists`."""
        path = self.find(text, role)
        if not path.parts and role not in ("group", "where"):
            self.consumed.add(path.column)
        for each in self.each:
            rest = path.after(each)
            if rest is not None:
                return self._element(path, each, rest, lists)
        if (inside := path.list_inside) is not None:
            rest = path.parts[len(inside.parts) :]
            return self._element(path, inside, rest, lists)
        return Inside(path), path.dtype

    def _element(
        self, path: Path, each: Path, rest: Sequence[Part], lists: list[Path]
    ) -> tuple[Cell, pl.DataType | None]:
        if each not in lists:
            lists.append(each)
        parts = list(rest)
        dtype = path.dtype
        if parts and isinstance(parts[0], Field) and parts[0].through:
            parts[0] = replace(parts[0], through=False)
        if isinstance(dtype, pl.List):
            dtype = dtype.inner  # type: ignore[assignment]
        self.consumed.add(path.column)
        return Element(each, lists.index(each), tuple(parts)), dtype


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
    rows = _with_names(rows, schema, where, score=score, completion=completion)
    reader = _Reader(rows, schema, where)
    reader.each = [_list_path(reader, text) for text in reader.texts("each")]
    answers = reader.texts("completion") if completion else []
    maker = _Maker(rows, reader, answers, score, where)
    maker.system_in_prompt = system_in_prompt
    return maker.shape(tuple(joins), extra)


def _list_path(reader: _Reader, text: str) -> Path:
    path = reader.find(text, "each")
    if path.json_from is None and not isinstance(path.dtype, pl.List):
        raise BadArgument(
            f"{reader.where}: each {text!r} is not a list; got the type {path.dtype}.",
            hint="several columns of one role stand side by side: --completion a,b.",
        )
    if path.list_inside is not None:
        raise BadArgument(
            f"{reader.where}: each {text!r} is a list inside of a list.",
            hint="write the outer list as rows first: prefmill rows FILE --each ... -o rows.parquet",
        )
    return path


class _Maker:
    """A shape in the making."""

    def __init__(
        self, rows: Rows, reader: _Reader, answers: list[Any], score: bool, where: str
    ) -> None:
        self.rows, self.reader, self.where = rows, reader, where
        self.answers, self.needs_score = answers, score
        self.helpers: list[dict[str, Cell]] = [{}, {}, {}]
        self.reasons: list[tuple[str, Cell]] = []
        self.names = [self._name(text) for text in answers]
        self.negate = self.system_in_prompt = False
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
        self._disagreement()
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
            self.several or (bool(lists) and self.negate and self._is_rank)
        )
        self.helpers[2][REASON] = First(tuple(self.reasons))
        produced = set(variants[0].cells)
        consumed = self.reader.consumed | {self._column(text) for text in self._side_by_side()}
        return Shape(
            words=self.rows,
            helpers=tuple(stage for stage in self.helpers if stage),
            variants=tuple(variants),
            roles=self._roles(produced, own_group),
            carried=tuple(name for name in self.reader.schema if name not in produced),
            consumed=frozenset(consumed),
            own_group=own_group,
            joins=joins,
            votes=len(verdicts) > 1,
            prompt_parts=self.prompt_parts,
        )

    def _side_by_side(self) -> list[str]:
        texts = [*self.answers, *self.reader.texts("score")] if self.several else []
        return [text for text in texts if isinstance(text, str) and not self._constant(text)]

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
        if self.negate:
            roles["score"] = "-score"
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
        self.helpers[0] |= dict(zip(columns, made, strict=True))
        self.helpers[0]["_no_verdict"] = empty
        self.reasons.append(("null_verdict", Column("_no_verdict")))
        unknown = All(tuple(Null(Column(name)) for name in columns))
        self.reasons.append(("unknown_verdict", unknown))
        return columns

    def _sources(self) -> list[Cell]:
        texts = self.reader.texts("source")
        if len(texts) != len(self.answers):
            return []
        return [self.reader.cell(text, "source", [])[0] for text in texts]

    def _disagreement(self) -> None:
        if self.rows.disagree is None:
            return
        scores = self.reader.texts("score")
        paths = [text for text in scores if isinstance(text, str) and not self._constant(text)]
        if len(self.answers) != 2 or len(paths) != 2:
            raise BadArgument(
                f"{self.where}: disagree is for pairs with a score of each answer;"
                f" got {len(self.answers)} answers and {len(paths)} columns of scores.",
                hint="--completion chosen,rejected --score chosen_score,rejected_score.",
            )
        if self.rows.disagree != "drop":
            return
        one, other = (self.reader.cell(text, "score", []) for text in paths)
        test = NotAbove(one[0], other[0], (one[1], other[1]))
        self.reasons.append(("disagreement", test))

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
            cells["score"] = self._score(judge, place, lists)
        for role in _ONE_OR_EACH:
            if (cell := self._one_or_each(role, place, lists)) is not None:
                cells[role] = cell
        if len(self.reader.texts("winner")) > 1 and "annotator" not in cells and judge >= 0:
            cells |= self._annotator(judge)
        groups = [str(text) for text in self.reader.texts("group")]
        for text in [*groups, *extra]:
            if text in cells or text in self.reader.schema:
                continue
            cells[text] = self.reader.cell(text, "group", lists)[0]
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

    def _constant(self, text: Any) -> bool:
        """Whether a score is a number that is not a column's name."""
        if not isinstance(text, str):
            return True
        return not is_path(text, self.reader.schema) and as_number(text) is not None

    def _score(self, judge: int, place: int, lists: list[Path]) -> Cell:
        if self.rows.winner is not None:
            return Scored(Column(f"_verdict{judge}"), place)
        texts = self.reader.texts("score")
        count = max(1, len(self.answers))
        if self.rows.disagree == "keep":
            texts = ["1", "0"]
        if len(texts) not in (1, count):
            raise BadArgument(
                f"{self.where}: {count} answers and {len(texts)} scores; got {texts}.",
                hint="name a score for each answer, or one list.",
            )
        text = texts[place if len(texts) > 1 else 0]
        if self._constant(text):
            return Constant(float(text))
        if text not in self.reader.schema and text.startswith("-"):
            text, self.negate = text[1:], True
        cell, dtype = self.reader.cell(text, "score", lists)
        if dtype is not None and isinstance(dtype, pl.List):
            raise BadArgument(
                f"{self.where}: the score {text!r} is a list; got the type {dtype}.",
                hint=f"name one of its elements, {text}[0], or make rows: --each.",
            )
        if self.rows.values:
            return Meaning(cell, dtype, tuple(self.rows.values.items()))
        return cell

    def _one_or_each(self, role: str, place: int, lists: list[Path]) -> Cell | None:
        texts = self.reader.texts(role)
        if not texts:
            if role == "source" and self.several and str(self.rows.completion).endswith(".*"):
                return _Name(self.reader.find(str(self.answers[place])).last)
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
        return {"annotator": _Name(str(texts[judge]))}


@dataclass(frozen=True)
class _Name:
    """The same text in every row."""

    text: str

    def sql(self) -> str:
        """A text."""
        return "'" + self.text.replace("'", "''") + "'"

    def polars(self) -> pl.Expr:
        """A text."""
        return pl.lit(self.text)


def _is_plain(dtype: pl.DataType) -> bool:
    """Whether values are numbers, booleans or dates, which a text role takes as text."""
    return dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean


def _can_be_text(dtype: pl.DataType) -> bool:
    return is_text(dtype) or _is_plain(dtype)


# What nobody named


def _with_names(
    rows: Rows, schema: pl.Schema, where: str, *, score: bool, completion: bool
) -> Rows:
    """`rows` with the paths of roles that were not named, by the names that the field uses."""
    if completion and rows.completion is None:
        rows = replace(rows, completion=_completion_named(rows, schema, where))
    if rows.prompt is None:
        rows = replace(rows, prompt=_prompt_named(rows, schema, where))
    if score and rows.score is None and rows.winner is None:
        rows = replace(rows, score=_score_named(rows, schema, where))
    return rows


def _inside_each(rows: Rows, schema: pl.Schema, where: str) -> dict[str, pl.DataType]:
    """Paths of what the elements of `each` are made of, and their types."""
    if rows.each is None:
        return {}
    reader = _Reader(rows, schema, where)
    inside: dict[str, pl.DataType] = {}
    for text in reader.texts("each"):
        dtype = reader.find(text, "each").dtype
        if not isinstance(dtype, pl.List):
            continue
        inner: Any = dtype.inner
        if isinstance(inner, pl.Struct) and not is_message(inner):
            inside |= {f"{text}.{name}": kind for name, kind in inner.to_schema().items()}
        else:
            inside[text] = inner
    return inside


def _completion_named(rows: Rows, schema: pl.Schema, where: str) -> Any:
    inside = _inside_each(rows, schema, where)
    found = by_name("completion", inside)
    texts = [path for path, dtype in inside.items() if is_text(dtype)]
    if not found and len(texts) == 1:
        found = texts
    if len(found) == 1:
        return found[0]
    if {"chosen", "rejected"} <= set(schema):
        return ("chosen", "rejected")
    return _resolved("completion", schema, where, rows)


def _prompt_named(rows: Rows, schema: pl.Schema, where: str) -> Any:
    there = {name.lower(): name for name in schema}
    if "instruction" in there and "input" in there and "prompt" not in there:
        return (there["instruction"], there["input"])
    try:
        return _resolved("prompt", schema, where, rows)
    except PrefmillError:
        answers = _Reader(rows, schema, where).texts("completion")
        if len(answers) == 2 and {str(a) for a in answers} <= set(schema):
            kinds = [schema[str(answer)] for answer in answers]
            if all(is_messages(kind) for kind in kinds):
                return COMMON
        raise


def _score_named(rows: Rows, schema: pl.Schema, where: str) -> Any:
    answers = _Reader(rows, schema, where).texts("completion")
    if len(answers) > 1:
        return _scores_side_by_side([str(each) for each in answers], schema, where)
    inside = _inside_each(rows, schema, where)
    found = by_name("score", inside)
    numbers = [path for path, dtype in inside.items() if dtype.is_numeric() or dtype == pl.Boolean]
    if not found and len(numbers) == 1:
        found = numbers
    if len(found) == 1:
        return found[0]
    return _resolved("score", schema, where, rows)


def _scores_side_by_side(answers: list[str], schema: pl.Schema, where: str) -> Any:
    parts = verdicts.own_parts(answers)
    if answers == ["chosen", "rejected"]:
        parts = answers
    scores = score_columns(parts, schema)
    if len(scores) > 1:
        lines = " or ".join(f"--score {','.join(each)}" for each in scores)
        raise ColumnMissing(
            f"{where}: several columns could be the scores of {answers}; got {scores}.",
            hint=f"name those that are meant: {lines}.",
        )
    if scores:
        return tuple(scores[0])
    if answers == ["chosen", "rejected"]:
        return ("1", "0")
    raise ColumnMissing(
        f"{where}: no scores and no verdict for the answers {answers}; got {list(schema)}.",
        hint="name scores, --score a,b, or the verdict's column, --winner COLUMN.",
    )


_SCORES = ("score", "rating", "reward", "grade", "points", "overall_score", "stars", "upvotes")


def score_columns(parts: Sequence[str], schema: pl.Schema) -> list[list[str]]:
    """Columns of numbers that are named as these parts of answers' names are."""
    there = {name.lower().replace("-", "_"): name for name in schema}
    found = []
    for noun in _SCORES:
        for form in ("{noun}_{part}", "{part}_{noun}", "{noun}{part}", "{noun}s_{part}"):
            names = [form.format(noun=noun, part=part.lower()) for part in parts]
            columns = [there.get(name, "") for name in names]
            if all(columns) and all(_is_number(schema[column]) for column in columns):
                found.append(columns)
    return found


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean or is_text(dtype)


def by_name(role: str, paths: Mapping[str, pl.DataType]) -> list[str]:
    """The paths whose last name is one of the field's for `role`; the role's own name wins."""
    names = [*ALIASES[role], *(f"{name}s" for name in ALIASES[role])]
    if role == "completion":
        names += ["text", "model_response", "content"]
    if role == "score":
        names += [LABEL, "labels"]
    lasts = {path: path.rpartition(".")[2].lower().replace("-", "_") for path in paths}
    own = [path for path, last in lasts.items() if last in (role, f"{role}s")]
    if own:
        return own[:1] if len(own) == 1 else own
    fits = fits_schema(pl.Schema(paths))
    return [path for path, last in lasts.items() if last in names and fits(role, path) is not False]


def _resolved(role: str, schema: pl.Schema, where: str, rows: Rows) -> Any:
    taken = {
        text
        for word, value in rows.named().items()
        if word not in ("values", "where", "group")
        for text in ([value] if isinstance(value, str) else value)
        if isinstance(text, str)
    }
    free = [name for name in schema if name not in taken]
    roles = Roles.resolve(free, required=(role,), where=where, fits=fits_schema(schema))
    return getattr(roles, role)
