"""The traps of tokens: templates, begins, seams, and rows that are too long."""

from __future__ import annotations

import json
import shutil
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
from prefmill.scoring import RewardModel  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

# -- 6, 7: BOS and the tail of templates

# After the templates of these families, in short; every marker is one token.
TEMPLATES = {
    "llama-3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] "
        "}}<|end_header_id|>\n\n{{ m['content'] | trim }}"
        "<|eot_id|>{% endfor %}{% if add_generation_prompt "
        "%}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == "
        "'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt "
        "%}<start_of_turn>model\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] "
        "}}[/INST]"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "qwen": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% "
        "endfor %}"
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
    "gemma": "<bos> <start_of_turn> u s e r \n H i <end_of_turn> \n <start_of_turn> m o d e l \n Y "
    "o <end_of_turn> \n",
    "mistral": "<bos> [INST] _ H i [/INST] _ Y o <eos>",
    "qwen": "<|im_start|> u s e r \n H i <|im_end|> \n <|im_start|> a s s i s t a n t \n Y o "
    "<|im_end|> \n",
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
    from prefmill.models.encoder import Encoder

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
        match=r"row 1 begins with two BOS tokens \('<bos>'\) by template 'chat'; expected "
        r"one\.\nHint: take bos_token out",
    ):
        encoded(tok, [("fine", "yes"), ("<bos>rendered before", "yes")])


def test_trap_06_a_second_bos_by_the_tokenizer_is_an_error_too() -> None:
    """Text that a template made already, and a tokenizer that adds BOS: the commonest way to score
    in silence with two.
    """
    with pytest.raises(
        BadInput,
        match=r"row 0 begins with two BOS tokens \('<bos>'\) by template 'concat'; expected "
        r"one\.\nHint: ",
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

LONG = [("Hi", "short"), ("Hi", "long " * 20), ("Other", "fits"), ("Hi", "longer " * 20)]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trap_08_a_row_that_is_too_long_is_an_error_with_its_number(family: str) -> None:
    scorer = RewardModel(model=pools.reward(family), device="cpu", max_length=40)
    with pytest.raises(
        BadRow,
        match=r"score: row 1 is too long; got 106 tokens, expected at most 40\.\nHint: "
        r"--on-too-long",
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
