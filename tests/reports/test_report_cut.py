"""What a limit of tokens leaves of pairs is what the tokenizer itself leaves; best of n."""

from __future__ import annotations

import json
import random
import shlex
import statistics

import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
from prefmill.cli.main import app
from prefmill.errors import BadArgument, BadInput
from prefmill.rules.tails import student_point

pytest.importorskip("transformers", reason="needs the extra prefmill[score]")


def prefmill(*words):
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Folders of a tokenizer of characters, by the side that it cuts."""
    from tiny import tokenizer

    made = {}
    for side in ("right", "left"):
        made[side] = tmp_path_factory.mktemp(side)
        tokenizer().save_pretrained(made[side])
        settings = made[side] / "tokenizer_config.json"
        told = {**json.loads(settings.read_text()), "truncation_side": side}
        settings.write_text(json.dumps(told))
    return made


def pairs_of(draw, count):
    """Pairs whose answers differ somewhere, and have 1 to 60 letters."""
    rows = []
    for number in range(count):
        begin = "".join(draw.choice("ab") for _ in range(draw.randint(0, 50)))
        ends = ("".join(draw.choice("cd") for _ in range(draw.randint(1, 10))) for _ in "ab")
        sides = [begin + end for end in ends]
        if draw.random() < 0.3:  # the end is the same, too
            sides = [side + "e" * 40 for side in sides]
        if sides[0] != sides[1]:
            rows.append({"prompt": f"q{number}", "chosen": sides[0], "rejected": sides[1]})
    return rows


def ids_of(tok, row, side):
    """The tokens of a prompt with its answer, by the tokenizer's own template."""
    talk = [{"role": "user", "content": row["prompt"]}]
    talk.append({"role": "assistant", "content": row[side]})
    return tok.apply_chat_template(talk, tokenize=True, return_dict=False)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("messages", [False, True])
def test_the_cut_is_that_of_plain_python(tokenizers, side, messages):
    from transformers import AutoTokenizer

    limit, folder = 40, tokenizers[side]
    rows, tok = pairs_of(random.Random(0), 60), AutoTokenizer.from_pretrained(folder)
    ids = [[ids_of(tok, row, each) for each in ("chosen", "rejected")] for row in rows]
    if messages:
        speakers = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        rows = [
            {name: [{"role": who, "content": row[name]}] for name, who in speakers.items()}
            for row in rows
        ]
    report = pm.report(pl.DataFrame(rows), tokenizer=folder, max_length=limit)
    found = report.figures.cut

    def kept(row, most):
        return row[-most:] if side == "left" else row[:most]

    sizes = [len(row) for both in ids for row in both]
    assert (found.answers, found.pairs, found.unread) == (2 * len(rows), len(rows), 0)
    assert (found.cut, found.longest) == (sum(size > limit for size in sizes), max(sizes))
    assert found.pairs_cut == sum(max(map(len, both)) > limit for both in ids)
    same = [both for both in ids if kept(both[0], limit) == kept(both[1], limit)]
    assert found.same == len(same) > 3
    assert found.end == ("first" if side == "left" else "last")
    enough = found.enough
    assert all(kept(one, enough) != kept(other, enough) for one, other in same)
    assert any(kept(one, enough - 1) == kept(other, enough - 1) for one, other in same)
    assert {"cut pairs", "long pairs"} <= {*report.found}
    assert f"{found.same:,} pairs are the same after 40 tokens" in str(report)


def test_lines_about_limits_run(tokenizers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame(pairs_of(random.Random(1), 60)).write_ndjson("my pairs.jsonl")
    folder = tokenizers["right"]

    def warned(*words):
        done = prefmill("report", *words, "--json", "-q")
        assert done.exit_code == 0, done.output
        return {each["name"]: each["line"] for each in json.loads(done.stdout)["warnings"]}

    lines = warned("my pairs.jsonl", "--tokenizer", folder, "--max-length", "40")
    assert "cut pairs" not in warned(*shlex.split(lines["cut pairs"])[2:])
    assert not {"cut pairs", "long pairs"} & warned(*shlex.split(lines["long pairs"])[2:]).keys()
    assert not {"cut pairs", "long pairs"} & warned("my pairs.jsonl", "--tokenizer", folder).keys()


def test_pools_and_rows_that_no_template_reads(tokenizers):
    pool = {"prompt": ["p", "p", "q"], "completion": ["a" * 50, "a", "a" * 50]}
    found = pm.report(pl.DataFrame(pool), tokenizer=tokenizers["right"], max_length=20).figures.cut
    assert (found.answers, found.cut, found.pairs) == (3, 2, 0)
    rows = pairs_of(random.Random(2), 20)
    # The text of a list of messages is none that a model is asked.
    rows[3]["prompt"] = json.dumps([{"role": "user", "content": "hi"}])
    report = pm.report(pl.DataFrame(rows), tokenizer=tokenizers["right"])
    assert report.figures.cut.unread == 1
    assert report.figures.cut.pairs == len(rows) - 1


def test_what_is_no_tokenizer_or_limit(tokenizers, tmp_path):
    frame = pl.DataFrame(pairs_of(random.Random(3), 5))
    with pytest.raises(BadArgument, match="without a tokenizer"):
        pm.report(frame, max_length=10)
    with pytest.raises(BadArgument, match="no number of tokens; got 0"):
        pm.report(frame, tokenizer=tokenizers["right"], max_length=0)
    with pytest.raises(BadInput, match="no directory with a tokenizer"):
        pm.report(frame, tokenizer="org/model")
    with pytest.raises(BadInput, match="no usable tokenizer"):
        pm.report(frame, tokenizer=tmp_path)


def scored(draw, prompts=60):
    rows = []
    for number in range(prompts):
        for answer in range(draw.randint(1, 9)):
            row = {"prompt": f"q{number}", "completion": f"{number} {answer}"}
            rows.append(row | {"score": draw.gauss(number % 7, 1)})
    return rows


def test_best_of_n_is_that_of_the_curve():
    rows = [*scored(random.Random(4)), {"prompt": "q0", "completion": "x", "score": None}]
    found = pm.report(pl.DataFrame(rows)).figures.best_of
    curve = pm.curve(pl.DataFrame(rows), resamples=0).points
    assert [each.n for each in found] == [1, 2, 4, 8, 9]
    for each in found:
        (point,) = curve.filter(n=each.n).to_dicts()
        assert (each.prompts, each.best) == (point["prompts"], pytest.approx(point["best"]))
        assert each.mean == pytest.approx(point["mean"])
    by_prompt = {}
    for row in rows[:-1]:
        by_prompt.setdefault(row["prompt"], []).append(row["score"])
    means = [statistics.mean(scores) for scores in by_prompt.values()]
    half = student_point(0.95, len(means) - 1) * statistics.stdev(means) / len(means) ** 0.5
    assert found[0].low == pytest.approx(statistics.mean(means) - half)
    assert found[0].high == pytest.approx(statistics.mean(means) + half)
    report = pm.report(pl.DataFrame(rows))
    assert "== Best of n" in str(report)
    assert '<svg class="lines"' in report._repr_html_()


def test_judgements_that_repeat_an_answer_are_no_choice():
    rows = scored(random.Random(5))
    again = [{**row, "score": row["score"] + 1} for row in rows[:5]]
    assert not pm.report(pl.DataFrame(rows + again)).figures.best_of
    one = [{**row, "prompt": f"{number}"} for number, row in enumerate(rows)]
    assert not pm.report(pl.DataFrame(one)).figures.best_of
    pairs = pl.DataFrame(pairs_of(random.Random(6), 5))
    assert not pm.report(pairs).figures.best_of
