"""Shapes with two answers and a verdict: arenas, judges, comparisons."""

from __future__ import annotations

from entry import Entry
from invented import ASKED, MODELS, A, B, assistant, each, long, two, user, won


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


def pair_judgment(i, question, a, b, verdict) -> dict:
    return {
        "question_id": 81 + i,
        "model_1": MODELS[i % 2],
        "model_2": MODELS[1 - i % 2],
        "judge": ["oak-judge", "pair-v2"],
        "g1_winner": verdict,
        "g2_winner": verdict,
        "turn": 1,
    }


def question_of(i, question, answers) -> dict:
    return {"question_id": 81 + i, "category": "garden", "turns": [question, "In one word?"]}


def answer_of(i, k, question, answer) -> dict:
    turns = [answer, "Hm."]
    model = {"question_id": 81 + i, "model_id": MODELS[k]}
    return {**model, "choices": [{"index": 0, "turns": turns}]}


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
        name="MT-Bench pair judgments",
        about="names only: the answers of two models are joined from one file, each under a name",
        records=two(pair_judgment, ("model_1", "model_2", "tie", "model_1", "error")),
        files={"question.jsonl": each(question_of, 5), "answer.jsonl": long(answer_of)},
        line="--join question.jsonl:question_id"
        " --join one=answer.jsonl:question_id,model_1=model_id"
        " --join two=answer.jsonl:question_id,model_2=model_id --prompt turns[0]"
        " --completion one.choices[0].turns[0],two.choices[0].turns[0]"
        " --winner g1_winner --wins model_1,model_2 --source model_1,model_2",
        dropped={"unknown_verdict": 1},
        first=[
            *won(1.0),
            (ASKED[1], "A swallow.", 0.0),
            (ASKED[1], "The kiwi.", 1.0),
        ],
        rows=8,
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
]
