"""The figures of a report are those of a few lines of plain Python, and faults have names."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from itertools import combinations
from statistics import correlation

import polars as pl
import pytest

import prefmill as pm
from prefmill.reports.floors import is_high
from prefmill.reports.found import Floor

WORDS = [f"word{n}" for n in range(12)]


def text(draw, least=3, most=40):
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most)))


def pairs_of(draw, count, longer=0.5):
    """Pairs whose longer answer is chosen with the chance `longer`."""
    rows = []
    for number in range(count):
        short, long = sorted((text(draw), text(draw)), key=len)
        sides = (long, short) if draw.random() < longer else (short, long)
        rows.append({"prompt": f"question {number}", "chosen": sides[0], "rejected": sides[1]})
    return rows


def feedback_of(draw, prompts):
    rows = []
    for number in range(prompts):
        for _ in range(draw.randint(1, 6)):
            row = {"prompt": f"question {number}", "completion": text(draw)}
            row |= {"score": draw.randint(1, 5), "source": draw.choice("abc")}
            rows.append(row | {"annotator": draw.choice(["x", "y", None])})
    return rows


def wilson(right, n):
    """Wilson's interval from its definition: the p whose score test just keeps `right`."""
    z = 1.959963984540054
    middle, half = right + z * z / 2, z * math.sqrt(right * (n - right) / n + z * z / 4)
    return (middle - half) / (n + z * z), (middle + half) / (n + z * z)


def exact(right, n):
    """The two-sided binomial test against one half, by whole numbers."""
    most = max(right, n - right)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n)


def test_floors_are_those_of_plain_python():
    draw = random.Random(1)
    rows = pairs_of(draw, 200, longer=0.6)
    for row in draw.sample(rows, 60):
        row["chosen"] += "\n- one\n- two"
    rows[0]["rejected"] = rows[0]["chosen"]  # no pair
    floors = {each.name: each for each in pm.report(pl.DataFrame(rows)).figures.floors}
    right = sum(len(row["chosen"]) > len(row["rejected"]) for row in rows)
    differ = sum(len(row["chosen"]) != len(row["rejected"]) for row in rows)
    length = floors["length"]
    assert (length.pairs, length.share) == (differ, right / differ)
    assert (length.low, length.high) == pytest.approx(wilson(right, differ))
    assert length.p == pytest.approx(exact(right, differ))
    lists = floors["lists"]
    listed = sum("- one" in row["chosen"] for row in rows[1:])
    assert (lists.pairs, lists.share) == (listed, 1.0)
    assert floors["position"].share is None
    assert "columns" in floors["position"].why
    assert floors["source"].share is None
    assert "--source COLUMN" in floors["source"].why
    assert lists.p_adjusted == pytest.approx(min(1, 2 * exact(listed, listed)))


def test_pairs_of_one_prompt_are_worth_what_they_are_together():
    """Ten copies of a bet in each prompt are one bet: the interval is that of prompts."""
    draw = random.Random(2)
    rows = []
    for number, row in enumerate(pairs_of(draw, 80, longer=0.7)):
        longer = len(row["chosen"]) > len(row["rejected"])
        for copy in range(10):
            sides = ("x" * (9 + copy), "y") if longer else ("x", "y" * (9 + copy))
            rows.append({"prompt": f"q{number}", "chosen": sides[0], "rejected": sides[1]})
    floor = pm.report(pl.DataFrame(rows)).figures.floors[0]
    right = round(floor.share * 80)
    assert floor.pairs == 800
    assert (floor.low, floor.high) == pytest.approx(wilson(right, 80), abs=1e-3)


def test_source_is_guessed_from_other_prompts():
    """A source that wins by chance wins nothing elsewhere; one that is better does."""
    draw = random.Random(3)

    def floor(better):
        rows = [
            {
                "prompt": f"q{n}",
                "chosen": text(draw),
                "rejected": text(draw),
                "chosen_model": "good" if draw.random() < better else "bad",
            }
            for n in range(300)
        ]
        for row in rows:
            row["rejected_model"] = "bad" if row["chosen_model"] == "good" else "good"
        words = {"source": "chosen_model,rejected_model"}
        done = pm.report(pl.DataFrame(rows), roles={**words, "completion": "chosen,rejected"})
        return next(each for each in done.figures.floors if each.name == "source")

    fair, better = floor(0.5), floor(0.8)
    assert fair.p > 0.01
    assert better.share > 0.7
    assert better.p < 1e-6
    assert abs(better.shuffled - 0.5) < 0.1


def test_counts_are_those_of_plain_python(tmp_path):
    draw = random.Random(4)
    rows = feedback_of(draw, 150)
    rows += [{**row, "score": draw.randint(1, 5)} for row in draw.sample(rows, 20)]
    figures = pm.report(pl.DataFrame(rows)).figures
    assert figures.kind == "feedback"
    assert figures.rows == len(rows)
    scores = Counter(row["score"] for row in rows)
    assert dict(zip(figures.scores.low, figures.scores.counts, strict=True)) == scores
    groups, answers = defaultdict(list), defaultdict(list)
    for row in rows:
        groups[row["prompt"]].append(row["score"])
        answers[row["prompt"], row["completion"]].append(row["score"])
    met = [pair for scores in groups.values() for pair in combinations(scores, 2)]
    assert figures.ties == (sum(one == other for one, other in met), len(met))
    sizes = Counter(Counter(prompt for prompt, _ in answers).values())
    found = figures.answers_per_prompt
    assert dict(zip(found.low, found.counts, strict=True)) == sizes
    assert figures.repeats.rows == len(rows) - len(answers)
    several = (scores for scores in answers.values() if len({*scores}) > 1)
    assert figures.repeats.conflicting == sum(map(len, several))
    for by, parts in (("source", figures.sources), ("annotator", figures.annotators)):
        rated = defaultdict(list)
        for row in rows:
            rated[row[by]].append(row["score"])
        rated.pop(None, None)
        told = {part.name: (part.rows, part.mean) for part in parts}
        assert told == {name: (len(s), pytest.approx(sum(s) / len(s))) for name, s in rated.items()}
        assert all(sum(part.counts) == part.rows for part in parts)
    funnel = figures.funnel
    assert funnel.rows_in == len(rows)
    report = pm.run(pm.Pairs(), pl.DataFrame(rows), str(tmp_path / "pairs.parquet"))
    assert (funnel.dropped, funnel.pairs_out) == (report.dropped, report.pairs_out)


def test_a_clean_set_has_no_warning():
    for seed in range(5):
        draw = random.Random(seed)
        assert pm.report(pl.DataFrame(pairs_of(draw, 300))).found == []
        assert pm.report(pl.DataFrame(feedback_of(draw, 200))).found == []


def test_a_floor_is_high_beyond_chance_and_by_enough():
    def high(share, p):
        return is_high(Floor("length", "the longer answer", 500, share, p=p, p_adjusted=p))

    assert high(0.56, 0.0009)
    assert high(0.44, 0.0009)
    # One of a thousand clean sets may warn, not one of a hundred.
    assert not high(0.56, 0.0011)
    assert not high(0.545, 1e-9)


def test_planted_faults_have_names(tmp_path):
    draw = random.Random(5)
    biased = pm.report(pl.DataFrame(pairs_of(draw, 400, longer=0.7)))
    assert biased.found == ["length"]
    assert "prefmill audit" in biased.warnings[0].line
    rows = pairs_of(draw, 300)
    again = rows + draw.sample(rows, 30)
    report = pm.report(pl.DataFrame(again))
    assert report.found == ["repeated pairs"]
    assert report.warnings[0].what.startswith("30 pairs")
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[:7]]
    report = pm.report(pl.DataFrame(rows + turned))
    assert report.found == ["contradictory pairs"]
    assert report.figures.repeats.contradictory == 14


def judged_by(draw, answers, turned=()):
    """Scores of three annotators, of whom those of `turned` read the scale upside down."""
    rows = []
    for number in range(answers):
        quality = draw.uniform(1, 5)
        for name in "xyz":
            score = min(5, max(1, round(quality + draw.gauss(0, 0.7))))
            score = 6 - score if name in turned else score
            row = {"prompt": f"q{number // 4}", "completion": f"{number:09}", "score": score}
            rows.append({**row, "annotator": name})
    return rows


def test_a_reversed_annotator_has_a_name():
    rows = judged_by(random.Random(8), 200, turned="y")
    plan = pm.Pairs(aggregate="mean", chosen_min=None, rejected_below=None)
    report = pm.report(pl.DataFrame(rows), plan=plan)
    names = [each for each in report.warnings if each.name == "annotator"]
    assert len(names) == 1
    assert " y says the opposite" in names[0].what
    scores = {(row["completion"], row["annotator"]): row["score"] for row in rows}
    told = {part.name: part.agrees for part in report.figures.annotators}
    for name, (one, other) in {"x": "yz", "y": "xz", "z": "xy"}.items():
        own = [scores[f"{n:09}", name] for n in range(200)]
        rest = [(scores[f"{n:09}", one] + scores[f"{n:09}", other]) / 2 for n in range(200)]
        assert told[name] == pytest.approx(correlation(own, rest))
    straight = pm.report(pl.DataFrame(judged_by(random.Random(9), 200)), plan=plan)
    assert "annotator" not in straight.found


def test_prompts_of_two_splits_are_named(tmp_path):
    draw = random.Random(6)
    train, test = pairs_of(draw, 200), pairs_of(draw, 60)
    for number, row in enumerate(test):
        row["prompt"] = f"question {number}" if number < 20 else f"other {number}"
    for name, rows in (("train", train), ("test", test)):
        pl.DataFrame(rows).write_parquet(tmp_path / f"{name}.parquet")
    files = [str(tmp_path / f"{name}.parquet") for name in ("train", "test")]
    report = pm.report(files)
    assert report.found == ["leak"]
    (overlap,) = report.figures.overlaps
    assert (overlap.one, overlap.other, overlap.prompts) == ("test", "train", 20)
    assert set(overlap.examples) < {row["prompt"] for row in test[:20]}
    column = pl.concat(pl.read_parquet(file).with_columns(split=pl.lit(file)) for file in files)
    assert pm.report(column).figures.overlaps[0].prompts == 20


def test_near_repeats_are_found_and_nothing_else():
    draw = random.Random(10)

    def question(number):
        return f"{number} " + "".join(draw.choice("abcdefgh ") for _ in range(200))

    rows = pairs_of(draw, 150)
    for number, row in enumerate(rows):
        row["prompt"] = question(number)
        row["rejected"] += question(number)
        row["chosen"] += question(number)
    planted = set()
    for row in draw.sample(rows, 30):
        changed = row["prompt"][:100].upper() + "  " + row["prompt"][104:]
        planted.add(changed)
        rows.append({**row, "prompt": changed, "chosen": question(1), "rejected": question(2)})
    figures = pm.report(pl.DataFrame(rows), near=True).figures
    assert (figures.near_prompts.texts, figures.near_prompts.near) == (180, 30)
    for one, other in figures.near_prompts.examples:
        assert one != other
        assert any(other.strip("…") in text for text in planted)
    assert figures.near_answers.near == 0
    split = ["train"] * 150 + ["test"] * 30
    report = pm.report(pl.DataFrame(rows).with_columns(split=pl.Series(split)), near=True)
    assert report.figures.near_prompts.across == 30
    assert "near leak" in report.found
    assert "near prompts" not in report.found


def test_a_run_tells_its_own_funnel(tmp_path):
    rows = feedback_of(random.Random(7), 100)
    path = tmp_path / "pairs.parquet"
    made = pm.run(pm.Pairs(), pl.DataFrame(rows), str(path))
    figures = pm.report(str(path)).figures
    assert figures.kind == "pairs"
    assert "prefmill pairs" in figures.funnel_of
    assert figures.funnel.dropped == made.dropped
    assert figures.funnel.rows_in == len(rows)


def test_unusable_rows_are_looked_for_in_the_input_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = pl.DataFrame(feedback_of(random.Random(7), 100))
    some = pl.int_range(pl.len()) < 3
    rows.with_columns(completion=pl.when(~some).then("completion")).write_csv("my rows.csv")
    pm.run(pm.Pairs(), "my rows.csv", "pairs.parquet")
    pm.run(pm.Pairs(), rows.with_columns(score=pl.when(~some).then("score")), "other.parquet")
    assert "prefmill check 'my rows.csv'" in str(pm.report("pairs.parquet"))
    assert "prefmill check FILE..." in str(pm.report("other.parquet"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert f"prefmill check '{tmp_path}/my rows.csv'" in str(pm.report("../pairs.parquet"))


def test_kinds_of_files():
    prompts = {"prompt": ["a", "a", "b", "b"], "completion": ["w", "x", "y", "z"]}

    def kind(**more):
        return pm.report(pl.DataFrame({**prompts, **more})).figures.kind

    assert kind() == "pool"
    assert kind(label=[True, False, True, False]) == "labels"
    assert kind(score=[1, 5, 1, 5]) == "feedback"
    assert kind(score=[1, 5, 1, 5], score_reason=["", "", "", ""]) == "judged pool"
    messages = [[{"role": "user", "content": "hi"}], [{"role": "user", "content": "ho"}]]
    answer = [[{"role": "assistant", "content": text}] for text in ("- a\n- b", "plain")]
    rows = {"prompt": messages, "chosen": answer, "rejected": answer[::-1]}
    figures = pm.report(pl.DataFrame(rows)).figures
    assert figures.kind == "pairs"
    assert [each.chosen.text for each in figures.shown] == ["- a\n- b", "plain"]
    lists = next(each for each in figures.floors if each.name == "lists")
    assert (lists.pairs, lists.share) == (2, 0.5)
