"""The traps of offline scoring, each with a test named after its number in the notes; 10 is in
test_scoring_logprob.py, 21 with runs.
"""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pytest
import tiny
import tiny_models

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")
transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.errors import BadArgument, BadInput, BadRow  # noqa: E402
from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import LogProb, RewardModel, attention  # noqa: E402
from prefmill.scoring.attention import CannotShare, StreamPlan  # noqa: E402
from prefmill.scoring.engine import Engine, OutOfDeviceMemory, ScoresDiffer  # noqa: E402
from prefmill.scoring.heads import RewardHead  # noqa: E402
from prefmill.scoring.packing import pack  # noqa: E402

pytestmark = pytest.mark.score
pools.one_thread()

CPU = torch.device("cpu")


def fresh(family: str, **options: Any) -> RewardModel:
    """A scorer that no other test sees, so that its engine may be broken."""
    scorer = RewardModel(model=pools.reward(family), device="cpu", **options)
    scorer.load()
    return scorer


def shared_rows() -> TokenRows:
    """Four suffixes behind one prompt, one of them a single token, and a row of its own."""
    rng = np.random.default_rng(1)
    prompt, *own = (rng.integers(10, 100, n).tolist() for n in (17, 5, 1, 9, 3, 6))
    return TokenRows.of([prompt + tail for tail in own[:4]] + [own[4]], [0, 0, 0, 0, 1])


def alone(engine: Engine, rows: TokenRows) -> np.ndarray:
    return engine._one_at_a_time(rows, np.arange(len(rows))).values


# -- 1: stock attention on a packed stream
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_trap_01_stock_attention_on_a_stream_is_wrong_and_never_run(name: str) -> None:
    engine, rows = fresh("llama").engines[0], shared_rows()
    work = engine.plan(rows)
    assert work.tokens < rows.lengths.sum(), "the prompt is shared, or this tests nothing"
    [stream] = work.streams
    engine.model.set_attn_implementation(name)
    ids, positions = (
        torch.from_numpy(x.astype(np.int64))[None] for x in (stream.ids, stream.positions)
    )
    with torch.inference_mode():
        hidden = engine.body(
            input_ids=ids, position_ids=positions, use_cache=False
        ).last_hidden_state[0]
        silent = engine.head.of_stream(engine, hidden, rows, stream)[0].numpy()
    wanted = alone(engine, rows)[stream.rows]
    assert (np.abs(silent - wanted) > 1e-3).sum() >= 3, (
        "without a word, all but the first of a group are wrong"
    )
    engine.ours = name
    with pytest.raises(CannotShare, match="not called"):
        engine.run(engine.plan(rows))


@pytest.mark.parametrize("name", [attention.SEGMENTS, attention.VARLEN, attention.BLOCKMASK])
def test_trap_01_our_attention_refuses_without_a_plan_or_with_a_mask(name: str) -> None:
    model = fresh("llama").engines[0].model
    model.set_attn_implementation(name)
    ids = torch.tensor([[11, 12, 13]])
    with pytest.raises(CannotShare, match="does not hand its keyword arguments"):
        model(input_ids=ids)
    [stream] = pack(TokenRows.of([[11, 12, 13]]), np.arange(1), 10)
    with pytest.raises(CannotShare, match="mask of its own"):
        model(
            input_ids=ids,
            attention_mask=torch.zeros(1, 1, 3, 3),
            prefmill_plan=StreamPlan(stream, CPU),
        )


def test_trap_01_attention_outside_the_interface_is_noticed() -> None:
    """DeBERTa takes the name and never calls it: the calls are counted."""
    engine = fresh("deberta-v2").engines[0]
    engine.body = engine.model.deberta
    with pytest.raises((CannotShare, TypeError)):
        engine._run_streams(shared_rows(), pack(shared_rows(), np.arange(5), 100))
    assert engine.way == "batches"


# -- 2: lower-right alignment
# --------------------------------------------------------------------------------------------------------------


def plain_varlen(
    query: Any,
    key: Any,
    value: Any,
    cu_q: Any,
    cu_k: Any,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Any:
    """What torch.nn.attention.varlen documents, in float64: lower-right aligned, window (left,
    right), keys as many as they are.
    """
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert int(cu_q[-1]) == query.shape[0]
    assert int(cu_k[-1]) == key.shape[0] == value.shape[0]
    assert max_q == int(cu_q.diff().max())
    assert max_k == int(cu_k.diff().max())
    if not enable_gqa and query.shape[1] != key.shape[1]:
        raise ValueError("Expect query and key/value to have the same number of heads")
    groups, (left, right) = query.shape[1] // key.shape[1], window_size
    out = torch.empty(query.shape[0], query.shape[1], value.shape[2], dtype=torch.float64)
    for (a, b), (c, d) in zip(
        itertools.pairwise(cu_q.tolist()), itertools.pairwise(cu_k.tolist()), strict=True
    ):
        q, k, v = (
            query[a:b].double(),
            key[c:d].double().repeat_interleave(groups, 1),
            value[c:d].double().repeat_interleave(groups, 1),
        )
        at = torch.arange(b - a)[:, None] + (d - c) - (b - a)
        seen = torch.ones(b - a, d - c, dtype=torch.bool)
        if left >= 0:
            seen &= torch.arange(d - c) >= at - left
        if right >= 0:
            seen &= torch.arange(d - c) <= at + right
        weights = torch.einsum("qhd,khd->hqk", q, k) * (
            q.shape[-1] ** -0.5 if scale is None else scale
        )
        weights = weights.masked_fill(~seen, -torch.inf).softmax(-1)
        out[a:b] = torch.einsum("hqk,khd->qhd", weights, v)
    return out.to(query.dtype)


@pytest.fixture
def _plain_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "varlen_kernel", lambda: plain_varlen)


FORMS = {
    "segments": attention.segments,
    "varlen": attention.varlen,
    "blockmask": attention.blockmask,
}


def one_row(
    query: Any, key: Any, value: Any, scale: float, window: int | None, softcap: float | None
) -> Any:
    """Causal attention of one row, shapes (heads, tokens, dim), written out in float64."""
    groups, n = query.shape[0] // key.shape[0], query.shape[1]
    key, value = (
        key.repeat_interleave(groups, 0).double(),
        value.repeat_interleave(groups, 0).double(),
    )
    weights = query.double() @ key.transpose(1, 2) * scale
    if softcap is not None:
        weights = softcap * torch.tanh(weights / softcap)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    hidden = (distance < 0) | (distance >= (window or n))
    return weights.masked_fill(hidden, -torch.inf).softmax(-1) @ value


@pytest.mark.usefixtures("_plain_varlen")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("form", FORMS)
def test_trap_02_lower_right_alignment(
    form: str, head_dim: int, window: int | None, softcap: float | None
) -> None:
    """Prefixes and suffixes of one token and more, grouped heads 4:1, windows shorter than a
    prefix: each row as if it were alone.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = {0: (1, (1, 3, 2)), 1: (9, (1, 1, 5)), 2: (7, (6,))}  # prefix and suffixes of a group
    rows, groups = [], []
    for group, (shared, own) in lengths.items():
        for number, n in enumerate(own):
            rows.append([group] * shared + [10 + number] * n)
            groups.append(group)
    tokens = TokenRows.of(rows, groups)
    [stream] = pack(tokens, np.arange(len(rows)), 1000, least_ratio=1.0)
    assert len(stream) == 1 + 6 + 9 + 7 + 13
    query = torch.randn(1, 8, len(stream), head_dim, generator=generator)
    key, value = (torch.randn(1, 2, len(stream), head_dim, generator=generator) for _ in range(2))
    plan = StreamPlan(stream, CPU)
    arguments = {
        "scaling": 0.3,
        "prefmill_plan": plan,
        "sliding_window": window,
        "softcap": softcap,
    }
    if form == "varlen" and softcap is not None:
        with pytest.raises(CannotShare, match="soft-capping"):
            attention.varlen(None, query, key, value, **arguments)
        return
    out, _ = FORMS[form](None, query, key, value, **arguments)
    assert out.shape == (1, len(stream), 8, head_dim)
    assert plan.calls == 1
    for slot, row in enumerate(stream.rows.tolist()):
        n = int(tokens.lengths[row])
        where = torch.from_numpy(stream.locate(np.full(n, slot), np.arange(n)))
        wanted = one_row(
            query[0][:, where], key[0][:, where], value[0][:, where], 0.3, window, softcap
        )
        torch.testing.assert_close(
            out[0][where].transpose(0, 1).double(), wanted, rtol=0, atol=3e-6
        )


@pytest.mark.usefixtures("_plain_varlen")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", tiny_models.SHARING)
def test_trap_02_every_form_of_attention_through_a_whole_model(family: str, form: str) -> None:
    scorer = fresh(family, batch_tokens=256)
    engine = scorer.engines[0]
    engine.ours = f"prefmill_{form}"
    if family == "gemma2" and form == "varlen":
        with pytest.raises(CannotShare, match="soft-capping"):
            scorer(pools.batch(pools.POOL))
        return
    pools.assert_close(
        scorer(pools.batch(pools.POOL)),
        pools.oracle(pools.reward(family), pools.POOL),
        f"{family} {form}",
    )


# -- 3: which token is pooled
# --------------------------------------------------------------------------------------------------------------


def test_trap_03_pad_that_is_also_the_end_of_a_row() -> None:
    """TRL sets pad = eos where there is none: Transformers then pools one token early, in silence.
    We follow it, or not, and say so.
    """
    eos = tiny.tokenizer().eos_token_id
    folder = pools.reward("llama", pad_token_id=eos)
    model, tok = pools.plain(folder)
    rows = pools.POOL
    with torch.inference_mode():
        states = [
            model.model(input_ids=torch.tensor([pools.ids_of(tok, *row)])).last_hidden_state[0, -1]
            for row in rows
        ]
        last = torch.stack([model.score(state)[0] for state in states]).numpy()
    hf = pools.oracle(folder, rows)
    assert np.abs(hf - last).min() > 1e-3, (
        "the two rules differ in every row here, or this tests nothing"
    )
    for pooling, wanted in (("hf", hf), ("last", last)):
        for batch_tokens in (None, 1):
            scorer = RewardModel(
                model=folder, device="cpu", pooling=pooling, batch_tokens=batch_tokens
            )
            with pytest.warns(
                UserWarning, match=f"rows end in the pad token, and pooling is '{pooling}'"
            ):
                got = scorer(pools.batch(rows))
            pools.assert_close(got, wanted, pooling)
            scorer(pools.batch(rows))  # told once: a second warning would be an error here


def test_trap_03_no_warning_where_both_rules_agree_and_no_choice_where_there_is_none() -> None:
    got = RewardModel(model=pools.reward("llama"), device="cpu", pooling="last")(
        pools.batch(pools.POOL)
    )
    pools.assert_close(got, pools.oracle(pools.reward("llama"), pools.POOL))
    with pytest.raises(
        BadArgument, match=r"pooling 'last' is not this model's to choose: .*\nHint: "
    ):
        RewardModel(model=pools.reward("bert"), device="cpu", pooling="last").load()


def test_trap_03_a_row_of_pads_only_is_pooled_as_transformers_does() -> None:
    folder = pools.reward(
        "gpt2", pad_token_id=20
    )  # its positions are absolute: with rotary ones, equal tokens have equal states everywhere
    engine = RewardModel(model=folder, device="cpu").engines[0]
    rows = TokenRows.of([[20, 20, 20], [20, 30, 20], [30, 31, 32]])
    model, _ = pools.plain(folder)
    with torch.inference_mode():
        wanted = [
            model(input_ids=torch.from_numpy(rows.row(i).astype(np.int64))[None])
            .logits[0, 0]
            .item()
            for i in range(3)
        ]
    pools.assert_close(engine.run(engine.plan(rows))[:, 0], np.array(wanted))


# -- 4 and 5: raw scores
# -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_04_05_scores_are_raw(family: str) -> None:
    """No sigmoid, as some engines put on a single label: scores below 0 and above 1 survive."""
    folder = pools.reward(family, initializer_range=0.9)
    rows = [(prompt, f"{text} {i}") for i, (prompt, text) in enumerate(pools.POOL * 3)]
    got = pools.scores(folder, rows)
    pools.assert_close(got, pools.oracle(folder, rows))
    assert got.min() < 0
    assert got.max() > 1


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_04_05_several_labels_need_one_named(family: str) -> None:
    folder = pools.reward(family, num_labels=3, problem_type="regression")
    with pytest.raises(
        BadArgument,
        match=r"3 labels; got no label, expected one of \['LABEL_0', 'LABEL_1', 'LABEL_2'\]\.\nHint: ",
    ):
        RewardModel(model=folder, device="cpu").load()
    with pytest.raises(BadArgument, match="no label 'LABEL_3'"):
        RewardModel(model=folder, device="cpu", label="LABEL_3").load()
    model, tok = pools.plain(folder)
    with torch.inference_mode():
        wanted = np.array(
            [
                model(input_ids=torch.tensor([pools.ids_of(tok, *row)])).logits[0].tolist()
                for row in pools.POOL
            ]
        )
    for label, column in (("LABEL_1", 1), (2, 2), ("0", 0)):
        pools.assert_close(
            pools.scores(folder, pools.POOL, label=label), wanted[:, column], f"label {label!r}"
        )


# -- 6, 7: BOS and the tail of templates
# ---------------------------------------------------------------------------------------------------

# After the templates of these families, in short; every marker is one token.
TEMPLATES = {
    "llama-3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}"
        "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "qwen": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
MARKERS = [
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<|im_start|>",
    "<|im_end|>",
]
GOLDEN = {  # the tokens of user "Hi" and assistant "Yo", written by hand
    "llama-3": "<bos> <|start_header_id|> u s e r <|end_header_id|> \n \n H i <|eot_id|>"
    " <|start_header_id|> a s s i s t a n t <|end_header_id|> \n \n Y o <|eot_id|>",
    "gemma": "<bos> <start_of_turn> u s e r \n H i <end_of_turn> \n <start_of_turn> m o d e l \n Y o <end_of_turn> \n",
    "mistral": "<bos> [INST] _ H i [/INST] _ Y o <eos>",
    "qwen": "<|im_start|> u s e r \n H i <|im_end|> \n <|im_start|> a s s i s t a n t \n Y o <|im_end|> \n",
}
STARTS = {
    "llama-3": 25,
    "gemma": 18,
    "mistral": 6,
    "qwen": 21,
}  # the first token behind the generation prompt


def template_tokenizer(family: str) -> Any:
    """The tiny tokenizer with a family's template; like theirs, it puts BOS before plain text
    (Qwen's does not).
    """
    from tokenizers.processors import TemplateProcessing

    tok = tiny.tokenizer()
    tok.add_special_tokens({"additional_special_tokens": MARKERS})
    tok.chat_template = TEMPLATES[family]
    if family != "qwen":
        tok.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tok.bos_token_id)]
        )
    return tok


def encoder(tok: Any, **options: Any) -> Any:
    from prefmill.models.tokens import Encoder

    return Encoder(tok, **options)


def encoded(tok: Any, rows: list[pools.Row], **options: Any) -> Any:
    batch = pools.batch(rows)
    return encoder(tok, **options).encode(
        batch["prompt"], batch["completion"], batch["group"].to_numpy()
    )


@pytest.mark.parametrize("family", TEMPLATES)
def test_trap_06_07_golden_ids_of_templates(family: str) -> None:
    tok = template_tokenizer(family)
    found = encoded(tok, [("Hi", "Yo")], starts=True).rows
    golden = [{"_": " "}.get(token, token) for token in GOLDEN[family].split(" ")]
    assert tok.convert_ids_to_tokens(found.row(0).tolist()) == golden
    assert found.row(0).tolist() == pools.ids_of(tok, "Hi", "Yo")
    assert found.starts.tolist() == [STARTS[family]]


@pytest.mark.parametrize("family", TEMPLATES)
def test_trap_06_exactly_one_bos(family: str) -> None:
    tok = template_tokenizer(family)
    rows = encoded(tok, pools.POOL, starts=True).rows
    bos = [(rows.row(i) == tok.bos_token_id).sum() for i in range(len(rows))]
    assert bos == [family != "qwen"] * len(rows)
    plain = encoded(tok, pools.POOL, template="concat").rows
    assert [(plain.row(i) == tok.bos_token_id).sum() for i in range(len(plain))] == [
        family != "qwen"
    ] * len(plain)


@pytest.mark.parametrize(
    ("single", "pair", "template"),
    [
        ("<bos> $A", "<bos> $A <bos> $B", "concat"),
        ("<bos> $A <eos>", "<bos> $A <eos> <eos> $B <eos>", "pair"),
        ("$A <eos>", "$A <eos> $B <eos>", "pair"),
    ],
)
def test_trap_06_a_second_bos_is_no_separator_of_pairs(
    single: str, pair: str, template: str
) -> None:
    """As Llama's, RoBERTa's and T5's tokenizers put two texts together; what a language model goes
    on with is one text in any case.
    """
    from tokenizers.processors import TemplateProcessing

    tok = tiny.tokenizer()
    tok.chat_template = None
    special = [(name, tok.convert_tokens_to_ids(name)) for name in ("<bos>", "<eos>")]
    tok.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, pair=pair.replace("$B", "$B:1"), special_tokens=special
    )
    assert encoder(tok).template == template
    assert encoder(tok, needs_completion=True).template == "concat"
    rows = encoded(tok, [("Hi", "Yo")], needs_completion=True).rows
    assert (rows.row(0) == tok.bos_token_id).sum() == ("<bos>" in pair)


def test_trap_06_a_second_bos_is_an_error_that_names_the_fix() -> None:
    tok = template_tokenizer("mistral")
    tok.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(
        BadInput,
        match=r"row 1 begins with two BOS tokens \('<bos>'\) by template 'chat'; expected one\.\nHint: take bos_token out",
    ):
        encoded(tok, [("fine", "yes"), ("<bos>rendered before", "yes")])


def test_trap_06_a_second_bos_by_the_tokenizer_is_an_error_too() -> None:
    """Text that a template made already, and a tokenizer that adds BOS: the commonest way to score
    in silence with two.
    """
    with pytest.raises(
        BadInput,
        match=r"row 0 begins with two BOS tokens \('<bos>'\) by template 'concat'; expected one\.\nHint: ",
    ):
        encoded(template_tokenizer("llama-3"), [("<bos>Hi", "Yo")], template="concat")


def test_trap_06_no_bos_where_the_tokenizer_has_one_is_told_once() -> None:
    tok = template_tokenizer("mistral")
    tok.chat_template = TEMPLATES["mistral"].removeprefix("{{ bos_token }}")
    made = encoder(tok)
    batch = pools.batch([("Hi", "Yo")])
    with pytest.warns(UserWarning, match="without the BOS token"):
        made.encode(batch["prompt"], batch["completion"], np.zeros(1, np.int64))
    made.encode(batch["prompt"], batch["completion"], np.zeros(1, np.int64))


# -- 8: long rows
# --------------------------------------------------------------------------------------------------------------------------

LONG = [("Hi", "short"), ("Hi", "long " * 20), ("Other", "fits"), ("Hi", "longer " * 20)]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_08_a_row_that_is_too_long_is_an_error_with_its_number(family: str) -> None:
    scorer = RewardModel(model=pools.reward(family), device="cpu", max_length=40)
    with pytest.raises(
        BadRow,
        match=r"score: row 1 is too long; got 106 tokens, expected at most 40\.\nHint: --on-too-long",
    ) as caught:
        scorer.prepare(pools.batch(LONG))
    assert (caught.value.row, caught.value.reason) == (1, "too_long")


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_08_null_leaves_the_others_as_they_are(family: str) -> None:
    folder = pools.reward(family)
    scorer = RewardModel(model=folder, device="cpu", max_length=40, on_too_long="null")
    done = scorer.run(scorer.prepare(pools.batch(LONG)))
    assert done.null is not None
    assert done.null.tolist() == [False, True, False, True]
    assert (list(done.reasons).count("too_long"), done.counts["truncated"]) == (2, 0)
    pools.assert_close(done.columns["score"][[0, 2]], pools.oracle(folder, [LONG[0], LONG[2]]))
    assert np.isnan(scorer(pools.batch(LONG))).tolist() == [False, True, False, True]
    nothing = scorer.run(scorer.prepare(pools.batch([LONG[1]])))
    assert nothing.null is not None
    assert nothing.null.all()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_08_truncation_is_asked_for_and_counted(
    family: str, side: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(pools.reward(family), tmp_path / family)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": side}))
    scorer = RewardModel(model=folder, device="cpu", max_length=40, on_too_long="truncate")
    done = scorer.run(scorer.prepare(pools.batch(LONG)))
    assert done.null is None
    assert (list(done.reasons).count("too_long"), done.counts["truncated"]) == (0, 2)
    model, tok = pools.plain(folder)
    with torch.inference_mode():
        cut = [
            ids[:40] if side == "right" else ids[-40:]
            for ids in (pools.ids_of(tok, *row) for row in LONG)
        ]
        wanted = [model(input_ids=torch.tensor([ids])).logits[0, 0].item() for ids in cut]
    pools.assert_close(done.columns["score"], np.array(wanted), f"{family} cut at the {side}")


def test_trap_08_no_limit_beyond_the_models_own() -> None:
    scorer = RewardModel(model=pools.reward("llama"), device="cpu", max_length=2000)
    with pytest.raises(
        BadArgument, match="max_length 2000 is more than the model takes; got a limit of 1024"
    ):
        scorer(pools.batch(pools.POOL))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_length": 0},
        {"max_length": 1.5},
        {"max_length": True},
        {"on_too_long": "cut"},
        {"batch_tokens": 0},
        {"share_prefix": "on"},
        {"threads": 0},
        {"pooling": "mean"},
    ],
)
def test_trap_08_settings_that_cannot_be_are_refused_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(BadArgument, match=f"RewardModel: {next(iter(settings))} .*got "):
        RewardModel(model="anything", **settings)


# -- 9: merges across prompt and completion
# ------------------------------------------------------------------------------------------------


def merging_tokenizer() -> Any:
    """A BPE tokenizer that merges across the end of a prompt: letters with letters, with spaces,
    newlines, digits, and NFC accents.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [
        "ab cd",
        "abcd abcd",
        "ab\ncd\ncd",
        "ab12 ab12",
        "café caf\u00e9",
        "ab cd ab cd",
        "a\n\nb",
        "12 34",
    ] * 20
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=340,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tok = PreTrainedTokenizerFast(tokenizer_object=bpe)
    tok.add_special_tokens({"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"})
    return tok


SEAMS = [
    ("ab", " cd"),
    ("ab", "\ncd"),
    ("ab", "12"),
    ("cafe", "\u0301 is open"),
    ("ab", ""),
    ("ab", "cd"),
    ("ab ", "cd"),
    ("a\n", "\nb"),
]


def test_trap_09_ids_are_those_of_the_whole_text() -> None:
    tok = merging_tokenizer()
    rows = encoded(tok, SEAMS, template="concat", starts=True).rows
    glued = 0
    for i, (prompt, completion) in enumerate(SEAMS):
        whole = tok(prompt + completion + "<eos>")["input_ids"]
        assert rows.row(i).tolist() == whole, (prompt, completion)
        parts = tok(prompt)["input_ids"] + tok(completion + "<eos>")["input_ids"]
        glued += parts != whole
        head = tok(prompt)["input_ids"]
        shared = next(
            (n for n, (a, b) in enumerate(zip(head, whole, strict=False)) if a != b),
            min(len(head), len(whole)),
        )
        assert rows.starts[i] == shared, (prompt, completion)
    assert glued >= 6, "the tokenizer merges across the seam, or this tests nothing"


def test_trap_09_scores_of_rows_that_merge(tmp_path: Path) -> None:
    tok = merging_tokenizer()
    tiny_models.save_reward_model("llama", tmp_path, tok=tok)
    model, tok = pools.plain(tmp_path)
    got = RewardModel(model=tmp_path, device="cpu", template="concat")(pools.batch(SEAMS))
    with torch.inference_mode():
        wanted = [
            model(**tok(p + c + "<eos>", return_tensors="pt")).logits[0, 0].item() for p, c in SEAMS
        ]
    pools.assert_close(got, np.array(wanted))


# -- 11: positions
# -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_trap_11_rows_longer_than_the_models_positions(family: str) -> None:
    """512 positions: 511 and 512 tokens are scored, 513 are an error."""
    folder = pools.reward(family)
    overhead = len(pools.ids_of(tiny.tokenizer(), "Hi", ""))
    rows = [("Hi", "x" * (n - overhead)) for n in (511, 512)]
    pools.assert_close(pools.scores(folder, rows), pools.oracle(folder, rows))
    with pytest.raises(BadRow, match="row 2 is too long; got 513 tokens, expected at most 512"):
        pools.scores(folder, [*rows, ("Hi", "x" * (513 - overhead))])


def test_trap_11_positions_that_begin_behind_the_pad_token(tmp_path: Path) -> None:
    """RoBERTa counts positions from pad + 1: of 66 positions 65 remain with pad = 0, 60 with pad =
    5.
    """
    tok = tiny.tokenizer()
    for pad, most in ((0, 65), (5, 60)):
        folder = tmp_path / str(pad)
        config = tiny_models._encoder(tok, "roberta", max_position_embeddings=66, num_labels=1)
        config.pad_token_id = pad
        torch.manual_seed(0)
        transformers.RobertaForSequenceClassification(config).eval().save_pretrained(folder)
        tok.save_pretrained(folder)
        overhead = len(pools.ids_of(tok, "Hi", ""))
        rows = [("Hi", "x" * (most - overhead)), ("Hi", "y" * 5), ("Ho", "z" * 9)]
        pools.assert_close(
            RewardModel(model=folder, device="cpu")(pools.batch(rows)), pools.oracle(folder, rows)
        )
        with pytest.raises(BadRow, match=f"got {most + 1} tokens, expected at most {most}"):
            RewardModel(model=folder, device="cpu")(
                pools.batch([("Hi", "x" * (most + 1 - overhead))])
            )


# -- 12: rotary embeddings that depend on the batch
# ----------------------------------------------------------------------------------------


def of_length(tokens: int, letter: str = "x") -> pools.Row:
    return ("Hi", letter * (tokens - len(pools.ids_of(tiny.tokenizer(), "Hi", ""))))


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("budget", [None, 128])
@pytest.mark.parametrize("family", ["dynamic-rope", "longrope"])
def test_trap_12_a_long_row_does_not_change_others(
    family: str, budget: int | None, invariant: bool
) -> None:
    """Rows around the original length of 48, after and before longer ones: frequencies are those of
    the row alone.
    """
    folder = pools.reward(family)
    scorer = RewardModel(model=folder, device="cpu", batch_tokens=budget, invariant=invariant)
    rows = [
        of_length(n, letter)
        for n, letter in (
            (60, "a"),
            (47, "b"),
            (48, "c"),
            (49, "d"),
            (90, "e"),
            (30, "f"),
            (48, "g"),
            (60, "h"),
        )
    ]
    wanted = pools.oracle(folder, rows)
    pools.assert_close(scorer(pools.batch(rows)), wanted, "together")
    pools.assert_close(scorer(pools.batch(rows[::-1]))[::-1], wanted, "backwards")
    for first, second in ((0, 2), (4, 1), (4, 3), (4, 6), (0, 4), (4, 0), (0, 5)):
        scorer(pools.batch([rows[first]]))
        pools.assert_close(
            scorer(pools.batch([rows[second]])),
            wanted[[second]],
            f"{rows[second]} after {rows[first]}",
            pool=wanted,
        )


# -- 13: company
# ---------------------------------------------------------------------------------------------------------------------------

COMPANY = [(prompt, f"{text} {i}") for i in range(3) for prompt, text in pools.POOL if prompt]


@pytest.mark.parametrize("budget", [64, 101, 192, 512])
@pytest.mark.parametrize("share", ["auto", "off"])
@pytest.mark.parametrize(
    "family",
    [*tiny_models.SHARING, "gpt-oss", "qwen3-next", "bert", "deberta-v2", "modernbert", "longrope"],
)
def test_trap_13_invariant_scores_are_bitwise_the_same_in_any_company(
    family: str, share: str, budget: int
) -> None:
    folder = pools.reward(family)
    scorer = pools.scorer(folder, invariant=True, batch_tokens=budget, share_prefix=share)
    rng = np.random.default_rng(3)
    whole = scorer(pools.batch(COMPANY))
    pools.assert_close(whole, pools.oracle(folder, COMPANY))
    for size in (1, 2, 5, 11):
        for _ in range(3):
            some = rng.permutation(len(COMPANY))[:size]
            got = scorer(pools.batch([COMPANY[i] for i in some]))
            assert (got == whole[some]).all(), (
                f"{size} rows: off by {np.abs(got - whole[some]).max():.1e}"
            )


@pytest.mark.parametrize("budget", [64, 512])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_trap_13_invariant_scores_of_experts(family: str, budget: int, tmp_path: Path) -> None:
    """How many tokens an expert gets depends on the neighbours, and its rounding on how many: rows
    run alone, at widths of their own.
    """
    tok = tiny.tokenizer()
    config = tiny_models._decoder(
        tok,
        family,
        num_labels=1,
        num_experts_per_tok=2,
        head_dim=8,
        moe_intermediate_size=24,
        sliding_window=None,
        **{"num_local_experts" if family == "mixtral" else "num_experts": 4},
    )
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).eval().save_pretrained(
        tmp_path
    )
    tok.save_pretrained(tmp_path)
    wanted = pools.oracle(tmp_path, COMPANY)
    pools.assert_close(RewardModel(model=tmp_path, device="cpu")(pools.batch(COMPANY)), wanted)
    scorer = RewardModel(model=tmp_path, device="cpu", invariant=True, batch_tokens=budget)
    assert scorer.load() == "streams"
    prepared = scorer.prepare(pools.batch(COMPANY))
    assert all(len(stream.rows) == 1 for stream in prepared.works[0].streams)
    whole = scorer.run(prepared).columns["score"]
    pools.assert_close(whole, wanted)
    for place in range(0, len(COMPANY), 3):
        assert scorer(pools.batch(COMPANY[place : place + 1])) == whole[place]


@pytest.mark.parametrize("family", ["llama", "mistral", "bert", "dynamic-rope"])
def test_trap_13_company_moves_a_score_by_rounding_only(family: str) -> None:
    folder = pools.reward(family)
    wanted = pools.oracle(folder, COMPANY)
    row = COMPANY[4]
    for company in ([], COMPANY[5:6], COMPANY[:4], COMPANY):
        for place in (0, len(company) // 2, len(company)):
            rows = [*company[:place], row, *company[place:]]
            got = pools.scores(folder, rows, batch_tokens=256)[place]
            assert abs(got - wanted[4]) <= 1e-5 * np.abs(wanted).max()


def out_of_memory_over(
    engine: Engine, tokens: int, error: type[BaseException] = torch.OutOfMemoryError
) -> list[int]:
    """Make `engine` run out of memory for more tokens than that; the sizes that ran."""
    ran: list[int] = []
    of_stream, of_batch = engine._forward, engine._batch

    def forward(rows: TokenRows, stream: Any) -> Any:
        if len(stream) > tokens:
            raise error("CUDA out of memory, as a test would have it")
        ran.append(len(stream))
        return of_stream(rows, stream)

    def batch(rows: TokenRows, which: Any) -> Any:
        size = len(which) * int(rows.lengths[which].max())
        if size > tokens:
            raise error("CUDA out of memory, as a test would have it")
        ran.append(size)
        return of_batch(rows, which)

    engine._forward, engine._batch = forward, batch  # type: ignore[method-assign]
    return ran


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
@pytest.mark.parametrize("share", ["auto", "off"])
@pytest.mark.parametrize("family", ["llama", "mistral", "bert", "dynamic-rope"])
def test_trap_13_running_out_of_memory_splits_and_learns(
    family: str, share: str, error: type[BaseException]
) -> None:
    scorer, folder = fresh(family, share_prefix=share), pools.reward(family)
    engine = scorer.engines[0]
    ran = out_of_memory_over(engine, 200, error)
    done = scorer.run(scorer.prepare(pools.batch(COMPANY)))
    pools.assert_close(done.columns["score"], pools.oracle(folder, COMPANY))
    assert done.counts["splits"] >= 1
    assert engine.splits == done.counts["splits"]
    assert engine.budget <= 200
    assert max(ran) <= 200
    again = scorer.run(scorer.prepare(pools.batch(COMPANY)))
    assert again.counts["splits"] == 0, "what was learned is kept"
    pools.assert_close(again.columns["score"], pools.oracle(folder, COMPANY))


def test_trap_13_work_that_was_planned_before_memory_ran_out() -> None:
    """Plans are made ahead: one of the old size is cut to what was learned since."""
    scorer, folder = fresh("llama"), pools.reward("llama")
    ahead = [scorer.prepare(pools.batch(COMPANY)), scorer.prepare(pools.batch(COMPANY[::-1]))]
    out_of_memory_over(scorer.engines[0], 200)
    wanted = pools.oracle(folder, COMPANY)
    pools.assert_close(scorer.run(ahead[0]).columns["score"], wanted)
    second = scorer.run(ahead[1])
    pools.assert_close(second.columns["score"], wanted[::-1])
    assert second.counts["splits"] == 0


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_13_one_row_that_does_not_fit(family: str) -> None:
    scorer = fresh(family)
    out_of_memory_over(scorer.engines[0], 90)
    with pytest.raises(
        OutOfDeviceMemory,
        match=r"one row of 1\d\d tokens does not fit into the memory of cpu\.\nHint: --max-length",
    ):
        scorer(pools.batch([("Hi", "short"), ("Hi", "long " * 20)]))


def test_trap_13_an_error_that_is_not_of_memory_comes_through() -> None:
    scorer = fresh("llama")

    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    scorer.engines[0]._forward = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes do not match"):
        scorer(pools.batch(pools.POOL))
    assert scorer.engines[0].splits == 0


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_13_invariant_does_not_shrink_in_silence(family: str) -> None:
    """A smaller budget is another shape and other bits: that is said, not done."""
    scorer = fresh(family, invariant=True, batch_tokens=512)
    out_of_memory_over(scorer.engines[0], 100)
    with pytest.raises(OutOfDeviceMemory, match=r"512 tokens .*\nHint: a smaller --batch-tokens"):
        scorer(pools.batch(COMPANY))


# -- 14: the head is float32
# ---------------------------------------------------------------------------------------------------------------


def test_trap_14_near_equal_candidates_do_not_tie() -> None:
    """A bfloat16 model: its own head gives ties, and the best of 64 would be decided by
    rounding.
    """
    folder = pools.reward("llama")
    rows = [("Which is best?", f"{'the same answer ' * 3}{i:02d}") for i in range(64)]
    scorer = RewardModel(model=folder, device="cpu", dtype="bfloat16")
    engine = scorer.engines[0]
    assert engine.model.dtype == torch.bfloat16
    with torch.no_grad():
        engine.model.score.weight.mul_(
            0.05
        )  # scores close together around 20, as reward models have them
        engine.head.body(engine.model)
    got = scorer(pools.batch(rows)) + 20.0
    tok = scorer.encoder.tokenizer
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.bfloat16
    ).eval()
    with torch.inference_mode():
        plain.score.weight.mul_(0.05)
        own = np.array(
            [
                plain(input_ids=torch.tensor([pools.ids_of(tok, *row)]))
                .logits[0, 0]
                .add(20)
                .float()
                .item()
                for row in rows
            ]
        )
    assert len(set(own.tolist())) < 10, "the bfloat16 head ties, or this tests nothing"
    assert len(set(got.tolist())) == len(rows)
    assert len(set(got.astype(np.float32).tolist())) > 32


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_trap_14_heads_of_encoders_are_float32_too(family: str) -> None:
    """Their heads are read by the model's own forward: the values have more bits than bfloat16
    has.
    """
    scorer = RewardModel(model=pools.reward(family), device="cpu", dtype="bfloat16")
    assert scorer.engines[0].model.dtype == torch.bfloat16
    got = torch.tensor(scorer(pools.batch([("Which?", f"answer {i}") for i in range(16)])))
    assert (got != got.to(torch.bfloat16).double()).sum() > 8


# -- 15: windows, soft-capping, sinks
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["s_aux", "alibi_bias", "position_bias"])
def test_trap_15_an_unknown_argument_of_attention_is_refused(form: str, name: str) -> None:
    [stream] = pack(TokenRows.of([[11, 12, 13]]), np.arange(1), 10)
    qkv = [torch.zeros(1, 2, 3, 8)] * 3
    with pytest.raises(CannotShare, match=f"its attention takes {name}"):
        FORMS[form](None, *qkv, prefmill_plan=StreamPlan(stream, CPU), **{name: torch.zeros(2)})


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        ("mistral", {"sliding_window": 400}),
        ("gemma2", {"attn_logit_softcapping": 50.0}),
        ("gemma2", {"sliding_window": 400}),
        ("gpt-oss", {"sliding_window": 400}),
    ],
)
def test_trap_15_windows_and_caps_matter_here(family: str, setting: dict[str, Any]) -> None:
    """The tests of all families hold because windows and caps are honoured, not because they make
    no difference.
    """
    with_it, without = (
        pools.oracle(pools.reward(family), pools.POOL),
        pools.oracle(pools.reward(family, **setting), pools.POOL),
    )
    assert np.abs(with_it - without).max() > 1e-3 * np.abs(with_it).max()
    pools.assert_close(pools.scores(pools.reward(family, **setting), pools.POOL), without)


def test_trap_15_sinks_matter_here() -> None:
    model, _ = pools.plain(pools.reward("gpt-oss"))
    before = pools.oracle(pools.reward("gpt-oss"), pools.POOL)
    sinks = [(name, value) for name, value in model.named_parameters() if name.endswith("sinks")]
    assert sinks
    kept = [value.detach().clone() for _, value in sinks]
    try:
        with torch.no_grad():
            for _, value in sinks:
                value.fill_(-1e4)
        assert np.abs(pools.oracle(pools.reward("gpt-oss"), pools.POOL) - before).max() > 1e-3
    finally:
        with torch.no_grad():
            for (_, value), old in zip(sinks, kept, strict=True):
                value.copy_(old)


# -- 16: what cannot share is found by measuring
# -------------------------------------------------------------------------------------------


def bidirectional(*, told: bool) -> Any:
    """A Llama that looks both ways; `told`: its attention layers say so."""
    tok = tiny.tokenizer()
    config = tiny_models.config("llama", tok)
    config.num_labels, config.is_causal = 1, False
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    for layer in model.model.layers:
        layer.self_attn.is_causal = not told
    return model


@pytest.mark.parametrize("told", [True, False])
def test_trap_16_a_llama_that_looks_both_ways_gets_batches(told: bool) -> None:
    """The name of the class says causal; the probe measures."""
    model = bidirectional(told=told)
    engine = Engine(model, RewardHead(), CPU)
    assert engine.way == "batches"
    assert "both ways" in engine.reason or "differ" in engine.reason
    rows = shared_rows()
    with torch.inference_mode():
        wanted = [
            model(input_ids=torch.from_numpy(rows.row(i).astype(np.int64))[None])
            .logits[0, 0]
            .item()
            for i in range(len(rows))
        ]
    pools.assert_close(engine.run(engine.plan(rows))[:, 0], np.array(wanted))
    causal = pools.scorer(pools.reward("llama")).engines[0]
    assert np.abs(causal.run(causal.plan(rows))[:, 0] - wanted).max() > 1e-3, (
        "it does look both ways, or this tests nothing"
    )


def test_trap_16_a_model_that_ignores_positions_or_mixes_tokens_is_measured() -> None:
    """A layer that adds to each token something of the one before it in the stream: right for
    single rows, wrong for packed ones.
    """
    model = transformers.LlamaForSequenceClassification(
        pools.plain(pools.reward("llama"))[0].config
    ).eval()

    def shift(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        mixed = hidden + 0.5 * torch.nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    model.model.layers[0].register_forward_hook(shift)
    engine = Engine(model, RewardHead(), CPU)
    assert (engine.way, engine.reason) == ("batches", "packed rows and single rows differ")


@pytest.mark.parametrize("budget", [1, 12, 20])
def test_trap_16_the_probe_does_not_depend_on_the_budget(budget: int) -> None:
    """With few tokens a pass every row is alone in its stream, and everything looks as if it could
    share.
    """
    scorer = RewardModel(model=pools.reward("qwen3-next"), device="cpu", batch_tokens=budget)
    assert scorer.load() == "batches: packed rows and single rows differ"
    assert scorer.engines[0].budget == budget


# -- 17: numbers
# ---------------------------------------------------------------------------------------------------------------------------


def half_folder(target: Path, dtype: Any) -> Path:
    _, tok = pools.plain(pools.reward("llama"))
    transformers.LlamaForSequenceClassification.from_pretrained(
        pools.reward("llama"), dtype=dtype
    ).save_pretrained(target)
    tok.save_pretrained(target)
    assert json.loads((target / "config.json").read_text())["dtype"] == str(dtype).removeprefix(
        "torch."
    )
    return target


def test_trap_17_float32_on_a_cpu_whatever_the_checkpoint_is(tmp_path: Path) -> None:
    folder = half_folder(tmp_path, torch.bfloat16)
    scorer = RewardModel(model=folder, device="cpu")
    assert scorer.engines[0].model.dtype == torch.float32
    pools.assert_close(scorer(pools.batch(pools.POOL)), pools.oracle(folder, pools.POOL))
    for dtype in ("bfloat16", "float16", "float32"):
        other = RewardModel(model=folder, device="cpu", dtype=dtype)
        assert str(other.engines[0].model.dtype) == f"torch.{dtype}"
        assert (other.fingerprint == scorer.fingerprint) == (dtype == "float32")
    with pytest.raises(BadArgument, match=r"dtype is not one of .*got 'int8'"):
        RewardModel(model=folder, device="cpu", dtype="int8").load()  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "bert"])
def test_trap_17_half_precision_is_as_near_as_transformers_own(family: str, dtype: str) -> None:
    """The error against float32 is at most a quarter above that of Transformers' own half
    precision, one row at a time.
    """
    folder = pools.reward(family)
    exact = pools.oracle(folder, COMPANY)
    auto = transformers.AutoModelForSequenceClassification
    half = auto.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation="eager" if family == "gemma2" else None,
    ).eval()
    _, tok = pools.plain(folder)
    with torch.inference_mode():
        theirs = np.array(
            [
                half(input_ids=torch.tensor([pools.ids_of(tok, *row)])).logits[0, 0].item()
                for row in COMPANY
            ]
        )
    ours = pools.scores(folder, COMPANY, dtype=dtype)
    assert np.sqrt(((ours - exact) ** 2).mean()) <= 1.25 * np.sqrt(((theirs - exact) ** 2).mean())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_17_broken_weights_are_not_hidden(family: str, value: float, tmp_path: Path) -> None:
    model, tok = pools.plain(pools.reward(family))
    broken = type(model)(model.config)
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.get_input_embeddings().weight[tok.convert_tokens_to_ids("q")] = value
    broken.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    rows = [("Hi", "fine"), ("Hi", "a q in it"), ("Ho", "fine too")]
    got = RewardModel(model=tmp_path, device="cpu")(pools.batch(rows))
    assert np.isnan(got).tolist() == [False, True, False]
    pools.assert_close(got[[0, 2]], pools.oracle(pools.reward(family), [rows[0], rows[2]]))


# -- 18: the head's weights
# ----------------------------------------------------------------------------------------------------------------


def test_trap_18_a_missing_head_is_an_error() -> None:
    """Transformers would put a random one in its place, and warn."""
    with pytest.raises(
        BadInput,
        match=r"lack \['score\.weight'\]: the head would be random; expected all weights\.\nHint: this is not a reward model",
    ):
        RewardModel(model=pools.causal("llama"), device="cpu").load()


def test_trap_18_a_causal_model_without_its_projection_is_an_error(tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    with pytest.raises(BadInput, match=r"lack \['lm_head\.weight'\]: the head would be random"):
        LogProb(model=folder, device="cpu").load()


def test_trap_18_only_safetensors(tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    model, _ = pools.plain(pools.reward("llama"))
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"no safetensors weights in .*\nHint: convert them once"):
        RewardModel(model=folder, device="cpu").load()


def test_trap_18_openrlhf_normalisation_is_applied(tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "normalize_reward": True, "mean": 2.0, "std": 0.5})
    )
    got = RewardModel(model=folder, device="cpu")(pools.batch(pools.POOL))
    pools.assert_close(got, (pools.oracle(pools.reward("llama"), pools.POOL) - 2.0) / 0.5)
    for wrong in ({"mean": 2.0}, {"mean": 1.0, "std": 0.0}, {"mean": None, "std": 1.0}):
        (folder / "config.json").write_text(
            json.dumps({**config, "normalize_reward": True, **wrong})
        )
        with pytest.raises(BadInput, match=r"normalize_reward .*mean and .*std"):
            RewardModel(model=folder, device="cpu").load()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "no model in .*: no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json' is not a valid JSON file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 100), "cannot load .*model"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "no usable tokenizer"),
    ],
)
def test_trap_18_a_damaged_folder_is_told_as_such(damage: Any, says: str, tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    damage(folder)
    with pytest.raises(BadInput, match=says):
        RewardModel(model=folder, device="cpu")(pools.batch(pools.POOL))


def test_trap_18_no_such_folder() -> None:
    with pytest.raises(BadInput, match=r"no directory '\./nowhere'"):
        RewardModel(model="./nowhere", device="cpu").load()


# -- 19: code of strangers, and the check of the first chunk
# -------------------------------------------------------------------------------


def test_trap_19_code_in_the_folder_is_not_run_unasked(tmp_path: Path) -> None:
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "strange"
    config["auto_map"] = {
        "AutoConfig": "strange.StrangeConfig",
        "AutoModelForSequenceClassification": "strange.StrangeModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "strange.py").write_text("raise SystemExit('code of a stranger was run')\n")
    for use in (lambda s: s.load(), lambda s: s(pools.batch(pools.POOL))):
        with pytest.raises(BadInput, match=r"(?s)custom code.*Hint: --trust-remote-code"):
            use(RewardModel(model=folder, device="cpu"))


@pytest.mark.parametrize("share", ["auto", "off"])
def test_trap_19_the_first_chunk_is_checked(share: str) -> None:
    """Attention that goes wrong only for longer rows than the probe's: nothing comes out of it."""
    scorer = fresh("llama", share_prefix=share)

    def broken(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
        out, _ = attention.segments(module, query, key, value, mask, **more)
        out[:, 60:] *= 1.05
        return out, None

    transformers.AttentionInterface.register("prefmill_broken", broken)
    scorer.engines[0].ours = "prefmill_broken"
    with pytest.raises(
        ScoresDiffer,
        match=r"packed and single scores differ; got .* expected the same but for rounding\.\nHint: ",
    ):
        scorer(pools.batch(pools.POOL))
    with pytest.raises(ScoresDiffer):
        scorer(pools.batch(pools.POOL))
    scorer.engines[0].ours = attention.SEGMENTS
    pools.assert_close(
        scorer(pools.batch(pools.POOL)), pools.oracle(pools.reward("llama"), pools.POOL)
    )


# -- 20: order, fan-out, empties, long rows
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "bert", "dynamic-rope"])
def test_trap_20_order_duplicates_and_empties(family: str) -> None:
    folder = pools.reward(family)
    rows = [*pools.POOL, *pools.POOL[::-1], *pools.POOL[:5]]
    scorer = pools.scorer(folder)
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    got = done.columns["score"]
    assert (got[:12] == got[12:24][::-1]).all()
    assert (got[:5] == got[24:]).all()
    distinct = len(set(pools.POOL))
    assert done.counts["duplicates"] == len(rows) - distinct
    assert done.counts["tokens_run"] <= sum(
        len(pools.ids_of(scorer.encoder.tokenizer, *row)) for row in set(pools.POOL)
    )
    shuffled = np.random.default_rng(0).permutation(len(rows))
    pools.assert_close(scorer(pools.batch([rows[i] for i in shuffled])), got[shuffled])


def test_trap_20_no_rows_at_all() -> None:
    scorer = pools.scorer(pools.reward("llama"))
    done = scorer.run(scorer.prepare(pools.batch([])))
    assert done.columns["score"].shape == (0,)
    assert done.null is None


def test_trap_20_null_text_is_an_error_with_its_row() -> None:
    import pyarrow as pa

    scorer = pools.scorer(pools.reward("llama"))
    for prompt, completion, row, column in (
        (["a", None], ["b", "c"], 1, "prompt"),
        (["a"], pa.array([None], pa.string()), 0, "completion"),
    ):
        with pytest.raises(BadInput, match=f"row {row} has no {column}"):
            scorer.prepare(pa.record_batch({"prompt": prompt, "completion": completion}))


def test_trap_20_messages_and_texts_give_the_same_ids() -> None:
    """A text is one message; ShareGPT's words are read; arrow makes missing keys null."""
    import pyarrow as pa

    scorer = pools.scorer(pools.reward("llama"))
    prompts = [[{"from": "human", "value": "Hi"}], [{"from": "human", "value": "Ho"}]]
    lists = pa.record_batch(
        {
            "prompt": prompts,
            "completion": [[{"from": "gpt", "value": "Yo"}], [{"from": "gpt", "value": ""}]],
        }
    )
    texts = pa.record_batch({"prompt": ["Hi", "Ho"], "completion": ["Yo", ""]})
    a, b = scorer.prepare(lists).encoded.rows, scorer.prepare(texts).encoded.rows
    assert a.ids.tolist() == b.ids.tolist()
    with pytest.raises(BadInput, match="row 0 has a message 1 without a role"):
        scorer.prepare(pa.record_batch({"prompt": [[{"content": "Hi"}]], "completion": ["Yo"]}))


def test_trap_20_a_row_of_20_thousand_tokens() -> None:
    folder = pools.reward(
        "llama",
        max_position_embeddings=32768,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    rows = [("Hi", "short"), ("Hi", "abc " * 5000), ("Hi", "abd")]
    scorer = RewardModel(model=folder, device="cpu")
    done = scorer.run(scorer.prepare(pools.batch(rows)))
    assert done.counts["tokens"] > 20_000
    pools.assert_close(done.columns["score"], pools.oracle(folder, rows))


# -- 22: many lengths in one process
# -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("form", ["segments", "blockmask"])
def test_trap_22_many_lengths_in_one_process(form: str) -> None:
    scorer, folder = fresh("llama"), pools.reward("llama")
    scorer.engines[0].ours = f"prefmill_{form}"
    rows = [("Hi", "abcdefg hijklmnop "[i % 18] * i) for i in range(70)]
    wanted = pools.oracle(folder, rows)
    streams = set()
    for i in range(70):
        prepared = scorer.prepare(pools.batch(rows[i : i + 1]))
        streams |= {len(stream) for stream in prepared.works[0].streams}
        pools.assert_close(
            scorer.run(prepared).columns["score"], wanted[[i]], f"length {i}", pool=wanted
        )
    assert len(streams) == 70


def test_nothing_warns() -> None:
    """Loading and scoring say nothing that a user would have to read."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for family in ("llama", "gemma2", "bert"):
            fresh(family)(pools.batch(pools.POOL))
