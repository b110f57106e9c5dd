"""The layouts of trainers: their columns, in every kind of file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from written import FILES, SCORES, TEXTS, labels, left_in, pairs, read, said

from prefmill.errors import BadArgument, BadInput
from prefmill.writers import write as writers
from prefmill.writers.formats import formats_for
from prefmill.writers.layouts import convert, output_schema
from prefmill.writers.write import write

# --- layouts


def test_trl_text_is_left_alone() -> None:
    assert convert(pairs()).equals(pairs())


CONVERSATION = {
    name: [said("user" if name == "prompt" else "assistant", text) for text in texts]
    for name, texts in TEXTS.items()
}


@pytest.mark.parametrize(
    ("prompts", "completions"),
    [
        k
        for k in itertools.product(("text", "messages", "sharegpt"), repeat=2)
        if k != ("text", "text")
    ],
)
def test_trl_is_messages_throughout(prompts: str, completions: str) -> None:
    out = convert(pairs(prompts, completions))
    assert out.to_dict(as_series=False) == CONVERSATION | SCORES | {
        "chosen_id": [1, 2, 3],
        "rejected_id": [4, 5, 6],
    }
    assert out.equals(convert(pairs(), chat=True))
    assert out.schema == output_schema(pairs(prompts, completions).schema)


def test_roles_and_further_fields() -> None:
    prompt = [
        {"name": "n", "role": "prompter", "content": "a"},
        {"name": None, "role": "system", "content": None},
    ]
    frame = pairs().with_columns(prompt=pl.Series([prompt] * 3))
    out = convert(frame)["prompt"]
    assert out[0].to_list() == [
        {"role": "user", "content": "a", "name": "n"},
        {"role": "system", "content": None, "name": None},
    ]
    whole = convert(frame, format="trl-implicit")["chosen"][2].to_list()
    assert whole == [*out[0].to_list(), {"role": "assistant", "content": "c2", "name": None}]


@pytest.mark.parametrize("prompts", ["text", "messages", "sharegpt"])
@pytest.mark.parametrize("completions", ["text", "messages", "sharegpt"])
def test_implicit(prompts: str, completions: str) -> None:
    out = convert(pairs(prompts, completions), format="trl-implicit")
    assert out.columns == [
        "chosen",
        "rejected",
        "chosen_score",
        "rejected_score",
        "chosen_id",
        "rejected_id",
    ]
    for side in ("chosen", "rejected"):
        if (prompts, completions) == ("text", "text"):
            expected: list = [p + c for p, c in zip(TEXTS["prompt"], TEXTS[side], strict=True)]
        else:
            expected = [
                p + c for p, c in zip(CONVERSATION["prompt"], CONVERSATION[side], strict=True)
            ]
        assert out[side].to_list() == expected
    assert convert(pairs(), format="trl-implicit", chat=True)["chosen"][1].to_list() == said(
        "user", "p1"
    ) + said("assistant", "")
    assert convert(pairs()[:0], format="trl-implicit", chat=True).is_empty()


def test_kto_of_labels() -> None:
    assert convert(labels(), format="kto").equals(labels())
    assert convert(labels()).equals(labels())
    chat = convert(labels(), chat=True)
    assert chat["prompt"][0].to_list() == said("user", "p0")
    assert chat["completion"][3].to_list() == said("assistant", "c3")


def test_kto_of_pairs_has_all_chosen_then_all_rejected() -> None:
    assert convert(pairs(), format="kto").to_dict(as_series=False) == {
        "prompt": TEXTS["prompt"] * 2,
        "completion": TEXTS["chosen"] + TEXTS["rejected"],
        "label": [True] * 3 + [False] * 3,
        "score": SCORES["chosen_score"] + SCORES["rejected_score"],
        "id": [1, 2, 3, 4, 5, 6],
    }


def test_instruction_and_openrlhf() -> None:
    kept = {"chosen_id": [1, 2, 3], "rejected_id": [4, 5, 6]}
    out = convert(pairs(), format="instruction").to_dict(as_series=False)
    assert (
        out
        == {
            "instruction": TEXTS["prompt"],
            "chosen_response": TEXTS["chosen"],
            "rejected_response": TEXTS["rejected"],
        }
        | kept
    )
    rewards = {"chosen_reward": SCORES["chosen_score"], "rejected_reward": SCORES["rejected_score"]}
    assert convert(pairs(), format="openrlhf").to_dict(as_series=False) == TEXTS | rewards | kept
    assert (
        convert(pairs("messages"), format="openrlhf").to_dict(as_series=False)
        == CONVERSATION | rewards | kept
    )


def test_llama_factory() -> None:
    kept = {"chosen_id": [1, 2, 3], "rejected_id": [4, 5, 6]}
    sides = {side: TEXTS[side] for side in ("chosen", "rejected")}
    out = convert(pairs(), format="llama-factory").to_dict(as_series=False)
    assert out == {"instruction": TEXTS["prompt"], "input": [""] * 3} | sides | kept
    for kinds in (("text", "messages"), ("messages", "text"), ("sharegpt", "sharegpt")):
        chat = convert(pairs(*kinds), format="llama-factory").to_dict(as_series=False)
        assert chat["conversations"] == [
            [{"from": "human", "value": text}] for text in TEXTS["prompt"]
        ]
        assert chat["rejected"] == [{"from": "gpt", "value": text} for text in TEXTS["rejected"]]
    several = pairs("messages", "messages").with_columns(
        chosen=pl.col("chosen").list.concat("rejected")
    )
    with pytest.raises(BadInput, match="skips 3 of 3 pairs"):
        convert(several, format="llama-factory")


@pytest.mark.parametrize("format", ["trl", "trl-implicit"])
def test_margin_follows_the_scores(format: str) -> None:
    out = convert(pairs(), format=format, margin_scale=0.5)
    assert out["margin"].to_list() == [2.0, 1.0, 0.5]
    assert out.columns[-5:] == [
        "chosen_score",
        "rejected_score",
        "margin",
        "chosen_id",
        "rejected_id",
    ]
    assert out["margin"].dtype == pl.Float64


@pytest.mark.parametrize(
    "kinds", [("text", "text"), ("messages", "text"), ("sharegpt", "messages")]
)
@pytest.mark.parametrize("format", formats_for("pairs"))
def test_output_schema_is_that_of_the_rows(format: str, kinds: tuple[str, str]) -> None:
    if format == "instruction" and kinds != ("text", "text"):
        return
    frame = pairs(*kinds)
    assert output_schema(frame.schema, format=format) == convert(frame, format=format).schema


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (
            pairs("messages"),
            {"format": "instruction"},
            "format: 'instruction' holds text only; got message lists .*\nHint: use --format trl",
        ),
        (
            labels(),
            {"format": "openrlhf"},
            "format: labels have no chosen and rejected side; got 'openrlhf', expected 'kto'.*\n"
            "Hint: use --format kto",
        ),
        (
            labels(),
            {"margin_scale": 1.0},
            "margin: got labels, expected pairs in the format 'trl' or.*\nHint: leave",
        ),
        (pairs(), {"margin_scale": 1.0, "format": "kto"}, "margin: got 'kto', expected"),
        (
            pairs(),
            {"margin_scale": float("nan")},
            "margin: the scale must be a finite number; got nan",
        ),
        (pairs(), {"format": "dpo"}, "format: unknown; got 'dpo', expected one of"),
        (
            pairs().drop("rejected_score"),
            {},
            "format: neither pairs nor labels: no column 'rejected_score'; got ",
        ),
        (
            pairs().rename({"chosen_id": "chosen_response"}),
            {"format": "instruction"},
            "kept column has the name 'chosen_response'.*\nHint: rename",
        ),
        (
            pairs().rename({"chosen_id": "chosen_label", "rejected_id": "rejected_label"}),
            {"format": "kto"},
            "kept column has the name 'label'",
        ),
        (
            pairs().with_columns(prompt=pl.lit(1)),
            {},
            "prompt: neither text nor a message list; got Int",
        ),
    ],
)
def test_what_a_format_cannot_hold(frame: pl.DataFrame, options: dict, message: str) -> None:
    with pytest.raises(BadArgument, match=r"(?s)" + message):
        output_schema(frame.schema, **options)


# --- files


@pytest.mark.parametrize("extension", FILES)
@pytest.mark.parametrize(
    "kinds", [("text", "text"), ("messages", "text"), ("sharegpt", "sharegpt")]
)
@pytest.mark.parametrize("format", formats_for("pairs"))
def test_every_layout_in_every_file(
    format: str, kinds: tuple[str, str], extension: str, tmp_path: Path
) -> None:
    frame, target = pairs(*kinds), tmp_path / f"pairs.{extension}"
    options: dict = {"format": format}
    nested = kinds != ("text", "text")
    if nested and (format == "instruction" or extension[:3] in ("csv", "tsv")):
        with pytest.raises(BadArgument, match="Hint"):
            write(never(), frame.schema, target, **options)
        assert left_in(tmp_path) == []
        return
    written = write([frame[:2], frame[2:]], frame.schema, target, **options)
    parts = [convert(part, format=format) for part in (frame[:2], frame[2:])]
    expected = pl.concat(parts)
    assert written == writers.Written({"": str(target)}, {"": expected.height})
    got = read(target)
    assert got.equals(expected), got
    assert got.schema == expected.schema
    assert left_in(tmp_path) == [target.name]


def never() -> Iterator[pl.DataFrame]:
    raise AssertionError("a frame was taken")
    yield


@pytest.mark.parametrize("kinds", [("text", "text"), ("messages", "text")])
@pytest.mark.parametrize("extension", [".parquet", ".jsonl", ".arrow", ""])
def test_datasets_sees_the_right_features(
    kinds: tuple[str, str], extension: str, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    value = datasets.Value
    text = (
        value("string")
        if kinds[0] == "text"
        else datasets.List({"role": value("string"), "content": value("string")})
    )
    frame = pairs(*kinds)
    path = write([frame], frame.schema, tmp_path / f"pairs{extension}", margin_scale=1.0).paths[""]
    if extension:
        kind = {".parquet": "parquet", ".jsonl": "json", ".arrow": "arrow"}[extension]
        data = datasets.load_dataset(
            kind, data_files=path, split="train", cache_dir=str(tmp_path / "cache")
        )
    else:
        data = datasets.load_from_disk(path)
    scores = dict.fromkeys(("chosen_score", "rejected_score", "margin"), value("float64"))
    kept = dict.fromkeys(("chosen_id", "rejected_id"), value("int64"))
    assert dict(data.features) == {"prompt": text, "chosen": text, "rejected": text} | scores | kept
    assert data.to_list() == convert(frame, margin_scale=1.0).to_dicts()


def test_datasets_labels_and_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    frame = labels(400)
    written = write(
        [frame],
        frame.schema,
        f"{tmp_path}/out/",
        split={"train": 0.5, "test": 0.5 - 1e-9, "none": 1e-9},
    )
    data = datasets.load_from_disk(str(tmp_path / "out"))
    assert isinstance(data, datasets.DatasetDict)
    assert list(data) == ["train", "test", "none"]
    assert {name: part.num_rows for name, part in data.items()} == written.rows
    assert written.rows["none"] == 0
    assert sum(written.rows.values()) == 400
    assert data["none"].features["label"] == datasets.Value("bool")
    assert str(data["test"].split) == "test"
    assert written.paths["train"] == str(tmp_path / "out" / "train")
    assert datasets.load_from_disk(written.paths["train"]).to_list() == data["train"].to_list()
    again = write([frame], frame.schema, f"{tmp_path}/again", split={"train": 0.5, "test": 0.5})
    one, two = (
        json.loads(Path(p, "state.json").read_text())["_fingerprint"] for p in again.paths.values()
    )
    assert one != two  # the key of every cached `map`
