"""Shapes with two answers and a verdict: arenas, judges, crowd work."""

from __future__ import annotations

from entry import Entry
from invented import ASKED, MODELS, SAID, assistant, each, user

NO_LIMITS = {"chosen_min": None, "rejected_below": None}
A, B = SAID[0][0], SAID[0][2]


def two(make, verdicts: tuple) -> list[dict]:
    """`make(i, question, first answer, second answer, verdict)` for each verdict."""
    return [make(i, ASKED[i], SAID[i][0], SAID[i][2], word) for i, word in enumerate(verdicts)]


def won(first: float) -> list[tuple]:
    """The rows of the first record."""
    return [(ASKED[0], A, first), (ASKED[0], B, 1 - first)]


def judgebench(i, question, a, b, verdict) -> dict:
    return {
        "pair_id": f"p{i}",
        "source": "garden-logic",
        "question": question,
        "response_model": "ash-7b",
        "response_A": a,
        "response_B": b,
        "label": verdict,
    }


def one_hot(i, question, a, b, verdict) -> dict:
    return {
        "id": i,
        "model_a": MODELS[i % 4],
        "model_b": MODELS[(i + 1) % 4],
        "prompt": question,
        "response_a": a,
        "response_b": b,
        "winner_model_a": int(verdict == "a"),
        "winner_model_b": int(verdict == "b"),
        "winner_tie": int(verdict == "tie"),
    }


def arena(i, question, a, b, verdict) -> dict:
    return {
        "question_id": f"q{i}",
        "model_a": MODELS[i % 4],
        "model_b": MODELS[(i + 1) % 4],
        "winner": verdict,
        "judge": f"arena_user_{i}",
        "conversation_a": [user(question), assistant(a)],
        "conversation_b": [user(question), assistant(b)],
        "turn": 1,
        "anony": True,
    }


def mt_bench(i, question, a, b, verdict) -> dict:
    later = [user("Say it in one word."), assistant("Hm.")]
    row = arena(i, question, a, b, verdict)
    return {
        **row,
        "judge": f"expert_{i % 3}",
        "conversation_a": row["conversation_a"] + later,
        "conversation_b": row["conversation_b"] + later,
        "turn": 1 + (i % 3 == 2),
    }


def safe(i, question, a, b, verdict) -> dict:
    return {
        "prompt": question,
        "response_0": a,
        "response_1": b,
        "is_response_0_safe": True,
        "is_response_1_safe": i % 2 == 0,
        "better_response_id": verdict,
        "safer_response_id": 0,
    }


def helpsteer3(i, question, a, b, verdict) -> dict:
    return {
        "domain": "general",
        "language": "english",
        "context": [user("Hello."), assistant("Hello!"), user(question)],
        "response1": a,
        "response2": b,
        "overall_preference": verdict,
        "individual_preference": [{"score": verdict, "reasoning": "...", "feedback1": "..."}],
    }


def helpsteer2(i, question, a, b, verdict) -> dict:
    return {
        "split": "train",
        "prompt": question,
        "response_1": a,
        "response_2": b,
        "preference_strength": verdict,
        "preference_statement": "...",
    }


def pandalm(i, question, a, b, verdict) -> dict:
    return {
        "idx": i,
        "instruction": question,
        "input": ("", "Be kind.")[i % 2],
        "response1": a,
        "response2": b,
        "annotator1": verdict[0],
        "annotator2": verdict[1],
        "annotator3": verdict[2],
    }


def alpaca_eval(i, question, a, b, verdict) -> dict:
    return {
        "instruction": question,
        "output_1": a,
        "generator_1": "ash-7b",
        "output_2": b,
        "generator_2": "birch-13b",
        "annotator": "oak-judge",
        "preference": verdict,
    }


def faireval(i, question, a, b, verdict) -> dict:
    return {"question": question, "vicuna": a, "gpt35": b, "verdict": verdict}


def mturk(i, question, a, b, verdict) -> dict:
    return {
        "HITId": f"H{i // 2}",
        "WorkerId": f"W{i % 3}",
        "AssignmentStatus": "Submitted",
        "Input.prompt": ASKED[i // 2],
        "Input.response_a": SAID[i // 2][0],
        "Input.response_b": SAID[i // 2][2],
        "Answer.choice": verdict,
        "Approve": None,
        "Reject": None,
    }


def survey(i, question, a, b, verdict) -> dict:
    return {
        "Timestamp": f"2024/05/0{i + 1} 9:1{i}:00",
        "Your question": question,
        "Answer A": a,
        "Answer B": b,
        "Which one is better?": verdict,
    }


def studio(i, question, a, b, verdict) -> dict:
    value = {"selected": verdict} if verdict else {"choices": ["skipped"]}
    result = {"from_name": "pw", "to_name": "txt-1,txt-2", "type": "pairwise", "value": value}
    return {
        "id": i,
        "data": {"prompt": question, "answer1": a, "answer2": b},
        "annotations": [{"id": 10 + i, "completed_by": 1 + i % 2, "result": [result]}],
    }


def studio_min(i, question, a, b, verdict) -> dict:
    return {"prompt": question, "answer1": a, "answer2": b, "id": i, "annotator": 1, "pw": verdict}


def hot_survey(i, question, a, b, verdict) -> dict:
    words = ("TRUE", "FALSE")
    return {
        "prompt": question,
        "text_left": a,
        "text_right": b,
        "prefer_left": words[verdict != "left"],
        "prefer_right": words[verdict != "right"],
        "no_preference": words[verdict != "none"],
    }


def argilla(i, question, a, b, verdict) -> dict:
    return {
        "id": f"r{i}",
        "status": "completed",
        "instruction": question,
        "response_1": a,
        "response_2": b,
        "preference.responses": [verdict],
        "preference.responses.users": [f"u{i}"],
        "preference.suggestion": "response_1",
    }


def shp(i, question, a, b, label) -> dict:
    scores = (120, 3) if label else (4, 21)
    return {
        "post_id": f"x{i}",
        "domain": "askgarden_train",
        "history": question,
        "c_root_id_A": f"a{i}",
        "score_A": scores[0],
        "score_B": scores[1],
        "human_ref_A": a,
        "human_ref_B": b,
        "labels": label,
    }


def webgpt(i, question, a, b, score) -> dict:
    return {
        "question": {"dataset": "garden", "id": f"g{i}", "full_text": question},
        "quotes_0": {"title": ["Garden"], "extract": ["..."]},
        "answer_0": a,
        "score_0": score,
        "answer_1": b,
        "score_1": -score,
    }


def prometheus(i, question, a, b, verdict) -> dict:
    return {
        "orig_criteria": "Is it short?",
        "orig_instruction": question,
        "orig_response_A": a,
        "orig_response_B": b,
        "orig_score_A": "4",
        "orig_score_B": "2",
        "orig_preference": verdict,
    }


def best_named(i, question, answers) -> dict:
    return {
        "question": question,
        "ash": answers[0],
        "birch": answers[1],
        "cedar": answers[2],
        "best": ("ash", "Cedar ", "birch", "none of them", "ash", "")[i],
    }


SHP = two(shp, (1, 0, 1, 1, 0, 1))
ARENA = two(arena, ("model_a", "model_b", "tie", "tie (bothbad)", "model_b", "model_a"))
AB = "--completion response_A,response_B"

ENTRIES = [
    Entry(
        name="JudgeBench",
        about="two answers, a verdict `A>B` or `B>A`",
        records=two(judgebench, ("A>B", "B>A", "A>B", "B>A", "A>B")),
        line=f'{AB} --winner label --wins "A>B,B>A"',
        first=won(1.0),
        rows=10,
    ),
    Entry(
        name="JudgeBench, recognised",
        about="the same without options; ties by sign, case aside, and one word that is none",
        records=two(judgebench, ("a>b", "B>A", "A=B", "B>>A", "A>B", "C>A")),
        means=f"{AB} --winner label",
        dropped={"unknown_verdict": 1},
        first=won(1.0),
        rows=10,
        kind="csv",
    ),
    Entry(
        name="Chatbot Arena, one-hot",
        about="a column for each outcome",
        records=two(one_hot, ("a", "b", "tie", "a", "none", "b", "tie", "a")),
        line="--completion response_a,response_b --winner winner_model_a,winner_model_b,winner_tie"
        " --source model_a,model_b",
        dropped={"unknown_verdict": 1},
        first=won(1.0),
        rows=14,
        kind="csv",
    ),
    Entry(
        name="Arena human preference",
        about="two whole conversations; what they have in common is the prompt",
        records=ARENA,
        line="--prompt common --completion conversation_a,conversation_b --winner winner"
        " --source model_a,model_b",
        first=[
            ([user(ASKED[0])], [assistant(A)], 1.0),
            ([user(ASKED[0])], [assistant(B)], 0.0),
            ([user(ASKED[1])], [assistant("The kiwi.")], 0.0),
            ([user(ASKED[1])], [assistant("A swallow.")], 1.0),
            ([user(ASKED[2])], [assistant("56")], 0.5),
        ],
        rows=12,
        kind="parquet",
    ),
    Entry(
        name="Arena, the first turn",
        about="places in a conversation: what the user asked and what each assistant said",
        records=ARENA,
        line="--prompt conversation_a[0].content --completion conversation_a[1],conversation_b[1]"
        " --winner winner",
        first=won(1.0),
        rows=12,
        kind="json",
    ),
    Entry(
        name="MT-Bench human judgments",
        about="only the first turn of those that were judged on it",
        records=two(mt_bench, ("model_a", "model_b", "model_a", "tie", "model_b", "model_a")),
        line="--where turn=1 --prompt conversation_a[:1] --annotator judge"
        " --completion conversation_a[1],conversation_b[1] --winner winner",
        dropped={"filtered": 2},
        first=[([user(ASKED[0])], A, 1.0), ([user(ASKED[0])], B, 0.0)],
        rows=8,
        kind="parquet",
    ),
    Entry(
        name="PKU-SafeRLHF",
        about="the number of the better answer",
        records=two(safe, (0, 1, 0, 0, 1)),
        line="--completion response_0,response_1 --winner better_response_id",
        first=won(1.0),
        rows=10,
    ),
    Entry(
        name="PKU-SafeRLHF, where both are safe",
        about="conditions that hold together",
        records=two(safe, (0, 1, 0, 0, 1, 1)),
        line="--completion response_0,response_1 --winner safer_response_id"
        " --where is_response_0_safe=true --where is_response_1_safe=true",
        dropped={"filtered": 3},
        first=won(1.0),
        rows=6,
        kind="parquet",
    ),
    Entry(
        name="HelpSteer3",
        about="a preference from -3 to 3 and the conversation before",
        records=two(helpsteer3, (-3, 1, 0, 2, -1, -2)),
        line="--prompt context --completion response1,response2 --winner overall_preference"
        ' --wins "-3|-2|-1,1|2|3" --ties 0',
        first=[
            ([user("Hello."), assistant("Hello!"), user(ASKED[0])], A, 1.0),
            ([user("Hello."), assistant("Hello!"), user(ASKED[0])], B, 0.0),
        ],
        rows=12,
    ),
    Entry(
        name="HelpSteer2 preference",
        about="the same in one column without a conversation, and -100 for `not given`",
        records=two(helpsteer2, (-2, 3, 1, -100, -1)),
        line="--completion response_1,response_2 --winner preference_strength"
        ' --wins "-3|-2|-1,1|2|3" --ties 0',
        dropped={"unknown_verdict": 1},
        first=won(1.0),
        rows=8,
    ),
    Entry(
        name="PandaLM",
        about="three judges in columns, 0 is a tie",
        records=two(pandalm, ((1, 1, 1), (2, 2, 1), (0, 0, 2), (2, 2, 2), (1, 0, 2))),
        line="--prompt instruction,input --completion response1,response2"
        " --winner annotator1,annotator2,annotator3 --wins 1,2 --ties 0",
        plan={"aggregate": "mean"},
        first=[
            (ASKED[0], A, 1.0),
            (ASKED[0], B, 0.0),
            (ASKED[0], A, 1.0),
            (ASKED[0], B, 0.0),
            (ASKED[0], A, 1.0),
            (ASKED[0], B, 0.0),
            (f"{ASKED[1]}\n\nBe kind.", "The kiwi.", 0.0),
        ],
        rows=30,
    ),
    Entry(
        name="Judges who did not say",
        shown=False,
        about="votes that are null or unknown are lost by themselves",
        records=two(pandalm, ((1, None, 1), (2, 2, 9), (None, None, None), (7, 8, 9), (1, 0, 2))),
        line="--prompt instruction,input --completion response1,response2"
        " --winner annotator1,annotator2,annotator3 --wins 1,2 --ties 0",
        plan={"aggregate": "majority"},
        dropped={"null_verdict": 1, "unknown_verdict": 1},
        votes={"null_vote": 1, "unknown_vote": 1},
        first=[(ASKED[0], A, 1.0), (ASKED[0], B, 0.0)],
        rows=14,
        kind="csv",
    ),
    Entry(
        name="AlpacaEval",
        about="preference 1 or 2 as numbers, nothing where the judge failed",
        records=two(alpaca_eval, (1.0, 2.0, None, 1.0, 2.0, 1.5)),
        line="--completion output_1,output_2 --winner preference --ties 1.5"
        " --source generator_1,generator_2",
        dropped={"null_verdict": 1},
        first=won(1.0),
        rows=10,
        kind="json",
    ),
    Entry(
        name="FairEval",
        about="one column for each model, and words for the verdict",
        records=two(faireval, ("CHATGPT", "VICUNA13B", "TIE", "VICUNA13B", "CHATGPT")),
        line="--completion vicuna,gpt35 --winner verdict --wins VICUNA13B,CHATGPT",
        first=won(0.0),
        rows=10,
    ),
    Entry(
        name="Mechanical Turk",
        about="`Input.x`, `Answer.x`, and rows that end before Approve and Reject",
        records=two(mturk, ("A", "B", "B", "B", "A", "tie", "", "A")),
        line="--prompt Input.prompt --completion Input.response_a,Input.response_b"
        " --winner Answer.choice --annotator WorkerId",
        dropped={"null_verdict": 1},
        first=won(1.0),
        rows=14,
        kind="csv",
        short=2,
    ),
    Entry(
        name="Mechanical Turk, votes together",
        about="all verdicts on the same prompt and answers",
        records=two(mturk, ("A", "A", "B", "B", "A", "tie", "B", "A")),
        line="--prompt Input.prompt --completion Input.response_a,Input.response_b"
        " --winner Answer.choice --annotator WorkerId --group Input.prompt",
        plan={**NO_LIMITS, "aggregate": "mean"},
        first=[(ASKED[0], A, 1.0), (ASKED[0], B, 0.0), (ASKED[0], A, 1.0)],
        rows=16,
        kind="csv",
        short=2,
    ),
    Entry(
        name="Survey",
        about="questions of a form as column names",
        records=two(survey, ("Answer A", "answer b", "Both", "B", "Answer A")),
        line='--prompt "Your question" --completion "Answer A,Answer B"'
        ' --winner "Which one is better?"',
        first=won(1.0),
        rows=10,
        kind="csv",
    ),
    Entry(
        name="Survey in Excel",
        about="the same as a workbook",
        records=two(survey, ("Answer A", "answer b", "Both", "B", "Answer A")),
        line='--prompt "Your question" --completion "Answer A,Answer B"'
        ' --winner "Which one is better?"',
        first=won(1.0),
        rows=10,
        kind="xlsx",
    ),
    Entry(
        name="A/B survey, one-hot",
        about="TRUE and FALSE in three columns",
        records=two(hot_survey, ("left", "right", "none", "right", "left")),
        line="--completion text_left,text_right --winner prefer_left,prefer_right,no_preference",
        first=won(1.0),
        rows=10,
        kind="tsv",
    ),
    Entry(
        name="Label Studio",
        about="an export: results below annotations",
        records=two(studio, ("left", "right", None, "left", "right")),
        line="--prompt data.prompt --completion data.answer1,data.answer2"
        " --winner annotations[0].result[0].value.selected --wins left,right",
        dropped={"null_verdict": 1},
        first=won(1.0),
        rows=8,
        kind="json",
    ),
    Entry(
        name="Label Studio, flat",
        about="JSON-MIN",
        records=two(studio_min, ("left", "right", "right", "left", "right")),
        line="--completion answer1,answer2 --winner pw --wins left,right",
        first=won(1.0),
        rows=10,
        kind="json",
    ),
    Entry(
        name="Argilla, label question",
        about="column names with dots, answers in lists",
        records=two(argilla, ("response_1", "response_2", "response_1", None, "response_2")),
        line="--completion response_1,response_2 --winner '\"preference.responses\"[0]'",
        dropped={"null_verdict": 1},
        first=won(1.0),
        rows=8,
    ),
    Entry(
        name="SHP by votes",
        about="two answers and the votes for each",
        records=SHP,
        line="--prompt history --completion human_ref_A,human_ref_B --score score_A,score_B",
        plan={"min_margin": 10},
        first=[(ASKED[0], A, 120), (ASKED[0], B, 3)],
        rows=12,
    ),
    Entry(
        name="SHP by label",
        about="1 is the first answer",
        records=SHP,
        line="--prompt history --completion human_ref_A,human_ref_B --winner labels --wins 1,0",
        first=won(1.0),
        rows=12,
        kind="parquet",
    ),
    Entry(
        name="WebGPT comparisons",
        about="scores on both sides of zero, the question in a record",
        records=two(webgpt, (0.5, -1.0, 0.0, 1.0, -0.5)),
        line="--prompt question.full_text --completion answer_0,answer_1 --score score_0,score_1",
        first=[(ASKED[0], A, 0.5), (ASKED[0], B, -0.5)],
        rows=10,
    ),
    Entry(
        name="Prometheus preference",
        about="a verdict next to scores as texts",
        records=two(prometheus, ("A", "B", "A", "A", "B")),
        line="--prompt orig_instruction --completion orig_response_A,orig_response_B"
        " --winner orig_preference",
        first=won(1.0),
        rows=10,
        kind="json",
    ),
    Entry(
        name="The best of three",
        about="the verdict is the name of a column",
        records=each(best_named),
        line="--completion ash,birch,cedar --winner best",
        dropped={"unknown_verdict": 1, "null_verdict": 1},
        first=[
            (ASKED[0], "Stuff them with paper.", 1.0),
            (ASKED[0], "Put them outside.", 0.0),
            (ASKED[0], "Wait.", 0.0),
        ],
        rows=12,
        kind="csv",
    ),
]
