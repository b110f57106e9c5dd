"""Chat templates: rendered as Transformers renders them, on one date for a whole run, and never for
ever.
"""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pools
import pyarrow.parquet as pq
import pytest
import tiny
import tiny_models

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, BadRow, RunDiffers
from prefmill.models import templates
from prefmill.models.templates import ChatTemplate
from prefmill.sampling import LocalSampler
from prefmill.scoring import Ensemble, JudgeScorer, RewardModel

pools.one_thread()

DATED = "{{ strftime_now('%d %b %Y') }}" + tiny.CHAT_TEMPLATE
POOL = pl.DataFrame({"prompt": list("ppqrstu"), "completion": list("abcdefg")})


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose template prints the date of today."""
    tok = tiny.tokenizer()
    tok.chat_template = DATED
    return tiny_models.save_reward_model("llama", tmp_path_factory.mktemp("dated"), tok=tok)


def on(monkeypatch: pytest.MonkeyPatch, day: str) -> None:
    monkeypatch.setattr(templates, "today", lambda: datetime.date.fromisoformat(day))


def scores(folder: Path, **settings: Any) -> list[float]:
    return RewardModel(model=folder, device="cpu", **settings)(
        pools.batch(list(POOL.iter_rows()))
    ).tolist()


def test_the_date_is_in_the_text_and_can_be_set(dated: Path) -> None:
    one, two = scores(dated, template_date="2024-01-01"), scores(dated, template_date="2026-11-28")
    assert one == scores(dated, template_date="2024-01-01") != two
    encoder = RewardModel(model=dated, device="cpu", template_date="2026-11-28").encoder
    text = encoder.tokenizer.decode(encoder.prompts(["p"])[0])
    assert text == "28 Nov 2026<|user|>p<eos><|assistant|>"
    with pytest.raises(
        BadArgument, match="template_date is no date; got 'today', expected YYYY-MM-DD"
    ):
        scores(dated, template_date="today")


def test_a_run_has_one_date(dated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped on one day and gone on with the next, it mixed the two under one fingerprint."""
    out = tmp_path / "out.parquet"
    on(monkeypatch, "2026-11-28")
    wanted = scores(dated)
    ran = RewardModel.start

    def failing(self: RewardModel, prepared: Any) -> Any:
        if any(out.with_name(".out.parquet.prefmill").glob("*.arrow")):
            raise KeyboardInterrupt
        return ran(self, prepared)

    monkeypatch.setattr(RewardModel, "start", failing)
    with pytest.raises(KeyboardInterrupt):
        pm.score(POOL, out, scorer=RewardModel(model=dated, device="cpu"), chunk_rows=1)
    monkeypatch.setattr(RewardModel, "start", ran)
    on(monkeypatch, "2026-11-29")
    done = pm.score(POOL, out, scorer=RewardModel(model=dated, device="cpu"), chunk_rows=1)
    assert 1 <= done.chunks_resumed < 6
    np.testing.assert_allclose(pq.read_table(out)["score"].to_numpy(), wanted, rtol=1e-5)
    assert (done.template_date, done.as_json()["template_date"]) == ("2026-11-28", "2026-11-28")
    again = pm.score(POOL, out, scorer=RewardModel(model=dated, device="cpu"), chunk_rows=1)
    assert (again.chunks_resumed, again.template_date) == (6, "2026-11-28")
    with pytest.raises(
        RunDiffers, match=r"another scorer\.template_date; got 2026-11-29, expected 2026-11-28"
    ):
        pm.score(
            POOL, out, scorer=RewardModel(model=dated, device="cpu", template_date="2026-11-29")
        )
    anew = pm.score(POOL, out, scorer=RewardModel(model=dated, device="cpu"), overwrite=True)
    assert anew.template_date == "2026-11-29"
    assert not np.allclose(pq.read_table(out)["score"].to_numpy(), wanted, rtol=1e-5)


def test_samples_have_one_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(pools.causal("llama"), tmp_path / "model")
    tok = tiny.tokenizer()
    tok.chat_template = DATED
    tok.save_pretrained(folder)
    out = tmp_path / "out.parquet"
    on(monkeypatch, "2026-11-28")
    one = pm.sample(
        POOL, out, sampler=LocalSampler(model=folder, device="cpu", max_new_tokens=2), n=1
    )
    on(monkeypatch, "2026-11-29")
    two = pm.sample(
        POOL, out, sampler=LocalSampler(model=folder, device="cpu", max_new_tokens=2), n=1
    )
    assert (one.template_date, two.template_date, two.chunks_resumed) == (
        "2026-11-28",
        "2026-11-28",
        one.chunks,
    )
    sampler = LocalSampler(model=folder, device="cpu", max_new_tokens=2)
    for part in (
        JudgeScorer(sampler=sampler),
        Ensemble(scorers={"a": JudgeScorer(sampler=sampler)}),
    ):
        assert part.printed_date == "2026-11-29"
        assert part.on_date("2024-02-29").printed_date == "2024-02-29"


def test_a_template_without_a_date_has_none(tmp_path: Path) -> None:
    folder = pools.reward("llama")
    done = pm.score(
        POOL,
        tmp_path / "out.parquet",
        scorer=RewardModel(model=folder, device="cpu", template_date="2024-01-01"),
    )
    assert done.template_date is None
    fingerprint = RewardModel(model=folder, device="cpu").fingerprint
    assert (
        fingerprint
        == RewardModel(model=folder, device="cpu", template_date="2024-01-01").fingerprint
    )


def test_a_loop_has_one_date(dated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every stage, and on the day after, when it goes on."""
    from prefmill.loops.folder import VERSION, begun_on
    from prefmill.loops.parts import Parts

    on(monkeypatch, "2026-11-29")
    given = {"score": RewardModel(model=dated, device="cpu"), "second": None}
    recipe: Any = SimpleNamespace(score=None, second=None)
    scorer = Parts(recipe, "2026-11-28", given).scorer("score")
    assert (scorer.printed_date, scorer.fingerprint["template_date"]) == (
        "2026-11-28",
        "2026-11-28",
    )
    decides = {"inputs": {"prompts": "x", "score": dict(scorer.fingerprint)}}
    (tmp_path / "state.json").write_text(
        json.dumps({"version": VERSION, "decides": decides, "steps": {}})
    )
    assert begun_on(tmp_path) == "2026-11-28"
    assert begun_on(tmp_path / "none") is None


# -- rendered as Transformers renders

TALKS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "a\n b "},
        {"role": "assistant", "content": " c"},
    ],
    [
        {"role": "user", "content": "w"},
        {"role": "assistant", "content": "x", "thinking": "t"},
        {"role": "user", "content": "y"},
    ],
    [
        {"role": "user", "content": "w"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1}}}],
        },
    ],
]
TEMPLATES = [
    tiny.CHAT_TEMPLATE,
    "{{ bos_token }}{%- for m in messages %}\n  {%- if loop.first and m.role == 'system' %}{% "
    "continue %}{% endif %}"
    "[{{ m.content | trim }}]\n{%- endfor %}{% if add_generation_prompt %}>{% endif %}",
    "{% for m in messages %}{{ m | tojson(indent=1) }}{% if m.reasoning_content is defined %}"
    "<{{ m.reasoning_content }}>{% endif %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 2 ** 3 * 2 %}"
    "{{ '-' * ns.n }}{{ (ns.n / 3) | round(2) }}{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}{{ "
    "tools is none }}{{ dict(a=1) }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_texts_are_those_of_transformers(template: str) -> None:
    tok = tiny.tokenizer()
    tok.chat_template = template
    for open_end in (False, True):
        wanted = [
            tok.apply_chat_template(talk, tokenize=False, add_generation_prompt=open_end)
            for talk in TALKS
            if talk[-1]["role"] == "user"
        ]
        assert (
            ChatTemplate(tok).render(
                [talk for talk in TALKS if talk[-1]["role"] == "user"], open_end=open_end
            )
            == wanted
        )
    assert ChatTemplate(tok).render(TALKS) == tok.apply_chat_template(TALKS, tokenize=False)


def test_a_tokenizer_with_several_templates_uses_its_default() -> None:
    tok = tiny.tokenizer()
    tok.chat_template = {"default": tiny.CHAT_TEMPLATE, "tool_use": "{{ 1 }}"}
    assert ChatTemplate(tok).render(TALKS[:1]) == tok.apply_chat_template(TALKS[:1], tokenize=False)


# -- never for ever

NESTED = "".join(f"{{% for {name} in range(99999) %}}" for name in "abcd") + "{% endfor %}" * 4
HANGING = [
    NESTED,
    "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% "
    "endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% if messages | length > 1 %}" + NESTED + "{% endif %}x",  # only for some conversations
]
HUGE = [
    "{{ 9 ** 999999999 }}",
    "{% set x = 10 ** (10 ** 9) %}",
    "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{{ 'x' * 10 ** 12 }}",
    "{{ [0] * 999999999999 }}",
    "{{ 1 | round(999999999, 'ceil') }}",
    "{{ messages | random }}",
]


@pytest.mark.parametrize("template", HANGING)
def test_a_template_that_loops_is_refused(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In scoring, sampling and training; the thread that looped is gone."""
    import threading

    monkeypatch.setattr(templates, "SECONDS", 0.3)
    folder = shutil.copytree(pools.causal("llama"), tmp_path / "model")
    tok = tiny.tokenizer()
    tok.chat_template = template
    tok.save_pretrained(folder)
    prompts = pl.DataFrame({"prompt": [[{"role": "user", "content": "a"}] * 2]})
    with pytest.raises(
        BadInput, match=r"(?s)chat template does not end; got 0\.3 seconds.*Hint: --template FILE"
    ):
        pm.sample(
            prompts,
            tmp_path / "out.parquet",
            sampler=LocalSampler(model=folder, device="cpu", max_new_tokens=1),
        )
    assert not [thread for thread in threading.enumerate() if thread.name == "prefmill-template"]


@pytest.mark.parametrize("template", HUGE)
def test_a_template_that_makes_what_is_huge_is_refused_at_once(template: str) -> None:
    """In one step that no other thread could interrupt, also when it is folded while the template
    is compiled.
    """
    tok = tiny.tokenizer()
    tok.chat_template = template
    with pytest.raises(BadRow, match=r"refused by the chat template; (OverflowError|ValueError)"):
        ChatTemplate(tok).render(TALKS[:1])


def test_conversations_that_a_template_refuses_are_named() -> None:
    tok = tiny.tokenizer()
    tok.chat_template = (
        "{% for m in messages %}{% if m.content == 'b' %}{{ raise_exception('no "
        "b') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(
        BadRow, match="row 1 is refused by the chat template; TemplateError: no b"
    ) as caught:
        ChatTemplate(tok).render([[{"role": "user", "content": text}] for text in "abcb"])
    assert [bad.row for bad in caught.value.found] == [1, 3]
