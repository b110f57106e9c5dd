"""Steps that are one text, and ratings that are marks in a text."""

from __future__ import annotations

import polars as pl

from prefmill.errors import BadInput
from prefmill.rules.step_cells import SPACE, Place, row_of
from prefmill.table.step_words import StepWords

_ONLY_MARKS = r"^[-+ \t\r\n]*$"


def split_texts(frame: pl.DataFrame, words: StepWords, place: Place = row_of) -> pl.DataFrame:
    """`frame` with lists for the texts `_steps` and, if it is a text, `_rating`.

    Steps are trimmed, and blank ones are none. Ratings in a text are its marks alone (`+ + -`), or
    the text of the steps with a mark in the place of every separator. With `steps_from` the prompt
    is what is before the first step.
    """
    separator = words.step_separator
    assert separator is not None
    text = pl.col("_steps")
    frame = frame.with_columns(_text=text)
    if words.steps_from is not None:
        begins = f"(?s)^(.*?)(?i:{pl.escape_regex(words.steps_from)})"
        frame = frame.with_columns(_head=text.str.extract(begins, 1))
        before = pl.col("_head").str.len_chars()
        frame = frame.with_columns(_steps=text.str.slice(before))
        if words.prompt is None:
            prompt = pl.col("_head").str.replace_all(separator, "", literal=True)
            frame = frame.with_columns(_prompt=prompt.str.strip_chars(SPACE))
    pieces = pl.col("_steps").str.split(separator)
    frame = frame.with_columns(_steps=pieces.list.eval(pl.element().str.strip_chars(SPACE)))
    if frame.schema.get("_rating") == pl.String:
        frame = _with_marks(frame, separator, place)
    full = pl.element().filter(pl.element() != "")
    return frame.with_columns(pl.col("_steps").list.eval(full))


def _with_marks(frame: pl.DataFrame, separator: str, place: Place) -> pl.DataFrame:
    """`frame` with the marks of a text as the list `_rating`."""
    alone = pl.col("_rating").str.contains(_ONLY_MARKS)
    frame = frame.with_columns(_aligned=_cut_out(frame, separator), _alone=alone)
    both = pl.col("_rating").is_not_null() & pl.col("_text").is_not_null()
    odd = frame.filter(both & ~pl.col("_alone") & pl.col("_aligned").is_null())
    if odd.height:
        raise misfit(place(odd["_pos"][0]))
    # The separators before the first step mark nothing.
    if "_head" in frame.columns:
        before = pl.col("_head").str.count_matches(separator, literal=True)
        frame = frame.with_columns(pl.col("_aligned").list.slice(before))
    marks = pl.col("_rating").str.replace_all("[^-+]", "").str.split("")
    rating = pl.when("_alone").then(marks).otherwise(_of_full_pieces(frame))
    return frame.with_columns(_rating=rating)


def _of_full_pieces(frame: pl.DataFrame) -> pl.Series:
    """The marks of the pieces that are not blank; the last piece has none."""
    size, marked = pl.col("_steps").list.len(), pl.col("_aligned").list.len()
    rest = pl.lit(None, pl.String).repeat_by((size - marked).cast(pl.Int64).clip(0))
    rows = frame.select(
        "_steps",
        _aligned=pl.concat_list("_aligned", rest),
        _unrated=pl.col("_rating").is_null() | pl.col("_steps").is_null(),
    ).with_row_index("row")
    pieces = rows.filter((size > 0) & (size == marked)).explode("_steps", "_aligned")
    full = pieces.filter(pl.col("_steps") != "")
    kept = full.group_by("row", maintain_order=True).agg("_aligned")
    told = rows.select("row", "_unrated").join(kept, on="row", how="left", maintain_order="left")
    none = pl.lit([], pl.List(pl.String))
    cut = pl.when(~pl.col("_unrated")).then(pl.col("_aligned").fill_null(none))
    return told.select(cut.alias("_kept")).to_series()


def misfit(where: str) -> BadInput:
    """The error for a text of ratings that is not that of the steps."""
    return BadInput(
        f"steps: {where}: the text of ratings is neither marks alone nor the text of the steps"
        " with a mark (one character) for every separator.",
        hint="mend that row, or leave it out.",
    )


def _cut_out(frame: pl.DataFrame, separator: str) -> pl.Series:
    """The marks that stand in `_rating` where the separators stand in `_text`."""
    rows = frame.select("_pos", "_rating", _piece=pl.col("_text").str.split(separator))
    rows = rows.with_row_index("row").with_columns(_full=pl.col("_rating").str.len_chars())
    pieces = rows.explode("_piece").with_columns(
        _end=(pl.col("_piece").str.len_chars() + 1).cum_sum().over("row")
    )
    both = pl.col("_rating").is_not_null() & pl.col("_piece").is_not_null()
    ends = (
        pieces.filter(both)
        .group_by("row", maintain_order=True)
        .agg(
            _marks=pl.col("_rating").str.slice(pl.col("_end").cast(pl.Int64) - 1, 1),
            _fits=(pl.col("_end").last() - 1 == pl.col("_full").first()),
        )
    )
    told = rows.join(ends, on="row", how="left", maintain_order="left")
    found = pl.when("_fits").then(pl.col("_marks").list.head(pl.col("_marks").list.len() - 1))
    return told.select(found.alias("_aligned")).to_series()
