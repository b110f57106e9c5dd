"""Reward models with code of their own, rebuilt small: gates, heads of several layers, outputs of
every form. The oracle is their own class, called as its card says, one row at a time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pools
import pytest
import tiny
import torch
from command import prefmill

from prefmill.errors import BadRow
from prefmill.scoring import RewardModel

pytestmark = pytest.mark.score
pools.one_thread()

HEAD = """
import torch
from torch import nn
from transformers import LlamaModel, LlamaPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import ModelOutput

def last(mask):
    return mask.cumsum(dim=1).argmax(dim=1)

class Base(LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.make(config.hidden_size)
        self.post_init()

    def states(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
"""

# An MLP over the last token, the first of a tuple (GRM).
GRM = """
class Own(Base):
    def make(self, size):
        self.v_head = nn.Sequential(nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, input_ids=None, attention_mask=None, **more):
        values = self.v_head(self.states(input_ids, attention_mask)).squeeze(-1)
        return (values.gather(1, last(attention_mask)[:, None])[:, 0],)
"""

# A tensor of one column (Eurus, UltraRM); its mask is needed.
EURUS = """
class Own(Base):
    def make(self, size):
        self.regression_head = nn.Linear(size, 1, bias=False)

    def forward(self, input_ids=None, attention_mask=None, **more):
        rewards = self.regression_head(self.states(input_ids, attention_mask)).squeeze(-1)
        return torch.gather(rewards, 1, last(attention_mask)[:, None])
"""

# The state at the last mark that the template ends in, in a plain dict (Athene).
ATHENE = """
class Own(Base):
    def make(self, size):
        self.v_head = nn.Linear(size, 1, bias=False)

    def forward(self, input_ids=None, attention_mask=None, **more):
        rewards = self.v_head(self.states(input_ids, attention_mask)).squeeze(-1)
        places = [(row == self.config.mark_id).nonzero()[-1].item() for row in input_ids]
        return {"scores": rewards[torch.arange(len(places)), places]}
"""

# A gate over the state where the prompt ends, found by a pattern of tokens (ArmoRM, QRM).
GATED = """
from dataclasses import dataclass
from typing import Optional

@dataclass
class Output(ModelOutput):
    rewards: Optional[torch.Tensor] = None
    score: Optional[torch.Tensor] = None

class Own(Base):
    def make(self, size):
        self.regression_layer = nn.Linear(size, 5, bias=False)
        self.gating = nn.Linear(size, 5)

    def forward(self, input_ids=None, attention_mask=None, **more):
        hidden = self.states(input_ids, attention_mask)
        lengths = torch.eq(input_ids, self.config.pad_token_id).int().argmax(-1) - 1
        rows = torch.arange(len(input_ids))
        rewards = self.regression_layer(hidden[rows, lengths % input_ids.shape[-1]].float())
        places = []
        for row in input_ids.tolist():
            found = [j for j in range(len(row) - 2, -1, -1) if row[j:j + 2] == self.config.pattern]
            if not found:
                raise ValueError("Token pattern not found in the list.")
            places.append(found[0])
        weights = self.gating(hidden[rows, places].float()).softmax(dim=1)
        return Output(rewards=rewards, score=(weights * rewards).sum(dim=1))
"""

# Its own token ends every row, which get_score adds (InternLM2).
INTERNLM2 = """
class Own(Base):
    def make(self, size):
        self.v_head = nn.Linear(size, 1, bias=False)

    def forward(self, input_ids=None, attention_mask=None, **more):
        values = self.v_head(self.states(input_ids, attention_mask)).squeeze(-1)
        scores = torch.gather(values, 1, last(attention_mask)[:, None])
        return SequenceClassifierOutputWithPast(logits=scores)

    def get_score(self, tokenizer, conversation):
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        if ids[0, -1] != self.config.reward_token_id:
            ids = torch.cat([ids, torch.tensor([[self.config.reward_token_id]])], dim=1)
        return self.forward(ids, torch.ones_like(ids)).logits.item()
"""


def coded(target: Path, code: str, auto: str = "AutoModel", **settings: Any) -> tuple[Path, Any]:
    """The folder of a random model of that code, and its own class on it."""
    import tiny_models

    tok = tiny.tokenizer()
    space: dict[str, Any] = {"__name__": __name__}
    exec(HEAD + code, space)
    config = tiny_models.config("llama", tok)
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(5)
    model = space["Own"](config).eval()
    model.save_pretrained(target)
    tok.save_pretrained(target)
    (target / "modeling_own.py").write_text(HEAD + code)
    told = json.loads((target / "config.json").read_text())
    told |= {"auto_map": {auto: "modeling_own.Own"}, "architectures": ["Own"]}
    (target / "config.json").write_text(json.dumps(told))
    return target, model


def own_scores(model: Any, read: Any, tail: str = "") -> np.ndarray:
    """What the model itself says of each row of the pool, alone."""
    tok, scores = tiny.tokenizer(), []
    tail_ids = tok(tail, add_special_tokens=False)["input_ids"] if tail else []
    with torch.inference_mode():
        for row in pools.POOL:
            ids = torch.tensor([[*pools.ids_of(tok, *row), *tail_ids]])
            scores.append(float(read(model(ids, torch.ones_like(ids)))))
    return np.array(scores)


def scored(folder: Path, **options: Any) -> np.ndarray:
    scorer = RewardModel(model=folder, device="cpu", trust_remote_code=True, **options)
    return scorer(pools.batch(pools.POOL))


@pytest.mark.parametrize("more", [{}, {"invariant": True}, {"batch_tokens": 64}])
@pytest.mark.parametrize(
    ("code", "auto", "read"),
    [
        (GRM, "AutoModelForSequenceClassification", lambda out: out[0]),
        (EURUS, "AutoModel", lambda out: out),
    ],
)
def test_heads_of_their_own(
    code: str, auto: str, read: Any, more: dict[str, Any], tmp_path: Path
) -> None:
    folder, model = coded(tmp_path / "model", code, auto)
    pools.assert_close(scored(folder, **more), own_scores(model, read))


def test_a_mark_at_the_end_comes_by_a_template(tmp_path: Path) -> None:
    """As Athene's card adds it to the text."""
    tok = tiny.tokenizer()
    mark = tok.convert_tokens_to_ids("<|system|>")
    folder, model = coded(tmp_path / "model", ATHENE, mark_id=mark)
    template = tmp_path / "athene.jinja"
    template.write_text(tiny.CHAT_TEMPLATE + "<|system|>")
    wanted = own_scores(model, lambda out: out["scores"], "<|system|>")
    pools.assert_close(scored(folder, template=str(template)), wanted)
    with pytest.raises(BadRow, match="breaks Own; IndexError"):
        scored(folder)


@pytest.mark.parametrize("more", [{}, {"invariant": True}, {"batch_tokens": 64}])
def test_a_gate_that_reads_the_ids(more: dict[str, Any], tmp_path: Path) -> None:
    """It refuses made-up rows; a real conversation says how many scores there are."""
    tok = tiny.tokenizer()
    pattern = [tok.eos_token_id, tok.convert_tokens_to_ids("<|assistant|>")]
    auto = "AutoModelForSequenceClassification"
    folder, model = coded(tmp_path / "model", GATED, auto, pattern=pattern)
    pools.assert_close(scored(folder, **more), own_scores(model, lambda out: out.score))


@pytest.mark.parametrize("template", ["chat", "ends"])
def test_a_token_that_get_score_adds(template: str, tmp_path: Path) -> None:
    """Added once, as the owner does, and known to the fingerprint."""
    tok = tiny.tokenizer()
    token = tok.convert_tokens_to_ids("<|system|>")
    if template == "ends":
        token = tok.eos_token_id
    folder, model = coded(tmp_path / "model", INTERNLM2, reward_token_id=token)
    talks = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        for prompt, completion in pools.POOL
    ]
    with torch.inference_mode():
        wanted = np.array([model.get_score(tok, talk) for talk in talks])
    pools.assert_close(scored(folder), wanted)
    scorer = RewardModel(model=folder, device="cpu", trust_remote_code=True)
    assert scorer.fingerprint["last_token"] == str(token)


def test_code_with_a_linear_head_that_wants_a_template(tmp_path: Path) -> None:
    """A head that could be streamed, behind code that made-up rows break: rows run in batches."""
    code = """
class Own(Base):
    def make(self, size):
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, input_ids=None, attention_mask=None, **more):
        if not (input_ids == self.config.eos_token_id).any(dim=1).all():
            raise ValueError("no end")
        logits = self.score(self.states(input_ids, attention_mask))
        rows = torch.arange(len(input_ids))
        return SequenceClassifierOutputWithPast(logits=2 * logits[rows, last(attention_mask)])
"""
    folder, model = coded(tmp_path / "model", code, "AutoModelForSequenceClassification")
    scorer = RewardModel(model=folder, device="cpu", trust_remote_code=True)
    wanted = own_scores(model, lambda out: out.logits)
    pools.assert_close(scorer(pools.batch(pools.POOL)), wanted)
    assert scorer.load() == "batches: its own code does not run on made-up rows"


def test_through_the_command(tmp_path: Path) -> None:
    folder, _ = coded(tmp_path / "model", GRM, "AutoModelForSequenceClassification")
    rows = [row for row in dict.fromkeys(pools.POOL) if all(row)]
    frame = pl.DataFrame(rows, schema=["prompt", "completion"], orient="row")
    frame.write_parquet(tmp_path / "pool.parquet")
    out = tmp_path / "scored.parquet"
    command = ("score", tmp_path / "pool.parquet", "-o", out, "--model", folder, "--device", "cpu")
    done = prefmill(*command, models=True)
    assert done.returncode == 1
    assert "names custom code for AutoModelForSequenceClassification" in done.stderr
    done = prefmill(*command, "--trust-remote-code", models=True)
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(out)["score"].null_count() == 0
