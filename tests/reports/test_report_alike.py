"""Prompts that mean nearly the same: who is told, who is not, and what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from paraphrases import PARAPHRASES
from word_encoder import word_encoder

import prefmill as pm
from prefmill.errors import BadArgument, MissingPackage
from prefmill.models import embedding
from prefmill.reports import alike

pytestmark = pytest.mark.score
WORDS = [f"w{n}" for n in range(200)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Texts of the same words are alike, in whatever order; those of other words are not."""
    from transformers import BertModel

    folder = word_encoder(tmp_path_factory.mktemp("models") / "encoder", WORDS)
    model = BertModel.from_pretrained(folder)
    model.embeddings.token_type_embeddings.weight.data.zero_()  # what all words would share
    model.save_pretrained(folder)
    return folder


def rows_of(prompts, splits=None):
    rows = [
        {"prompt": prompt, "chosen": f"yes {n}", "rejected": f"no {n}"}
        for n, prompt in enumerate(prompts)
    ]
    frame = pl.DataFrame(rows)
    return frame if splits is None else frame.with_columns(split=pl.Series(splits))


def sentence(n):
    return " ".join(WORDS[7 * n : 7 * n + 7])


def turned(text):
    return " ".join(reversed(text.split()))


def test_the_same_words_in_another_order_are_alike(encoder):
    plain = [sentence(n) for n in range(20)]
    others = [turned(sentence(n)) for n in (3, 4, 5)]
    twice = [plain[3]]  # the same text is one prompt
    splits = ["train"] * 20 + ["test", "test", "train", "train"]
    frame = rows_of([*plain, *others, *twice], splits)
    report = pm.report(frame, alike=True, encoder=encoder)
    found = report.figures.alike
    assert (found.texts, found.read, found.alike, found.across) == (23, 23, 3, 2)
    assert [(one, other) for _, one, other in sorted(found.examples, key=lambda e: e[1])] == sorted(
        (sentence(n), turned(sentence(n))) for n in (3, 4, 5)
    )
    assert all(cosine == pytest.approx(1, abs=1e-3) for cosine, _, _ in found.examples)
    assert "alike leak" in report.found
    assert "2 prompts mean nearly the same as one of another split" in str(report)
    one_split = pm.report(frame.drop("split"), alike=True, encoder=encoder)
    assert (one_split.figures.alike.alike, one_split.figures.alike.across) == (3, 0)
    assert "alike leak" not in one_split.found
    assert pm.report(frame).figures.alike is None


def test_the_order_of_rows_changes_no_count_and_blocks_change_nothing(encoder, monkeypatch):
    prompts = [sentence(n % 25) if n < 25 else turned(sentence(n % 25)) for n in range(40)]
    frame = rows_of(prompts)
    first = pm.report(frame, alike=True, encoder=encoder).figures.alike
    assert (first.read, first.alike) == (40, 15)
    monkeypatch.setattr(alike, "_BLOCK", 7)
    again = pm.report(frame, alike=True, encoder=encoder).figures.alike
    assert again == first
    other = pm.report(frame.reverse(), alike=True, encoder=encoder).figures.alike
    assert (other.read, other.alike) == (40, 15)


def test_one_of_another_split_counts_before_a_closer_one(encoder):
    near, far = turned(sentence(1)), " ".join([*WORDS[7:13], WORDS[50]])
    frame = rows_of([far, sentence(1), near], ["train", "test", "test"])
    found = pm.report(frame, alike=True, encoder=encoder).figures.alike
    assert (found.alike, found.across) == (2, 2)
    assert [one for _, one, _ in found.examples] == [far, far]


def test_of_many_prompts_some_are_drawn_and_the_report_says_so(encoder, monkeypatch):
    monkeypatch.setattr(alike, "MOST", 10)
    frame = rows_of([sentence(n) for n in range(25)])
    found = pm.report(frame, alike=True, encoder=encoder).figures.alike
    assert (found.texts, found.read, found.alike) == (25, 10, 0)
    text = str(pm.report(frame, alike=True, encoder=encoder))
    assert "different prompts                     25" in text
    assert "read                                  10" in text


def test_messages_and_pools_have_prompts_too(encoder):
    chats = [[{"role": "user", "content": sentence(n)}] for n in range(12)]
    chats.append([{"role": "user", "content": turned(sentence(2))}])
    frame = pl.DataFrame({"prompt": chats, "completion": [f"answer {n}" for n in range(13)]})
    found = pm.report(frame, alike=True, encoder=encoder).figures
    assert found.kind == "pool"
    assert found.alike.read == 13
    assert found.alike.alike >= 1


def test_paraphrases_are_found_by_the_default_encoder():
    embedding.default_folder("report", "--encoder")
    prompts = [one for one, _ in PARAPHRASES] + [other for _, other in PARAPHRASES]
    splits = ["train"] * 30 + ["test"] * 30
    found = pm.report(rows_of(prompts, splits), alike=True).figures.alike
    assert found.encoder == "all-MiniLM-L6-v2"
    assert 25 <= found.across <= 30
    meant = set(PARAPHRASES)
    assert {(one, other) for _, one, other in found.examples} <= meant


@pytest.mark.realdata
@pytest.mark.torture
def test_real_prompts_are_not_alike():
    data = Path(os.environ["PREFMILL_REALDATA"]) / "alpaca_eval" / "weighted_part1.parquet"
    found = pm.report(data, alike=True).figures.alike
    assert (found.texts, found.read, found.alike) == (805, 805, 0)


def test_an_encoder_without_alike_is_refused(encoder):
    with pytest.raises(BadArgument, match="without alike") as raised:
        pm.report(rows_of(["a", "b"]), encoder=encoder)
    assert "--alike" in raised.value.hint


def test_without_the_package_its_option_is_named(monkeypatch):
    monkeypatch.setattr(embedding, "PACKAGE", "not_there_at_all")
    with pytest.raises(MissingPackage, match="no encoder named") as raised:
        pm.report(rows_of(["a", "b"]), alike=True)
    assert "--encoder DIR" in raised.value.hint


def test_a_report_without_it_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import polars as pl, prefmill as pm;"
        "pm.report(pl.DataFrame({'prompt': ['a', 'b'], 'chosen': ['x', 'y'],"
        " 'rejected': ['z', 'w']})); assert sys.modules['torch'] is None"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
