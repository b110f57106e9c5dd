"""The choice of a language model between a few answers: its owner's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pools
import pytest
import stepped
import tiny_models
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

import prefmill as pm  # noqa: E402
from prefmill.cli.main import app  # noqa: E402
from prefmill.errors import BadArgument, BadRow  # noqa: E402
from prefmill.scoring import ChoiceScorer  # noqa: E402
from prefmill.scoring.choice import PRESETS  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

ROWS = [
    ("What is 2+2?", "4"),
    ("What is 2+2?", "4"),
    ("What is 2+2?", "The answer is 4, as two and two make four."),
    ("Name a fruit.", "{prompt}"),
    ("Name a fruit.", ""),
]
RUBRIC = "Is this good?\n{prompt}\nAnswer: {completion}\nyes or no?\n"
_FOLDERS: dict[Any, Path] = {}


def folder_of(family: str = "qwen2", tok: str = "bpe") -> Path:
    if (family, tok) not in _FOLDERS:
        made = getattr(stepped, tok)()
        folder = pools.new_folder(f"choice-{family}")
        _FOLDERS[family, tok] = tiny_models.save_causal_model(family, folder, tok=made, seed=4)
    return _FOLDERS[family, tok]


def logits(folder: Path, ids: list[int]) -> Any:
    """Of what comes after a row, alone."""
    eager = {"attn_implementation": "eager"} if "gemma2" in folder.name else {}
    return stepped.outputs(stepped.plain(folder, "AutoModelForCausalLM", **eager), ids)


def scored(folder: Path, rows: Any = ROWS, **options: Any) -> dict[str, np.ndarray]:
    scorer = ChoiceScorer(model=folder, device="cpu", **options)
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    return {**done.columns, **done.lists}


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "gemma2", "qwen3-next"])
def test_a_message_with_the_rubric(family: str, invariant: bool) -> None:
    folder = folder_of(family)
    tok = pools.plain_tokenizer(folder)
    names = ("yes", "no", "A")
    tokens = [tok.convert_tokens_to_ids(name) for name in names]
    assert tok.unk_token_id not in tokens
    wanted = []
    for prompt, answer in ROWS:
        text = f"Is this good?\n{prompt}\nAnswer: {answer}\nyes or no?\n"
        talk = [{"role": "user", "content": text}]
        ids = tok.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        wanted.append(logits(folder, ids)[-1][tokens].softmax(dim=0).numpy())
    shares = np.array(wanted)
    got = scored(folder, rubric=RUBRIC, choices=names, invariant=invariant)
    assert list(got) == ["score", *names]
    for place, name in enumerate(names):
        pools.assert_close(got[name], shares[:, place], name)
    odds = np.log(shares[:, 0]) - np.log1p(-shares[:, 0])
    assert np.abs(got["score"] - odds).max() < 2e-5


def test_numbers_are_their_expected_value() -> None:
    folder = folder_of()
    tok = pools.plain_tokenizer(folder)
    tokens = [tok.convert_tokens_to_ids(name) for name in "12345"]
    rubric = "{prompt} {completion} From 1 to 5:"
    wanted = []
    for prompt, answer in ROWS:
        ids = tok(f"{prompt} {answer} From 1 to 5:")["input_ids"]
        share = logits(folder, ids)[-1][tokens].softmax(dim=0)
        wanted.append(float(share @ torch.arange(1.0, 6.0, dtype=torch.float64)))
    how: dict[str, Any] = {"rubric": rubric, "ask": "text", "choices": tuple("12345")}
    pools.assert_close(scored(folder, **how)["score"], np.array(wanted))
    odds = scored(folder, **how, score_as="log-odds")
    pools.assert_close(odds["score"], np.log(odds["1"]) - np.log1p(-odds["1"]))


def test_a_reranker_of_qwen() -> None:
    """Its owner's text and tokens, and the probability of yes."""
    folder = folder_of()
    tok = pools.plain_tokenizer(folder)
    rubric = PRESETS["qwen3-reranker"]["rubric"]
    wanted = []
    for query, document in ROWS:
        text = rubric.replace("{prompt}", query, 1).replace("{completion}", document, 1)
        both = logits(folder, tok.encode(text))[-1]
        pair = torch.stack([both[tok.convert_tokens_to_ids(name)] for name in ("no", "yes")])
        wanted.append(float(pair.log_softmax(dim=0)[1].exp()))
    scorer = ChoiceScorer.from_options(str(folder), {"preset": "qwen3-reranker", "device": ["cpu"]})
    got = scorer.run(scorer.prepare(pools.batch(ROWS))).columns
    rows = [place for place, row in enumerate(ROWS) if "{prompt}" not in row[1]]
    pools.assert_close(got["yes"][rows], np.array(wanted)[rows])


def test_a_conversation() -> None:
    """Llama Guard's way: the template asks, after the row's own messages."""
    folder = folder_of()
    tok = pools.plain_tokenizer(folder)
    tokens = [tok.encode(name)[0] for name in ("safe", "unsafe")]
    wanted = []
    for prompt, answer in ROWS:
        talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        ids = tok.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        pair = logits(folder, ids)[-1][tokens]
        wanted.append(float(pair[0] - pair[1]))
    how: dict[str, Any] = {"choices": ("safe", "unsafe"), "first_token": True}
    got = scored(folder, ask="conversation", **how)["score"]
    assert np.abs(got - np.array(wanted)).max() < 2e-5


@pytest.mark.parametrize("share_prefix", ["auto", "off"])
def test_steps_of_math_shepherd(share_prefix: str) -> None:
    """Its owner's text and tokens: the probability of + against - at every tag."""
    folder = folder_of("mistral", "unigram")
    tok = pools.plain_tokenizer(folder)
    answers = [
        "Step 1: halve it. ки\nStep 2: double it. ки",
        "Step 1: no ки",
        "The answer is: 12 ки",
    ]
    rows = [("Halve 24.", answer) for answer in answers]
    candidates, tag = tok.encode("+ -")[1:], tok.encode("ки")[-1]
    assert len(candidates) == 2
    wanted = []
    for prompt, answer in rows:
        ids = tok.encode(f"{prompt} {answer}")
        places = [place for place, token in enumerate(ids) if token == tag]
        assert len(places) == answer.count("ки")
        share = logits(folder, ids)[:, candidates].softmax(dim=-1)[:, 0]
        wanted.append(share[places].tolist())
    preset = {"preset": "math-shepherd", "device": ["cpu"], "share_prefix": share_prefix}
    scorer = ChoiceScorer.from_options(str(folder), preset)
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    for got, mine in zip(done.lists["steps"], wanted, strict=True):
        pools.assert_close(np.array(got), np.array(mine))
    assert done.columns["score"].tolist() == [min(steps) for steps in done.lists["steps"]]


def test_command(tmp_path: Path) -> None:
    folder, source, out = folder_of(), tmp_path / "pool.parquet", tmp_path / "out.parquet"
    pl.DataFrame(ROWS, schema=["prompt", "completion"], orient="row").write_parquet(source)
    (tmp_path / "rubric.txt").write_text(RUBRIC)
    line = ["score", str(source), "-o", str(out), "--scorer", "choice", "--model", str(folder)]
    line += ["--rubric", str(tmp_path / "rubric.txt"), "--choices", "yes,no", "--device", "cpu"]
    done = CliRunner().invoke(app, [*line, "--cache", str(tmp_path / "cache")])
    assert done.exit_code == 0, (done.output, done.exception)
    wanted, frame = scored(folder, rubric=RUBRIC), pl.read_parquet(out)
    for name in ("yes", "no"):
        pools.assert_close(frame[f"score_{name}"].to_numpy(), wanted[name])
    again = [*line, "--cache", str(tmp_path / "cache"), "--overwrite", "--json"]
    assert '"cached": 5' in CliRunner().invoke(app, again).output
    assert pl.read_parquet(out).equals(frame)
    other = CliRunner().invoke(app, [{"yes,no": "no,yes"}.get(word, word) for word in line])
    assert "choices" in str(other.exception)
    wrong = CliRunner().invoke(app, [{"yes,no": "yes, no"}.get(word, word) for word in line])
    assert "all choices begin with a space, or none does" in str(wrong.exception)


def test_bad_rows(tmp_path: Path) -> None:
    rows = pl.DataFrame({"prompt": ["p"] * 3, "completion": ["a", "long " * 200, None]})
    scorer = ChoiceScorer(model=folder_of(), device="cpu", rubric=RUBRIC, max_length=200)
    done = pm.score(rows, tmp_path / "out.parquet", scorer=scorer, on_bad_row="null")
    assert done.null == {"null_completion": 1, "too_long": 1}
    with pytest.raises(BadRow, match="is too long"):
        pm.score(rows, tmp_path / "out.parquet", scorer=scorer, overwrite=True)


def test_refused() -> None:
    folder = folder_of()
    for options, problem in (
        ({"choices": ("yes",)}, "two different texts or more"),
        ({"choices": "yes,no"}, "two different texts or more"),
        ({"choices": ("yes", " no")}, "all choices begin with a space, or none does"),
        ({"choices": ("a", "b"), "score_as": "expected"}, "the expected value is of numbers"),
        ({"choices": ("1", "2"), "step_separator": "\n"}, "steps have the log-odds"),
        ({"ask": "conversation", "rubric": "x{completion}"}, "has no rubric"),
        ({"ask": "chats"}, "ask is not one of"),
    ):
        with pytest.raises(BadArgument, match=problem):
            ChoiceScorer(model=folder, **options)
    for options, problem in (
        ({"choices": ("unsafe", "no")}, r"'unsafe' is \d tokens after.*\nHint: --first-token"),
        ({"choices": ("xa", "xb"), "first_token": True}, "choices begin with the same token"),
        ({"on_too_long": "truncate"}, "a question that is cut is another one"),
        ({"rubric": "no such file"}, "no such rubric"),
    ):
        with pytest.raises(BadArgument, match=problem):
            ChoiceScorer(model=folder, device="cpu", **options).load()
    bare = folder_of("mistral", "unigram")
    with pytest.raises(BadArgument, match=r"needs a chat template.*\nHint: --ask text"):
        ChoiceScorer(model=bare, device="cpu").load()
    merging = ChoiceScorer(
        model=folder, device="cpu", ask="text", rubric="{completion} ye", choices=("s", "t")
    )
    with pytest.raises(BadArgument, match="'s' merges with the end of the question"):
        merging.load()
    with pytest.raises(BadArgument, match=r"--preset: got 'x', expected one of"):
        ChoiceScorer.from_options("m", {"preset": "x"})


def test_fingerprints() -> None:
    folder = folder_of()
    ways: list[dict[str, Any]] = [
        {},
        {"choices": ("no", "yes")},
        {"rubric": RUBRIC},
        {"rubric": RUBRIC, "ask": "text"},
        {"ask": "conversation"},
        {"step_separator": "\n"},
        {"step_separator": "\n", "reduce": "last"},
    ]
    prints = [dict(ChoiceScorer(model=folder, device="cpu", **way).fingerprint) for way in ways]
    assert len({str(sorted(each.items())) for each in prints}) == len(ways)
