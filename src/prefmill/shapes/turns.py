"""Conversations of a record: earlier turns, and the common beginning of two conversations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from prefmill.connection import literal
from prefmill.shapes.cells import Cell

_MESSAGE = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
#: How HH writes who says what.
_HH = {"Human": "user", "Assistant": "assistant"}
#: A character that stands between turns while they are cut.
_CUT = "\x1e"


def _names(dtype: Any) -> tuple[str, str]:
    names = {field.name for field in dtype.inner.fields}
    return ("role", "content") if {"role", "content"} <= names else ("from", "value")


@dataclass(frozen=True)
class Messages:
    """A list of messages with role and content only."""

    value: Cell
    dtype: pl.DataType

    def sql(self) -> str:
        """Each message anew."""
        role, content = map(literal, _names(self.dtype))
        return (
            f"list_transform({self.value.sql()}, lambda m: {{'role': struct_extract(m, {role}),"
            f" 'content': struct_extract(m, {content})}})"
        )

    def polars(self) -> pl.Expr:
        """Each message anew."""
        role, content = _names(self.dtype)
        turn = pl.element().struct
        message = pl.struct(turn.field(role).alias("role"), turn.field(content).alias("content"))
        return self.value.polars().list.eval(message)


@dataclass(frozen=True)
class Exchanges:
    """A list of [question, answer] as messages; what is null was not said."""

    value: Cell

    def sql(self) -> str:
        """Two messages for each."""
        return (
            f"list_filter(flatten(list_transform({self.value.sql()}, lambda p:"
            " [{'role': 'user', 'content': p[1]}, {'role': 'assistant', 'content': p[2]}])),"
            " lambda m: m.content IS NOT NULL)"
        )

    def polars(self) -> pl.Expr:
        """Two messages for each."""

        def message(role: str, place: int) -> pl.Expr:
            content = pl.element().list.get(place, null_on_oob=True)
            return pl.struct(pl.lit(role).alias("role"), content.alias("content"))

        both = pl.concat_list(message("user", 0), message("assistant", 1))
        said = pl.element().struct.field("content").is_not_null()
        turns = self.value.polars().list.eval(both.explode())
        return turns.list.eval(pl.element().filter(said))


@dataclass(frozen=True)
class Asked:
    """Earlier turns, and then the prompt as a user's turn; null where the prompt is null."""

    history: Cell
    prompt: Cell

    def sql(self) -> str:
        """Messages."""
        prompt = self.prompt.sql()
        return (
            f"CASE WHEN {prompt} IS NOT NULL THEN list_concat(coalesce({self.history.sql()}, []),"
            f" [{{'role': 'user', 'content': {prompt}}}]) END"
        )

    def polars(self) -> pl.Expr:
        """Messages."""
        prompt = self.prompt.polars()
        turn = pl.struct(pl.lit("user").alias("role"), prompt.alias("content"))
        empty = pl.lit([], _MESSAGE)
        history = self.history.polars().fill_null(empty)
        return pl.when(prompt.is_not_null()).then(pl.concat_list(history, turn))


@dataclass(frozen=True)
class Begun:
    """A prompt as messages, after the system prompt where there is one."""

    system: Cell
    prompt: Cell
    is_text: bool

    def sql(self) -> str:
        """Messages."""
        system, turns = self.system.sql(), self.prompt.sql()
        if self.is_text:
            turns = f"[{{'role': 'user', 'content': {turns}}}]"
        first = f"[{{'role': 'system', 'content': {system}}}]"
        return (
            f"CASE WHEN {self.prompt.sql()} IS NULL THEN NULL WHEN {system} IS NULL THEN {turns}"
            f" ELSE list_concat({first}, {turns}) END"
        )

    def polars(self) -> pl.Expr:
        """Messages."""
        system, prompt = self.system.polars(), self.prompt.polars()

        def message(role: str, content: pl.Expr) -> pl.Expr:
            return pl.struct(pl.lit(role).alias("role"), content.alias("content"))

        turns = prompt
        if self.is_text:
            turns = pl.concat_list(message("user", prompt))
        begun = pl.concat_list(message("system", system), turns)
        told = pl.when(system.is_null()).then(turns).otherwise(begun)
        return pl.when(prompt.is_not_null()).then(told)


@dataclass(frozen=True)
class Hh:
    r"""A text of HH as messages: turns begin with `\n\nHuman:` or `\n\nAssistant:`."""

    value: Cell

    def sql(self) -> str:
        """Cut at the marks, and trimmed."""
        cut = r"E'\x1e'"
        marked = (
            f"regexp_replace({self.value.sql()}, '(^|\\s*\\n\\s*\\n)({'|'.join(_HH)}):',"
            f" {cut} || '\\2:', 'g')"
        )
        turns = f"list_filter(string_split({marked}, {cut}), lambda t: trim(t, {_SPACE}) <> '')"
        roles = " ".join(
            f"WHEN starts_with(t, {literal(name + ':')}) THEN {literal(role)}"
            for name, role in _HH.items()
        )
        names = "|".join(_HH)
        content = f"trim(regexp_replace(t, '^({names}):', ''), {_SPACE})"
        return (
            f"list_transform({turns}, lambda t: {{'role': CASE {roles} ELSE 'system' END,"
            f" 'content': {content}}})"
        )

    def polars(self) -> pl.Expr:
        """Cut at the marks, and trimmed."""
        names = "|".join(_HH)
        marked = self.value.polars().str.replace_all(
            rf"(^|\s*\n\s*\n)({names}):", rf"{_CUT}${{2}}:"
        )
        text = pl.element()
        role = pl.when(text.str.starts_with("Human:")).then(pl.lit("user"))
        role = role.when(text.str.starts_with("Assistant:")).then(pl.lit("assistant"))  # type: ignore[assignment]
        content = text.str.replace(f"^({names}):", "").str.strip_chars(" \t\r\n")
        turn = pl.struct(role.otherwise(pl.lit("system")).alias("role"), content.alias("content"))
        full = pl.element().filter(pl.element().str.strip_chars(" \t\r\n") != "")
        return marked.str.split(_CUT).list.eval(full).list.eval(turn)


_SPACE = r"E' \t\r\n'"


@dataclass(frozen=True)
class CommonTurns:
    """How many turns two conversations begin with alike, so that each has at least one more."""

    one: Cell
    other: Cell

    def sql(self) -> str:
        """A number of turns."""
        one, other = self.one.sql(), self.other.sql()
        most = f"least(len({one}), len({other})) - 1"
        return (
            f"len(list_filter(range(1, greatest({most}, 0) + 1),"
            f" lambda n: ({one})[1:n] = ({other})[1:n]))"
        )

    def polars(self) -> pl.Expr:
        """A number of turns."""
        both = pl.struct(self.one.polars().alias("one"), self.other.polars().alias("other"))
        return both.map_batches(_common_turns, return_dtype=pl.Int64, is_elementwise=True)


def _common_turns(both: pl.Series) -> pl.Series:
    most = pl.min_horizontal(pl.col("one", "other").list.len().cast(pl.Int64)) - 1
    rows = both.struct.unnest().with_row_index("row")
    # `min_horizontal` passes over nulls, and a null has nothing in common with anything.
    there = pl.col("one").is_not_null() & pl.col("other").is_not_null()
    some = rows.filter(there & (most > 0)).select("row", pl.col("one", "other").list.head(most))
    turns = some.explode("one", "other")
    same = pl.col("one").eq_missing(pl.col("other")).cast(pl.Int64)
    counts = turns.group_by("row").agg(same.cum_min().sum().cast(pl.Int64).alias("turns"))
    joined = rows.select("row").join(counts, on="row", how="left", maintain_order="left")
    return joined["turns"].fill_null(0).alias(both.name)


@dataclass(frozen=True)
class Beginning:
    """The first turns of a conversation; null where there is none."""

    value: Cell
    turns: Cell

    def sql(self) -> str:
        """A part of the list."""
        turns = self.turns.sql()
        return f"CASE WHEN {turns} > 0 THEN ({self.value.sql()})[1:{turns}] END"

    def polars(self) -> pl.Expr:
        """A part of the list."""
        turns = self.turns.polars()
        return pl.when(turns > 0).then(self.value.polars().list.head(turns))


@dataclass(frozen=True)
class Rest:
    """The turns of a conversation after its beginning."""

    value: Cell
    turns: Cell

    def sql(self) -> str:
        """A part of the list."""
        return f"({self.value.sql()})[{self.turns.sql()} + 1:]"

    def polars(self) -> pl.Expr:
        """A part of the list."""
        return self.value.polars().list.slice(self.turns.polars())
