"""Shapes that are recognised: the words found are those that a reader of the rules would type."""

from __future__ import annotations

import json
import shlex

import polars as pl
import pytest
from seen_records import LOG, NONE, ONE, REFUSED, SEVERAL, SIDES, WHOLE, assistant, user

from prefmill.errors import ColumnMissing
from prefmill.shapes.making import shape_of
from prefmill.shapes.names import families, sides, words
from prefmill.shapes.recognise import Reading, choose, completed, recognised
from prefmill.shapes.words import Rows


def read(records: list[dict], named: Rows | None = None, **roles: bool) -> list[Reading]:
    frame = pl.DataFrame(records, infer_schema_length=None)
    wanted = {"score": True, "completion": True} | roles
    return recognised(frame.schema, frame, named or Rows(), **wanted)


def of_types(records: list[dict]) -> list[Reading]:
    schema = pl.DataFrame(records, infer_schema_length=None).schema
    return recognised(schema, None, Rows(), score=True, completion=True)


@pytest.mark.parametrize("name", ONE)
def test_the_only_reading(name: str) -> None:
    records, line = ONE[name]
    ((_, rows),) = read(records)
    assert rows.options() == line


@pytest.mark.parametrize("name", ONE)
def test_a_reading_has_every_word(name: str) -> None:
    """The line that is told reads the same rows without recognition."""
    records, _ = ONE[name]
    frame = pl.DataFrame(records, infer_schema_length=None)
    ((_, rows),) = read(records)
    assert shape_of(rows, frame.schema).words == rows


@pytest.mark.parametrize("name", ONE)
def test_the_line_that_is_told_can_be_typed(name: str) -> None:
    """What a shell makes of the line are the words, each with its own value."""
    records, _ = ONE[name]
    frame = pl.DataFrame(records, infer_schema_length=None)
    ((_, rows),) = read(records)
    words = shlex.split(rows.options())
    typed = dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True))
    again = shape_of(Rows(**typed), frame.schema)
    assert again.variants == shape_of(rows, frame.schema).variants
    assert again.helpers == shape_of(rows, frame.schema).helpers


@pytest.mark.parametrize("name", SEVERAL)
def test_several_readings_are_lines_to_choose_from(name: str) -> None:
    records, lines = SEVERAL[name]
    readings = read(records)
    told = [rows.options() for _, rows in readings]
    assert len(told) == len(lines)
    for line, wanted in zip(told, lines, strict=True):
        assert f"{wanted} " in f"{line} "
    error = choose(readings, "pairs")
    assert isinstance(error, ColumnMissing)
    assert str(error).startswith("pairs: the records can be read in several ways")
    assert f"{told[0]} or {told[1]}" in str(error)


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_seen_and_cannot_be_told(name: str) -> None:
    records, hint = REFUSED[name]
    with pytest.raises(ColumnMissing) as caught:
        read(records)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("name", NONE)
def test_no_shape_is_no_reading(name: str) -> None:
    assert read(NONE[name]) == []


def test_values_are_needed_for_words() -> None:
    """Of types alone nobody knows what a text says; names and types are enough for the rest."""
    assert of_types([{**LOG, "feedback": "up"}]) == []
    ((_, rows),) = of_types([{"prompt": "Why?", "responses": ["So."], "scores": [1.0]}])
    assert rows.each == ("responses", "scores")
    ((_, rows),) = of_types([{**SIDES, "winner": "a"}])
    assert rows.winner == "winner"


def test_numbers_of_types_alone_are_never_guessed() -> None:
    with pytest.raises(ColumnMissing, match="nobody says what they mean"):
        of_types([{**SIDES, "label": 1}])


def test_conversations_of_types_alone_may_be_whole_or_not() -> None:
    readings = of_types([{"prompt": "Why?", "chosen": WHOLE[0], "rejected": WHOLE[1]}])
    assert [rows.prompt for _, rows in readings] == ["common", "prompt"]


def test_what_was_named_stays() -> None:
    records = [{**SIDES, "score_a": 1, "score_b": 2, "winner": "b", "topic": "rain"}]
    ((_, rows),) = read(records, Rows(score=("score_a", "score_b")))
    assert rows.score == ("score_a", "score_b")
    assert rows.winner is None
    ((_, rows),) = read(records, Rows(winner="winner", prompt="topic"))
    assert (rows.prompt, rows.winner, rows.score) == ("topic", "winner", None)
    ((_, rows),) = read([{**SIDES, "label": n} for n in (0, 1)], Rows(wins="1,0"))
    assert rows.wins == (("1",), ("0",))


def test_a_misspelled_column_is_no_shape() -> None:
    assert read([{**LOG, "feedback": "up"}], Rows(score="fedback")) == []


def test_thumbs_under_a_name_that_was_given() -> None:
    ((_, rows),) = read([{**LOG, "what": "up", "vote": "no"}], Rows(score="what"))
    assert rows.values == {"up": 1.0, "down": 0.0}


def test_lists_that_were_named() -> None:
    records = [{"prompt": "Why?", "responses": ["So."], "candidates": ["No."], "scores": [1.0]}]
    ((_, rows),) = read(records, Rows(each=("candidates", "scores")))
    assert (rows.completion, rows.score) == ("candidates", "scores")


def test_who_needs_no_score_gets_answers_without() -> None:
    ((_, rows),) = read([SIDES], score=False)
    assert rows.named() == {"prompt": "prompt", "completion": ("response_a", "response_b")}
    ((_, rows),) = read([{"instruction": "Say", "input": "why"}], score=False, completion=False)
    assert rows.named() == {"prompt": ("instruction", "input")}


def test_words_that_miss_something_are_completed() -> None:
    records = [{**SIDES, "label": word} for word in ("A", "B")]
    frame = pl.DataFrame(records)

    def done(rows: Rows) -> Reading:
        types = frame.schema
        return completed(rows, types, lambda: frame, where="pairs", score=True, completion=True)

    _, rows = done(Rows(winner="label"))
    assert rows.completion == ("response_a", "response_b")
    full = Rows(completion=("response_a", "response_b"), winner="label")
    assert done(full) == ("", full)
    with pytest.raises(ColumnMissing, match="lable"):
        done(Rows(winner="lable"))


def test_whole_conversations_never_have_their_prompt_twice() -> None:
    frame = pl.DataFrame([{"prompt": "Why?", "chosen": WHOLE[0], "rejected": WHOLE[1]}])
    pair = Rows(completion=("chosen", "rejected"))
    roles = {"where": "pairs", "score": True, "completion": True}
    _, rows = completed(pair, frame.schema, lambda: frame, **roles)
    assert rows.prompt == "common"
    answers = pl.DataFrame(
        [{"prompt": [user("Why?")], "chosen": [assistant("So.")], "rejected": [assistant("No.")]}]
    )
    _, rows = completed(pair, answers.schema, lambda: answers, **roles)
    assert rows.prompt is None


def test_columns_with_a_comma_are_told_in_quotes() -> None:
    records = [{"question": "Why?", "Answer, 1": "So.", "Answer, 2": "No.", "winner": "1"}]
    ((_, rows),) = read(records)
    assert """--completion '"Answer, 1","Answer, 2"'""" in rows.options()


def test_a_column_of_json_is_read_by_the_types_of_its_first_records() -> None:
    tree = {"text": "Why?", "replies": [{"text": "So.", "rank": 0, "emojis": {}}]}
    other = {"text": "Who?", "replies": [], "labels": {"+1": 2}}
    texts = [{"arrow.json": json.dumps(each)} for each in (tree, other)]
    ((_, rows),) = read([{"prompt": text} for text in texts])
    assert rows.named() == {
        "prompt": "prompt.text",
        "completion": "prompt.replies.text",
        "score": "-prompt.replies.rank",
        "each": "prompt.replies",
    }


def test_the_words_of_names() -> None:
    assert words("modelOutput1") == ["model", "output", "1"]
    assert words("data.Answer A") == ["answer", "a"]
    assert families(["answer_b", "answer_a", "answer_d"]) == []  # c is missing
    (three,) = families(["text 3", "text 1", "text 2"])
    assert three.labels == ("1", "2", "3")
    found = sides(["chosen", "rejected", "chosen_x", "rejected_x", "chosen_y"])
    assert found == {
        ("chosen", "rejected"): {(): ("chosen", "rejected"), ("x",): ("chosen_x", "rejected_x")}
    }
