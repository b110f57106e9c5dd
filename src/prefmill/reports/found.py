"""What a report found: plain figures, a class for each subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prefmill.table.report import PairReport


@dataclass(frozen=True)
class Histogram:
    """Counts of bins; `low` and `high` are the ends of each, equal where a bin is one value."""

    low: Sequence[float]
    high: Sequence[float]
    counts: Sequence[int]

    @property
    def total(self) -> int:
        """What was counted."""
        return sum(self.counts)


@dataclass(frozen=True)
class Part:
    """The scores of one source, or of one annotator, in the bins of the whole.

    Of an annotator `agrees` is the correlation (Pearson) of the scores with the mean of what others
    gave the same answers, of which there are `met`; None where it cannot be told. `p` is the chance
    of so low a correlation, were it 0.
    """

    name: str
    rows: int
    mean: float
    counts: Sequence[int]
    met: int = 0
    agrees: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Floor:
    """What a guess that knows nothing of quality gets right of pairs.

    `pairs` are those that the guess has an opinion of, `share` of which it orders right. `low` and
    `high` are Wilson's 95 % interval, with pairs of one prompt counted for what they are worth
    together. `p` is the chance of as much were the guess worth nothing, `p_adjusted` the same over
    all floors of the report (Holm). `shuffled` is the share after labels were drawn anew. Without
    an opinion of any pair all are None, and `why` says what is missing.
    """

    name: str
    what: str
    pairs: int = 0
    share: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    shuffled: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Repeats:
    """Exact repeats. `rows` repeat an answer of their prompt, `conflicting` of them are of answers
    with several scores; `shared` answers stand under several prompts, in `shared_rows` rows.
    `pairs` are there already, and `contradictory` ones are preferred the other way elsewhere.
    """

    rows: int
    conflicting: int
    shared: int
    shared_rows: int
    pairs: int | None = None
    contradictory: int | None = None


@dataclass(frozen=True)
class Near:
    """Different texts that are nearly the same: of `texts` so many are `near` an earlier one, of
    them `across` in another split. `examples` are the first of them, the earlier text first.
    """

    texts: int
    near: int
    across: int
    examples: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Alike:
    """Different prompts that mean nearly the same, by the vectors of `encoder`: of `texts` so many
    were `read`, of those so many are `alike` an earlier one, of them `across` in another split.
    `examples` are the closest: the cosine, the earlier text and the other.
    """

    encoder: str
    texts: int
    read: int
    alike: int
    across: int
    examples: Sequence[tuple[float, str, str]] = ()


@dataclass(frozen=True)
class Overlap:
    """Two splits, and the prompts that both have; `examples` are the first of them."""

    one: str
    other: str
    prompts: int
    examples: Sequence[str] = ()


@dataclass(frozen=True)
class Span:
    """Words in a row that the data and a benchmark have: in a prompt or an answer of record `row`,
    and in row `theirs` of the benchmark, both from 0; so many `words`, which are `text`.
    """

    of: str
    row: int
    theirs: int
    words: int
    text: str


@dataclass(frozen=True)
class Against:
    """What different prompts and answers have of a benchmark `file`: see `against.py`. Of its
    `texts` it is looked for, `short` ones are too short to tell; `spans` are the first ones.
    """

    file: str
    rows: int
    texts: int
    short: int
    prompts: int
    answers: int
    spans: Sequence[Span] = ()


@dataclass(frozen=True)
class Cut:
    """What a limit of tokens leaves of pairs: see `cut.py`.

    Of the `answers` of pairs, each with its prompt, `cut` are longer than `limit` tokens and lose
    their `end` ("first" or "last" tokens); the `longest` has so many. Of `pairs` so many have such
    an answer (`pairs_cut`), and are the `same` after the cut; `enough` tokens would leave none the
    same (None: there are none, or too many to look at). Pairs that the tokenizer or its template
    cannot read are `unread`.
    """

    tokenizer: str
    limit: int
    end: str
    answers: int
    cut: int
    longest: int
    pairs: int
    unread: int
    pairs_cut: int
    same: int
    enough: int | None = None


@dataclass(frozen=True)
class Point:
    """What the best of `n` answers of a prompt scores on average, with its 95 % interval, over
    `prompts` that have so many; and their mean score, which is what one answer is worth.
    """

    n: int
    prompts: int
    best: float
    low: float | None
    high: float | None
    mean: float


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a text; `more` characters follow it."""

    text: str
    more: int = 0


@dataclass(frozen=True)
class Shown:
    """A pair to read."""

    prompt: Excerpt
    chosen: Excerpt
    rejected: Excerpt
    chosen_score: float
    rejected_score: float


@dataclass(frozen=True)
class Warned:
    """What is wrong, what to do about it, and the line to type (it may be empty)."""

    name: str
    what: str
    advice: str
    line: str = ""


@dataclass(frozen=True)
class Figures:
    """All that was counted; `Report` puts it into words.

    kind       feedback, pairs, labels, pool, scored pool, judged pool
    funnel     what became of every row, by the plan that `funnel_of` names; None of a pool
    given      the options by which the file was read, as they are to be typed again
    made_from  the input of the run that wrote the file, where the funnel is its own, with the
               options by which that run read it
    source     the column of the source, or those of answers side by side
    refusal    why default thresholds could not be taken, "" where they could
    ties       of two answers of one prompt: how often their scores are equal, of how many
    """

    name: str
    kind: str
    shape: str
    line: str
    files: int
    records: int
    rows: int
    rejected: int
    columns: Mapping[str, str]
    prompts: int
    answers: int
    funnel: PairReport | None = None
    funnel_of: str = ""
    given: str = ""
    source: str = ""
    made_from: str = ""
    made_by: str = ""
    thresholds: Mapping[str, float | None] = field(default_factory=dict)
    refusal: str = ""
    scores: Histogram | None = None
    sources: Sequence[Part] = ()
    annotators: Sequence[Part] = ()
    gaps: Histogram | None = None
    answers_per_prompt: Histogram | None = None
    ties: tuple[int, int] | None = None
    pairs: int = 0
    floors: Sequence[Floor] = ()
    repeats: Repeats | None = None
    near_prompts: Near | None = None
    near_answers: Near | None = None
    alike: Alike | None = None
    splits: Mapping[str, int] = field(default_factory=dict)
    overlaps: Sequence[Overlap] = ()
    against: Sequence[Against] = ()
    cut: Cut | None = None
    best_of: Sequence[Point] = ()
    shown: Sequence[Shown] = ()
    notes: Sequence[str] = ()
