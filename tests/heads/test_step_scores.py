"""Process reward models: the score of every step is that of the model's owner."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pools
import pytest
import stepped
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

import prefmill as pm  # noqa: E402
from prefmill.cli.main import app  # noqa: E402
from prefmill.errors import BadArgument, BadInput, BadRow  # noqa: E402
from prefmill.scoring import RewardModel  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

# Steps that merge with what ends them, that begin alike, of one token, and the same twice.
STEPS = [
    ("What is 2+2?", ["First, add two and two.", "That makes four.", "So the answer is 4."]),
    ("What is 2+2?", ["First, add two and two.", "That makes five."]),
    ("What is 2+2?", ["4"]),
    ("What is 2+2?", ["4"]),
    ("Halve 24. " * 12, ["Step 1: halve it.", "The answer is: 12", "12", "x"]),
]
Rows = list[tuple[str, str]]


def joined(between: str, last: str = "") -> Rows:
    return [(prompt, between.join(steps) + last) for prompt, steps in STEPS]


def scored(folder: Path, rows: Rows, **options: Any) -> tuple[np.ndarray, list[Any]]:
    scorer = RewardModel(model=folder, device="cpu", **options)
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    return done.columns["score"], list(done.lists["steps"])


def assert_steps(got: list[Any], wanted: list[list[float]]) -> None:
    assert [len(steps) for steps in got] == [len(steps) for steps in wanted]
    pools.assert_close(*(np.array(list(itertools.chain(*each))) for each in (got, wanted)))


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("share_prefix", ["auto", "off"])
@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_a_token_after_each_step(family: str, share_prefix: str, invariant: bool) -> None:
    """Qwen's way, from answers in which steps stand apart by a blank line, or by its token."""
    folder = stepped.token_classifier(family)
    model, tok = stepped.plain(folder), pools.plain_tokenizer(folder)
    wanted = [stepped.qwen(model, tok, prompt, steps) for prompt, steps in STEPS]
    how = {"label": 1, "invariant": invariant, "share_prefix": share_prefix}
    marked = {"step_separator": "\n\n", "step_marker": "<extra_0>"}
    for rows, more in (
        (joined("\n\n"), marked),
        (joined("\n\n", "\n\n"), marked),
        (joined("\n\n\n\n"), marked),
        (joined("<extra_0>", "<extra_0>"), {"step_separator": "<extra_0>"}),
        (joined("<extra_0>"), {"step_separator": "<extra_0>"}),
    ):
        score, steps = scored(folder, rows, **how, **more)
        assert_steps(steps, wanted)
        assert score.tolist() == [min(each) for each in steps]


@pytest.mark.parametrize("separator", ["\n", "\n\n", "; "])
@pytest.mark.parametrize("chat", [True, False])
def test_every_step_by_itself(separator: str, chat: bool) -> None:
    """TRL's way: no token holds a part of two steps, nor of a step and what ends it."""
    folder = stepped.token_classifier("llama", chat=chat)
    model, tok = stepped.plain(folder), pools.plain_tokenizer(folder)
    wanted = [stepped.trl(model, tok, prompt, steps, separator) for prompt, steps in STEPS]
    how: dict[str, Any] = {"label": "LABEL_1", "step_separator": separator, "steps_apart": True}
    _, steps = scored(folder, joined(separator), template="concat", **how)
    assert_steps(steps, wanted)


def test_a_separator_that_merges() -> None:
    """By default the row is tokenised whole: a step is scored at the token that holds the end of
    its separator, whatever else that token holds.
    """
    folder = stepped.token_classifier("qwen2")
    tok, merged = pools.plain_tokenizer(folder), False
    model = stepped.plain(folder)
    wanted = []
    for prompt, steps in STEPS:
        text = prompt + "\n\n".join(steps) + "\n\n"
        encoding = tok(text + tok.eos_token, return_offsets_mapping=True)
        offsets = encoding["offset_mapping"]
        ends = [m + 1 for m in range(len(prompt), len(text) - 1) if text[m : m + 2] == "\n\n"]
        at = [next(i for i, (a, b) in enumerate(offsets) if a <= end < b) for end in ends]
        merged = merged or any(b - a > 2 for a, b in (offsets[i] for i in at))
        logits = stepped.outputs(model, encoding["input_ids"])
        wanted.append(logits[at].softmax(dim=1)[:, 0].tolist())
    assert merged, "no token is of more than the separator: this tests nothing"
    _, steps = scored(folder, joined("\n\n"), template="concat", label=0, step_separator="\n\n")
    assert_steps(steps, wanted)


def test_a_value_head_at_steps() -> None:
    """Skywork's way: a linear layer over the states at the ends of steps, then a sigmoid."""
    folder = pools.new_folder("values")
    pools.tiny_models.save_reward_model("qwen2", folder, tok=stepped.bpe(), seed=2)
    model = stepped.plain(folder, "AutoModelForSequenceClassification")
    tok = pools.plain_tokenizer(folder)
    wanted = []
    for prompt, steps in STEPS:
        ids, at = tok.encode(prompt + "\n"), []
        for step in steps:
            ids = [*ids, *tok.encode(step), tok.encode("\n")[-1]]
            at.append(len(ids) - 1)
        with torch.inference_mode():
            states = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, at]
            wanted.append(model.score(states)[:, 0].double().tolist())
    how: dict[str, Any] = {"step_separator": "\n", "steps_apart": True, "template": "concat"}
    rows = [(f"{prompt}\n", answer) for prompt, answer in joined("\n")]
    _, steps = scored(folder, rows, **how)
    assert_steps(steps, wanted)
    score, steps = scored(folder, rows, **how, step_values="probability", reduce="product")
    sigmoid = [torch.tensor(each).sigmoid().tolist() for each in wanted]
    assert_steps(steps, sigmoid)
    pools.assert_close(score, np.array([np.prod(each) for each in sigmoid]))
    with pytest.raises(BadArgument, match=r"a product is of probabilities.*\nHint: --step-values"):
        scored(folder, rows, **how, reduce="product")


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2", "qwen3-next"])
def test_models_that_look_both_ways_or_share_nothing(family: str) -> None:
    """Batches with padding, or rows alone: the same steps."""
    folder = stepped.token_classifier(family, chat=False)
    model = stepped.plain(folder)
    tok = pools.plain_tokenizer(folder)
    wanted = []
    for prompt, steps in STEPS:
        text = prompt + "; ".join(steps) + "; "
        ids = tok(text + tok.eos_token)["input_ids"]
        offsets = tok(text + tok.eos_token, return_offsets_mapping=True)["offset_mapping"]
        ends = [m + 1 for m in range(len(prompt), len(text) - 1) if text[m : m + 2] == "; "]
        at = [max(i for i, (a, b) in enumerate(offsets) if a <= end < b) for end in ends]
        wanted.append(stepped.outputs(model, ids)[at].softmax(dim=1)[:, 1].tolist())
    scorer = RewardModel(
        model=folder, device="cpu", label=1, template="concat", step_separator="; "
    )
    done = scorer.run(scorer.prepare(pools.batch(joined("; "))))
    assert_steps(list(done.lists["steps"]), wanted)


@pytest.mark.parametrize("reduce", ["last", "min", "product", "mean"])
def test_reduced(reduce: Any) -> None:
    folder = stepped.token_classifier("qwen2")
    rows, how = joined("\n\n"), {"label": 1, "step_separator": "\n\n"}
    score, steps = scored(folder, rows, reduce=reduce, **how)
    by_name = {"last": lambda x: x[-1], "min": min, "product": np.prod, "mean": np.mean}
    assert np.allclose(score, [by_name[reduce](each) for each in steps], rtol=1e-12, atol=0)
    if reduce != "product":
        raw, outputs = scored(folder, rows, reduce=reduce, step_values="output", **how)
        odds = [np.log(p) - np.log1p(-np.array(p)) for p in steps]
        assert np.allclose(np.concatenate(outputs), np.concatenate(odds), atol=1e-9)
        assert np.allclose(raw, [by_name[reduce](each) for each in outputs])


def test_outcome() -> None:
    """Without a separator a token classifier's score is that of the row's last token."""
    for family in ("llama", "bert"):
        folder = stepped.token_classifier(family, 3, chat=False)
        model, tok = stepped.plain(folder), pools.plain_tokenizer(folder)
        rows = [(prompt, " ".join(steps)) for prompt, steps in STEPS]
        ids = [tok(prompt + answer + tok.eos_token)["input_ids"] for prompt, answer in rows]
        last = torch.stack([stepped.outputs(model, each)[-1] for each in ids])
        odds = torch.stack([torch.logit(last.softmax(dim=1)[:, i]) for i in range(3)], dim=1)
        how = {"device": "cpu", "template": "concat"}
        scorer = RewardModel(model=folder, label="LABEL_2", **how)
        assert (scorer.columns, scorer.lists) == (("score",), ())
        pools.assert_close(scorer(pools.batch(rows)), odds[:, 2].numpy())
        both = RewardModel(model=folder, weights={"0": 1.0, "LABEL_1": -2.0}, **how)
        got = both.run(both.prepare(pools.batch(rows))).columns
        pools.assert_close(got["LABEL_1"], odds[:, 1].numpy())
        pools.assert_close(got["score"], (odds[:, 0] - 2 * odds[:, 1]).numpy())


def test_company_changes_no_bit() -> None:
    """Rows alone, in any order, among others: under `invariant` bitwise the same steps."""
    folder = stepped.token_classifier("qwen2")
    rows, how = joined("\n\n"), {"label": 1, "step_separator": "\n\n", "invariant": True}
    _, together = scored(folder, rows, **how)
    _, turned = scored(folder, rows[::-1], **how)
    assert turned[::-1] == together
    assert [scored(folder, [row], **how)[1][0] for row in rows] == together


def pool(tmp_path: Path, rows: Rows) -> Path:
    frame = pl.DataFrame(rows, schema=["prompt", "completion"], orient="row")
    frame.write_parquet(tmp_path / "pool.parquet")
    return tmp_path / "pool.parquet"


def test_command(tmp_path: Path) -> None:
    """Files, the cache, a run that goes on, and rows without a step."""
    folder = stepped.token_classifier("qwen2")
    model, tok = stepped.plain(folder), pools.plain_tokenizer(folder)
    wanted = [stepped.qwen(model, tok, prompt, steps) for prompt, steps in STEPS]
    source, out = pool(tmp_path, [*joined("\n\n"), ("q", " \n\n ")]), tmp_path / "out.parquet"
    line = ["score", str(source), "-o", str(out), "--model", str(folder), "--device", "cpu"]
    line += ["--step-separator", r"\n\n", "--step-marker", "<extra_0>", "--label", "LABEL_1"]
    line += ["--reduce", "product", "--cache", str(tmp_path / "cache"), "--chunk-rows", "2"]
    failed = CliRunner().invoke(app, line)
    assert isinstance(failed.exception, BadRow)
    assert "no step that could be scored" in str(failed.exception)
    done = CliRunner().invoke(app, [*line, "--on-bad-row", "null"])
    assert done.exit_code == 0, done.output
    scores = pl.read_parquet(out)
    assert_steps(scores["score_steps"].to_list()[:5], wanted)
    assert (scores["score"][5], scores["score_steps"][5]) == (None, None)
    pools.assert_close(scores["score"][:5].to_numpy(), np.array([np.prod(w) for w in wanted]))
    again = CliRunner().invoke(app, [*line, "--on-bad-row", "null", "--overwrite", "--json"])
    assert '"cached": 5' in again.output
    assert pl.read_parquet(out).equals(scores)
    other = CliRunner().invoke(app, [*line, "--on-bad-row", "null", "--reduce", "mean"])
    assert "reduce" in str(other.exception)


def test_bad_rows(tmp_path: Path) -> None:
    folder, how = stepped.token_classifier("qwen2"), {"label": 1, "step_separator": "\n\n"}
    how |= {"device": "cpu"}
    rows = pl.DataFrame(
        {"prompt": ["p"] * 3, "completion": ["one\n\n" + "two " * 900, "ok\n\nyes", "\n\n\n\n"]}
    )
    scorer = RewardModel(model=folder, max_length=40, on_too_long="null", **how)
    done = pm.score(rows, tmp_path / "out.parquet", scorer=scorer, on_bad_row="null")
    assert done.null == {"too_long": 1, "no_steps": 1}
    cut = RewardModel(model=folder, max_length=40, on_too_long="truncate", **how)
    done = pm.score(rows, tmp_path / "cut.parquet", scorer=cut, on_bad_row="null")
    assert (done.null, done.truncated) == ({"no_steps": 1}, 1)
    steps = pl.read_parquet(tmp_path / "cut.parquet")["score_steps"]
    assert [None if each is None else len(each) for each in steps.to_list()] == [1, 2, None]
    short = RewardModel(model=folder, max_length=15, on_too_long="truncate", **how)
    with pytest.raises(BadRow, match="the ends of all its steps were cut away"):
        short(pools.batch([("p" * 40, "one\n\ntwo")]))
    template = tmp_path / "trims.jinja"
    template.write_text("{% for m in messages %}{{ m.content | trim }}|{% endfor %}")
    trims = RewardModel(model=folder, template=str(template), **how)
    with pytest.raises(BadRow, match=r"of 2 steps the chat template keeps the ends of 1.*\nHint: "):
        trims(pools.batch([("p", "one\n\ntwo")]))


def test_messages() -> None:
    """Steps are those of the answer's text, also where prompt and answer are messages."""
    folder, how = stepped.token_classifier("qwen2"), {"label": 1, "step_separator": "\n\n"}
    rows = joined("\n\n")
    _, wanted = scored(folder, rows, **how)
    talks: Any = [
        ([{"role": "user", "content": p}], [{"role": "assistant", "content": a}]) for p, a in rows
    ]
    scorer = RewardModel(model=folder, device="cpu", **how)
    batch = pl.DataFrame(talks, schema=["prompt", "completion"], orient="row").to_arrow()
    done = scorer.run(scorer.prepare(batch.combine_chunks().to_batches()[0]))
    assert_steps(list(done.lists["steps"]), wanted)


def test_refused() -> None:
    folder = stepped.token_classifier("qwen2")
    for options, problem in (
        ({"step_separator": ""}, "step_separator must be a text that is not empty"),
        ({"step_marker": "x"}, "step_marker is of steps, which need a step_separator"),
        ({"reduce": "last"}, "reduce is of steps"),
        ({"step_separator": "x", "reduce": "max"}, "reduce is not one of"),
        ({"step_separator": "x", "reduce": "product", "step_values": "output"}, "a product is of"),
        ({"step_separator": "x", "label": ["a", "b"], "weights": {"a": 1}}, "scored by one label"),
    ):
        with pytest.raises(BadArgument, match=problem):
            RewardModel(model=folder, **options)
    with pytest.raises(BadArgument, match=r"2 labels; got no label.*\nHint: --label with the name"):
        RewardModel(model=folder, device="cpu", step_separator="\n").load()
    pair = RewardModel(model=folder, template="pair", label=0, step_separator="\n")
    with pytest.raises(BadArgument, match="got template 'pair'"):
        _ = pair.encoder
    with pytest.raises(BadInput, match="are not of tokens, so its steps"):
        RewardModel(model=pools.reward("bert"), device="cpu", step_separator="\n").load()
