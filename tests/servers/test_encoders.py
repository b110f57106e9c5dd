"""Encoders on servers: their texts, parity, and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pools
import pyarrow as pa
import pytest
import serving
import tiny
import tiny_models
import torch

import prefmill as pm
from prefmill.errors import BadRow
from prefmill.scoring import EndpointScorer

pytest.importorskip("transformers")

# -- what the server reads


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose tokenizer puts [CLS] and [SEP] around a text, trained on a template that has
    them too.
    """
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path_factory.mktemp("servers") / "encoder"
    tok = tiny.tokenizer()
    tok.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    )
    special = [(name, tok.convert_tokens_to_ids(name)) for name in ("<bos>", "<eos>")]
    tok.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B <eos>", special_tokens=special
    )
    return tiny_models.save_reward_model("bert", folder, tok=tok)


@pytest.mark.parametrize("kind", ["tei-predict", "sglang-classify"])
@pytest.mark.parametrize("template", ["chat", "concat"])
def test_texts_are_read_as_our_ids(encoder: Path, tmp_path: Path, kind: Any, template: str) -> None:
    """The server read [CLS][CLS] ... [SEP][SEP], and ranked otherwise."""
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(encoder)
    read: list[list[int]] = []

    def serve(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        texts = [row[0] for row in body["inputs"]] if kind == "tei-predict" else body["text"]
        read.extend(tok(texts)["input_ids"])
        if kind == "tei-predict":
            return 200, {}, [[{"label": "LABEL_0", "score": 0.5}] for _ in texts]
        return 200, {}, [{"embedding": [0.5]} for _ in texts]

    pool = pa.record_batch({"prompt": ["Hi", "Hi"], "completion": ["Yo", "<eos>"]})
    scorer = EndpointScorer(
        url="http://127.0.0.1:1", kind=kind, tokenizer=encoder, template=template
    )
    ids = scorer.encoder.encode(pool["prompt"], pool["completion"], np.arange(2)).rows
    with serving.server(serve) as url:
        EndpointScorer(url=url, kind=kind, tokenizer=encoder, template=template)(pool)
    assert read == [ids.row(0).tolist(), ids.row(1).tolist()]
    assert read[0].count(tok.bos_token_id) == 1


def test_texts_that_a_server_would_read_otherwise(encoder: Path, tmp_path: Path) -> None:
    """A template without the tokens that the server adds: there is no text with those ids, and that
    is said.
    """
    jinja = tmp_path / "bare.jinja"
    jinja.write_text("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    pool = pa.record_batch({"prompt": ["Hi"], "completion": ["Yo"]})
    with pytest.raises(
        BadRow,
        match=r"would be read by the server as 6 tokens, other than the 5.*\nHint: tei-predict "
        r"takes texts only",
    ):
        EndpointScorer(
            url="http://127.0.0.1:1", kind="tei-predict", tokenizer=encoder, template=str(jinja)
        )(pool)


def test_parity_holds_for_an_encoder(encoder: Path, tmp_path: Path) -> None:
    """With the model itself behind the server the comparison passes, for texts by template."""
    causal = tiny_models.save_causal_model("llama", tmp_path / "causal", tok=tiny.tokenizer())
    server = serving.TinyServer(causal, encoder)
    from transformers import AutoTokenizer

    server.tok = AutoTokenizer.from_pretrained(encoder)
    pool = pl.DataFrame({"prompt": ["Hi"] * 3, "completion": ["Yo", "No", "a b c"]})
    with serving.server(server) as url:
        scorer = EndpointScorer(
            url=url,
            kind="tei-predict",
            tokenizer=encoder,
            template="chat",
            parity=pm.RewardModel(model=encoder),
        )
        done = pm.score(pool, tmp_path / "out.parquet", scorer=scorer)
    assert done.rows_scored == 3


# -- labels


@pytest.fixture(scope="module")
def stars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose labels are named 1, 2, 0: digits, and not their numbers."""
    folder = tmp_path_factory.mktemp("servers") / "stars"
    return tiny_models.save_reward_model(
        "llama", folder, num_labels=3, id2label={0: "1", 1: "2", 2: "0"}
    )


@pytest.mark.parametrize("kind", ["vllm-classify", "tei-predict"])
@pytest.mark.parametrize("label", ["0", "1", "2"])
def test_labels_by_name_with_parity(stars: Path, tmp_path: Path, kind: str, label: str) -> None:
    """`--label 1 --parity DIR` always failed, and names that are digits never matched."""
    from typer.testing import CliRunner

    from prefmill.cli.main import app

    local = pm.RewardModel(model=stars, label=label)
    pool = pa.record_batch({"prompt": ["Hi", "Hi", "Ho"], "completion": ["Yo", "No", "So"]})
    model, tok = pools.plain(
        stars
    )  # a server gives raw outputs; the score is the log-odds of one, there as here
    with torch.inference_mode():
        rows = [
            pools.ids_of(tok, *row)
            for row in zip(pool["prompt"].to_pylist(), pool["completion"].to_pylist(), strict=True)
        ]
        outputs = torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in rows])
    columns = outputs.T.tolist()
    odds = outputs.softmax(dim=1)[:, {"1": 0, "2": 1, "0": 2}[label]].logit().tolist()
    assert odds == pytest.approx(local(pool).tolist(), abs=1e-5)

    def serve(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        if kind == "tei-predict":
            rows = [pool["completion"].to_pylist().index(pair[1]) for pair in body["inputs"]]
            return (
                200,
                {},
                [
                    [
                        {"label": name, "score": columns[i][row]}
                        for i, name in enumerate(("1", "2", "0"))
                    ]
                    for row in rows
                ],
            )
        row = pool["completion"].to_pylist().index(body["messages"][1]["content"])
        return 200, {}, {"data": [{"index": 0, "probs": [column[row] for column in columns]}]}

    source, out = tmp_path / "pool.parquet", tmp_path / "out.parquet"
    pl.DataFrame(pool).write_parquet(source)
    with serving.server(serve) as url:
        arguments = [
            "score",
            source,
            "-o",
            out,
            "--scorer",
            "endpoint",
            "--url",
            url,
            "--kind",
            kind,
            "--label",
            label,
            "--parity",
            stars,
        ]
        done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    assert pl.read_parquet(out)["score"].to_list() == pytest.approx(local(pool).tolist(), abs=1e-5)
