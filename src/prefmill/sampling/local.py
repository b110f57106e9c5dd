"""The Transformers sampler: a causal model in this process, on a CPU or a GPU.

What the model reads is what the scorers read: the same `Encoder` makes the ids of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from prefmill.errors import BadArgument, BadInput, BadRow, MissingPackage, refuse
from prefmill.sampling.samplers import Answer, Request
from prefmill.table.conversations import is_open, messages_of

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
OnTooLong = Literal["error", "null"]

#: how answers follow from draws; another number is another answer
_RULE = "1"


@dataclass(frozen=True, kw_only=True)
class LocalSampler:
    """A Transformers causal language model as a sampler: K answers a prompt, the prompt run once
    for all of them.

    Args:
        model: a directory that `save_pretrained` wrote, or a hub id. revision: of a hub id: a
            commit hash pins it.
        top_p: tokens are drawn from the smallest set of likeliest ones that sums to this, after the
            temperature; 1 draws from all.
        max_new_tokens: most tokens of an answer; one that has not ended by then has the finish
            reason `length`.
        stop: texts that end an answer; it is cut before the first of them. A special token of the
            tokenizer counts as an end token.
        template: how a prompt becomes ids: `auto` is `chat` if the tokenizer has a template (a text
            prompt is then one user message), else `concat`, the text as it is; or a file that holds
            a Jinja template. As `LogProb` and `RewardModel` read it.
        template_date: what a template prints as the date of today (`strftime_now`), YYYY-MM-DD;
            None: the day on which a run begins.
        on_too_long: a prompt that leaves no room for `max_new_tokens` is an `error`, or has the
            finish reason `too_long` (`null`). Nothing is ever cut.
        device: `auto`, `cpu`, `cuda`, `cuda:N`. dtype: `auto` is float32 on a CPU, the checkpoint's
            on CUDA.
        batch_tokens: tokens that are in work at a time: rows times their longest possible length.
            threads: of torch.

    An answer depends on its own request alone, up to rounding of the logits: its draws come from
    its seed (`draws.py`), whatever runs beside it. An answer ends at the end tokens of the
    tokenizer, the model's configuration and its generation configuration together. No other setting
    of a generation configuration (top_k, penalties) is applied. `logprob` is that of all drawn
    tokens, the end token among them, at temperature 1 without top_p, from float32 logits.
    Temperature 0 takes the likeliest token.

    >>> LocalSampler(model="org/policy", stop="###").stop
    ('###',)
    """

    model: str | Path
    revision: str | None = None
    top_p: float = 1.0
    max_new_tokens: int = 256
    stop: str | Sequence[str] = ()
    template: str = "auto"
    template_date: str | None = None
    on_too_long: OnTooLong = "error"
    device: str = "auto"
    dtype: Dtype = "auto"
    batch_tokens: int | None = None
    threads: int | None = None
    trust_remote_code: bool = False
    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        )
        said = []
        if isinstance(self.top_p, bool) or not (
            isinstance(self.top_p, int | float) and 0 < self.top_p <= 1
        ):
            said.append(f"top_p must be above 0 and at most 1; got {self.top_p!r}")
        for name in ("max_new_tokens", "batch_tokens", "threads"):
            value = getattr(self, name)
            if not (value is None and name != "max_new_tokens") and (
                type(value) is not int or value < 1
            ):
                said.append(f"{name} must be a whole number >= 1; got {value!r}")
        if not all(isinstance(text, str) and text for text in self.stop):
            said.append(f"stop must be texts that are not empty; got {self.stop!r}")
        if self.on_too_long not in ("error", "null"):
            said.append(f"on_too_long is not one of ('error', 'null'); got {self.on_too_long!r}")
        if said:
            raise BadArgument("\n".join(f"LocalSampler: {each}" for each in said))

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the description, and loads for itself."""
        return {f.name: {} if f.name == "_state" else getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    # -- loading
    # ------------------------------------------------------------------------------------------------------------------------

    def _kept(self, name: str, make: Any) -> Any:
        if name not in self._state:
            self._state[name] = make()
        return self._state[name]

    @property
    def name(self) -> str:
        """What a pool calls this sampler: the hub id, or the folder's name."""
        return Path(self.model).resolve().name if Path(self.model).is_dir() else str(self.model)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Everything that decides an answer but for rounding, by name."""
        return self._kept("fingerprint", self._fingerprint)  # type: ignore[no-any-return]

    def _fingerprint(self) -> dict[str, str]:
        from prefmill.models import loading as models

        encoder = self.encoder  # first: it refuses a folder before its code is looked for elsewhere
        where = models.pick_device(self.device)
        return {
            "sampler": f"local:{_RULE}",
            "model": models.content_hash(self._folder()),
            "template": encoder.fingerprint,
            **({} if encoder.template_date is None else {"template_date": encoder.template_date}),
            "top_p": repr(float(self.top_p)),
            "max_new_tokens": str(self.max_new_tokens),
            "stop": repr(self.stop),
            "end_tokens": str(sorted(self._ends())),
            "on_too_long": self.on_too_long,
            "dtype": models.dtype_of(self._folder(), self.dtype, where),
        }

    @property
    def printed_date(self) -> str | None:
        """The date that the template prints; None: it prints none."""
        found: str | None = self.encoder.template_date
        return found

    @property
    def shape(self) -> dict[str, Any]:
        """What may move the last bit of a logit: a resumed run goes on with the values that it
        began with.
        """
        import torch

        return {
            "batch_tokens": self.batch_tokens,
            "threads": self.threads or torch.get_num_threads(),
        }

    def with_shape(self, shape: Mapping[str, Any]) -> LocalSampler:
        """The same sampler with another `shape`."""
        return replace(self, **shape)

    def _folder(self) -> Path:
        from prefmill.models import loading as models

        return self._kept(
            "folder", lambda: models.folder_of(str(self.model), self.revision, where="sample")
        )  # type: ignore[no-any-return]

    @property
    def encoder(self) -> Any:
        """The tokenizer and its template (an `Encoder`), loaded on first use."""
        return self._kept("encoder", self._encoder)

    def _encoder(self) -> Any:
        _transformers()
        from prefmill.models import loading as models
        from prefmill.models.tokens import Encoder

        self._config()
        tokenizer = models.load_tokenizer(
            self._folder(), trust_remote_code=self.trust_remote_code, where="sample"
        )
        template = (
            self.template
            if self.template != "auto"
            else "chat"
            if tokenizer.chat_template
            else "concat"
        )
        if template == "pair":
            raise BadArgument(
                "sample: a prompt alone is no pair of texts; got template='pair'.",
                hint="chat, concat, or a file.",
            )
        return Encoder(tokenizer, template=template, template_date=self.template_date)

    def _config(self) -> Any:
        from prefmill.models import loading as models

        trusted = self.trust_remote_code
        return self._kept(
            "config",
            lambda: models.config_of(self._folder(), trust_remote_code=trusted, where="sample"),
        )

    def _ends(self) -> frozenset[int]:
        """Every token that ends an answer."""
        from transformers import GenerationConfig

        tokenizer = self.encoder.tokenizer
        found: set[int] = set()
        named = [
            tokenizer.eos_token_id,
            getattr(self._config().get_text_config(), "eos_token_id", None),
        ]
        if (self._folder() / "generation_config.json").is_file():
            named.append(GenerationConfig.from_pretrained(self._folder()).eos_token_id)
        for ids in named:
            found.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        found.update(
            special[text] for text in self.stop if text in special
        )  # such a text is never seen: it is not decoded
        return frozenset(found)

    @property
    def decoder(self) -> Any:
        """The loaded model, probed, on first use."""
        return self._kept("decoder", self._decoder)

    def _decoder(self) -> Any:
        encoder = self.encoder
        import torch

        from prefmill.models import loading as models
        from prefmill.sampling.decode import Decoder

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        loaded = models.load(
            self._folder(),
            "causal",
            device=self.device,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            where="sample",
        )
        size = loaded.model.config.get_text_config().vocab_size
        if len(encoder.tokenizer) > size:
            raise BadInput(
                f"sample: the tokenizer has {len(encoder.tokenizer):,} tokens, the model {size:,}; expected no more."
            )
        return Decoder(
            loaded.model,
            loaded.device,
            self._ends(),
            top_p=float(self.top_p),
            most=self.max_new_tokens,
            budget=self.batch_tokens,
        )

    def load(self) -> str:
        """Load everything now, and say how prompts will be run (`decode.py`)."""
        return str(self.decoder.way)

    # -- sampling
    # -----------------------------------------------------------------------------------------------------------------------

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer for every request, in their order; requests of one prompt need not stand
        together.

        Raises `BadRow` with the place of the request as its row: for a prompt that leaves no room,
        unless `on_too_long="null"`, that has no tokens, or that the template refuses.
        """
        from prefmill.models.loading import longest
        from prefmill.sampling.decode import Row

        decoder, tokenizer = self.decoder, self.encoder.tokenizer
        ids = self._ids(requests)
        limit = longest(self._config(), tokenizer)
        room = None if limit is None else limit - self.max_new_tokens
        answers: list[Answer | None] = [None] * len(requests)
        long = [] if room is None else [i for i, row in enumerate(ids) if len(row) > room]
        if self.on_too_long == "error":
            refuse([_too_long(i, len(ids[i]), self.max_new_tokens, limit) for i in long])
        for i in long:
            answers[i] = Answer("", "too_long", None, None)
        wanted = [i for i, answer in enumerate(answers) if answer is None]
        rows = [Row(ids[i], float(requests[i].temperature), requests[i].seed) for i in wanted]
        stops = [text for text in self.stop if text not in tokenizer.all_special_tokens]
        try:
            found = decoder.decode(
                rows,
                (lambda tokens: _cut(self._text(tokens), stops) is not None) if stops else None,
            )
        except BadRow as error:
            refuse([bad.at(wanted[bad.row]) for bad in error.found])
            raise
        for i, done in zip(wanted, found, strict=True):
            text = self._text(done.tokens, ids[i] if self._goes_on(requests[i].prompt) else ())
            cut = _cut(text, stops)
            text = text if cut is None else text[:cut]
            answers[i] = Answer(
                text, "stop" if done.ended else "length", done.logprob, len(done.tokens)
            )
        return [answer for answer in answers if answer is not None]

    def _ids(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        """The ids of every request's prompt; equal prompts that stand together are tokenised
        once.
        """
        places: list[int] = []
        prompts: list[Any] = []
        for request in requests:
            if not prompts or request.prompt != prompts[-1]:
                prompts.append(request.prompt)
            places.append(len(prompts) - 1)
        try:
            found = [tuple(row) for row in self.encoder.prompts(prompts)]
        except BadRow as error:  # about a prompt, and so about every request that has it
            refuse(
                [
                    bad.at(i, where="sample")
                    for bad in error.found
                    for i, place in enumerate(places)
                    if place == bad.row
                ]
            )
            raise
        what = "has no tokens at all; got an empty prompt, expected text."
        refuse(
            [
                BadRow("sample", what, row=i, reason="no_tokens")
                for i, place in enumerate(places)
                if not found[place]
            ]
        )
        return [found[place] for place in places]

    def _goes_on(self, prompt: Any) -> bool:
        """Whether an answer goes on in a text: in a prompt that is plain text, or in a message that
        is open.
        """
        return self.encoder.template == "concat" or is_open(messages_of(prompt, "user"))

    def _text(self, tokens: list[int], prompt: Sequence[int] = ()) -> str:
        """The text of an answer's tokens.

        Where the answer goes on in the text of `prompt`, decoded alone it would lose a space at its
        front.
        """
        decode = self.encoder.tokenizer.decode
        exact = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        if prompt:
            before = decode(list(prompt), **exact)
            whole = decode([*prompt, *tokens], **exact)
            if whole.startswith(before):
                return str(whole[len(before) :])
        return str(decode(tokens, **exact))


def _too_long(row: int, tokens: int, new: int, limit: int | None) -> BadRow:
    """The error for a prompt that leaves no room for an answer."""
    what = f"is too long; got {tokens:,} tokens and {new:,} new ones, expected at most {limit:,} together."
    hint = (
        "a smaller --max-new-tokens, or --on-too-long null leaves such prompts without an answer."
    )
    return BadRow("sample", what, row=row, reason="too_long", hint=hint)


def _cut(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins; None: there is none."""
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return min(found) if found else None


def _transformers() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackage.for_extra("sample", error.name or "transformers", "score") from None
