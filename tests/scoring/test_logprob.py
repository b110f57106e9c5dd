"""Log-probabilities: trap 10, every row against the loss of plain Transformers, and the implicit
reward against TRL's DPO trainer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pytest
import tiny
import tiny_models

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")
transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.errors import BadArgument, BadInput, BadRow  # noqa: E402
from prefmill.scoring import ImplicitReward, LogProb, heads  # noqa: E402

pytestmark = pytest.mark.score
pools.one_thread()

FAMILIES = (*tiny_models.SHARING, "dynamic-rope", "longrope", "gpt-oss", "qwen3-next")

# The completions begin alike, so that what a group shares eats into them; one is the beginning of
# another; two are the same; one is empty.
ROWS: list[pools.Row] = [
    ("What next?", "The same first words, and then one end"),
    ("What next?", "The same first words, and then another, longer end"),
    ("What next?", "The same first words"),
    ("What next?", "The same first words"),
    ("What else?", "The"),
    ("What else?", "The same first words in another group"),
    ("Alone", "x"),
    ("Empty", ""),
    ("", "No prompt"),
]


def by_loss(model: Any, ids: list[int], start: int) -> float:
    """Minus the sum of the cross-entropies of the tokens from `start` on, by the model's own
    loss.
    """
    inputs = torch.tensor([ids])
    labels = inputs.clone()
    labels[0, :start] = -100
    counted = len(ids) - max(start, 1)
    return 0.0 if counted <= 0 else -model(input_ids=inputs, labels=labels).loss.item() * counted


def oracle(folder: Path, rows: list[pools.Row]) -> np.ndarray:
    """Sum and mean, shape (rows, 2), of what stands behind the generation prompt."""
    import copy

    model, tok = pools.plain(folder, "causal")
    out = []
    with torch.inference_mode():
        for prompt, completion in rows:
            ids = pools.ids_of(tok, prompt, completion)
            head = tok.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=True,
                return_dict=False,
                add_generation_prompt=True,
            )
            assert ids[: len(head)] == head
            one = copy.deepcopy(model) if folder.name.startswith("dynamic") else model
            total = by_loss(one, ids, len(head))
            out.append((total, total / max(1, len(ids) - len(head))))
    return np.array(out)


def both(scorer: Any, rows: list[pools.Row]) -> np.ndarray:
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    assert tuple(done.columns) == ("score", "mean")
    return np.stack(list(done.columns.values()), axis=1)


def assert_both_close(got: np.ndarray, wanted: np.ndarray, what: str) -> None:
    pools.assert_close(got[:, 0], wanted[:, 0], f"{what}, sum")
    pools.assert_close(got[:, 1], wanted[:, 1], f"{what}, mean")


@pytest.mark.parametrize("family", FAMILIES)
def test_trap_10_log_probabilities_are_those_of_the_loss(family: str) -> None:
    folder = pools.causal(family)
    rows = [*ROWS, *pools.POOL]
    wanted = oracle(folder, rows)
    for share in ("auto", "off"):
        for budget in (None, 1, 60):
            scorer = LogProb(model=folder, device="cpu", share_prefix=share, batch_tokens=budget)
            told = scorer.load()
            assert told.startswith("streams" if family in tiny_models.SHARING else "batches: "), (
                told
            )
            assert_both_close(
                both(scorer, rows), wanted, f"{family}, sharing {share}, {budget} tokens"
            )
            assert_both_close(
                both(scorer, rows[::-1])[::-1],
                wanted,
                f"{family}, sharing {share}, {budget} tokens, backwards",
            )


def test_trap_10_the_shared_part_eats_into_completions() -> None:
    """What the group shares is longer than its prompt, and each row still pays for its own copy of
    the words in it.
    """
    scorer = LogProb(model=pools.causal("llama"), device="cpu")
    prepared = scorer.prepare(pools.batch(ROWS[:4]))
    [stream] = prepared.works[0].streams
    shared = stream.segments[0, 1]
    assert shared > prepared.encoded.rows.starts.max()
    assert_both_close(
        both(scorer, ROWS[:4]), oracle(pools.causal("llama"), ROWS[:4]), "shared completions"
    )


def test_trap_10_final_soft_capping_matters_here() -> None:
    model, _ = pools.plain(pools.causal("gemma2"), "causal")
    capped = oracle(pools.causal("gemma2"), ROWS)
    before, model.config.final_logit_softcapping = model.config.final_logit_softcapping, None
    try:
        assert np.abs(oracle(pools.causal("gemma2"), ROWS) - capped).max() > 1e-2
    finally:
        model.config.final_logit_softcapping = before


@pytest.mark.parametrize("places", [16, 17, 40])
def test_trap_10_the_projection_in_pieces(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are never held for all tokens: some places at a time give the same sums."""
    monkeypatch.setattr(heads, "_CHUNK_LOGITS", places * 103)
    scorer = LogProb(model=pools.causal("llama"), device="cpu")
    assert_both_close(both(scorer, ROWS), oracle(pools.causal("llama"), ROWS), f"{places} places")


@pytest.mark.parametrize("scale", [{"logit_scale": 0.25}, {"logits_scaling": 8.0}])
def test_trap_10_models_that_scale_their_logits(scale: dict[str, float], tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    name = "cohere" if "logit_scale" in scale else "granite"
    config = tiny_models.decoder(tok, name, **scale)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).eval().save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    assert_both_close(
        both(LogProb(model=tmp_path, device="cpu"), ROWS), oracle(tmp_path, ROWS), name
    )


def test_trap_10_rows_without_a_prompt_or_a_completion(tmp_path: Path) -> None:
    """A template that adds nothing: a row's first token is predicted by nothing, and a row without
    another has no score: 0 is the best.
    """
    template = tmp_path / "bare.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    folder = pools.causal("llama")
    model, tok = pools.plain(folder, "causal")
    scorer = LogProb(model=folder, device="cpu", template=str(template))
    with pytest.raises(BadRow, match="row 0 has no token that could be scored") as caught:
        both(scorer, [("abc", ""), ("abc", "d"), ("", "a")])
    assert [(bad.row, bad.reason) for bad in caught.value.found] == [
        (0, "no_tokens"),
        (2, "no_tokens"),
    ]
    rows = [("abc", "d"), ("", "ab"), ("abc", "de")]
    got = both(scorer, rows)
    with torch.inference_mode():
        sums = [by_loss(model, tok(p + c)["input_ids"], len(p)) for p, c in rows]
    pools.assert_close(got[:, 0], np.array(sums))
    pools.assert_close(got[:, 1], np.array([sums[0], sums[1], sums[2] / 2]))


@pytest.mark.parametrize("side", ["right", "left"])
def test_trap_08_a_cut_row_counts_its_completion_only(side: str, tmp_path: Path) -> None:
    """Cut at the left, a row does not begin as its prompt does: what is left of the prompt must
    still not count.
    """
    import json
    import shutil

    folder = shutil.copytree(pools.causal("llama"), tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": side}))
    rows = [
        ("Some prompt of thirty letters.", "short"),
        ("Hi", "a completion of forty letters and more.."),
        ("Hi", "fits"),
    ]
    scorer = LogProb(model=folder, device="cpu", max_length=36, on_too_long="truncate")
    model, tok = pools.plain(folder, "causal")
    wanted = []
    with torch.inference_mode():
        for prompt, completion in rows:
            ids, start = pools.ids_of(tok, prompt, completion), len(prompt) + 3
            cut = max(0, len(ids) - 36)
            wanted.append(
                by_loss(model, ids[:36], start)
                if side == "right"
                else by_loss(model, ids[cut:], max(0, start - cut))
            )
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    assert done.counts["truncated"] == 2
    pools.assert_close(done.columns["score"], np.array(wanted), side)


@pytest.mark.parametrize("budget", [64, 101, 512])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "qwen3-next", "dynamic-rope"])
def test_trap_13_invariant_log_probabilities_are_bitwise_the_same(family: str, budget: int) -> None:
    folder = pools.causal(family)
    scorer = LogProb(model=folder, device="cpu", invariant=True, batch_tokens=budget)
    rows = [(p, f"{c} {i}") for i in range(2) for p, c in [*ROWS, *pools.POOL]]
    whole = both(scorer, rows)
    assert_both_close(whole, oracle(folder, rows), family)
    rng = np.random.default_rng(0)
    for size in (1, 1, 2, 3, 8, 20):
        some = rng.permutation(len(rows))[:size]
        got = both(scorer, [rows[i] for i in some])
        assert (got == whole[some]).all(), (
            f"{size} rows: off by {np.abs(got - whole[some]).max():.1e}"
        )


@pytest.mark.parametrize("share", ["auto", "off"])
def test_a_candidate_does_not_move_the_others(share: str) -> None:
    scorer = LogProb(model=pools.causal("mistral"), device="cpu", share_prefix=share)
    rows = [
        ("What is this, and what is it for?", text)
        for text in ("first answer", "the 2nd one, longer than the window", "third", "4th")
    ]
    before = both(scorer, rows)
    changed = [rows[0], (rows[1][0], "t" + "z" * (len(rows[1][1]) - 1)), *rows[2:]]
    after = both(scorer, changed)
    assert (after[1] != before[1]).all()
    assert (after[[0, 2, 3]] == before[[0, 2, 3]]).all()


# -- the implicit reward

PAIRS = [
    ("What is 2 plus 2?", " It is 4.", " It is 5, or so they say, I think."),
    ("Say hello.", " Hello!", " Hello"),
    ("Twice?", " Same words then A", " Same words then B"),
    ("Nothing to say?", "", " Much to say about this."),
]


@pytest.fixture(scope="module")
def models() -> tuple[Path, Path]:
    return pools.causal("llama", 1), pools.causal("llama", 2)


def by_trl(models: tuple[Path, Path], *, chat: bool, beta: float, folder: Path) -> np.ndarray:
    """beta * (log pi - log pi_ref) of chosen and rejected, shape (2, pairs), by the trainer's own
    data, collator and log-probabilities.
    """
    trl = pytest.importorskip("trl", reason="needs the extra prefmill[train]")
    datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[train]")

    def said(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if chat else text

    rows = [
        {
            "prompt": said("user", p),
            "chosen": said("assistant", c),
            "rejected": said("assistant", r),
        }
        for p, c, r in PAIRS
    ]
    load = transformers.AutoModelForCausalLM.from_pretrained
    policy, reference = (load(path, dtype=torch.float32) for path in models)
    _, tok = pools.plain(models[0], "causal")
    arguments = trl.DPOConfig(
        output_dir=str(folder),
        beta=beta,
        max_length=None,
        per_device_eval_batch_size=len(rows),
        use_cpu=True,
        bf16=False,
        fp16=False,
        report_to="none",
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    data = datasets.Dataset.from_list(rows)
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments,
        train_dataset=data,
        eval_dataset=data,
        processing_class=tok,
    )
    [inputs] = trainer.get_eval_dataloader()
    with torch.no_grad():
        ours, theirs = (
            torch.stack(trainer.compute_ref_log_probs(m.eval(), inputs))
            for m in (trainer.model, trainer.ref_model)
        )
    return (beta * (ours - theirs)).numpy()


@pytest.mark.train
@pytest.mark.filterwarnings(
    "ignore:`(is_)?gradient_checkpointing(_\\w+)?` is deprecated:FutureWarning"
)
@pytest.mark.parametrize("chat", [True, False])
def test_implicit_reward_is_that_of_trl(
    models: tuple[Path, Path], chat: bool, tmp_path: Path
) -> None:
    beta = 0.25
    wanted = by_trl(models, chat=chat, beta=beta, folder=tmp_path)
    assert np.abs(wanted).max() > 0.1
    scorer = ImplicitReward(
        model=models[0],
        reference=models[1],
        beta=beta,
        device="cpu",
        template="auto" if chat else "concat",
    )
    for side, column in enumerate((1, 2)):
        rows = [(pair[0], pair[column]) for pair in PAIRS]
        pools.assert_close(scorer(pools.batch(rows)), wanted[side], f"side {side}", pool=wanted)
    together = [(pair[0], pair[column]) for pair in PAIRS for column in (1, 2)]
    pools.assert_close(
        scorer(pools.batch(together)),
        wanted.T.ravel(),
        "both sides of a prompt share it",
        pool=wanted,
    )


def test_implicit_reward_is_the_difference_of_two_log_probabilities(
    models: tuple[Path, Path],
) -> None:
    scorer = ImplicitReward(model=models[0], reference=models[1], beta=0.5, device="cpu")
    done = scorer.run(scorer.prepare(pools.batch(ROWS)))
    assert tuple(done.columns) == ("score", "policy_logprob", "reference_logprob")
    policy, reference = (
        LogProb(model=folder, device="cpu")(pools.batch(ROWS)) for folder in models
    )
    assert (done.columns["policy_logprob"] == policy).all()
    assert (done.columns["reference_logprob"] == reference).all()
    assert (done.columns["score"] == 0.5 * (policy - reference)).all()
    same = ImplicitReward(model=models[0], reference=models[0], device="cpu")
    assert (same(pools.batch(ROWS)) == 0).all()


@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), float("inf"), True, "0.1", None])
def test_beta_that_cannot_be(beta: Any) -> None:
    with pytest.raises(BadArgument, match="ImplicitReward: beta must be a finite number > 0; got "):
        ImplicitReward(model="a", reference="b", beta=beta)


def test_policy_and_reference_of_different_vocabularies(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    tok = tiny.tokenizer()
    tok.add_tokens(["<more>"])
    other = tiny_models.save_causal_model("llama", tmp_path, tok=tok)
    with pytest.raises(BadInput, match="different tokenizers; expected the same vocabulary"):
        ImplicitReward(model=models[0], reference=other, device="cpu").load()


def test_policy_and_reference_may_run_in_different_ways(tmp_path: Path) -> None:
    """One model shares, the other cannot: each has a plan of its own."""
    folders = pools.causal("llama"), pools.causal("qwen3-next")
    scorer = ImplicitReward(model=folders[0], reference=folders[1], beta=1.0, device="cpu")
    assert [engine.way for engine in scorer.engines] == ["streams", "batches"]
    pools.assert_close(
        scorer(pools.batch(ROWS)), oracle(folders[0], ROWS)[:, 0] - oracle(folders[1], ROWS)[:, 0]
    )
