"""`prefmill.label_next`: which pairs of a pool to label next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import duckdb
import numpy as np
import polars as pl

from prefmill.errors import BadArgument, BadInput
from prefmill.models.embedding import Embedder
from prefmill.plans import Pairs
from prefmill.progress import Progress, peak_rss_mb, silent
from prefmill.proxies.choice import PENALTY, spread, variances
from prefmill.proxies.features import features
from prefmill.proxies.fit import chance, weights_of
from prefmill.proxies.notes import notes_of
from prefmill.proxies.output import written
from prefmill.proxies.pairs import drawn, opened_pairs, texts_of
from prefmill.proxies.worth import TOKENS
from prefmill.rules.intervals import Floats
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading
from prefmill.runs.records.commands import recorded
from prefmill.runs.records.inputs import known_of
from prefmill.shapes.source import words_in
from prefmill.table.roles import Inputs, RoleNames
from prefmill.table.showing import Showing
from prefmill.telemetry.watch import watched
from prefmill.writers import write as writers

#: Answers of a pool that are looked at, and of one prompt.
ANSWERS, OF_ONE = 6000, 8
#: Of more labels so many are drawn.
_LABELS = 1500
#: With fewer labels no proxy is fitted.
_FEWEST = 20
#: The score of every answer of a pool: scores are not looked at.
_SCORE = "1"


@dataclass(frozen=True)
class NextReport(Showing):
    """What was chosen to be labelled next.

    answers     of the pool, different ones of `prompts` with two or more; of them `looked_at`
    pairs       of those, without the pairs that have a label already: `labelled_before`
    labels      that a proxy was fitted to; 0: pairs were spread over answers, and drawn
    rows_out    pairs to label
    """

    rows_in: int
    rows_rejected: int
    prompts: int
    answers: int
    looked_at: int
    pairs: int
    labelled_before: int
    labels: int
    rows_out: int
    prompts_out: int
    seed: int
    seconds: float
    peak_rss_mb: float
    output: str | None
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """The report with plain values only."""
        return asdict(self)


@watched("next")
def label_next(
    inputs: Inputs,
    output: str | Path,
    *,
    n: int = 500,
    labelled: Inputs | None = None,
    model: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    max_tokens: int = TOKENS,
    device: str = "auto",
    most: int = ANSWERS,
    seed: int = 0,
    roles: RoleNames | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> NextReport:
    """Choose the pairs of a pool that are to be labelled next.

    Rows out, the most wanted first: prompt, answer_a, answer_b, winner (empty, for the label: a, b
    or tie), chance (that a is preferred, by the proxy), source_a, source_b. Which answer is a is a
    coin's. With the labels filled in, every command reads the file.

    Args:
        inputs: a pool: prompts with several answers each. Scores are not looked at.
        n: how many pairs.
        labelled: pairs that have labels already. A proxy is fitted to them, as `prefmill.worth`
            does, and their answers count as met. None, or fewer than 20: pairs are spread over
            answers and prompts, and drawn by chance; no encoder is needed.
        most: answers that are looked at, at most eight of a prompt; of more, prompts are drawn.
        model, revision, trust_remote_code, max_tokens, device: as in `prefmill.worth`.
        seed: of what is drawn.
        roles, overwrite, progress, reading: as in `prefmill.run`; `roles` are those of the pool.

    Cost: one pass over the pool; with labels, an embedding of what is looked at: about a minute of
    two cores for 3,000 answers. Raises `BadInput` where no prompt has two answers.
    """
    started = time.perf_counter()
    for name, value, least in (("n", n, 1), ("most", most, 2), ("seed", seed, 0)):
        if type(value) is not int or value < least:
            raise BadArgument(f"next: {name} is no whole number >= {least}; got {value!r}.")
    tell = progress or silent

    def embedder() -> Embedder:
        return Embedder(
            model,
            revision=revision,
            trust_remote_code=trust_remote_code,
            max_tokens=max_tokens,
            device=device,
            where="next",
        )

    words: Any = {**(roles or {}), "score": _SCORE}
    recording = recorded(
        "next",
        inputs,
        output,
        reading,
        overwrite=overwrite,
        words=words_in(None, words).named(),
        settings={"n": n, "most": most, "seed": seed, "max_tokens": max_tokens},
        encoder=None if labelled is None else str(model),
        labelled=[] if labelled is None else list(known_of(labelled)),
    )
    with recording as record:
        if record.done:
            return record.restored(NextReport)
        record.facts |= {"seed": seed}
        known = _Labels(labelled, seed, progress)
        plan = Pairs(chosen_min=None, rejected_below=None)
        with opened_pairs(plan, inputs, words, progress=progress, **reading) as job:
            pool = _Pool(job, most, seed, known)
            proxy = None
            if len(known.texts) >= _FEWEST:
                proxy = pool.proxy(embedder(), lambda share: tell("embedding", share))
            frame = pool.chosen(n, proxy, seed)
            record.read(job.records.inputs)

            def report(files: writers.Written) -> NextReport:
                return NextReport(
                    **pool.counts,
                    rows_in=job.source.rows,
                    rows_rejected=job.source.rejected,
                    labels=0 if proxy is None else len(known.texts),
                    rows_out=frame.height,
                    prompts_out=frame["prompt"].n_unique(),
                    seed=seed,
                    seconds=round(time.perf_counter() - started, 3),
                    peak_rss_mb=peak_rss_mb(),
                    output=files.paths.get(""),
                    notes=[*pool.notes, *known.notes, *files.notes],
                )

            written(frame, output, record, report, reading)
            return record.made or report(writers.Written({"": str(output)}, {}))


@dataclass(frozen=True)
class _Proxy:
    """A proxy of the labels, and the differences that it was fitted to and is asked of.

    differences  a row for each pair of the pool
    known        a row for each label, the better answer first
    weights      the proxy's
    """

    differences: Floats
    known: Floats
    weights: Floats


class _Labels:
    """Pairs that have labels: their texts, and which answers met."""

    def __init__(self, labelled: Inputs | None, seed: int, progress: Progress | None) -> None:
        self.texts = pl.DataFrame(schema={"chosen": pl.String, "rejected": pl.String})
        self.met = pl.DataFrame(schema={"prompt": pl.String, "one": pl.String, "other": pl.String})
        self.notes: list[str] = []
        if labelled is None:
            return
        with opened_pairs(Pairs(), labelled, None, progress=progress) as job:
            met = "SELECT prompt::VARCHAR AS prompt, c_answer::VARCHAR AS one,"
            met += " r_answer::VARCHAR AS other FROM sides"
            self.met = pl.DataFrame(job.con.sql(met).to_arrow_table())
            pairs = drawn(job, _LABELS, seed)
            rows = texts_of(job, pl.concat([pairs["c_pos"], pairs["r_pos"]]))
        side = {name: rows.select("pos", pl.col("answer").alias(name)) for name in ("c", "r")}
        both = pairs.select("c_pos", "r_pos")
        for name in ("c", "r"):
            both = both.join(
                side[name], left_on=f"{name}_pos", right_on="pos", how="left", maintain_order="left"
            )
        self.texts = both.select(chosen="c", rejected="r")
        if len(self.texts) < _FEWEST:
            self.notes.append(
                f"{len(self.texts):,} labels are too few for a proxy ({_FEWEST} are needed): pairs"
                " were spread over answers and drawn"
            )


class _Pool:
    """The answers of a pool that are looked at, and their pairs."""

    def __init__(self, job: Job, most: int, seed: int, known: _Labels) -> None:
        self.job, self.known = job, known
        everything = _answers(job.con, seed)
        self.answers = everything.head(most).filter(pl.len().over("prompt") > 1)
        if not self.answers.height:
            raise BadInput(
                f"next: no prompt has two different answers; got {job.source.rows:,} rows.",
                hint="prefmill sample -n 4 gives each prompt four answers.",
            )
        self.answers = self.answers.with_row_index("at")
        pairs = self.answers.join(self.answers, on="prompt", suffix="_b").filter(
            pl.col("at") < pl.col("at_b")
        )
        met = pl.concat([known.met, known.met.select("prompt", one="other", other="one")]).unique()
        before = pairs.join(
            met,
            left_on=["prompt", "answer", "answer_b"],
            right_on=["prompt", "one", "other"],
            how="semi",
        )
        self.pairs = pairs.join(before, on=["at", "at_b"], how="anti", maintain_order="left")
        if not self.pairs.height:
            raise BadInput("next: every pair of the pool has a label already.")
        # `facts` knows all rows, of which a prompt gave eight answers at most.
        ((prompts, answers),) = job.con.execute(
            "SELECT count(*), coalesce(sum(n), 0)::BIGINT FROM (SELECT count(*) AS n FROM answers"
            " GROUP BY prompt HAVING count(*) > 1)"
        ).fetchall()
        self.counts: dict[str, int] = {
            "prompts": prompts,
            "answers": answers,
            "looked_at": self.answers.height,
            "pairs": self.pairs.height,
            "labelled_before": before.height,
        }
        self.notes = [note.removesuffix(f" --score {_SCORE}") for note in notes_of(job)]
        if self.answers.height < answers:
            self.notes.append(
                f"{self.answers.height:,} of {answers:,} answers were drawn; --most N draws more"
            )

    def proxy(self, embedder: Embedder, tell: Any) -> _Proxy:
        """The pairs as a proxy sees them, and the proxy where there are labels enough."""
        texts = texts_of(self.job, self.answers["pos"])
        own = self.answers.join(texts, on="pos", how="left", maintain_order="left")["answer_right"]
        labels = self.known.texts
        every = pl.concat([own, labels["chosen"], labels["rejected"]])
        unique = every.unique(maintain_order=True)
        rows = features(embedder, unique, tell)
        places = dict(zip(unique.to_list(), range(len(unique)), strict=True))

        def of(texts: pl.Series) -> Floats:
            found: Floats = rows[[places[text] for text in texts.to_list()]]
            return found

        known = of(labels["chosen"]) - of(labels["rejected"])
        at, other = (self.pairs[name].to_numpy() for name in ("at", "at_b"))
        answers = of(own)
        return _Proxy(answers[at] - answers[other], known, weights_of(known, PENALTY))

    def chosen(self, n: int, proxy: _Proxy | None, seed: int) -> pl.DataFrame:
        """The pairs to label, with their texts."""
        sides = self.pairs.select("at", "at_b").to_numpy().astype(np.int64)
        known = pl.concat(
            [self.known.met.select("prompt", answer=side) for side in ("one", "other")]
        )
        counts = known.group_by("prompt", "answer").len()
        answers = self.answers.join(
            counts, on=["prompt", "answer"], how="left", maintain_order="left"
        )
        met = answers["len"].fill_null(0).to_numpy()
        if proxy is None:
            keys = np.random.default_rng(seed).random(len(sides))
        else:
            keys = -variances(proxy.differences, proxy.known, proxy.weights)
        places = spread(sides, keys, n, met)
        pairs = self.pairs[places]
        if proxy is not None:
            margins = proxy.differences[places] @ proxy.weights
            pairs = pairs.with_columns(chance=pl.Series(chance(margins)))
        else:
            pairs = pairs.with_columns(chance=pl.lit(None, pl.Float64))
        # Which one is a is a coin's: a person who likes the left one likes no answer for it.
        turned = np.random.default_rng(seed + 1).random(len(places)) < 0.5
        return self._with_texts(pairs.with_columns(turned=pl.Series(turned)))

    def _with_texts(self, pairs: pl.DataFrame) -> pl.DataFrame:
        turned = pl.col("turned")
        ends = {"a": ("pos", "pos_b"), "b": ("pos_b", "pos")}
        named = pairs.with_row_index("_at").select(
            "_at",
            *(
                pl.when(turned).then(two).otherwise(one).alias(f"_{side}")
                for side, (one, two) in ends.items()
            ),
            *(
                pl.when(turned).then(two).otherwise(one).alias(f"source_{side}")
                for side, (one, two) in (
                    ("a", ("source", "source_b")),
                    ("b", ("source_b", "source")),
                )
            ),
            chance=pl.when(turned).then(1 - pl.col("chance")).otherwise("chance").round(4),
        )
        con = self.job.con
        con.register("_named", named.to_arrow())
        query = (
            "SELECT a._prompt AS prompt, a._completion AS answer_a, b._completion AS answer_b,"
            " NULL::VARCHAR AS winner, chance, source_a, source_b FROM _named"
            " JOIN texts a ON a._pos = _a JOIN texts b ON b._pos = _b ORDER BY _named._at"
        )
        found = pl.DataFrame(con.sql(query).to_arrow_table())
        con.unregister("_named")
        empty = [
            name for name in ("source_a", "source_b") if found[name].null_count() == len(found)
        ]
        return found.drop(empty)


def _answers(con: duckdb.DuckDBPyConnection, seed: int) -> pl.DataFrame:
    """Different answers, at most eight of a prompt, prompts in the order of a draw."""
    query = (
        "SELECT prompt::VARCHAR AS prompt, answer::VARCHAR AS answer, min(pos) AS pos,"
        " min_by(source, pos) AS source FROM facts WHERE reason IS NULL AND prompt IS NOT NULL AND"
        " answer IS NOT NULL GROUP BY prompt, answer"
        f" QUALIFY row_number() OVER (PARTITION BY prompt ORDER BY md5(concat_ws(':', {int(seed)},"
        f" prompt, answer))) <= {OF_ONE} AND count(*) OVER (PARTITION BY prompt) > 1"
        f" ORDER BY md5(concat_ws(':', {int(seed)}, prompt)), pos"
    )
    return pl.DataFrame(con.sql(query).to_arrow_table())
