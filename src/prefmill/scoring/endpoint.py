"""Reward models behind a server: `EndpointScorer`.

It speaks the classify, pooling, score, predict and rerank forms of vLLM, SGLang and TEI. A server
may have another template, another pooled token or a sigmoid that nobody asked for, and its scores
look like scores all the same. So raw scores are asked for, and `parity` compares the first rows
with the model scored here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadRow, RequestFailed, ScoresDiffer
from prefmill.models.contract import OnBadRow
from prefmill.models.described import changed, uncounted, unlike
from prefmill.models.encoder import Encoder
from prefmill.models.remote import Remote
from prefmill.scoring.labels import one_label
from prefmill.scoring.parity import compared
from prefmill.scoring.reward import RewardModel
from prefmill.scoring.scorers import Floats, Scored, Staged
from prefmill.scoring.serving.answers import Answers
from prefmill.scoring.serving.requests import OF_PAIRS, PATHS, Bodies, Form, Kind

_LEAST_TO_WARN = 8  # rows, all of them between 0 and 1


@dataclass(frozen=True, kw_only=True)
class EndpointScorer(Remote, Staged):
    """Scores from a reward model behind a server.

    Args:
        url: of the server. model: its name there, where it has one. concurrency, timeout, retries,
            rate_limit, api_key_env: see `Remote`.
        kind: the form of the request:

            | kind              | request     | what is sent                                     |
            |-------------------|-------------|--------------------------------------------------|
            | `vllm-classify`   | `/classify` | token ids with a `tokenizer`, else messages      |
            | `vllm-pooling`    | `/pooling`  | the same                                         |
            | `vllm-score`      | `/score`    | pairs of prompt and completion: cross-encoders   |
            | `sglang-classify` | `/classify` | text, by `tokenizer` and `template`              |
            | `tei-predict`     | `/predict`  | text with a `tokenizer`, else a pair of texts    |
            | `tei-rerank`      | `/rerank`   | pairs, the completions of a prompt in a request  |
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
    #: those of the model that is compared
    options_of_parts: ClassVar[tuple[str, ...]] = ("device", "dtype")

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

    @classmethod
    def from_options(cls, model: str, options: Mapping[str, Any]) -> Self:
        """A server's scorer; `parity` is a folder or hub id, and takes `device` and `dtype`."""
        if "url" not in options:
            raise BadArgument("score: no server named.", hint="--url http://HOST:PORT")
        options = {**options, **one_label(options)}
        if isinstance(options.get("label"), list):
            raise BadArgument(
                f"--label: a server's scorer reads one label; got {options['label']}."
            )
        own = {name: options[name] for name in options if name not in cls.options_of_parts}
        if "parity" in own:
            same = ("template", "label", "device", "dtype")
            shared = {name: options[name] for name in same if name in options}
            if len(options.get("device", [])) > 1:
                raise BadArgument(
                    f"--device: got {options['device']}, expected one device for --parity."
                )
            own["parity"] = RewardModel.from_options(own["parity"], shared)
        for name in cls.options_of_parts:
            if name in options and "parity" not in own:
                raise BadArgument(
                    f"endpoint: --{name} is that of --parity: the server has its own.",
                    hint="--parity DIR",
                )
        return cls(model=model, **own)

    def __post_init__(self) -> None:
        super().__post_init__()
        # These forms stand next to /v1, not under it.
        url = self.url.rstrip("/").removesuffix("/v1")
        object.__setattr__(self, "url", url)
        if self.parity is not None and self.parity.device == "auto":
            object.__setattr__(self, "parity", replace(self.parity, device="cpu"))

    def _problems(self) -> list[str]:
        problems = super()._problems() + unlike(self, kind=get_args(Kind))
        if self.kind == "sglang-classify" and self.tokenizer is None:
            problems.append(
                "sglang-classify takes text: tokenizer must name a folder or hub id; got None"
            )
        if self.kind in OF_PAIRS and self.tokenizer is not None:
            problems.append(
                f"{self.kind} takes pairs of texts: the server makes them to tokens;"
                " got a tokenizer"
            )
        problems += unlike(self, on_refused=("error", "null"))
        problems += uncounted(self, "parity_rows", "batch_rows")
        if not isinstance(self.tolerance, int | float) or not 0 < self.tolerance < np.inf:
            problems.append(f"tolerance must be a number > 0; got {self.tolerance!r}")
        return problems

    # What a run asks

    @property
    def _own_date(self) -> str | None:
        """The date that our template prints; None: it prints none, or the server's does."""
        if self.tokenizer is None:
            return None
        return self.encoder.template_date

    @property
    def printed_date(self) -> str | None:
        """The date that our template prints, or that of the model that is compared."""
        other = None if self.parity is None else self.parity.printed_date
        return self._own_date or other

    def on_date(self, date: str) -> Self:
        """The same on that date, and the model that is compared too."""
        parity = None if self.parity is None else self.parity.on_date(date)
        if self._own_date is None or self.template_date is not None:
            return changed(self, parity=parity)
        return changed(self, parity=parity, template_date=date)

    def with_bad_rows(self, on_bad_row: OnBadRow) -> Self:
        """With `null`, rows that the server refuses have no score."""
        if on_bad_row == "null":
            return changed(self, on_refused="null")
        return self

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What decides the scores, as far as the client knows.

        The weights too where they can be compared.
        """
        template = {"template": ""} if self.tokenizer is None else self.encoder.fingerprint
        parity = {} if self.parity is None else self.parity.fingerprint
        return {
            "scorer": "endpoint",
            "kind": self.kind,
            "model": self.model,
            **template,
            "label": str(self.label),
            "on_refused": self.on_refused,
            **{f"parity.{name}": value for name, value in parity.items()},
        }

    @property
    def encoder(self) -> Encoder:
        return self._kept("encoder", self._make_encoder)

    def _make_encoder(self) -> Encoder:
        from prefmill.models.folders import folder_of
        from prefmill.models.loading import load_tokenizer

        folder = folder_of(str(self.tokenizer), None)
        tokenizer = load_tokenizer(folder, trust_remote_code=False)
        return Encoder(tokenizer, template=self.template, template_date=self.template_date)

    # Asking

    def prepare(self, batch: pa.RecordBatch) -> Bodies:
        """What is sent for a batch."""
        return self._form.bodies(batch, self._rows_of_request)

    @property
    def _form(self) -> Form:
        encoder = None if self.tokenizer is None else self.encoder
        return Form(self.kind, self.model, encoder)

    @property
    def _rows_of_request(self) -> int:
        """At most `batch_rows`; fewer once the server has refused so many for their size."""
        return int(self._state.get("batch_rows", self.batch_rows))

    def run(self, prepared: Bodies) -> Scored:
        """Ask the server, and check the first rows."""
        before = self.client.usage
        scores, reasons = self._ask(prepared)
        refused = np.array([reason is not None for reason in reasons], bool)
        counts = self.client.usage.since(before)
        counts["tokens"] = counts.pop("tokens_in")  # tokens of rows, as everywhere in scoring
        self._compare(prepared.batch, scores, refused)
        self._warn(scores[~refused])
        return Scored({"score": scores}, refused, counts, reasons=reasons)

    def _ask(self, asked: Bodies) -> tuple[Floats, list[str | None]]:
        """The score of every row, and why it has none.

        A request of several rows that is refused is asked again in halves.
        """
        batch = asked.batch
        scores = np.zeros(batch.num_rows)
        reasons: list[str | None] = [None] * batch.num_rows
        while asked.rows:
            again: list[npt.NDArray[np.int64]] = []
            for rows, answer in zip(asked.rows, self._answers(asked), strict=True):
                if not isinstance(answer, RequestFailed):
                    scores[rows] = answer
                elif len(rows) == 1:
                    reasons[rows[0]] = answer.reason
                else:
                    # The size alone: later requests are no larger than what may pass.
                    if answer.status == 413:
                        half = -(-len(rows) // 2)
                        self._state["batch_rows"] = min(self._rows_of_request, half)
                    again += np.array_split(rows, 2)
            asked = Bodies(batch, [], [])
            for rows in again:
                half_asked = self.prepare(batch.take(pa.array(rows)))
                asked.rows.extend(rows[some] for some in half_asked.rows)
                asked.bodies.extend(half_asked.bodies)
        return scores, reasons

    def _answers(self, asked: Bodies) -> list[Floats | RequestFailed]:
        """What every request gave.

        Raises `BadRow` for a row that is refused alone, unless such rows are to be null.
        """
        answers = Answers(self.kind, self.label, self.parity)

        def read(number: int, answer: Any) -> Floats | RequestFailed:
            return answers.scores(answer, len(asked.rows[number]))

        def refused(number: int, error: RequestFailed) -> RequestFailed:
            rows = asked.rows[number]
            if len(rows) == 1 and self.on_refused == "error":
                assert error.reason is not None
                what = f"cannot be scored; {error.message}"
                raise BadRow("endpoint", what, row=int(rows[0]), reason=error.reason) from error
            return error

        jobs = [(PATHS[self.kind], body) for body in asked.bodies]
        return self.client.post_all(jobs, read, refused=refused)

    # Checking

    def _compare(
        self, batch: pa.RecordBatch, scores: Floats, refused: npt.NDArray[np.bool_]
    ) -> None:
        """Compare the first rows with the model scored here, once."""
        rows = np.flatnonzero(~refused)[: self.parity_rows]
        if self.parity is None or "compared" in self._state or not len(rows):
            return
        self._state["compared"] = True
        some = batch.take(pa.array(rows))
        looks = compared(self.parity, some, scores[rows], self.tolerance)
        if looks is not None:
            raise ScoresDiffer(
                f"endpoint: {self.kind} at {self.url} gives other scores than the model scored"
                f" here; {looks}.",
                hint="nothing was written. A sigmoid: start the server for raw scores;"
                " else compare templates, pooling and weights.",
            )

    def _warn(self, scores: Floats) -> None:
        if self.parity is not None or "warned" in self._state or len(scores) < _LEAST_TO_WARN:
            return
        if ((scores >= 0) & (scores <= 1)).all():
            self._state["warned"] = True
            warnings.warn(
                "all scores are between 0 and 1: does the server apply a sigmoid?"
                " parity=RewardModel(...) finds out",
                stacklevel=3,
            )
