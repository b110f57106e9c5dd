"""Records as public data sets have them, with the line that a reader of the rules would type.

The values are invented; names and types are those of the field.
"""

from __future__ import annotations

from typing import Any


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


WHOLE = ([user("Why?"), assistant("So.")], [user("Why?"), assistant("No.")])
SIDES = {"prompt": "Why?", "response_a": "So.", "response_b": "No."}
NUMBERED = {"prompt": "Why?", "response_0": "So.", "response_1": "No."}
LOG = {"question": "Why?", "answer": "So."}

#: Records by name, and the words of their only reading.
PAIRS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "explicit": (
        [{"prompt": "Why?", "chosen": "So.", "rejected": "No."}],
        "--prompt prompt --completion chosen,rejected --score 1,0",
    ),
    "one letter is an answer too": (
        [{"prompt": "Which?", "chosen": "A", "rejected": "B"}],
        "--prompt prompt --completion chosen,rejected --score 1,0",
    ),
    "whole conversations beside their prompt": (
        [
            {
                "prompt": "Why?",
                "chosen": WHOLE[0],
                "rejected": WHOLE[1],
                "messages": WHOLE[0],
                "score_chosen": 8.0,
                "score_rejected": 3.0,
            }
        ],
        "--prompt common --completion chosen,rejected --score score_chosen,score_rejected",
    ),
    "answers beside a conversation": (
        [{"prompt": [user("Why?")], "chosen": [assistant("So.")], "rejected": [assistant("No.")]}],
        "--prompt prompt --completion chosen,rejected --score 1,0",
    ),
    "names with a hyphen": (
        [
            {
                "prompt": "Why?",
                "chosen": "So.",
                "chosen-rating": 5,
                "chosen-model": "m",
                "rejected": "No.",
                "rejected-rating": 2,
                "rejected-model": "n",
            }
        ],
        "--prompt prompt --completion chosen,rejected --score chosen-rating,rejected-rating"
        " --source chosen-model,rejected-model",
    ),
    "a word around the sides": (
        [
            {
                "instruction": "Why?",
                "chosen_response": "So.",
                "rejected_response": "No.",
                "chosen_avg_rating": 5.0,
                "rejected_avg_rating": 4.0,
            }
        ],
        "--prompt instruction --completion chosen_response,rejected_response"
        " --score chosen_avg_rating,rejected_avg_rating",
    ),
    "written as HH": (
        [
            {
                "chosen": "\n\nHuman: Why?\n\nAssistant: So.",
                "rejected": "\n\nHuman: Why?\n\nAssistant: No.",
            }
        ],
        "--prompt common --completion chosen,rejected --score 1,0",
    ),
    "one message each": (
        [
            {
                "conversations": [{"from": "human", "value": "Why?"}],
                "chosen": gpt("So."),
                "rejected": gpt("No."),
            }
        ],
        "--prompt conversations --completion chosen,rejected --score 1,0",
    ),
    "several of each": (
        [{"prompt": "Why?", "chosen": ["So.", "Thus."], "rejected": ["No.", "Nay.", "Never."]}],
        "--prompt prompt --completion chosen,rejected --score 1,0 --each chosen,rejected",
    ),
    "generations beside pairs": (
        [
            {
                "input": "Why?",
                "chosen": "So.",
                "rejected": "No.",
                "generations": ["So.", "No."],
                "rating": [9.0, 3.0],
            }
        ],
        "--prompt input --completion chosen,rejected --score 1,0",
    ),
    "winner and loser": (
        [{"query": "Why?", "response_w": "So.", "response_l": "No."}],
        "--prompt query --completion response_w,response_l --score 1,0",
    ),
}

VERDICTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "letters with a mark": (
        [{**SIDES, "label": word} for word in ("A>B", "b>a", "A=B")],
        "--prompt prompt --completion response_a,response_b --winner label",
    ),
    "models": (
        [
            {**SIDES, "model_a": "ash", "model_b": "birch", "winner": word}
            for word in ("ash", "birch", "Tie (bothbad)")
        ],
        "--prompt prompt --completion response_a,response_b --source model_a,model_b"
        " --winner winner",
    ),
    "a word of nobody is counted": (
        [{**SIDES, "winner": word} for word in ("a", "b", "skipped")],
        "--prompt prompt --completion response_a,response_b --winner winner",
    ),
    "one column for each answer": (
        [{**SIDES, "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}],
        "--prompt prompt --completion response_a,response_b"
        " --winner winner_model_a,winner_model_b,winner_tie",
    ),
    "the number of the better answer": (
        [{**NUMBERED, "better_response_id": 1, "safer_response_id": 0}],
        "--prompt prompt --completion response_0,response_1 --winner better_response_id",
    ),
    "one and two": (
        [
            {"prompt": "Why?", "output_1": "So.", "output_2": "No.", "preference": number}
            for number in (1, 2)
        ],
        "--prompt prompt --completion output_1,output_2 --winner preference",
    ),
    "judges": (
        [{**SIDES, "winner1": "A", "winner2": "tie", "winner3": "B"}],
        "--prompt prompt --completion response_a,response_b --winner winner1,winner2,winner3",
    ),
    "crowd work": (
        [
            {
                "Input.question": "Why?",
                "Input.answer_a": "So.",
                "Input.answer_b": "No.",
                "Answer.choice": word,
            }
            for word in ("A", "B")
        ],
        "--prompt Input.question --completion Input.answer_a,Input.answer_b --winner Answer.choice",
    ),
    "whole conversations": (
        [
            {
                "conversation_a": WHOLE[0],
                "conversation_b": WHOLE[1],
                "model_a": "ash",
                "model_b": "birch",
                "winner": "model_a",
            }
        ],
        "--prompt common --completion conversation_a,conversation_b --source model_a,model_b"
        " --winner winner",
    ),
}

SCORED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "votes of two comments": (
        [
            {
                "history": "Why?",
                "human_ref_A": "So.",
                "human_ref_B": "No.",
                "c_root_id_A": "x1",
                "c_root_id_B": "x2",
                "score_A": 3,
                "score_B": 5,
                "labels": 0,
            }
        ],
        "--prompt history --completion human_ref_A,human_ref_B --score score_A,score_B",
    ),
    "a question of a survey": (
        [
            {
                "Your question": "Why?",
                "Answer 1": "So.",
                "Answer 2": "No.",
                "Which one is better, 1 or 2?": word,
            }
            for word in ("1", "2")
        ],
        "--prompt 'Your question' --completion 'Answer 1,Answer 2'"
        " --winner 'Which one is better, 1 or 2?'",
    ),
    "a question in a record": (
        [
            {
                "question": {"id": "1", "full_text": "Why?"},
                "answer_0": "So.",
                "score_0": 0.5,
                "answer_1": "No.",
                "score_1": -0.5,
            }
        ],
        "--prompt question.full_text --completion answer_0,answer_1 --score score_0,score_1",
    ),
    "ranks of three": (
        [
            {
                "question": "Why?",
                **{f"response_{n}": f"{n}." for n in (1, 2, 3)},
                **{f"rank_{n}": n for n in (1, 2, 3)},
            }
        ],
        "--prompt question --completion response_1,response_2,response_3"
        " --score -rank_1,-rank_2,-rank_3",
    ),
    "a record for each answer": (
        [
            {
                "instruction": "Why?",
                "completions": [
                    {"model": "m", "response": "So.", "critique": "Hm.", "overall_score": 8.5}
                ],
            }
        ],
        "--prompt instruction --completion completions.response"
        " --score completions.overall_score --source completions.model --each completions",
    ),
    "ranked records": (
        [{"prompt": "Why?", "answers": [{"answer": "So.", "model": "m", "rank": 1.0}]}],
        "--prompt prompt --completion answers.answer --score -answers.rank"
        " --source answers.model --each answers",
    ),
    "lists": (
        [{"prompt": "Why?", "responses": ["So.", "No."], "scores": [1.0, 2.0]}],
        "--prompt prompt --completion responses --score scores --each responses,scores",
    ),
    "lists of unequal length": (
        [{"prompt": "Why?", "responses": ["So.", "No."], "scores": [1.0]}],
        "--prompt prompt --completion responses --score scores --each responses,scores",
    ),
    "lists with models": (
        [{"prompt": "Why?", "generations": ["So."], "ratings": [4], "generation_models": ["m"]}],
        "--prompt prompt --completion generations --score ratings --source generation_models"
        " --each generations,ratings,generation_models",
    ),
    "ranks in a list": (
        [{"prompt": "Why?", "responses": ["So.", "No."], "ranks": [1, 2]}],
        "--prompt prompt --completion responses --score -ranks --each responses,ranks",
    ),
    "a tree of messages": (
        [
            {
                "prompt": {
                    "text": "Why?",
                    "role": "prompter",
                    "replies": [{"text": "So.", "role": "assistant", "rank": 0}],
                }
            }
        ],
        "--prompt prompt.text --completion prompt.replies.text --score -prompt.replies.rank"
        " --each prompt.replies",
    ),
    "a field for each model": (
        [{"prompt": "Why?", "responses": {"m": "So.", "n": "No."}, "scores": {"m": 1.0, "n": 0.0}}],
        "--prompt prompt --completion 'responses.*' --score 'scores.*'",
    ),
}

LONG: dict[str, tuple[list[dict[str, Any]], str]] = {
    "thumbs": (
        [{**LOG, "feedback": word} for word in ("Up", "down")],
        "--prompt question --completion answer --score feedback --values up=1,down=0",
    ),
    "one side of thumbs": (
        [{**LOG, "vote": "downvote"}],
        "--prompt question --completion answer --score vote --values upvote=1,downvote=0",
    ),
    "signs, and nobody's": (
        [{**LOG, "reaction": word} for word in ("👍", "👎", "")],
        "--prompt question --completion answer --score reaction --values '👍=1,👎=0,=null'",
    ),
    "a log of what was found": (
        [{**LOG, "feedback": "good", "sources": [{"text": "So it is.", "score": 0.5}]}],
        "--prompt question --completion answer --score feedback --values good=1,bad=0",
    ),
    "instruction and input": (
        [{"instruction": "Say", "input": "why", "output": "So.", "score": 3}],
        "--prompt instruction,input --completion output --score score",
    ),
    "with history": (
        [{"instruction": "Say", "input": "", "output": "So.", "score": 3, "history": [["a", "b"]]}],
        "--prompt instruction,input --completion output --score score --history history",
    ),
    "records in records": (
        [{"data": LOG, "meta": {"rating": 4}}],
        "--prompt data.question --completion data.answer --score meta.rating",
    ),
    "runs of a tracer": (
        [
            {
                "inputs": {"question": "Why?"},
                "outputs": {"answer": "So."},
                "feedback": {"score": 1.0},
            }
        ],
        "--prompt inputs.question --completion outputs.answer --score feedback.score",
    ),
    "a rated conversation": (
        [{"conversations": [{"from": "human", "value": "Why?"}, gpt("So.")], "rating": 4}],
        "--prompt 'conversations[:-1]' --completion 'conversations[-1]' --score rating",
    ),
    "a conversation with thumbs": (
        [{"messages": WHOLE[0], "feedback": "dislike"}],
        "--prompt 'messages[:-1]' --completion 'messages[-1]' --score feedback"
        " --values like=1,dislike=0",
    ),
    "words around the names": (
        [{"user_question": "Why?", "bot_response": "So.", "judge_score": 3}],
        "--prompt user_question --completion bot_response --score judge_score",
    ),
}
ONE = {**PAIRS, **VERDICTS, **SCORED, **LONG}

#: Records that can be read in several ways, and what tells the lines apart.
SEVERAL: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "zero and one": ([{**SIDES, "label": n} for n in (0, 1)], ["--wins 1,0", "--wins 0,1"]),
    "zero and one in the names": (
        [{**NUMBERED, "label": n} for n in (0, 1)],
        ["--wins 1,0", "--wins 0,1"],
    ),
    "always one": ([{**SIDES, "label": 1}], ["--wins 1,0", "--wins 0,1"]),
    "signs": (
        [{**SIDES, "preference": n} for n in (-3, 0, 2)],
        ["--wins '-3|-2|-1,1|2|3' --ties 0", "--wins '1|2|3,-3|-2|-1' --ties 0"],
    ),
    "two words of nobody": (
        [{**SIDES, "verdict": word} for word in ("old", "new")],
        ["--wins old,new", "--wins new,old"],
    ),
    "a third number": (
        [
            {
                "prompt": "Why?",
                "response1": "So.",
                "response2": "No.",
                "annotator1": n,
                "annotator2": 2,
            }
            for n in (0, 1, 2)
        ],
        ["--wins 1,2 --ties 0", "--wins 1,2"],
    ),
    "scores and a verdict": (
        [{**SIDES, "score_a": 1, "score_b": 2, "winner": "b"}],
        ["--score score_a,score_b", "--winner winner"],
    ),
    "two lists of scores": (
        [{"prompt": "Why?", "responses": ["So."], "scores": [1.0], "rewards": [2.0]}],
        ["--score scores", "--score rewards"],
    ),
    "two thumbs": (
        [{**LOG, "liked": True, "vote": "up"}],
        ["--score liked", "--score vote --values up=1,down=0"],
    ),
}

#: Records that have no reading, and what the error says to do.
REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "three words of nobody": ([{**SIDES, "verdict": w} for w in ("old", "new", "x")], "--wins"),
    "nothing decides": ([SIDES], "--winner COLUMN"),
    "an order, or ranks": (
        [{"prompt": "Why?", "responses": ["a", "b", "c"], "ranking": [2, 0, 1]}],
        "--score=-ranking",
    ),
    "steps": (
        [{"question": "Why?", "steps": ["So.", "No."], "mistake_index": 1}],
        "prefmill steps",
    ),
    "steps inside of records": (
        [
            {
                "question": {"problem": "Why?"},
                "label": {"steps": [{"completions": [{"text": "So.", "rating": 1}]}]},
            }
        ],
        "prefmill steps",
    ),
    "steps as a trainer has them": (
        [{"prompt": "Why?", "completions": ["So.", "No."], "labels": [True, False]}],
        "prefmill steps",
    ),
    "a rating of one turn": (
        [{"data": {"rating": 1}, "snapshot": {"chat": {"messages": WHOLE[0]}}}],
        "if it is that of the last turn",
    ),
    "a verdict about the first turn": (
        [
            {
                "conversation_a": WHOLE[0] * 2,
                "conversation_b": WHOLE[1] * 2,
                "winner": "model_a",
                "turn": turn,
            }
            for turn in (1, 2)
        ],
        "--prompt 'conversation_a[:1]' --completion 'conversation_a[1],conversation_b[1]'"
        " --winner winner --where turn=1",
    ),
    "the prompt in the answers": (
        [{"prompt": "Why?", "chosen": "Why? So.", "rejected": "Why? No."}],
        "--prompt prompt --completion chosen,rejected",
    ),
    "graded words": ([{**LOG, "rating": "excellent"}], "--values excellent=NUMBER"),
}

#: Records that are no shape: nothing is guessed.
NONE: dict[str, list[dict[str, Any]]] = {
    "question and context": [{**LOG, "context": "It rained.", "score": 1}],
    "several measures": [{"prompt": "Why?", "response": "So.", "helpfulness": 3, "correctness": 4}],
    "a critique": [{**LOG, "feedback": "This is a long text about the answer and what it lacks."}],
    "what was found, with scores": [
        {
            "question": "Why?",
            "documents": [{"text": "So.", "score": 0.5}, {"text": "No.", "score": 0.1}],
        }
    ],
    "the status of a request": [{**LOG, "status": 200}],
    "a conversation without a score": [{"messages": WHOLE[0], "topic": "rain"}],
    "models side by side": [
        {"prompt": "Why?", "model_a": "m", "model_b": "n", "winner": "model_a"}
    ],
}
