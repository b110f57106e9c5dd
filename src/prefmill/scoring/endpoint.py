"""Reward models behind a server: `EndpointScorer`, over the classify, pooling, score, predict and
rerank forms of vLLM, SGLang and TEI.

A server may have another template, another pooled token or a sigmoid that nobody asked for, and its
scores look like scores all the same. So raw scores are asked for, and `parity` compares the first
rows with the model scored here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput, BadRow, RequestFailed, ScoresDiffer, refuse
from prefmill.models.client import Broken
from prefmill.models.loading import is_softmax, label_index
from prefmill.models.remote import Remote
from prefmill.models.tokens import Encoder
from prefmill.scoring.parity import difference
from prefmill.scoring.reward import RewardModel
from prefmill.scoring.scorers import Floats, Scored
from prefmill.table.conversations import conversations, for_server, row_texts

Kind = Literal[
    "vllm-classify", "vllm-pooling", "vllm-score", "sglang-classify", "tei-predict", "tei-rerank"
]


@dataclass(frozen=True)
class Bodies:
    """What is sent for a batch: a body, and the rows that it asks about, for each request; and the
    batch.
    """

    batch: pa.RecordBatch
    rows: list[npt.NDArray[np.int64]]
    bodies: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class EndpointScorer(Remote):
    """Scores from a reward model behind a server.

    Args:
        url: of the server. model: its name there, where it has one. concurrency, timeout, retries,
            rate_limit, api_key_env: see `Remote`.
        kind: the form of the request:

            | kind              | request              | what is sent                                                        |
            |-------------------|----------------------|---------------------------------------------------------------------|
            | `vllm-classify`   | `/classify`          | token ids if there is a `tokenizer`, else messages for its template |
            | `vllm-pooling`    | `/pooling`           | the same                                                            |
            | `vllm-score`      | `/score`             | prompt and completion as a pair of texts: cross-encoders            |
            | `sglang-classify` | `/classify`          | text, by `tokenizer` and `template`                                 |
            | `tei-predict`     | `/predict`           | text if there is a `tokenizer`, else a pair of texts                |
            | `tei-rerank`      | `/rerank`            | a pair of texts, the completions of a prompt in one request         |
        tokenizer: a folder or hub id, to make texts or ids here with `template`, as `RewardModel`
            does.
        template_date: what a template prints as the date of today (`strftime_now`); None: the day
            on which a run begins. A server that applies its own template has its own date.
        label: which score it is, where the model has several: a number, or for TEI a name.
        parity: a `RewardModel` of the same weights; the first `parity_rows` rows are scored by it
            too, and a difference of more than `tolerance` times the largest score raises
            `ScoresDiffer`, which says what it looks like. With its device `auto` it runs on the
            CPU, because the server fills the GPU.
        on_refused: rows that the server finds bad (too long): an `error` that names the row, or
            `null`, counted. A request of several rows that is refused (also for its size) is sent
            again in halves.
        batch_rows: rows of a request, where it takes several.

    Scores are raw: no sigmoid, no softmax (`use_activation`, `raw_scores`). The URL is not in the
    fingerprint: a server may move.

    >>> EndpointScorer(url="http://localhost:8000", model="org/rm", kind="vllm-classify").columns
    ('score',)
    """

    columns: ClassVar[tuple[str, ...]] = ("score",)
    compares: ClassVar[bool] = False

    model: str = ""
    kind: Kind = "vllm-classify"
    tokenizer: str | Path | None = None
    template: str = "auto"
    template_date: str | None = None
    label: int | str | None = None
    parity: RewardModel | None = None
    parity_rows: int = 8
    tolerance: float = 0.02
    on_refused: Literal["error", "null"] = "error"
    batch_rows: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(
            self, "url", self.url.rstrip("/").removesuffix("/v1")
        )  # these forms stand beside /v1, not under it
        if self.parity is not None and self.parity.device == "auto":
            object.__setattr__(self, "parity", replace(self.parity, device="cpu"))

    def _problems(self) -> list[str]:
        said = super()._problems()
        if self.kind not in get_args(Kind):
            said.append(f"kind is not one of {get_args(Kind)}; got {self.kind!r}")
        if self.kind == "sglang-classify" and self.tokenizer is None:
            said.append(
                "sglang-classify takes text: tokenizer must name a folder or hub id; got None"
            )
        if self.kind in ("vllm-score", "tei-rerank") and self.tokenizer is not None:
            said.append(
                f"{self.kind} takes pairs of texts: the server makes them to tokens; got a tokenizer"
            )
        if self.on_refused not in ("error", "null"):
            said.append(f"on_refused is not one of ('error', 'null'); got {self.on_refused!r}")
        for name, value in (("parity_rows", self.parity_rows), ("batch_rows", self.batch_rows)):
            if type(value) is not int or value < 1:
                said.append(f"{name} must be a whole number >= 1; got {value!r}")
        if not isinstance(self.tolerance, int | float) or not 0 < self.tolerance < np.inf:
            said.append(f"tolerance must be a number > 0; got {self.tolerance!r}")
        return said

    @property
    def printed_date(self) -> str | None:
        """The date that the template prints; None: it prints none, or the server's does."""
        return None if self.tokenizer is None else self._encoder.template_date

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What decides the scores, as far as the client knows; the weights too where they can be
        compared.
        """
        parity = (
            {}
            if self.parity is None
            else {f"parity.{name}": value for name, value in self.parity.fingerprint.items()}
        )
        template = "" if self.tokenizer is None else self._encoder.fingerprint
        date = {} if self.printed_date is None else {"template_date": self.printed_date}
        return {
            "scorer": "endpoint",
            "kind": self.kind,
            "model": self.model,
            "template": template,
            "label": str(self.label),
            "on_refused": self.on_refused,
            **date,
            **parity,
        }

    @property
    def _encoder(self) -> Encoder:
        if "encoder" not in self._state:
            from prefmill.models import loading as models

            tokenizer = models.load_tokenizer(
                models.folder_of(str(self.tokenizer), None), trust_remote_code=False
            )
            self._state["encoder"] = Encoder(
                tokenizer, template=self.template, template_date=self.template_date
            )
        return self._state["encoder"]  # type: ignore[no-any-return]

    # -- asking
    # -------------------------------------------------------------------------------------------------------------------------

    def prepare(self, batch: pa.RecordBatch) -> Bodies:
        """What is sent for a batch."""
        prompts, completions = batch["prompt"].to_pylist(), batch["completion"].to_pylist()
        base: dict[str, Any] = {"model": self.model} if self.model else {}
        rows: list[npt.NDArray[np.int64]] = []
        bodies: list[dict[str, Any]] = []

        def ask(which: Sequence[int], body: Mapping[str, Any]) -> None:
            rows.append(np.asarray(which, np.int64))
            bodies.append({**base, **body})

        every = range(batch.num_rows)
        if self.kind in ("vllm-score", "tei-rerank"):
            queries, told = row_texts("endpoint", prompts, completions)
            for which in self._of_one_prompt(queries):
                query, texts = queries[which[0]], [told[row] for row in which]
                if self.kind == "vllm-score":
                    ask(which, {"text_1": query, "text_2": texts, "use_activation": False})
                else:
                    ask(
                        which,
                        {"query": query, "texts": texts, "raw_scores": True, "truncate": False},
                    )
        elif self.kind.startswith("vllm") and self.tokenizer is None:
            for row, talk in enumerate(conversations("endpoint", prompts, completions)):
                messages = for_server(talk.messages)
                ask(
                    [row],
                    {
                        "messages": messages,
                        "use_activation": False,
                        "add_generation_prompt": False,
                        **self._task,
                    },
                )
        else:
            inputs, size = self._inputs(batch, prompts, completions), self._rows_of_request
            for first in range(0, batch.num_rows, size):
                which = list(every[first : first + size])
                some = [inputs[row] for row in which]
                if self.kind.startswith("vllm"):
                    ask(
                        which,
                        {
                            "input": some,
                            "use_activation": False,
                            "add_special_tokens": False,
                            **self._task,
                        },
                    )
                elif self.kind == "sglang-classify":
                    ask(which, {"text": some})
                else:
                    ask(which, {"inputs": some, "raw_scores": True, "truncate": False})
        return Bodies(batch, rows, bodies)

    @property
    def _rows_of_request(self) -> int:
        """At most `batch_rows`; fewer once the server has refused so many for their size."""
        return int(self._state.get("batch_rows", self.batch_rows))

    @property
    def _task(self) -> dict[str, str]:
        return {"task": "classify"} if self.kind == "vllm-pooling" else {}

    def _of_one_prompt(self, prompts: list[Any]) -> list[list[int]]:
        """Rows that stand together and have one prompt, a request's worth at a time."""
        found: list[list[int]] = []
        size = self._rows_of_request
        for row, prompt in enumerate(prompts):
            if found and len(found[-1]) < size and prompts[found[-1][0]] == prompt:
                found[-1].append(row)
            else:
                found.append([row])
        return found

    def _inputs(
        self, batch: pa.RecordBatch, prompts: list[Any], completions: list[Any]
    ) -> list[Any]:
        """Each row as its server takes it: ids, a text, or a pair of texts."""
        if self.tokenizer is None:
            return [
                list(pair)
                for pair in zip(*row_texts("endpoint", prompts, completions), strict=True)
            ]
        if self.kind.startswith("vllm"):
            encoded = self._encoder.encode(
                batch["prompt"], batch["completion"], np.arange(batch.num_rows)
            ).rows
            if encoded.types is not None and encoded.types.any():
                raise BadArgument(
                    f"endpoint: token ids do not say which of the two texts a token is of; got template 'pair' and kind {self.kind!r}.",
                    hint="--kind vllm-score without --tokenizer sends pairs of texts.",
                )
            return [encoded.row(i).tolist() for i in range(len(encoded))]
        texts = self._texts(batch, prompts, completions)
        return [[text] for text in texts] if self.kind == "tei-predict" else texts

    def _texts(
        self, batch: pa.RecordBatch, prompts: list[Any], completions: list[Any]
    ) -> list[str]:
        """Rows as one text each, without the special tokens that the server's tokenizer will put
        around it.

        The server has to read the ids that our encoder makes; what its tokenizer would read is
        worked out here, and raises `BadRow` where it is something else.
        """
        encoder = self._encoder
        tokenizer = encoder.tokenizer
        if encoder.template == "chat":  # has its special tokens in the text
            head, tail = _put_around(tokenizer)
            texts = encoder.rendered(
                [talk.messages for talk in conversations("endpoint", prompts, completions)]
            )
            texts = [text.removeprefix(head).removesuffix(tail) for text in texts]
        elif encoder.template == "concat":
            end = tokenizer.eos_token or ""
            texts = [
                prompt + completion
                for prompt, completion in zip(
                    *row_texts("endpoint", prompts, completions), strict=True
                )
            ]
            texts = [text if text.endswith(end) else text + end for text in texts]
        else:
            raise BadArgument(
                f"endpoint: template 'pair' makes no one text; got kind {self.kind!r}.",
                hint="leave the tokenizer out.",
            )
        wanted = encoder.encode(
            batch["prompt"], batch["completion"], np.arange(batch.num_rows)
        ).rows
        read = tokenizer(texts, verbose=False)["input_ids"]
        what = f"would be read by the server as {{}} tokens, other than the {{}} of template {encoder.template!r}."
        hint = f"{self.kind} takes texts only: leave --tokenizer out, or serve the model where ids can be sent (--kind vllm-classify)."
        refuse(
            [
                BadRow(
                    "endpoint",
                    what.format(len(ids), len(wanted.row(i))),
                    row=i,
                    reason="template_failed",
                    hint=hint,
                )
                for i, ids in enumerate(read)
                if ids != wanted.row(i).tolist()
            ]
        )
        return texts

    def run(self, prepared: Bodies) -> Scored:
        """Ask the server, and check the first rows."""
        before = self.client.usage
        scores, reasons = self._ask(prepared)
        refused = np.array([reason is not None for reason in reasons], bool)
        counts = self.client.usage.since(before)
        counts["tokens"] = counts.pop("tokens_in")  # tokens of rows, as everywhere in scoring
        self._compare(prepared.batch, scores, refused)
        self._warn(scores[~refused])
        return Scored(
            {"score": scores}, refused if refused.any() else None, counts, reasons=reasons
        )

    def _ask(self, asked: Bodies) -> tuple[Floats, list[str | None]]:
        """The score of every row, and why it has none. A request of several rows that is refused is
        asked again in halves.
        """
        scores = np.zeros(asked.batch.num_rows)
        reasons: list[str | None] = [None] * asked.batch.num_rows
        while asked.rows:
            again: list[npt.NDArray[np.int64]] = []
            for which, values in zip(asked.rows, self._answers(asked), strict=True):
                if not isinstance(values, RequestFailed):
                    scores[which] = values
                elif len(which) == 1:
                    reasons[which[0]] = values.reason
                else:
                    if (
                        values.status == 413
                    ):  # the size alone: later requests are no larger than what may pass
                        self._state["batch_rows"] = min(self._rows_of_request, -(-len(which) // 2))
                    again += np.array_split(which, 2)
            halves = [(which, self.prepare(asked.batch.take(pa.array(which)))) for which in again]
            rows = [which[of_request] for which, half in halves for of_request in half.rows]
            asked = Bodies(asked.batch, rows, [body for _, half in halves for body in half.bodies])
        return scores, reasons

    def _answers(self, asked: Bodies) -> list[Floats | RequestFailed]:
        """What every request gave; raises `BadRow` for a row that is refused alone, unless such
        rows are to be null.
        """

        def read(number: int, said: Any) -> Floats | RequestFailed:
            return self._read(said, len(asked.rows[number]))

        def refused(number: int, error: RequestFailed) -> RequestFailed:
            which = asked.rows[number]
            if len(which) == 1 and self.on_refused == "error":
                assert error.reason is not None
                what = f"cannot be scored; {error.message}"
                raise BadRow("endpoint", what, row=int(which[0]), reason=error.reason) from error
            return error

        return self.client.post_all(
            [(self._path, body) for body in asked.bodies], read, refused=refused
        )

    @property
    def _path(self) -> str:
        return {
            "vllm-score": "score",
            "vllm-pooling": "pooling",
            "tei-predict": "predict",
            "tei-rerank": "rerank",
        }.get(self.kind, "classify")

    # -- reading
    # ------------------------------------------------------------------------------------------------------------------------

    def _read(self, said: Any, rows: int) -> Floats:
        """The scores of one answer, in the order of its rows."""
        values: dict[int, float] = {}
        if self.kind in ("vllm-classify", "vllm-pooling", "vllm-score"):
            name = {"vllm-classify": "probs", "vllm-pooling": "data", "vllm-score": "score"}[
                self.kind
            ]
            for each in said["data"]:
                values[each["index"]] = self._one(each[name])
        elif self.kind == "sglang-classify":
            several = said if isinstance(said, list) else [said]
            values = {i: self._one(each["embedding"]) for i, each in enumerate(several)}
        elif self.kind == "tei-predict":
            values = {i: self._named(each) for i, each in enumerate(said)}
        else:  # sorted by score: the index says which text it is
            values = {each["index"]: float(each["score"]) for each in said}
        if sorted(values) != list(range(rows)):
            raise Broken(f"scores for {sorted(values)[:20]}, expected {rows} rows")
        return np.array([values[row] for row in range(rows)], np.float64)

    def _one(self, values: Any) -> float:
        while isinstance(values, list) and len(values) == 1:
            values = values[0]
        scores = values if isinstance(values, list) else [values]
        number = self._number(len(scores))
        if number is not None and not isinstance(scores[0], list) and 0 <= number < len(scores):
            return self._of_label([float(score) for score in scores], number)
        raise BadInput(
            f"endpoint: the model has {len(scores)} scores a row; got label {self.label!r}, expected the number of one of them.",
            hint=f"--label 0 to --label {len(scores) - 1}; with --parity also its name.",
        )

    def _of_label(self, scores: list[float], number: int) -> float:
        """The label's raw score; its log-odds where the model that is compared says that labels
        exclude each other, as it scores them.
        """
        if self.parity is None or not is_softmax(self.parity.config, len(scores), is_stock=True):
            return scores[number]
        others = np.array([score for i, score in enumerate(scores) if i != number])
        return scores[number] - float(np.logaddexp.reduce(others))

    def _number(self, scores: int) -> int | None:
        """Which of so many scores it is: by the names of the model that is compared, where there is
        one.
        """
        if self.label is None:
            return 0 if scores == 1 else None
        if self.parity is not None:
            return label_index(self.parity.config, self.label, scores)
        return int(str(self.label)) if str(self.label).isdecimal() else None

    def _named(self, values: list[dict[str, Any]]) -> float:
        scores = {str(each["label"]): float(each["score"]) for each in values}
        if len(scores) == 1 and self.label is None:
            return next(iter(scores.values()))
        for name in (
            str(self.label),
            f"LABEL_{self._number(len(scores))}",
        ):  # the names of a model whose labels have none
            if name in scores:
                return self._of_label(list(scores.values()), list(scores).index(name))
        raise BadInput(
            f"endpoint: the model has the labels {sorted(scores)}; got label {self.label!r}.",
            hint="--label NAME",
        )

    # -- checking
    # -----------------------------------------------------------------------------------------------------------------------

    def _compare(
        self, batch: pa.RecordBatch, scores: Floats, refused: npt.NDArray[np.bool_]
    ) -> None:
        """Compare the first rows with the model scored here, once."""
        rows = np.flatnonzero(~refused)[: self.parity_rows]
        if self.parity is None or "compared" in self._state or not len(rows):
            return
        self._state["compared"] = True
        some = batch.take(pa.array(rows))
        local = self.parity.run(self.parity.prepare(some))
        self.parity.unload()
        kept = np.ones(len(rows), bool) if local.null is None else ~local.null
        looks = difference(local.columns["score"][kept], scores[rows][kept], self.tolerance)
        if looks is not None:
            raise ScoresDiffer(
                f"endpoint: {self.kind} at {self.url} gives other scores than the model scored here; {looks}.",
                hint="nothing was written. A sigmoid: start the server for raw scores; else compare templates, pooling and weights.",
            )

    def _warn(self, scores: Floats) -> None:
        if (
            self.parity is None
            and "warned" not in self._state
            and len(scores) >= 8
            and bool(((scores >= 0) & (scores <= 1)).all())
        ):
            self._state["warned"] = True
            warnings.warn(
                "all scores are between 0 and 1: does the server apply a sigmoid? parity=RewardModel(...) finds out",
                stacklevel=3,
            )

    def __call__(self, batch: pa.RecordBatch) -> Floats:
        """The score of each row, NaN where it has none."""
        scored = self.run(self.prepare(batch))
        return (
            scored.columns["score"]
            if scored.null is None
            else np.where(scored.null, np.nan, scored.columns["score"])
        )


def _put_around(tokenizer: Any) -> tuple[str, str]:
    """The special tokens that `tokenizer` puts before and after a text."""
    inner, whole = (
        tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True)
    )
    at = next(
        (i for i in range(len(whole) - len(inner) + 1) if whole[i : i + len(inner)] == inner), 0
    )
    head, tail = whole[:at], whole[at + len(inner) :]
    return tuple("".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (head, tail))  # type: ignore[return-value]
