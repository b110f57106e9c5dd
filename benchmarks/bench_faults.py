"""Planted faults, and how many of them `prefmill report` and `prefmill worth` find.

    python benchmarks/bench_faults.py [--seeds 10] [--only NAME] [--words]

Each set has 800 pairs of 400 prompts. The better answer has more of some words, and length says
nothing of it. A fault is planted into such a set; without one, no command should warn. Precision is
the share of what was found that had been planted, recall the share of what had been planted that
was found, each over all seeds. `--words` takes an encoder of these words instead of the default
one, which takes a tenth of the time. The table goes to stdout.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

import prefmill as pm

SUPPORT = Path(__file__).parents[1] / "tests" / "support"
sys.path += [str(SUPPORT / "tables"), str(SUPPORT / "models")]
from good_words import OTHERS, WORDS, answer, pairs_of  # noqa: E402
from paraphrases import PARAPHRASES  # noqa: E402
from word_encoder import word_encoder  # noqa: E402

PAIRS = 800
ENCODER: Path | None = None
Rows = list[dict[str, Any]]
#: What was found, of it what had been planted, what had been planted, and other warnings.
Count = tuple[int, int, int, Sequence[str]]


def questions(rows: Rows, draw: random.Random) -> Rows:
    """Rows whose prompts are sentences, none near another one."""
    texts: dict[str, str] = {}
    for row in rows:
        words = [draw.choice(OTHERS) for _ in range(14)]
        row["prompt"] = texts.setdefault(row["prompt"], " ".join(words))
    return rows


def clean(draw: random.Random) -> Rows:
    """A set without a fault."""
    return questions(pairs_of(draw, PAIRS), draw)


def report(rows: Rows, **more: Any) -> pm.Report:
    """`prefmill report --near`."""
    return pm.report(pl.DataFrame(rows), near=True, **more)


def worth(rows: Rows) -> tuple[pm.WorthReport, list[int]]:
    """`prefmill worth`, and the rows that are likely mislabelled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mislabelled.parquet"
        done = pm.worth(pl.DataFrame(rows), path, model=ENCODER)
        return done, pl.read_parquet(path)["row"].to_list()


def others(found: Sequence[str], *meant: str) -> list[str]:
    """Warnings that are not about the fault."""
    return [name for name in found if name not in meant]


def near_duplicates(draw: random.Random) -> Count:
    """30 prompts are there again with one word more, in pairs of their own."""
    rows = clean(draw)
    for row in draw.sample(rows[::2], 30):
        rows.append({**row, "prompt": f"{row['prompt']} please"})
        rows[-1] |= {"chosen": answer(draw, 0.8), "rejected": answer(draw, 0.2)}
    done = report(rows)
    near = done.figures.near_prompts
    assert near is not None
    return near.near, min(near.near, 30), 30, others(done.found, "near prompts")


def leaks(draw: random.Random) -> Count:
    """20 prompts of train are in test too."""
    rows = clean(draw)
    for row in rows:
        row["split"] = "train"
    prompts = sorted({row["prompt"] for row in rows})
    test = {*draw.sample(prompts, 80)}
    for row in rows:
        row["split"] = "test" if row["prompt"] in test else "train"
    for prompt in draw.sample(sorted(test), 20):
        other = {"prompt": prompt, "chosen": answer(draw, 0.8), "rejected": answer(draw, 0.2)}
        rows.append({**rows[0], **other, "split": "train"})
    done = report(rows)
    found = sum(each.prompts for each in done.figures.overlaps)
    return found, min(found, 20), 20, others(done.found, "leak")


def paraphrases(draw: random.Random) -> Count:
    """30 questions of test are in train in other words."""
    rows = [{**row, "split": "train"} for row in clean(draw)]
    for one, other in PARAPHRASES:
        for prompt, split in draw.sample([(one, "train"), (other, "test")], 2):
            answers = {"chosen": answer(draw, 0.8), "rejected": answer(draw, 0.2)}
            rows.append({**rows[0], **answers, "prompt": prompt, "split": split})
    done = pm.report(pl.DataFrame(rows), alike=True, encoder=ENCODER)
    alike = done.figures.alike
    assert alike is not None
    return alike.across, min(alike.across, 30), 30, others(done.found, "alike leak")


def length_bias(draw: random.Random) -> Count:
    """The longer answer is the chosen one in 70 of 100 pairs."""
    rows = clean(draw)
    for row in rows:
        longer = draw.random() < 0.7
        if (len(row["chosen"]) > len(row["rejected"])) != longer:
            # Words of no meaning make one of them longer than the other.
            side = "chosen" if longer else "rejected"
            gap = abs(len(row["chosen"]) - len(row["rejected"]))
            while gap >= 0:
                word = draw.choice(OTHERS)
                row[side] += f" {word}"
                gap -= len(word) + 1
    done = report(rows)
    return int("length" in done.found), int("length" in done.found), 1, others(done.found, "length")


def annotator_in_feedback(draw: random.Random) -> Count:
    """Four annotators score the same answers from 1 to 5, one of them upside down."""
    rows: Rows = []
    wrong = draw.choice("wxyz")
    for number in range(150):
        for _ in range(2):
            good, text = draw.random(), answer(draw, 0.5)
            for name in "wxyz":
                score = min(5, max(1, round(1 + 4 * good + draw.gauss(0, 0.7))))
                score = 6 - score if name == wrong else score
                row = {"prompt": f"{number}", "completion": text, "score": score}
                rows.append(row | {"annotator": name})
    done = report(questions(rows, draw), roles={"annotator": "annotator"})
    named = [each.what for each in done.warnings if each.name == "annotator"]
    right = sum(f" {wrong} says" in what for what in named)
    # Of feedback there are many rows for each answer, and scores that are often the same.
    return len(named), right, 1, others(done.found, "annotator", "repeated answers")


def annotator_in_pairs(draw: random.Random) -> Count:
    """One of six annotators has all labels the wrong way round."""
    rows = questions(pairs_of(draw, PAIRS, upside_down="v"), draw)
    done, _ = worth(rows)
    named = [part.name for part in done.parts if part.reversed]
    return len(named), named.count("v"), 1, others(done.found, "annotator", "mislabelled")


def flipped(draw: random.Random) -> Count:
    """5 of 100 labels are flipped."""
    rows = questions(pairs_of(draw, PAIRS, flipped=0.05), draw)
    done, listed = worth(rows)
    right = sum(rows[row]["planted"] for row in listed)
    planted = sum(row["planted"] for row in rows)
    return len(listed), right, planted, others(done.found, "mislabelled")


def nothing_for_report(draw: random.Random) -> Count:
    """No fault."""
    found = report(clean(draw)).found
    return len(found), 0, 0, found


def nothing_for_worth(draw: random.Random) -> Count:
    """No fault."""
    done, listed = worth(clean(draw))
    return len(listed), 0, 0, done.found


FAULTS: dict[str, tuple[str, Callable[[random.Random], Count]]] = {
    "30 near-duplicates": ("report --near", near_duplicates),
    "20 leaks across splits": ("report", leaks),
    "30 paraphrases across splits": ("report --alike", paraphrases),
    "length bias of 0.7": ("report", length_bias),
    "one annotator reversed, feedback": ("report", annotator_in_feedback),
    "one annotator reversed, pairs": ("worth", annotator_in_pairs),
    "5 % of labels flipped": ("worth", flipped),
    "none (report)": ("report --near", nothing_for_report),
    "none (worth)": ("worth", nothing_for_worth),
}


def main() -> None:
    """The command line."""
    global ENCODER
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", help="faults whose name has this")
    parser.add_argument("--words", action="store_true", help="an encoder of the words of the sets")
    asked = parser.parse_args()
    if asked.words:
        ENCODER = word_encoder(Path(tempfile.mkdtemp()), WORDS)
    print(
        "| planted | command | sets in which it was found | precision | recall | other warnings |"
    )
    print("|---|---|--:|--:|--:|---|", flush=True)
    for name, (line, look) in FAULTS.items():
        if asked.only and asked.only not in name:
            continue
        counts = [look(random.Random(seed)) for seed in range(asked.seeds)]
        found, right, planted = (sum(each[place] for each in counts) for place in range(3))
        sets = sum(each[0] > 0 for each in counts)
        precision = f"{right / found:.2f}" if found else ""
        recall = f"{right / planted:.2f}" if planted else ""
        more = ", ".join(name for each in counts for name in each[3]) or "none"
        told = (name, line, f"{sets} of {asked.seeds}", precision, recall, more)
        print(f"| {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
