"""vLLM in this process as a sampler: `VllmSampler`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefmill.errors import BadArgument
from prefmill.models.vllm_engine import (
    InVllm,
    engine_problems,
    engine_text,
    longest_of,
    open_engine,
    tokens_prompts,
)
from prefmill.sampling.local import LocalSampler
from prefmill.sampling.samplers import Answer, Reply, Request, Token

#: how answers follow from vLLM's outputs; another number is another answer
_RULE = "1"
#: what vLLM decides for itself
_NOT_OURS = frozenset({"device", "batch_tokens", "threads"})


@dataclass(frozen=True, kw_only=True)
class VllmSampler(InVllm, LocalSampler):
    """A causal language model in vLLM, inside this process: many GPUs, many prompts at a time.

    Args:
        model, revision, top_p, max_new_tokens, stop, template, template_date, on_too_long,
            trust_remote_code: as of `LocalSampler`.
        dtype: `auto` is the checkpoint's, and bfloat16 or float16 for float32: vLLM's own rule.
        engine_args: further arguments of `vllm.LLM`, as
            `{"tensor_parallel_size": 2, "max_model_len": 8192}`.

    The ids are made here, by the same template. Seeds are ours and the draws are vLLM's: the same
    seed gives the same text as long as vLLM computes the same logits, which its batches may change
    in the last digits. End tokens, `logprob` (at temperature 1) and `n_tokens` are those of
    `LocalSampler`. Adapters must be merged into their model first.

    vLLM looks for shared prompts by itself; it is fastest with thousands of answers at a time
    (`chunk_rows`).

    >>> VllmSampler(model="org/policy", engine_args={"tensor_parallel_size": 2}).dtype
    'auto'
    """

    engine_args: Mapping[str, Any] = field(default_factory=dict)

    def _problems(self) -> list[str]:
        problems = super()._problems() + engine_problems(self.engine_args)
        for name, default in (("device", "auto"), ("batch_tokens", None), ("threads", None)):
            if getattr(self, name) != default:
                problems.append(f"{name} is vLLM's own business; got {getattr(self, name)!r}")
        return problems

    @classmethod
    def options(cls) -> frozenset[str]:
        """Those of a local sampler that are not vLLM's own business."""
        return super().options() - _NOT_OURS - {"base"}

    def _fingerprint(self) -> dict[str, str]:
        args = engine_text(self.engine_args)
        own = {"sampler": f"vllm:{_RULE}", "dtype": self.dtype, "engine_args": args}
        return {**super()._fingerprint(), **own}

    def load(self) -> str:
        """Load the engine."""
        _ = self.engine
        return "vllm"

    @property
    def engine(self) -> Any:
        """The loaded `vllm.LLM`, on first use."""
        return self._kept("engine", self._engine)

    def _engine(self) -> Any:
        # First: what is wrong with the folder is said in our words.
        self._check_vocabulary(self._config().get_text_config().vocab_size)
        if self._base() is not None:
            raise BadArgument(
                f"sample: vLLM takes no adapter here; got {str(self.model)!r}.",
                hint="merge it into its model (merge_and_unload of PEFT) and name that folder.",
            )
        return open_engine(
            self._folder(),
            "generate",
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            engine_args=self.engine_args,
            where="sample",
        )

    # Sampling

    def _limit(self) -> int | None:
        limits = [limit for limit in (super()._limit(), longest_of(self.engine)) if limit]
        return min(limits, default=None)

    def sample(self, requests: Sequence[Request], /) -> list[Answer]:
        """One answer for every request, in their order."""
        return [reply.answer for reply in self.replies(requests)]

    def replies(
        self, requests: Sequence[Request], /, *, top: int = 0, refusals: bool = False
    ) -> list[Reply]:
        """As `sample`, with the tokens of answers and the `top` likeliest in each place."""
        engine, ids = self.engine, self.ids_of(requests)
        replies = {row: Reply(answer) for row, answer in self._too_long(ids).items()}
        wanted = [row for row in range(len(requests)) if row not in replies]
        stops = self._stops()
        params = [self._params(requests[row], stops, top) for row in wanted]
        if wanted:
            outputs = engine.generate(
                tokens_prompts([ids[row] for row in wanted]), params, use_tqdm=False
            )
            for row, output in zip(wanted, outputs, strict=True):
                before = ids[row] if self._goes_on(requests[row].prompt) else ()
                replies[row] = self._reply(output.outputs[0], before, stops)
        return [replies[row] for row in range(len(requests))]

    def _params(self, request: Request, stops: Sequence[str], top: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=float(request.temperature),
            top_p=float(self.top_p),
            seed=request.seed,
            max_tokens=self.max_new_tokens,
            stop_token_ids=sorted(self._ends()),
            # vLLM looks for them in the text, which it then has to make.
            stop=list(stops) or None,
            detokenize=bool(stops),
            logprobs=top,
        )

    def _reply(self, output: Any, before: Sequence[int], stops: Sequence[str]) -> Reply:
        """The reply that vLLM's output is."""
        drawn = [int(token) for token in output.token_ids]
        tokens, places = [], output.logprobs or ()
        for token, likely in zip(drawn, places, strict=False):
            others = {self._text([int(other)]): each.logprob for other, each in likely.items()}
            tokens.append(Token(self._text([token]), likely[token].logprob, others))
        is_told = len(tokens) == len(drawn)
        logprob = sum(token.logprob for token in tokens) if is_told else None
        text = self._cut_text(self._text(drawn, before), stops)
        reason = output.finish_reason or "abort"
        answer = Answer(text, reason, logprob, len(drawn))
        return Reply(answer, tuple(tokens) if is_told else None)
