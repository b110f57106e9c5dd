"""`prefmill.audit` over files: what it reads, what it counts, and judges of ours with a bias."""

from __future__ import annotations

import json
import random

import polars as pl
import pyarrow as pa
import pytest
from judges import Fake

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, ColumnMissing

WORDS = {"completion": "answer_a,answer_b", "winner": "winner"}


def battles(seed=0, *, prompts=60, first=0.5, swaps=False) -> pl.DataFrame:
    """Verdicts on two answers; the one shown first wins with the chance `first`."""
    draw = random.Random(seed)
    rows = []
    for prompt in range(prompts):
        a, b = f"answer {draw.random()}", f"answer {draw.random()}"
        shown = [(a, b), (b, a)] if swaps else [(a, b)]
        for one, two in shown:
            winner = "model_a" if draw.random() < first else "model_b"
            row = {"prompt": f"p{prompt}", "answer_a": one, "answer_b": two, "winner": winner}
            models = ["x", "y"] if one == a else ["y", "x"]
            rows.append({**row, "model_a": models[0], "model_b": models[1]})
    return pl.DataFrame(rows)


def pool(seed=0, *, prompts=60, answers=3, score=None) -> pl.DataFrame:
    draw = random.Random(seed)
    rows = []
    for prompt in range(prompts):
        for answer in range(answers):
            text = "word " * draw.randint(3, 60)
            if draw.random() < 0.5:
                text = f"**{text.strip()}**"
            rows.append({"prompt": f"p{prompt}", "completion": f"{text} {prompt} {answer}"})
    for row in rows:
        row["score"] = score(row, draw) if score else float(draw.randint(1, 10))
    return pl.DataFrame(rows)


# Our own judges, through the whole of it


def judged(tmp_path, says, *, mode="rating", rows=None, name="judged.parquet"):
    rubric = "{prompt}|{completion}" if mode == "rating" else "{prompt}|{a}|{b}"
    judge = pm.JudgeScorer(sampler=Fake(says), mode=mode, rubric=rubric)
    path = tmp_path / name
    rows = pool(prompts=50) if rows is None else rows
    pm.score(rows.drop("score", strict=False), path, scorer=judge, overwrite=True)
    return path


def chance(text: str) -> float:
    return random.Random(text).random()


def test_a_judge_that_takes_the_first_is_found(tmp_path):
    def says(text):
        _, a, b = text.split("|")
        return "A" if chance(text) < 0.3 else ("A" if chance(a) > chance(b) else "B")

    report = pm.audit(judged(tmp_path, says, mode="pairwise"))
    assert report.found == ["position", "order flips"]
    # 30 % of answers are A whatever it says: 15 points above one half.
    assert report["position"].effect == pytest.approx(0.15, abs=0.05)
    assert report["position"].comparisons == 50 * 3
    assert report["position"].numbers["second wins both"] == 0
    assert report["order flips"].effect == report["position"].numbers["first wins both"]


def test_a_fair_judge_of_pairs_has_no_place(tmp_path):
    def says(text):
        _, a, b = text.split("|")
        return "A" if chance(a) > chance(b) else "B"

    report = pm.audit(judged(tmp_path, says, mode="pairwise", rows=pool(prompts=120)))
    assert report.found == []
    assert report["position"].verdict == "not found"
    assert report["order flips"].effect == 0


def test_a_judge_of_length_and_one_of_bold_are_found(tmp_path):
    rows = pool(prompts=150)
    longer = judged(tmp_path, lambda text: str(1 + min(9, len(text) // 40)), rows=rows)
    report = pm.audit(longer)
    assert report.found == ["length"]
    assert report["length"].numbers["longer wins, nothing held equal"] > 0.9
    bold = judged(
        tmp_path,
        lambda text: "9" if "**" in text and chance(text) < 0.9 else str(1 + int(8 * chance(text))),
        rows=rows,
    )
    assert pm.audit(bold).found == ["bold"]


def test_a_judge_that_changes_its_mind_is_found(tmp_path):
    def says(run):
        return lambda text: str(1 + int(9 * chance(text + run)))

    one = judged(tmp_path, says("1"), name="one.parquet")
    again = judged(tmp_path, says("1"), name="again.parquet")
    other = judged(tmp_path, says("2"), name="other.parquet")
    assert pm.audit(one)["repeat flips"].verdict == "not tested"
    same = pm.audit(one, repeat=[again])["repeat flips"]
    assert (same.effect, same.numbers["alpha"]) == (0.0, 1.0)
    report = pm.audit(one, repeat=[again, other])
    assert report.runs == 3
    assert report["repeat flips"].effect == 0.0  # the first two
    report = pm.audit(one, repeat=[other])
    assert report.found == ["repeat flips"]
    assert report["repeat flips"].numbers["alpha"] == pytest.approx(0, abs=0.3)


def test_copies_of_a_verdict_are_no_repeats_and_reasons_are_counted(tmp_path):
    rows = pool(prompts=20, answers=2)
    rows = pl.concat([rows, rows.head(3)])
    path = judged(tmp_path, lambda text: "no idea" if "0 1" in text else "7", rows=rows)
    report = pm.audit(path)
    # The texts end in "0 1": the answer 1 of prompts 0 and 10, and the copy of the first.
    assert report.null == {"unparseable": 3}
    assert report.dropped == {"null_score": 3}
    assert report.copies == 2
    assert report.rows_in == 43 == report.rows_used + 2 + 3
    assert report["repeat flips"].verdict == "not tested"
    assert any("copies" in note or "asked about once" in note for note in report.notes)
    assert any("one value" in note for note in report.notes)
    assert report.scale["commonest"] == 7
    assert report.scale["ties"] == 1


# Verdicts


def test_one_order_is_told_where_chance_chose_it():
    report = pm.audit(battles(prompts=300, first=0.7), roles=WORDS)
    assert report["position"].effect == pytest.approx(0.2, abs=0.08)
    assert report.found == ["position"]
    assert "chance chose it" in report["position"].caveat
    assert report.comparisons == 300
    # One that is not found may be hidden by what stands first.
    fair = pm.audit(battles(prompts=3000, first=0.5), roles=WORDS)["position"]
    assert (fair.verdict, "chance chose it" in fair.caveat) == ("not found", True)


def test_a_place_that_the_source_decides_is_not_tested():
    rows = battles(prompts=100, first=0.9)
    report = pm.audit(rows, roles={**WORDS, "source": "model_a,model_b"})
    assert report["position"].verdict == "not tested"
    assert "source" in report["position"].why
    mixed = pl.concat([rows.head(50), battles(1, prompts=200, first=0.9, swaps=True)])
    report = pm.audit(mixed, roles={**WORDS, "source": "model_a,model_b"})
    assert report["position"].verdict == "found"


def test_both_orders_of_a_match_are_found_in_verdicts():
    report = pm.audit(battles(prompts=200, first=0.75, swaps=True), roles=WORDS)
    position = report["position"]
    assert position.comparisons == 200
    assert position.effect == pytest.approx(0.25, abs=0.07)
    assert report["order flips"].verdict == "found"


def test_pairs_have_no_place():
    rows = pool(prompts=40, answers=2)
    made = [
        {"prompt": one["prompt"], "chosen": one["completion"], "rejected": two["completion"]}
        for one, two in zip(rows[::2].to_dicts(), rows[1::2].to_dicts(), strict=True)
    ]
    report = pm.audit(pl.DataFrame(made))
    assert report["position"].verdict == "not tested"
    assert report.comparisons == 40


def test_a_human_is_read_as_the_verdict_is():
    rows = battles(prompts=200, first=0.5)
    draw = random.Random(1)
    human = [
        None if draw.random() < 0.2 else winner if draw.random() < 0.8 else "tie"
        for winner in rows["winner"]
    ]
    report = pm.audit(rows.with_columns(human=pl.Series(human)), human="human", roles=WORDS)
    agreement = report["agreement"]
    # Where the human decides it is right, and length is of no use.
    assert agreement.numbers["accuracy"] == 1.0
    assert agreement.numbers["kappa"] == pytest.approx(0.66, abs=0.1)
    assert agreement.verdict == "found"
    assert agreement.prompts == sum(h in ("model_a", "model_b") for h in human)


def test_several_humans_are_their_mean_and_a_lower_rank_is_better():
    rows = pool(prompts=80, score=lambda row, draw: float(len(row["completion"])))
    rank = -pl.col("score")
    rows = rows.with_columns(rank=rank, worse=-rank)
    report = pm.audit(rows, human="-rank")
    assert report["agreement"].numbers["accuracy"] == 1.0
    assert pm.audit(rows, human="rank")["agreement"].numbers["accuracy"] == 0.0
    assert report["length"].verdict == "not found"
    assert report["length"].effect == 0


def test_a_long_answer_that_humans_like_as_well_is_no_bias():
    rows = pool(
        prompts=400, score=lambda row, draw: len(row["completion"]) / 100 + draw.gauss(0, 0.5)
    )
    draw = random.Random(10)
    human = [len(text) / 100 + draw.gauss(0, 0.5) for text in rows["completion"]]
    assert pm.audit(rows).found == ["length"]
    assert pm.audit(rows.with_columns(human=pl.Series(human)), human="human").found == []


# Whose answers


def sourced(own: float, *, judges=("gpt-4", "other")) -> pl.DataFrame:
    draw = random.Random(2)
    rows = []
    for prompt in range(200):
        for judge in judges:
            for source in ("gpt-4", "claude"):
                liked = own if source == judge else 0.0
                quality = chance(f"{prompt} {source}")
                rows.append(
                    {
                        "prompt": f"p{prompt}",
                        "completion": f"{source} {prompt}" + " word" * int(99 * quality),
                        "model": source,
                        "annotator": judge,
                        "score": quality + liked + draw.gauss(0, 0.2),
                    }
                )
    return pl.DataFrame(rows)


def test_own_answers_are_those_of_the_annotator_or_of_the_name_given():
    rows = sourced(0.5)
    report = pm.audit(rows, roles={"source": "model", "annotator": "annotator"})
    own = report["self-preference"]
    assert "other judges" in own.what
    assert own.verdict == "found"
    assert not own.caveat  # other judges hold quality fixed
    fair = pm.audit(sourced(0.0), roles={"source": "model", "annotator": "annotator"})
    assert fair["self-preference"].verdict != "found"
    one = rows.filter(pl.col("annotator") == "gpt-4").drop("annotator")
    named = pm.audit(one, judge_name="gpt*", roles={"source": "model"})["self-preference"]
    assert named.verdict == "found"
    assert "quality" in named.caveat
    unnamed = pm.audit(one, roles={"source": "model"})["self-preference"]
    assert unnamed.verdict == "not tested"


@pytest.mark.parametrize("name", ["nobody", "*"])
def test_a_name_that_tells_no_answers_apart_is_refused(name):
    with pytest.raises(BadArgument, match="gpt-4"):
        pm.audit(sourced(0.0), judge_name=name, roles={"source": "model"})


def test_a_name_without_sources_is_refused():
    with pytest.raises(BadArgument, match="--source"):
        pm.audit(pool(), judge_name="gpt-4")


# Odd inputs


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"level": 1.0}, "level"),
        ({"least": 0.0}, "least"),
        ({"least": 0.5}, "0.5"),
        ({"seed": -1}, "seed"),
        ({"level": "x"}, "level"),
    ],
)
def test_arguments_that_cannot_be_meant(options, word):
    with pytest.raises(BadArgument, match=word):
        pm.audit(pool(), **options)


def test_a_column_that_is_not_there():
    with pytest.raises(ColumnMissing, match="nobody"):
        pm.audit(pool(), human="nobody")


def test_nothing_to_audit():
    with pytest.raises(BadInput, match="no row"):
        pm.audit(pool().with_columns(score=pl.lit(None, pl.Float64)))


def test_one_row_and_one_prompt_are_told_as_too_few():
    report = pm.audit(pool(prompts=1, answers=1))
    assert report.comparisons == 0
    assert {probe.verdict for probe in report.probes} == {"not tested"}
    report = pm.audit(pool(prompts=1, answers=8))
    assert {probe.verdict for probe in report.probes} <= {"not tested", "cannot tell"}
    assert str(report)


def test_nulls_and_messages_and_empty_texts(tmp_path):
    rows = pool(prompts=40).with_row_index()
    rows = rows.with_columns(
        completion=pl.when(pl.col("index") == 5).then(pl.lit("")).otherwise("completion"),
        score=pl.when(pl.col("index") == 7).then(None).otherwise("score"),
    ).drop("index")
    plain = pm.audit(rows)
    assert plain.dropped == {"null_score": 1}
    message = pl.struct(role=pl.lit("assistant"), content="completion")
    asked = pl.struct(role=pl.lit("user"), content="prompt")
    spoken = rows.with_columns(completion=pl.concat_list(message), prompt=pl.concat_list(asked))
    report = pm.audit(spoken)
    for one, two in zip(plain.probes, report.probes, strict=True):
        assert (one.effect, one.p) == (two.effect, two.p)


def test_contents_in_parts_are_read_as_text():
    rows = pool(prompts=20)
    part = pl.struct(type=pl.lit("text"), text="completion")
    message = pl.struct(role=pl.lit("assistant"), content=pl.concat_list(part))
    parts = rows.with_columns(completion=pl.concat_list(message))
    one, two = pm.audit(rows), pm.audit(parts)
    assert [probe.effect for probe in one.probes] == [probe.effect for probe in two.probes]


def test_a_reference_that_says_nothing_is_refused():
    rows = pool(prompts=20).with_columns(person=pl.lit("good"))
    with pytest.raises(BadInput, match="no value") as error:
        pm.audit(rows, human="person")
    assert "--values" in error.value.hint
    told = pm.audit(rows, human="person", roles={"values": "good=1"})
    assert told["agreement"].verdict == "not tested"
    with pytest.raises(BadArgument, match="second look"):
        pm.audit("-", human="person")


def test_a_reference_of_few_prompts_is_told():
    rows = (
        pool(prompts=20)
        .with_row_index()
        .with_columns(person=pl.when(pl.col("index") < 15).then("score"))
    )
    report = pm.audit(rows, human="person")
    assert any("15 of 60 rows have a reference" in note for note in report.notes)
    assert any("5 prompts have a reference" in note for note in report.notes)
    assert report["agreement"].verdict == "cannot tell"
    assert "reference" not in report["length"].what


def test_what_does_not_compare_is_told():
    report = pm.audit(pool(prompts=40, answers=1))
    assert report.comparisons == 0
    assert any("no two rows compare" in note for note in report.notes)
    assert "nan" not in str(report)


def test_each_value_of_a_column_is_audited_as_if_it_were_alone(tmp_path):
    rows = sourced(0.5)
    report = pm.audit(rows, by="annotator", judge_name="gpt*", roles={"source": "model"})
    assert list(report.parts) == ["gpt-4", "other"]
    for value, probes in report.parts.items():
        alone = rows.filter(pl.col("annotator") == value)
        alone = pm.audit(alone, judge_name="gpt*", roles={"source": "model"})
        assert list(probes) == list(alone.probes)
    assert "annotator = other" in str(report)
    assert not report.notes
    assert any("--by annotator" in note for note in pm.audit(rows).notes)
    with pytest.raises(ColumnMissing, match="--by COLUMN"):
        pm.audit(rows, by="nobody")


def test_by_takes_the_name_that_the_file_has():
    rows = battles(prompts=30).with_columns(judge=pl.lit("ann"))
    for by in ("judge", "annotator"):
        report = pm.audit(rows, by=by, roles={**WORDS, "annotator": "judge"})
        assert list(report.parts) == ["ann"]
        assert list(report.parts["ann"]) == list(report.probes)


def test_verdicts_of_a_value_are_its_own(tmp_path):
    def says(text):
        prompt, a, b = text.split("|")
        if int(prompt[1:]) % 2:
            return "A"
        return "A" if chance(a) > chance(b) else "B"

    rows = pool(prompts=60).with_columns(odd=pl.col("prompt").str.slice(1).cast(pl.Int64) % 2)
    report = pm.audit(judged(tmp_path, says, mode="pairwise", rows=rows), by="odd")
    told = {value: probes[0] for value, probes in report.parts.items()}
    assert (told["1"].effect, told["0"].effect) == (0.5, 0.0)
    assert report["position"].effect == 0.25


def test_a_repeat_of_another_kind_is_refused(tmp_path):
    with pytest.raises(BadInput, match="one kind"):
        pm.audit(battles(), repeat=[pool()])


def test_the_order_of_prompts_and_files_changes_nothing(tmp_path):
    rows = pool(prompts=60, score=lambda row, draw: len(row["completion"]) + draw.gauss(0, 80))
    shuffled = rows.sample(fraction=1, shuffle=True, seed=1)
    shuffled[:90].write_parquet(tmp_path / "a.parquet")
    shuffled[90:].write_ndjson(tmp_path / "b.jsonl")
    one, two = pm.audit(rows), pm.audit([tmp_path / "a.parquet", tmp_path / "b.jsonl"])
    assert one.as_json()["found"] == ["length"]
    for mine, other in zip(one.probes, two.probes, strict=True):
        assert mine.effect == pytest.approx(other.effect)
        assert mine.p == pytest.approx(other.p)


def test_two_runs_of_a_judge_as_two_files_are_repeats(tmp_path):
    def says(run):
        return lambda text: str(1 + int(9 * chance(text + run)))

    judged(tmp_path, says("1"), name="run1.parquet")
    judged(tmp_path, says("2"), name="run2.parquet")
    report = pm.audit(tmp_path / "run*.parquet")
    assert report.copies == 0
    assert report["repeat flips"].verdict == "found"
    assert report["repeat flips"].numbers["answers judged again"] == 150


def test_votes_repeated_in_one_order(tmp_path):
    rows = battles(prompts=60)
    report = pm.audit(pl.concat([rows, rows]), roles=WORDS)
    assert report["repeat flips"].effect == 0
    turned = rows.with_columns(
        winner=pl.when(pl.col("winner") == "model_a")
        .then(pl.lit("model_b"))
        .otherwise(pl.lit("model_a"))
    )
    again = tmp_path / "again.jsonl"
    turned.write_ndjson(again)
    report = pm.audit(rows, repeat=[again], roles=WORDS)
    assert report["repeat flips"].effect == 1
    assert report.rows_in == 120


def test_json_html_and_text_say_the_same():
    report = pm.audit(pool(prompts=80, score=lambda row, draw: float(len(row["completion"]))))
    told = json.loads(json.dumps(report.as_json()))
    assert told["found"] == ["length"]
    assert told["probes"][1]["name"] == "length"
    assert "length" in str(report)
    assert "+50.0 points" in str(report)
    assert "+50.0 points" in report._repr_html_()
    with pytest.raises(KeyError):
        report["charm"]


def test_a_broken_verdict_is_no_match(tmp_path):
    rows = pool(prompts=30, answers=2)
    said = ["[not json", '[{"as_a": 1}]', '[{"against": 1, "as_a": "A"}]', None, "8"]
    rows = rows.with_columns(score_verdict=pl.Series([said[n % 5] for n in range(60)]))
    assert pm.audit(rows)["position"].verdict == "not tested"


def test_arrow_tables_are_read_too():
    rows = pool(prompts=12)
    assert pm.audit(pa.table(rows.to_dict(as_series=False))).rows_in == 36
