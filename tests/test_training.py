"""Training: what is trained on is what is scored and sampled; nothing vanishes uncounted; nothing
half is left behind.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import tiny
import tiny_models
from test_cli import prefmill

import prefmill as pm
from prefmill.errors import (
    BadArgument,
    BadInput,
    MissingPackage,
    PrefmillError,
    RunBusy,
    TargetExists,
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest.importorskip("trl", reason="needs the extra prefmill[train]")
torch = pytest.importorskip("torch", reason="needs the extra prefmill[train]")

from prefmill.disk import folders, settling, whole  # noqa: E402
from prefmill.training import train as training  # noqa: E402
from prefmill.training import trl as trainers  # noqa: E402
from prefmill.training.report import share_of  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


def reward_base(home: Path, family: str, *, template: bool = True, pad: bool = True) -> Path:
    """A tiny model whose head is thrown away by training; `bert` gets separators as encoders have
    them.
    """
    folder = home / f"{family}-{template}-{pad}"
    if folder.exists():
        return folder
    tok = tiny.tokenizer()
    if not template:
        tok.chat_template = None
    if not pad:
        tok.pad_token = tok.eos_token
    if family == "bert":
        from tokenizers.processors import TemplateProcessing

        tok.cls_token, tok.sep_token = "<bos>", "<eos>"
        tok.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A <eos>",
            pair="<bos> $A <eos> $B <eos>",
            special_tokens=[("<bos>", 1), ("<eos>", 2)],
        )
    tiny_models.save_reward_model(family, folder, tok=tok)
    return folder


@pytest.fixture(scope="module")
def policy_base(home) -> Path:
    return tiny_models.save_causal_model("llama", home / "policy")


def pairs(rows: int = 16) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "prompt": [f"What is {i // 2} plus {i}?" for i in range(rows)],
            "chosen": [f" It is {i // 2 + i}{'!' * (i % 4)}" for i in range(rows)],
            "rejected": [f" No idea{'.' * (i % 3)}" for i in range(rows)],
            "chosen_score": [5.0] * rows,
            "rejected_score": [1.0 + i % 3 for i in range(rows)],
        }
    )


def laid_out(frame: pl.DataFrame, layout: str) -> pl.DataFrame:
    from prefmill.writers.layouts import convert

    return convert(
        frame, format="trl-implicit" if "implicit" in layout else "trl", chat="chat" in layout
    )


@pytest.fixture
def caught(monkeypatch) -> dict[str, Any]:
    """The trainer, as it is when its model is saved."""
    found: dict[str, Any] = {}
    save = trainers.save

    def saved(trainer: Any, tokenizer: Any, folder: Path) -> None:
        found["trainer"], found["tokenizer"] = trainer, tokenizer
        save(trainer, tokenizer, folder)

    monkeypatch.setattr(training, "save", saved)
    return found


def logits_by_ids(trainer: Any) -> dict[tuple[int, ...], float]:
    """What the trainer's model says of every row, by its ids, through the trainer's own collator
    (and so padded).
    """
    data = trainer.train_dataset
    batch = trainer.data_collator([data[i] for i in range(len(data))])
    with torch.inference_mode():
        logits = (
            trainer.model.eval()(
                **{k: v for k, v in batch.items() if k in ("input_ids", "attention_mask")}
            )
            .logits[:, 0]
            .tolist()
        )
    return dict(zip(map(tuple, [*data["chosen_ids"], *data["rejected_ids"]]), logits, strict=True))


BASES = [
    ("llama", True, True),
    ("llama", True, False),
    ("llama", False, True),
    ("bert", False, True),
]
LAYOUTS = ["text", "chat", "chat-implicit"]


@pytest.mark.parametrize(
    ("base", "layout"),
    [
        (BASES[0], "text"),
        (BASES[0], "chat"),
        (BASES[0], "chat-implicit"),
        (BASES[1], "text"),
        (BASES[2], "text"),
        (BASES[2], "text-implicit"),
        (BASES[3], "text"),
        (BASES[3], "chat"),
    ],
)
def test_training_and_scoring_see_the_same(base, layout, home, caught, tmp_path):
    frame = pairs()
    model = reward_base(home, base[0], template=base[1], pad=base[2])
    data = laid_out(frame, layout)
    report = pm.train_reward(
        data, tmp_path / "reward", model=model, steps=2, batch_size=4, learning_rate=1e-2, holdout=0
    )
    assert (report.rows_in, report.rows_used, report.steps, report.dropped) == (16, 16, 2, {})
    said = logits_by_ids(caught["trainer"])
    scorer = pm.RewardModel(model=tmp_path / "reward", device="cpu")
    for side in ("chosen", "rejected"):
        batch = pa.record_batch(
            {"prompt": frame["prompt"].to_arrow(), "completion": frame[side].to_arrow()}
        )
        rows = scorer.encoder.encode(batch["prompt"], batch["completion"], np.arange(16)).rows
        ids = [tuple(rows.row(i).tolist()) for i in range(16)]
        assert scorer(batch).tolist() == pytest.approx([said[row] for row in ids], abs=1e-5)
        assert [said[row] for row in ids] != pytest.approx([said[ids[0]]] * 16, abs=1e-4)
    if layout.startswith("chat"):  # what TRL itself would tokenise
        trainer, tok = caught["trainer"], caught["tokenizer"]
        theirs = trainer._prepare_dataset(
            training._dataset({**data.to_dict(as_series=False), "length": [1] * 16}),
            tok,
            trainer.args,
            "t",
        )
        ours = trainer.train_dataset
        for side in ("chosen_ids", "rejected_ids"):
            assert sorted(theirs[side]) == sorted(ours[side])


def test_the_end_is_scored_where_pad_and_end_were_one_token(home, tmp_path):
    report = pm.train_reward(
        pairs(),
        tmp_path / "reward",
        model=reward_base(home, "llama", pad=False),
        steps=1,
        holdout=0,
    )
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    tok = pm.RewardModel(model=tmp_path / "reward").encoder.tokenizer
    assert config["pad_token_id"] == tok.pad_token_id != tok.eos_token_id
    assert config["vocab_size"] == len(tok)
    batch = pa.record_batch({"prompt": ["p", "q"], "completion": ["a", "bcd"]})
    ends = [
        pm.RewardModel(model=tmp_path / "reward", pooling=rule)(batch).tolist()
        for rule in ("hf", "last")
    ]
    assert ends[0] == ends[1]
    assert report.output == str(tmp_path / "reward")


def test_pairs_left_out_are_counted(home, tmp_path):
    frame = pl.concat(
        [
            pairs(8),
            pl.DataFrame(
                {
                    "prompt": ["x" * 300, "short", None, "p"],
                    "chosen": ["a", "y" * 300, "a", None],
                    "rejected": ["b"] * 4,
                    "chosen_score": [5.0] * 4,
                    "rejected_score": [1.0] * 4,
                }
            ),
        ]
    )
    told: list[str] = []
    report = pm.train_reward(
        frame,
        tmp_path / "reward",
        model=reward_base(home, "llama"),
        steps=1,
        max_length=100,
        holdout=0.4,
        seed=3,
        progress=lambda phase, share: told.append(phase),
    )
    assert report.dropped == {"null_prompt": 1, "null_completion": 1} | (
        {"too_long": report.dropped["too_long"]}
    )
    assert (
        report.rows_in
        == 12
        == report.rows_used + report.rows_held_out + sum(report.dropped.values())
    )
    (held,) = report.held_out
    assert held.pairs_in == report.rows_held_out == held.accuracy.pairs + sum(held.dropped.values())
    assert held.prompts_trained == 0
    assert report.dropped["too_long"] + held.pairs_in >= 2
    assert json.loads((tmp_path / "reward" / "prefmill.json").read_text()) == json.loads(
        json.dumps(report.as_json())
    )
    assert "too_long" in (tmp_path / "reward" / "README.md").read_text()
    assert {"reading", "measuring"} < set(told)
    assert {path.name for path in (tmp_path / "reward").iterdir()} == {
        "README.md",
        "prefmill.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_seed_decides_and_nobody_elses_numbers_move(home, tmp_path):
    model = reward_base(home, "llama")
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pm.train_reward(
            pairs(), tmp_path / name, model=model, steps=2, batch_size=4, seed=seed, holdout=0
        )
        torch.rand(1) if name == "a" else None
        if name == "a":
            torch.set_rng_state(before[0])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    prints = [pm.RewardModel(model=tmp_path / name).fingerprint for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_it_learns_and_measures_by_margin(home, tmp_path):
    draw = random.Random(0)
    rows = [
        (
            f"q{i}",
            "yes" + "." * draw.randrange(5),
            "no" + "." * draw.randrange(5),
            5.0,
            float(draw.randrange(1, 5)),
        )
        for i in range(200)
    ]
    frame = pl.DataFrame(
        rows,
        schema=["prompt", "chosen", "rejected", "chosen_score", "rejected_score"],
        orient="row",
    )
    frame[:40].write_parquet(tmp_path / "test.parquet")
    report = pm.train_reward(
        frame[20:],
        tmp_path / "reward",
        model=reward_base(home, "llama"),
        test=[tmp_path / "test.parquet"],
        steps=25,
        batch_size=16,
        learning_rate=1e-2,
    )
    (held,) = report.held_out
    assert report.rows_held_out == 0
    assert report.loss < 0.3 < 0.6 < report.losses[0][1]
    assert held.accuracy.value > 0.9 > held.longer.value
    assert (held.prompts, held.prompts_trained) == (40, 20)
    assert held.accuracy.low < held.accuracy.value < held.accuracy.high or held.accuracy.value == 1
    assert [(b.at_least, b.at_most) for b in held.margins] == [(m, m) for m in (1.0, 2.0, 3.0, 4.0)]
    assert sum(b.accuracy.pairs for b in held.margins) == 40


def test_margin_reaches_the_loss(home, tmp_path):
    frame = pairs()
    first = [
        pm.train_reward(
            each, tmp_path / name, model=reward_base(home, "llama"), steps=1, holdout=0
        ).losses[0][1]
        for name, each in {"plain": frame, "wide": frame.with_columns(margin=pl.lit(4.0))}.items()
    ]
    assert first[1] > first[0] + 1  # -log sigmoid(difference - margin)
    with pytest.raises(BadInput, match="1 pairs have no finite margin"):
        pm.train_reward(
            frame.with_columns(margin=pl.when(pl.int_range(pl.len()) > 0).then(1.0)),
            tmp_path / "x",
            model=reward_base(home, "llama"),
        )


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_an_adapter_is_merged(family, home, tmp_path):
    pytest.importorskip("peft", reason="needs the extra prefmill[lora]")
    from safetensors.torch import load_file

    model = reward_base(home, family, template=family != "bert")
    pm.train_reward(
        pairs(),
        tmp_path / "reward",
        model=model,
        steps=3,
        batch_size=4,
        lora_rank=2,
        learning_rate=1e-2,
        holdout=0,
    )
    new, old = (load_file(folder / "model.safetensors") for folder in (tmp_path / "reward", model))
    assert set(new) == set(old)
    changed = {name for name in new if not torch.equal(new[name], old[name])}
    assert any("layer" in name for name in changed)
    assert any(name.startswith(("score", "classifier")) for name in changed)
    assert not any("embed" in name or "norm" in name.lower() for name in changed)
    assert np.isfinite(
        pm.RewardModel(model=tmp_path / "reward")(
            pa.record_batch({"prompt": ["p"], "completion": ["a"]})
        )
    ).all()


# --- policies
# -------------------------------------------------------------------------------------------------------------------------

WINNERS = pl.DataFrame({"prompt": ["ab?", "cd?"] * 4, "completion": ["yes", "no way"] * 4})


def test_sft_learns_to_answer_and_to_stop(policy_base, caught, tmp_path):
    """Loss on the completion and its end only; what comes out answers what a sampler asks."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = pm.train_policy(
        WINNERS, tmp_path / "policy", model=policy_base, epochs=40, batch_size=8, learning_rate=1e-2
    )
    assert (report.rows_used, report.steps, report.method) == (8, 40, "sft")
    tok, data = caught["tokenizer"], caught["trainer"].train_dataset
    for row in data:
        learned = [
            t for t, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100
        ]
        asked = row["input_ids"][: len(row["input_ids"]) - len(learned)]
        said = tok.decode(learned)
        assert said in ("yes<eos>", "no way<eos>")
        prompt = "ab?" if said.startswith("yes") else "cd?"
        talk = [{"role": "user", "content": prompt}]
        assert (
            asked
            == tok.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ]
        )
    model, tok = (
        kind.from_pretrained(tmp_path / "policy") for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    assert model.generation_config.eos_token_id == [tok.eos_token_id]
    for prompt, answer in WINNERS.unique().rows():
        ids = tok.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
        )[0, ids.shape[1] :]
        assert tok.decode(out) == answer + "<eos>"


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_dpo_moves_towards_the_chosen(lora_rank, policy_base, caught, tmp_path):
    if lora_rank:
        pytest.importorskip("peft", reason="needs the extra prefmill[lora]")
    frame = pairs()
    report = pm.train_policy(
        frame,
        tmp_path / "policy",
        model=policy_base,
        method="dpo",
        steps=12,
        batch_size=8,
        learning_rate=1e-2,
        lora_rank=lora_rank,
    )
    assert report.losses[0][1] == pytest.approx(
        np.log(2), abs=1e-5
    )  # policy and reference are one at the first step
    assert report.loss < 0.6
    scorer = pm.ImplicitReward(model=tmp_path / "policy", reference=policy_base, device="cpu")
    scores = {
        side: scorer(
            pa.record_batch(
                {"prompt": frame["prompt"].to_arrow(), "completion": frame[side].to_arrow()}
            )
        )
        for side in ("chosen", "rejected")
    }
    assert (scores["chosen"] > scores["rejected"]).mean() > 0.9
    trained = {
        (tuple(row["prompt_ids"] + row[f"{side}_ids"]), len(row["prompt_ids"]))
        for row in caught["trainer"].train_dataset
        for side in ("chosen", "rejected")
    }
    for side in ("chosen", "rejected"):
        rows = scorer.encoder.encode(
            frame["prompt"].to_arrow(), frame[side].to_arrow(), np.arange(16)
        ).rows
        assert {tuple(rows.row(i).tolist()) for i in range(16)} <= {ids for ids, _ in trained}


def test_policy_rows_left_out_are_counted(policy_base, tmp_path):
    frame = pl.concat(
        [
            WINNERS,
            pl.DataFrame({"prompt": ["x" * 90, None, "a"], "completion": ["y" * 90, "a", None]}),
        ]
    )
    report = pm.train_policy(frame, tmp_path / "policy", model=policy_base, steps=1, max_length=100)
    assert (report.rows_in, report.rows_used) == (11, 8)
    assert report.dropped == {"null_prompt": 1, "null_completion": 1, "too_long": 1}


def test_conversations_and_other_column_names(policy_base, tmp_path):
    talks = pl.DataFrame(
        {
            "messages": [
                [{"role": "user", "content": p}, {"role": "assistant", "content": c}]
                for p, c in WINNERS.rows()
            ]
            + [None]
        }
    )
    talks.write_parquet(tmp_path / "talks.parquet")
    named = WINNERS.rename({"prompt": "asked", "completion": "said"})
    one = pm.train_policy(tmp_path / "talks.parquet", tmp_path / "a", model=policy_base, steps=2)
    pm.train_policy(
        named,
        tmp_path / "b",
        model=policy_base,
        steps=2,
        roles={"prompt": "asked", "completion": "said"},
    )
    assert one.dropped == {"null_completion": 1}
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_the_end_of_a_turn_stops_an_answer():
    tok = tiny.tokenizer()
    tok.add_special_tokens(
        {"additional_special_tokens": ["<|end|>"]}, replace_extra_special_tokens=False
    )
    assert trainers.stop_ids(tok, None) == [tok.eos_token_id]
    tok.chat_template = tiny.CHAT_TEMPLATE.replace("{{ eos_token }}", "<|end|>\n")
    assert trainers.stop_ids(tok, 5) == [5, tok.eos_token_id, tok.convert_tokens_to_ids("<|end|>")]


# --- what is refused, and what is left behind
# -------------------------------------------------------------------------------------------


def test_what_is_refused(home, policy_base, tmp_path):
    model, frame = reward_base(home, "llama"), pairs()
    target = tmp_path / "reward"

    def refused(
        kind: type[PrefmillError],
        words: str,
        data: Any = frame,
        train: Any = pm.train_reward,
        **more: Any,
    ) -> None:
        with pytest.raises(kind, match=words):
            train(data, target, **{"model": model, **more})
        assert not list(tmp_path.glob("*reward*")), words

    refused(BadArgument, "holdout must be a number in 0..1", holdout=1.5)
    refused(BadArgument, "epochs must be .*\n.*seed must be", seed=-1, epochs=0)
    refused(
        BadArgument,
        "max_length 5000 is more than the model takes; got a limit of 1024",
        max_length=5000,
    )
    refused(
        BadInput, "nothing to train on; got 0 usable rows \\(.*too_long", max_length=3, holdout=0
    )
    refused(BadInput, "no pairs to measure on in 'none'", test={"none": frame.clear()})
    refused(PrefmillError, "no column 'rejected'", frame.drop("rejected"))
    refused(
        BadInput,
        "'chosen' cannot be trained on; got Int64",
        frame.with_columns(chosen=pl.lit(1, pl.Int64)),
    )
    refused(BadInput, "do not say where it ends", laid_out(frame, "text-implicit"), holdout=0)
    refused(BadArgument, "cannot be split by prompt", laid_out(frame, "text-implicit"))
    refused(BadInput, "no model in .*: no config.json", model=tmp_path)
    refused(
        BadInput,
        "the loss is no number at step|no numbers any more",
        learning_rate=1e30,
        steps=20,
        holdout=0,
    )
    refused(
        BadInput,
        "needs to know where the prompt ends",
        laid_out(frame, "text-implicit"),
        pm.train_policy,
        method="dpo",
        model=policy_base,
    )
    refused(BadInput, r"lack \['lm_head.weight'\]", WINNERS, pm.train_policy, model=model)


def test_missing_packages_say_what_to_install(home, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPackage, match=r"pip install '\.\[lora\]'"):
        pm.train_reward(pairs(), tmp_path / "reward", model=reward_base(home, "llama"), lora_rank=2)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(MissingPackage, match=r"pip install '\.\[train\]'"):
        pm.train_reward(pairs(), tmp_path / "reward", model=reward_base(home, "llama"))
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_only_if_it_is_ours(home, tmp_path):
    target = tmp_path / "reward"
    target.mkdir()
    pm.train_reward(
        pairs(), target, model=reward_base(home, "llama"), steps=1, holdout=0
    )  # an empty folder is free
    before = weights(target)
    with pytest.raises(TargetExists):
        pm.train_reward(pairs(), target, model=reward_base(home, "llama"), steps=1)
    pm.train_reward(
        pairs(),
        target,
        model=reward_base(home, "llama"),
        steps=2,
        holdout=0,
        learning_rate=1e-2,
        overwrite=True,
    )
    assert weights(target) != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(BadArgument, match=r"did not write: it holds no prefmill.json"):
        pm.train_reward(
            pairs(), tmp_path / "mine", model=reward_base(home, "llama"), overwrite=True
        )
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "reward"]


def test_one_process_at_a_time(tmp_path):
    with folders.whole_folder(tmp_path / "out", overwrite=False, where="t") as first:
        (first / folders.MARK).write_text("{}")
        with (
            pytest.raises(RunBusy),
            folders.whole_folder(tmp_path / "out", overwrite=False, where="t"),
        ):
            pass
        assert first.exists()
    assert (tmp_path / "out" / folders.MARK).exists()


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("instant", ["write_report", "sync", "exchange", "replace", "rmtree"])
def test_killed_at_any_instant_there_is_the_old_folder_or_the_new(instant, there, tmp_path):
    """Real SIGKILL in a child, in the middle of publishing; what comes next works, and cleans
    up.
    """
    target = tmp_path / "out"

    def make(text: str) -> None:
        with folders.whole_folder(target, overwrite=True, where="t") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "weights").write_text(text)
            (folder / folders.MARK).write_text(text)
            if instant == "write_report" and text == "new":
                os.kill(os.getpid(), signal.SIGKILL)

    if there:
        make("old")
    with (
        warnings.catch_warnings()
    ):  # of threads that a fork does not take along: the child only writes files
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        place = {"sync": whole, "exchange": whole, "replace": os, "rmtree": settling.shutil}.get(
            instant
        )
        if place is not None:
            real = getattr(place, instant)

            def killed(*args: Any, **more: Any) -> None:
                if instant != "rmtree":
                    real(*args, **more)
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(place, instant, killed)
        make("new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or (instant == "exchange" and not there)
    assert target.exists() >= there
    if target.exists():
        assert (
            (target / "sub" / "weights").read_text()
            == (target / folders.MARK).read_text()
            in (("old", "new") if there else ("new",))
        )
    make("newer")
    assert (target / "sub" / "weights").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command(home, tmp_path):
    pairs().write_parquet(tmp_path / "pairs.parquet")
    arguments = (
        "train-reward",
        tmp_path / "pairs.parquet",
        "-o",
        tmp_path / "reward",
        "--model",
        reward_base(home, "llama"),
    )
    done = prefmill(
        *arguments, "--steps", 2, "--batch-size", 4, "--test", tmp_path / "pairs.parquet", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows_in"], told["rows_used"], told["steps"], told["method"]) == (
        16,
        16,
        2,
        "reward",
    )
    assert told["held_out"][0]["accuracy"]["pairs"] == 16
    for words in (
        "trained on",
        "2 steps of 4",
        "longer completion",
        "margin 4",
        "16 of them in training too",
        "wrote ",
    ):
        assert words in done.stderr
    assert "Warning" not in done.stderr
    done = prefmill(*arguments)
    assert done.returncode == 2
    assert "is already there" in done.stderr
    done = prefmill("train-reward", tmp_path / "pairs.parquet", "--model", "x")
    assert done.returncode == 2
    assert "no output named" in done.stderr


def test_shares_count_prompts():
    alone, together = np.arange(100), np.arange(100) // 2
    mixed, twins = np.array([1.0, 0.0] * 50), np.array([1.0, 1.0, 0.0, 0.0] * 25)

    def interval(wins: Any, prompts: Any) -> tuple[float, float]:
        share = share_of(wins, prompts)
        return share.low, share.high

    assert interval(mixed, alone) == pytest.approx((0.404, 0.596), abs=1e-3)
    assert interval(mixed, together) == pytest.approx(
        (0.404, 0.596), abs=1e-2
    )  # never narrower than n independent pairs
    assert interval(twins, together) == pytest.approx(
        interval(mixed[:50], alone[:50])
    )  # a pair twice is worth one pair
    assert interval(np.ones(10), alone[:10]) == pytest.approx((0.722, 1.0), abs=1e-3)
