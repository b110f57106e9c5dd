"""A stand-in for vLLM: its names, signatures and refusals as of 0.33, over Transformers on a CPU.

Written from vLLM's documentation and signatures; none of its code runs here.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

#: of `EngineArgs`, besides those that `LLM` names
_ENGINE_ARGS = frozenset(
    {"max_model_len", "logprobs_mode", "max_logprobs", "enable_prefix_caching", "max_num_seqs"}
)


@dataclass(kw_only=True)
class SamplingParams:
    """Those fields that we may set; vLLM has more."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ValueError("seed out of range")


@dataclass(kw_only=True)
class PoolingParams:
    """Those fields that we may set."""

    use_activation: bool | None = None
    dimensions: int | None = None
    task: str | None = None


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]


@dataclass
class PoolingOutput:
    data: torch.Tensor


@dataclass
class PoolingRequestOutput:
    request_id: str
    outputs: PoolingOutput
    prompt_token_ids: list[int]


class LLM:
    """`made` lists every engine; `calls` what each was asked."""

    made: list[LLM] = []  # noqa: RUF012
    #: what an engine does to classes' scores whatever it is told, for tests of parity
    activation: bool | None = None

    def __init__(
        self,
        model: str,
        *,
        runner: str = "auto",
        convert: str = "auto",
        tokenizer: str | None = None,
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            if name not in _ENGINE_ARGS:
                raise TypeError(f"EngineArgs.__init__() got an unexpected argument {name!r}")
        from transformers import (
            AutoModelForCausalLM,
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )

        kind = {"generate": AutoModelForCausalLM, "pooling": AutoModelForSequenceClassification}
        self.runner, self.tok = runner, AutoTokenizer.from_pretrained(model)
        self.model = kind[runner].from_pretrained(model, dtype=torch.float32).eval()
        own = int(self.model.config.max_position_embeddings)
        longest = kwargs.get("max_model_len", own)
        if longest > own:
            raise ValueError(f"User-specified max_model_len ({longest}) is greater than {own}.")
        self.model_config = types.SimpleNamespace(max_model_len=longest)
        self.arguments = {"tensor_parallel_size": tensor_parallel_size, "dtype": dtype, **kwargs}
        self.calls: list[tuple[int, Any]] = []
        LLM.made.append(self)

    def _ids(self, prompts: Any) -> list[list[int]]:
        rows = [prompt["prompt_token_ids"] for prompt in prompts]
        for row in rows:
            if not row or len(row) > self.model_config.max_model_len:
                raise ValueError(f"The prompt has {len(row)} tokens.")
            if max(row) >= self.model.config.vocab_size:
                raise ValueError("Token id is out of vocabulary")
        return rows

    def generate(
        self, prompts: Any, sampling_params: Any = None, *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        assert self.runner == "generate"
        rows = self._ids(prompts)
        assert len(rows) == len(sampling_params)
        self.calls.append((len(rows), sampling_params))
        pairs = enumerate(zip(rows, sampling_params, strict=True))
        return [
            RequestOutput(str(number), None, row, [self._complete(row, params)])
            for number, (row, params) in pairs
        ]

    def _complete(self, row: list[int], params: SamplingParams) -> CompletionOutput:
        draws = torch.Generator().manual_seed(params.seed or 0)
        ends = {self.tok.eos_token_id, *(params.stop_token_ids or ())}
        stops = [params.stop] if isinstance(params.stop, str) else params.stop or []
        made: list[int] = []
        told: list[dict[int, Logprob]] = []
        text, reason, why = "", "length", None
        room = self.model_config.max_model_len - len(row)
        while len(made) < min(params.max_tokens or 16, room):
            with torch.inference_mode():
                logits = self.model(torch.tensor([row + made])).logits[0, -1].double()
            logprobs = logits.log_softmax(-1)
            if params.temperature == 0:
                token = int(logits.argmax())
            else:
                weights = (logits / params.temperature).softmax(-1)
                token = int(torch.multinomial(weights, 1, generator=draws))
            made.append(token)
            top = logprobs.topk(params.logprobs or 1).indices.tolist() if params.logprobs else []
            told.append({each: Logprob(float(logprobs[each])) for each in {*top, token}})
            if token in ends:
                reason, why = "stop", None if token == self.tok.eos_token_id else token
                break
            if params.detokenize:
                text = self.tok.decode(made, skip_special_tokens=params.skip_special_tokens)
                found = next((stop for stop in stops if stop in text), None)
                if found is not None:
                    text, reason, why = text[: text.index(found)], "stop", found
                    break
        total = sum(step[token].logprob for step, token in zip(told, made, strict=True))
        known = None if params.logprobs is None else told
        return CompletionOutput(0, text, tuple(made), total, known, reason, why)

    def encode(
        self,
        prompts: Any,
        pooling_params: Any = None,
        *,
        use_tqdm: bool = True,
        pooling_task: str | None = None,
    ) -> list[PoolingRequestOutput]:
        if self.runner != "pooling" or pooling_task != "classify":
            raise ValueError("pooling_task required for `LLM.encode`.")
        rows = self._ids(prompts)
        self.calls.append((len(rows), pooling_params))
        squash = pooling_params is None or pooling_params.use_activation in (None, True)
        squash = squash if LLM.activation is None else LLM.activation
        outputs = []
        for number, row in enumerate(rows):
            with torch.inference_mode():
                base = self.model.base_model(torch.tensor([row])).last_hidden_state
                logits = self.model.score(base[0, -1]).float()
            if squash:
                logits = logits.sigmoid() if len(logits) == 1 else logits.softmax(-1)
            outputs.append(PoolingRequestOutput(str(number), PoolingOutput(logits), row))
        return outputs


@contextmanager
def installed() -> Iterator[type[LLM]]:
    """`import vllm` finds this one in here."""
    module: Any = types.ModuleType("vllm")
    module.LLM, module.SamplingParams, module.PoolingParams = LLM, SamplingParams, PoolingParams
    before = sys.modules.get("vllm")
    sys.modules["vllm"] = module
    LLM.made.clear()
    try:
        yield LLM
    finally:
        LLM.activation = None
        del sys.modules["vllm"]
        if before is not None:
            sys.modules["vllm"] = before
