"""The Transformers sampler: a causal model in this process, on a CPU or a GPU.

What the model reads is what the scorers read: the same `Encoder` makes the ids of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from prefmill.errors import BadArgument, BadInput, BadRow, MissingPackage, refuse
from prefmill.models.contract import OnBadRow
from prefmill.models.described import Described, changed, uncounted, unlike
from prefmill.models.limits import longest
from prefmill.sampling.samplers import Answer, Request, Sampler
from prefmill.table.conversations import is_open, messages_of

if TYPE_CHECKING:
    from prefmill.models.encoder import Encoder
    from prefmill.sampling.decode import Decoded, Decoder

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
OnTooLong = Literal["error", "null"]

#: how answers follow from draws; another number is another answer
_RULE = "1"


@dataclass(frozen=True, kw_only=True)
class LocalSampler(Described, Sampler):
    """A Transformers causal language model as a sampler; a prompt runs once for its K answers.

    Args:
        model: a directory that `save_pretrained` wrote, or a hub id.
        revision: of a hub id: a commit hash pins it.
        base: of an adapter (PEFT): the model that it changes, a directory or hub id; None: the one
            that the adapter names.
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
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        dtype: `auto` is float32 on a CPU, the checkpoint's on CUDA.
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
    base: str | Path | None = None
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

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        super().__post_init__()

    def _problems(self) -> list[str]:
        problems, share = [], self.top_p
        is_number = isinstance(share, int | float) and not isinstance(share, bool)
        if not is_number or not 0 < share <= 1:
            problems.append(f"top_p must be above 0 and at most 1; got {share!r}")
        optional = ("batch_tokens", "threads")
        counts = [name for name in optional if getattr(self, name) is not None]
        problems += uncounted(self, "max_new_tokens", *counts)
        if not all(isinstance(text, str) and text for text in self.stop):
            problems.append(f"stop must be texts that are not empty; got {self.stop!r}")
        return problems + unlike(self, on_too_long=("error", "null"))

    # What a run asks

    @property
    def name(self) -> str:
        """What a pool calls this sampler: the hub id, or the folder's name."""
        folder = Path(self.model)
        if folder.is_dir():
            return folder.resolve().name
        return str(self.model)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Everything that decides an answer but for rounding, by name."""
        return self._kept("fingerprint", self._fingerprint)

    def _fingerprint(self) -> dict[str, str]:
        from prefmill.models.folders import content_hash
        from prefmill.models.loading import dtype_of, pick_device

        encoder = self.encoder  # first: it refuses a folder before its code is looked for elsewhere
        folder, base = self._folder(), self._base()
        under = {} if base is None else {"base": content_hash(base)}
        return {
            "sampler": f"local:{_RULE}",
            "model": content_hash(folder),
            **under,
            **encoder.fingerprint,
            "top_p": repr(float(self.top_p)),
            "max_new_tokens": str(self.max_new_tokens),
            "stop": repr(self.stop),
            "end_tokens": str(sorted(self._ends())),
            "on_too_long": self.on_too_long,
            "dtype": dtype_of(base or folder, self.dtype, pick_device(self.device)),
        }

    @property
    def shape(self) -> Mapping[str, Any]:
        """What may move the last bit of a logit."""
        import torch

        threads = self.threads or torch.get_num_threads()
        return {"batch_tokens": self.batch_tokens, "threads": threads}

    def with_shape(self, shape: Mapping[str, Any]) -> Self:
        """The same sampler with another `shape`."""
        if shape == self.shape:
            return self
        return changed(self, **shape)

    @property
    def printed_date(self) -> str | None:
        """The date that the template prints; None: it prints none."""
        return self.encoder.template_date

    def on_date(self, date: str) -> Self:
        """The same on that date, where the template prints one and none was given."""
        if self.template_date is not None or self.printed_date is None:
            return self
        return changed(self, template_date=date)

    def on_device(self, device: str) -> Self:
        """The same on another device."""
        return changed(self, device=device)

    def with_bad_rows(self, on_bad_row: OnBadRow) -> Self:
        """With `null`, prompts that are too long have no answer."""
        if on_bad_row == "null":
            return changed(self, on_too_long="null")
        return self

    def load(self) -> str:
        """Load everything now, and say how prompts will be run (`decode.py`)."""
        return self.decoder.way

    # Loading

    def _folder(self) -> Path:
        from prefmill.models.folders import folder_of

        name, revision = str(self.model), self.revision
        return self._kept("folder", lambda: folder_of(name, revision, where="sample"))

    def _base(self) -> Path | None:
        """The folder of the model that an adapter changes; None: the model is no adapter."""
        from prefmill.models.adapters import base_of

        named = None if self.base is None else str(self.base)
        return self._kept("base", lambda: base_of(self._folder(), named, "sample"))

    @property
    def encoder(self) -> Encoder:
        """The tokenizer and its template, loaded on first use."""
        return self._kept("encoder", self._encoder)

    def _encoder(self) -> Encoder:
        _transformers()
        from prefmill.models.adapters import tokenizer_folder
        from prefmill.models.encoder import Encoder
        from prefmill.models.loading import load_tokenizer

        self._config()
        trusted = self.trust_remote_code
        place = tokenizer_folder(self._folder(), self._base())
        tokenizer = load_tokenizer(place, trust_remote_code=trusted, where="sample")
        template = self.template
        if template == "auto":
            template = "chat" if tokenizer.chat_template else "concat"
        if template == "pair":
            raise BadArgument(
                "sample: a prompt alone is no pair of texts; got template='pair'.",
                hint="chat, concat, or a file.",
            )
        return Encoder(tokenizer, template=template, template_date=self.template_date)

    def _config(self) -> Any:
        from prefmill.models.loading import config_of

        folder, trusted = self._base() or self._folder(), self.trust_remote_code
        make = lambda: config_of(folder, trust_remote_code=trusted, where="sample")  # noqa: E731
        return self._kept("config", make)

    def _ends(self) -> frozenset[int]:
        """Every token that ends an answer."""
        from transformers import GenerationConfig

        tokenizer = self.encoder.tokenizer
        text_config = self._config().get_text_config()
        named = [tokenizer.eos_token_id, getattr(text_config, "eos_token_id", None)]
        full = self._base() or self._folder()
        if (full / "generation_config.json").is_file():
            named.append(GenerationConfig.from_pretrained(full).eos_token_id)
        ends: set[int] = set()
        for ids in named:
            if ids is not None:
                ends.update(ids if isinstance(ids, list | tuple) else [ids])
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        # The text of a special token is never seen: it is not decoded.
        ends.update(special[text] for text in self.stop if text in special)
        return frozenset(ends)

    @property
    def decoder(self) -> Decoder:
        """The loaded model, probed, on first use."""
        return self._kept("decoder", self._decoder)

    def _decoder(self) -> Decoder:
        _ = self.encoder  # first: it refuses a folder in our words
        import torch

        from prefmill.models.loading import load
        from prefmill.sampling.decode import Decoder

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        loaded = load(
            self._folder(),
            "causal",
            base=self._base(),
            device=self.device,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            where="sample",
        )
        self._check_vocabulary(loaded.model.config.get_text_config().vocab_size)
        return Decoder(
            loaded.model,
            loaded.device,
            self._ends(),
            top_p=float(self.top_p),
            most=self.max_new_tokens,
            budget=self.batch_tokens,
        )

    def _check_vocabulary(self, size: int) -> None:
        """Refuse a tokenizer with more tokens than the model has.

        An id beyond the embedding would end the process on a GPU.
        """
        known = len(self.encoder.tokenizer)
        if known > size:
            raise BadInput(
                f"sample: the tokenizer has {known:,} tokens, the model {size:,}; expected no more."
            )

    # Sampling

    def sample(self, requests: Sequence[Request], /) -> list[Answer]:
        """One answer for every request, in their order; those of a prompt may stand apart.

        Raises `BadRow` with the place of the request as its row: for a prompt that leaves no room,
        unless `on_too_long="null"`, that has no tokens, or that the template refuses.
        """
        from prefmill.sampling.decode import Row

        decoder = self.decoder
        ids = self.ids_of(requests)
        answers = self._too_long(ids)
        wanted = [i for i in range(len(requests)) if i not in answers]
        rows = [Row(ids[i], float(requests[i].temperature), requests[i].seed) for i in wanted]
        stops = self._stops()

        def holds_stop(tokens: list[int]) -> bool:
            return _cut(self._text(tokens), stops) is not None

        # A bad row is known by its place among those that were decoded.
        try:
            drawn = decoder.decode(rows, holds_stop if stops else None)
        except BadRow as error:
            refuse([bad.at(wanted[bad.row]) for bad in error.found])
            raise
        for i, done in zip(wanted, drawn, strict=True):
            before = ids[i] if self._goes_on(requests[i].prompt) else ()
            answers[i] = self._answer(done, before, stops)
        return [answers[i] for i in range(len(requests))]

    def _limit(self) -> int | None:
        """Tokens of a prompt and its answer; None: any number of them."""
        return longest(self._config(), self.encoder.tokenizer)

    def _too_long(self, ids: Sequence[Sequence[int]]) -> dict[int, Answer]:
        """What stands for the answers of prompts that leave no room for one, by row.

        Raises `BadRow` for them, unless they are to be null.
        """
        limit, new = self._limit(), self.max_new_tokens
        long = [i for i, row in enumerate(ids) if limit is not None and len(row) > limit - new]
        if self.on_too_long == "error":
            refuse([_too_long(i, len(ids[i]), new, limit) for i in long])
        return dict.fromkeys(long, Answer("", "too_long", None, None))

    def _stops(self) -> list[str]:
        """The texts that end an answer, but for special tokens: those end it as tokens."""
        special = self.encoder.tokenizer.all_special_tokens
        return [text for text in self.stop if text not in special]

    def _answer(self, done: Decoded, before: Sequence[int], stops: Sequence[str]) -> Answer:
        text = self._cut_text(self._text(done.tokens, before), stops)
        end = "stop" if done.ended else "length"
        return Answer(text, end, done.logprob, len(done.tokens))

    def _cut_text(self, text: str, stops: Sequence[str]) -> str:
        """A text up to the first of the stop strings."""
        return text[: _cut(text, stops)]

    def ids_of(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        """The ids of every request's prompt; equal ones that stand together are made once."""
        places: list[int] = []
        prompts: list[Any] = []
        for request in requests:
            if not prompts or request.prompt != prompts[-1]:
                prompts.append(request.prompt)
            places.append(len(prompts) - 1)
        try:
            ids = [tuple(row) for row in self.encoder.prompts(prompts)]
        except BadRow as error:  # about a prompt, and so about every request that has it
            bad = []
            for each in error.found:
                rows = [i for i, place in enumerate(places) if place == each.row]
                bad += [each.at(row, where="sample") for row in rows]
            refuse(bad)
            raise
        what = "has no tokens at all; got an empty prompt, expected text."
        empty = [i for i, place in enumerate(places) if not ids[place]]
        refuse([BadRow("sample", what, row=i, reason="no_tokens") for i in empty])
        return [ids[place] for place in places]

    def _goes_on(self, prompt: Any) -> bool:
        """Whether an answer goes on in a text: a prompt that is one, or a message that is open."""
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
    what = (
        f"is too long; got {tokens:,} tokens and {new:,} new ones,"
        f" expected at most {limit:,} together."
    )
    hint = (
        "a smaller --max-new-tokens, or --on-too-long null leaves such prompts without an answer."
    )
    return BadRow("sample", what, row=row, reason="too_long", hint=hint)


def _cut(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins; None: there is none."""
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return min(places, default=None)


def _transformers() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackage.for_extra("sample", error.name or "transformers", "score") from None
