"""Questions and answers of the corpus of shapes: all invented."""

from __future__ import annotations

ASKED = (
    "How do I dry wet boots?",
    "Name a bird that cannot fly.",
    "What is 7 times 8?",
    "Why is my bread flat?",
    "Where do comets come from?",
    "How long does tea steep?",
    "Give me a word for rain.",
    "Who mends old clocks?",
    "Is glass a liquid?",
    "How many legs has a crab?",
    "What floats on water?",
    "When do owls hunt?",
)
#: Four answers to each question.
SAID = (
    ("Stuff them with paper.", "Put them outside.", "Wait.", "Buy new ones."),
    ("The kiwi.", "An ostrich cannot fly.", "A swallow.", "Birds fly."),
    ("56", "It is 56.", "54", "7 x 8 = 48"),
    ("The yeast was old.", "Let it rise longer.", "Bad luck.", "Bread is flat."),
    ("From far beyond Neptune.", "Out of the Oort cloud.", "From the Moon.", "No idea."),
    ("Three minutes.", "Until it tastes right.", "An hour.", "Tea is a plant."),
    ("Drizzle.", "Downpour.", "Wet.", "Sunshine."),
    ("A horologist.", "A clockmaker does.", "A plumber.", "Nobody."),
    ("No, an amorphous solid.", "No.", "Yes, a slow one.", "It is blue."),
    ("Ten, with the claws.", "Ten.", "Eight.", "Six."),
    ("Cork, oil and ice.", "Wood.", "A stone.", "Fish."),
    ("At dusk and at night.", "At night.", "At noon.", "On Mondays."),
)
#: The answers of pairs: a good one to the first question, and a bad one.
A, B = SAID[0][0], SAID[0][2]
MODELS = ("ash-7b", "birch-13b", "cedar-70b", "dogwood-2b")


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def human(text: str) -> dict:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict:
    return {"from": "gpt", "value": text}


def each(make, count: int = 6) -> list[dict]:
    """`make(i, question, answers)` for the first questions."""
    return [make(i, ASKED[i], SAID[i]) for i in range(count)]


def long(make, answers: int = 2, questions: int = 5) -> list[dict]:
    """`make(i, k, question, answer)` for some answers to each question."""
    return [
        make(i, k, ASKED[i], SAID[i][2 * k if answers == 2 else k])
        for i in range(questions)
        for k in range(answers)
    ]


def two(make, verdicts: tuple) -> list[dict]:
    """`make(i, question, first answer, second answer, verdict)` for each verdict."""
    return [make(i, ASKED[i], SAID[i][0], SAID[i][2], word) for i, word in enumerate(verdicts)]


def won(first: float) -> list[tuple]:
    """The rows of the first record."""
    return [(ASKED[0], A, first), (ASKED[0], B, 1 - first)]
