"""The tables that a report asks: a row of numbers for each row, and for each pair its two sides.

Texts are read once, in the engine, and leave it as numbers. Equal texts are told by their MD5 (128
bits), as `pair_id` tells them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from prefmill.connection import literal
from prefmill.engines.macros import install_used
from prefmill.plans.expect import SOURCE
from prefmill.reports.languages import language_sql, telling_sql
from prefmill.rules.audits.texts import LIST_ITEM
from prefmill.runs.job.job import Job
from prefmill.table.roles import named

#: Words of a file's name, or of its folder's, that say which split it is.
_SPLIT = re.compile(r"(?<![a-z])(train|test|valid|validation|val|dev|eval|holdout)(?![a-z])")
#: Rows whose languages are looked at.
_READ = 1_000_000
_CONTENTS = '[{"content":"VARCHAR","value":"VARCHAR"}]'


def text_sql(job: Job, column: str) -> str:
    """The text of a column of the view `texts`; of messages, their contents line by line."""
    kinds = {name: kind for name, kind, *_ in job.con.execute("DESCRIBE texts").fetchall()}
    if re.fullmatch(r"STRUCT\(.*\)\[\]", kinds[column], re.DOTALL):
        return (
            f"array_to_string(list_transform(from_json(to_json({column}), {literal(_CONTENTS)}),"
            """ lambda m: coalesce(m."content", m."value", '')), chr(10))"""
        )
    return f"{column}::VARCHAR"


def kept(job: Job, role: str) -> str | None:
    """Our name for a column that has a role, in the view `texts`."""
    words = named(job.roles) if job.rowed.shape is None else job.rowed.shape.words.named()
    name = words.get(role) or role
    for each in (role, name):
        if isinstance(each, str) and each in job.keep:
            return f"_keep{job.keep.index(each)}"
    return None


def splits_of(files: Sequence[str]) -> list[str | None]:
    """The split that each file is of, by its name or its folder's.

    >>> splits_of(["out/train.parquet", "test/part-0.parquet", "latest.csv"])
    ['train', 'test', None]
    """
    found = []
    for file in files:
        path = Path(file)
        names = (_SPLIT.search(part.lower()) for part in (path.name, path.parent.name))
        found.append(next((match[1] for match in names if match), None))
    return found


def _split_sql(job: Job) -> str:
    """The split of a row: the column of that name, or the file that the row is of."""
    if column := kept(job, "split"):
        return f"{column}::VARCHAR"
    inputs = job.source.inputs
    names = splits_of([str(file) for file, _ in inputs])
    if len({*names}) < 2:
        return "NULL::VARCHAR"
    cases, end = [], 0
    for name, (file, rows) in zip(names, inputs, strict=True):
        end += rows * job.source.width
        cases.append(f"WHEN t._pos < {end} THEN {literal(name or Path(file).name)}")
    return f"CASE {' '.join(cases)} END"


def make_facts(job: Job) -> None:
    """Make the table `facts`, a row of numbers for each row that was read.

    prompt, answer (MD5), pos, value, reason (why the row cannot be used), chars, lists (two items
    or more), native (the answer is in the language of its prompt; null where one has none), source,
    annotator, split.
    """
    install_used(job.con, ["pref_length(x)"])
    source, annotator = kept(job, SOURCE), kept(job, "annotator")
    answer = text_sql(job, "_completion")
    # One item may be a dash in front of anything: a list has two, as in `audits.texts.measures`.
    two = f"regexp_matches({answer}, {literal(f'{LIST_ITEM}(?s:.*?){LIST_ITEM}')})"
    # Two items stand on two lines, and to look for a line's end takes a tenth of the time.
    lists = f"CASE WHEN NOT contains({answer}, chr(10)) THEN false ELSE {two} END"
    # Of more rows the prompts are drawn, by their hash: a share needs no more.
    drawn = f"md5_number(_prompt::VARCHAR) & {_mask(job.source.rows)} = 0"
    telling = ", ".join(
        f"CASE WHEN {drawn} THEN {telling_sql(text)} END AS {name}"
        for name, text in (("_said", answer), ("_asked", text_sql(job, "_prompt")))
    )
    native = f"{language_sql('_said')} = {language_sql('_asked')}"
    job.con.execute(
        "CREATE TABLE facts AS SELECT t._pos AS pos,"
        " md5_number(t._prompt::VARCHAR) AS prompt, md5_number(t._completion::VARCHAR) AS answer,"
        " c._value AS value, c._reason AS reason,"
        f" pref_length(t._completion)::INTEGER AS chars, {lists} AS lists, {native} AS native,"
        f" {source or 'NULL'}::VARCHAR AS source, {annotator or 'NULL'}::VARCHAR AS annotator,"
        f" {_split_sql(job)} AS split FROM (SELECT *, {telling} FROM texts) t"
        " JOIN counted c ON c._pos = t._pos"
    )
    job.con.execute(
        "CREATE TEMP TABLE answers AS SELECT prompt, answer, count(*) AS n,"
        " min(value) < max(value) AS several FROM facts"
        " WHERE prompt IS NOT NULL AND answer IS NOT NULL GROUP BY prompt, answer"
    )


def _mask(rows: int) -> int:
    """The bits of a hash that are 0 for the prompts whose language is looked at.

    >>> _mask(1_000_000), _mask(10_000_000)
    (0, 15)
    """
    return (1 << (-(-rows // _READ) - 1).bit_length()) - 1


def make_pools(job: Job) -> None:
    """Make the table `pools`: the scores of each group's candidates, smallest first."""
    rows, key, score, reason = "candidates", "_grp", "_score", "_reason"
    if job.plan.aggregate == "none" and not job.roles.group and _prompt_is_text(job):
        # Every row is a candidate then, and of `facts` no text is read again.
        rows, key, score, reason = "facts", "prompt", "value", "reason"
    job.con.execute(
        f"CREATE TEMP TABLE pools AS SELECT list_sort(list({score})) AS scores FROM {rows}"
        f" WHERE {reason} IS NULL GROUP BY {key}"
    )


def _prompt_is_text(job: Job) -> bool:
    kinds = {name: kind for name, kind, *_ in job.con.execute("DESCRIBE texts").fetchall()}
    return bool(kinds["_prompt"] == "VARCHAR")


def make_sides(job: Job) -> None:
    """Make the table `sides`: of each pair its prompt, the numbers of both answers, the gap of
    their scores, and `flip`, a fair coin that depends on the pair's texts only.
    """
    columns = ("pos", "answer", "chars", "lists", "native", "source")
    both = [f"{side}.{name} AS {side}_{name}" for side in "cr" for name in columns]
    job.con.execute(
        f"CREATE TEMP TABLE sides AS SELECT s.slot, c.prompt, {', '.join(both)},"
        " s._chosen_score - s._rejected_score AS gap, c.answer = r.answer AS same,"
        # The remainder of a 128-bit number takes 3 µs, a bit of it next to nothing.
        " xor(xor(c.prompt, c.answer), r.answer) & 1 = 0 AS flip FROM slots s"
        " JOIN facts c ON c.pos = s._chosen JOIN facts r ON r.pos = s._rejected"
    )
