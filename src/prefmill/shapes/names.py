"""What columns are called in the field: names cut into words, and columns that are alike.

A name says a role by its noun, `answer` in `model_1_answer`; the words around it must be known
to say nothing else, so `answer_length` is no answer. Columns that differ in one word only
(`response_a`, `response_b`) are a family.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from prefmill.table.roles import ALIASES

#: What tells the members of a family apart, in order.
_ORDERS = (
    tuple("abcdefgh"),
    tuple("0123456789"),
    tuple("123456789"),
    ("left", "right"),
    ("first", "second"),
    ("one", "two"),
)
LABELS = frozenset(label for order in _ORDERS for label in order)
#: How the two sides of a ready pair are called.
SIDES = (
    ("chosen", "rejected"),
    ("preferred", "dispreferred"),
    ("preferred", "rejected"),
    ("accepted", "rejected"),
    ("winner", "loser"),
    ("win", "lose"),
    ("w", "l"),
    ("better", "worse"),
)

PROMPTS = frozenset(ALIASES["prompt"])
COMPLETIONS = frozenset(
    {
        *(name for name in ALIASES["completion"] if "_" not in name),
        *("candidate", "conversation", "message", "ref", "sample", "rollout", "continuation"),
        *("summary", "translation", "prediction", "solution", "text", "ans", "resp"),
    }
)
SCORES = frozenset(
    {
        *(name for name in ALIASES["score"] if "_" not in name),
        *("points", "upvotes", "rewards", "scores", "ratings"),
    }
)
RANKS = frozenset({"rank", "ranking"})
SOURCES = ("model", "generator", "source", "engine", "llm", "system", "policy")
VERDICTS = frozenset(
    {
        *("winner", "win", "winning", "wins", "won", "label", "labels", "preference", "preferred"),
        *("verdict", "choice", "chosen", "better", "best", "vote", "votes", "decision"),
        *("judgment", "judgement", "selected", "selection", "outcome", "pick", "prefer", "prefers"),
    }
)
#: Verdicts that hold the number of an answer, not a yes or a no.
INDEXES = frozenset(
    {
        *("winner", "better", "best", "choice", "chosen", "preferred", "selected", "selection"),
        *("id", "idx", "index", "pick"),
    }
)
#: Whose columns are verdicts where there is one for each judge.
JUDGES = frozenset({"annotator", "judge", "rater", "expert", "reviewer", "evaluator"})
TIES = frozenset({"tie", "tied", "ties", "draw", "both", "bothbad", "equal", "neither"})
#: Names of columns that hold thumbs, and what else people say of one answer.
THUMBS = frozenset(
    {
        *ALIASES["score"],
        *("label", "thumb", "thumbs", "thumbs_up", "thumbsup", "vote", "reaction"),
        *("like", "liked", "is_liked", "correct", "is_correct", "passed", "pass", "result"),
        *("verdict", "evaluation", "judgment", "judgement", "helpful", "is_helpful", "was_helpful"),
        *("user_feedback", "user_rating", "user_vote", "human_feedback", "human_rating"),
        *("feedback_type", "feedback_value", "feedback_rating", "rating_type", "thumbs_feedback"),
        *("quality", "status", "value", "upvoted", "kto_tag", "accepted", "is_good", "approved"),
    }
)
#: Those whose numbers are as often something else: the status of a request.
WORDS_ONLY = frozenset({"status", "value", "result", "reaction"})
#: An answer's model, in a name that ends with it: `answer_model`.
_MADE = frozenset({"model", "generator", "llm", "policy"})
_FILLERS = frozenset(
    {
        *("model", "assistant", "the", "ai", "bot", "llm", "generated", "text", "human", "option"),
        *("system", "full", "final", "candidate", "raw", "new", "agent", "policy", "all", "orig"),
    }
)
_AROUND_PROMPTS = frozenset({"user", "your", "the", "human", "text", "orig", "original", "full"})
_ABOUT = _FILLERS | COMPLETIONS
#: Words around a score that name no other thing than the answer it is of.
_MEASURES = frozenset(
    {
        *("overall", "avg", "average", "mean", "preference", "total", "quality", "final", "gpt4"),
        *("rm", "judge", "user"),
    }
)
#: Words around a verdict.
_OF_VERDICTS = frozenset(
    {
        *("human", "overall", "final", "is", "the", "answer", "response", "model", "completion"),
        *("output", "id", "idx", "index", "gold", "majority", "user", "side", "option", "result"),
        *("strength", "general", "which", "one", "or", "of", "two", "do", "you", "orig"),
        *("annotation", "comparison", "class", "name", "by", "gpt4"),
    }
)
#: Names of prompts that are no alias, for tables in which nothing else can be one.
WEAK_PROMPTS = (
    *("context_messages", "prompt_messages", "input_messages"),
    *("human", "user", "user_message", "message", "ask", "request"),
    *("post", "history", "conversations", "conversation", "messages", "dialogue", "dialog"),
)
WEAK_COMPLETIONS = (
    *("assistant_message", "bot_message", "ai_message", "assistant", "bot", "prediction"),
    *("predicted_answer", "predicted_response"),
)
CONVERSATIONS = (
    *("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns"),
)


def last(path: str) -> str:
    """The name that a path, or a column with dots in its name, ends with.

    >>> last("Input.answer_a"), last("data.Model Output"), last("messages[-1]")
    ('answer_a', 'Model Output', 'messages')
    """
    return re.sub(r"(\[[^\]]*\])+$", "", path).rpartition(".")[2].strip('"')


def singular(path: str) -> list[str]:
    """The words of the last name, one of each.

    >>> singular("all_replies"), singular("scores")
    (['all', 'reply'], ['score'])
    """
    return [re.sub(r"ies$", "y", word).removesuffix("s") for word in words(path)]


def plain(path: str) -> str:
    """The last name as names compare.

    >>> plain("meta.overallScore"), plain("Chosen-Rating")
    ('overall_score', 'chosen_rating')
    """
    return "_".join(words(path))


def words(path: str) -> list[str]:
    """The words of the last name, in lower case.

    >>> words("responseA"), words("Answer 1"), words("output_2"), words("score12")
    (['response', 'a'], ['answer', '1'], ['output', '2'], ['score', '12'])
    """
    spaced = re.sub(r"([a-z])([A-Z])|([A-Za-z])(?=\d)", r"\1\3 \2", last(path))
    return re.findall(r"[^\W_]+", spaced.lower())


@dataclass(frozen=True)
class Family:
    """Columns that differ in one word: their common words, and a path for each of the others."""

    common: tuple[str, ...]
    paths: Mapping[str, str]

    @property
    def labels(self) -> tuple[str, ...]:
        """What tells them apart, in order."""
        return tuple(self.paths)


def families(paths: Sequence[str]) -> list[Family]:
    """The families of `paths`, each complete: as many of an order as are there without a gap.

    >>> [each.paths for each in families(["answer_a", "answer_b", "score"])]
    [{'a': 'answer_a', 'b': 'answer_b'}]
    """
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for path in paths:
        cut = words(path)
        for place, word in enumerate(cut):
            if any(word in order for order in _ORDERS):
                key = (*cut[:place], "*", *cut[place + 1 :], _parent(path))
                found.setdefault(key, {}).setdefault(word, path)
    made = [_ordered(key, members) for key, members in found.items()]
    return [each for each in made if each is not None]


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _ordered(key: tuple[str, ...], members: Mapping[str, str]) -> Family | None:
    for order in _ORDERS:
        labels = order[: len(members)]
        if len(members) > 1 and set(labels) == set(members):
            common = tuple(word for word in key[:-1] if word != "*")
            return Family(common, {label: members[label] for label in labels})
    return None


def is_answer(common: Collection[str]) -> bool:
    """Whether a name of these words is an answer's.

    >>> [is_answer(each.split()) for each in ("model answer", "answer model", "answer length")]
    [True, False, False]
    """
    named = bool(COMPLETIONS & set(common)) and set(common) <= _ABOUT
    return named and list(common)[-1] not in _MADE


def is_weak_prompt(path: str) -> bool:
    """Whether a name is a prompt's with a word or two around it.

    >>> is_weak_prompt("user_question"), is_weak_prompt("question_id")
    (True, False)
    """
    rest = [word for word in words(path) if word not in _AROUND_PROMPTS]
    return len(rest) == 1 and rest[0] in PROMPTS


def is_weak_answer(path: str) -> bool:
    """Whether a name is an answer's with a word or two around it.

    >>> is_weak_answer("bot_response"), is_weak_answer("response_time")
    (True, False)
    """
    name = words(path)
    return bool(set(name) & set(ALIASES["completion"])) and is_answer(name)


def is_score(common: Collection[str], nouns: Collection[str] = SCORES) -> bool:
    """Whether a name of these words is the score of an answer."""
    rest = set(common) - set(nouns)
    return rest != set(common) and rest <= _ABOUT | _MEASURES


def is_source(common: Collection[str]) -> bool:
    """Whether a name of these words says what made an answer."""
    return bool(set(SOURCES) & set(common)) and set(common) <= _ABOUT | {*SOURCES, "name", "id"}


def is_verdict(common: Collection[str]) -> bool:
    """Whether a name of these words is a verdict's."""
    # "Which one is better, A or B?"
    rest = set(common) - LABELS if "or" in common else set(common)
    return bool(VERDICTS & rest) and rest <= VERDICTS | _OF_VERDICTS


def sides(paths: Sequence[str]) -> dict[tuple[str, str], dict[tuple[str, ...], tuple[str, str]]]:
    """For each pair of sides, the two paths that have the same other words.

    >>> sides(["chosen", "rejected", "chosen_score"])
    {('chosen', 'rejected'): {(): ('chosen', 'rejected')}}
    """
    found: dict[tuple[str, str], dict[tuple[str, ...], tuple[str, str]]] = {}
    cut = {path: words(path) for path in paths}
    for both in SIDES:
        members: list[dict[tuple[str, ...], str]] = [{}, {}]
        for path, name in cut.items():
            for place, word in enumerate(both):
                if name.count(word) == 1:
                    rest = (_parent(path), *(each for each in name if each != word))
                    members[place].setdefault(rest, path)
        one, other = members
        pairs = {rest[1:]: (one[rest], other[rest]) for rest in one if rest in other}
        if pairs:
            found[both] = pairs
    return found
