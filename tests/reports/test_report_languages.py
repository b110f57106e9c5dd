"""The language of texts, and the floor of those who answer in that of the prompt."""

from __future__ import annotations

import random

import duckdb
import polars as pl
import pytest

import prefmill as pm
from prefmill.reports import tables
from prefmill.reports.languages import WORDS, language_sql, telling_sql

SENTENCES = {
    "en": "Here is a list of what you need for the soup.",
    "de": "Hier steht, was man für die Suppe braucht und wie lange sie kocht.",
    "fr": "Voici une liste des choses qu'il faut pour la soupe.",
    "es": "Aquí está la lista de cosas para la sopa.",
    "it": "Questa lista contiene gli ingredienti della zuppa.",
    "pt": "A sopa não precisa de sal, e também não de pimenta.",
    "nl": "Hier is een lijst voor de soep.",
    "pl": "Zupa jest gotowa, ale nie ma soli.",
    "cs": "Polévka není hotová, protože není sůl.",
    "sv": "Soppan är klar och det finns inte salt.",
    "da": "Suppen er ikke klar, og der mangler salt.",
    "fi": "Keitto ei ole valmis, mutta suola on.",
    "hu": "A leves nem kész, és egy kanál sem maradt.",
    "ro": "Supa nu este gata pentru că lipsește sarea.",
    "tr": "Çorba için bir kaşık tuz gerekir.",
    "id": "Sup ini tidak memerlukan garam yang banyak.",
    "vi": "Món súp này không cần muối.",
    "zh": "汤里不需要很多盐。",
    "ja": "漢字だけではなく、かなもあります。",
    "ko": "수프에는 소금이 많이 필요하지 않습니다.",
    "ru": "В суп не нужно много соли.",
    "ar": "لا تحتاج الشوربة إلى الكثير من الملح.",
    "el": "Η σούπα δεν χρειάζεται πολύ αλάτι.",
    "he": "המרק לא צריך הרבה מלח.",
    "hi": "सूप में ज़्यादा नमक नहीं चाहिए।",
    "th": "ซุปไม่ต้องใส่เกลือมาก",
}


def language(text):
    told = f"SELECT {telling_sql('t')} AS telling FROM (SELECT ?::VARCHAR AS t)"
    (row,) = duckdb.execute(f"SELECT {language_sql('telling')} FROM ({told})", [text]).fetchall()
    return row[0]


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_has_its_language(name):
    assert language(SENTENCES[name]) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("2 + 2 = 4", None),
        ("print(theory)", None),  # a word inside of another one is none
        ("The", "en"),
        ("THE END", "en"),
        ('The Chinese word "你好" is a greeting.', "en"),  # what comes first counts
        ("你好 means hello, and it is the usual greeting.", "zh"),
        ("α and β are angles", "en"),  # one letter of a script is a sign
        ("<p>und</p>", "de"),
        ("x" * 400 + " the end", None),
    ],
)
def test_what_tells_is_the_first_word_or_letters(text, expected):
    assert language(text) == expected


def test_a_word_is_of_one_language():
    words = [word for each in WORDS.values() for word in each.split()]
    assert len(words) == len({*words})
    assert all(word == word.lower() for word in words)


def pairs(share, seed=0, count=200):
    """Pairs whose chosen answer is in the language of its prompt in that share of cases."""
    draw = random.Random(seed)
    rows = []
    for n in range(count):
        prompt, other = draw.sample(("en", "de", "zh"), 2)
        answers = [f"{SENTENCES[name]} {n}" for name in (prompt, other)]
        if n >= share * count:
            answers.reverse()
        question = f"{SENTENCES[prompt]} Number {n}?"
        rows.append(dict(zip(("prompt", "chosen", "rejected"), (question, *answers), strict=True)))
    return pl.DataFrame(rows)


def floor_of(report):
    return next(each for each in report.figures.floors if each.name == "language")


def test_who_answers_in_the_language_of_the_prompt_wins():
    report = pm.report(pairs(0.9))
    found = floor_of(report)
    assert (found.pairs, found.share) == (200, 0.9)
    assert found.low < 0.9 < found.high
    assert found.p < 1e-9
    assert "language" in report.found
    (told,) = (each for each in report.warnings if each.name == "language")
    assert "the answer in the language of its prompt is right about 90.0 %" in told.what
    assert "language" not in pm.report(pairs(0.5)).found


def test_the_line_to_type_has_the_file_alone(tmp_path):
    pairs(0.9).rename({"prompt": "frage"}).write_parquet(tmp_path / "pairs.parquet")
    report = pm.report(tmp_path / "pairs.parquet", roles={"prompt": "frage"})
    (told,) = (each for each in report.warnings if each.name == "language")
    assert told.line == f"prefmill view {tmp_path / 'pairs.parquet'}"


def test_of_one_language_or_none_nothing_is_said():
    rows = pairs(0.9).with_columns(rejected=pl.col("chosen") + " More of it.")
    found = floor_of(pm.report(rows))
    assert (found.pairs, found.share) == (0, None)
    assert "in the language of its prompt" in found.why
    unknown = pairs(0.9).with_columns(prompt=pl.format("{} + 1 = ?", pl.int_range(pl.len())))
    assert floor_of(pm.report(unknown)).pairs == 0


def test_messages_have_a_language_too():
    said = [pl.concat_str(pl.lit(""), pl.col("prompt")).alias("content")]
    chat = pairs(0.8).with_columns(
        prompt=pl.concat_list(pl.struct(pl.lit("user").alias("role"), *said))
    )
    found = floor_of(pm.report(chat))
    assert (found.pairs, found.share) == (200, 0.8)


def test_of_many_rows_the_prompts_are_drawn(monkeypatch):
    monkeypatch.setattr(tables, "_READ", 50)
    found = floor_of(pm.report(pairs(0.9, count=800)))
    assert 10 <= found.pairs <= 60  # of 1,600 rows one prompt in 32
    assert found.share > 0.6
