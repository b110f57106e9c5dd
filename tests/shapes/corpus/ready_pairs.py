"""Shapes that are pairs already: chosen and rejected under many names."""

from __future__ import annotations

from entry import Entry
from invented import ASKED, SAID, assistant, each, gpt, human, user

READY = "--completion chosen,rejected"
GOOD, BAD = SAID[0][0], SAID[0][2]
PAIR = [(ASKED[0], GOOD, 1.0), (ASKED[0], BAD, 0.0)]
TALK = [([user(ASKED[0])], [assistant(GOOD)], 1.0), ([user(ASKED[0])], [assistant(BAD)], 0.0)]
SYSTEM = "You are brief."


def standard(i, question, answers) -> dict:
    return {"prompt": question, "chosen": answers[0], "rejected": answers[2]}


def scored(i, question, answers) -> dict:
    scores = ((9.0, 2.0), (8.5, 3.0), (4.0, 6.0), (7.0, 7.0), (5.0, 1.0), (6.5, 6.0))[i]
    return {
        **standard(i, question, answers),
        "chosen_score": scores[0],
        "rejected_score": scores[1],
    }


def messages(i, question, answers) -> dict:
    return {
        "prompt": [user(question)],
        "chosen": [assistant(answers[0])],
        "rejected": [assistant(answers[2])],
    }


def whole(i, question, answers) -> dict:
    asked = [user("Hello."), assistant("Hello!"), user(question)] if i % 2 else [user(question)]
    return {
        "chosen": [*asked, assistant(answers[0])],
        "rejected": [*asked, assistant(answers[2])],
    }


def binarized(i, question, answers) -> dict:
    row = whole(2 * i, question, answers)
    return {
        "prompt": question,
        "prompt_id": f"p{i}",
        **row,
        "messages": row["chosen"],
        "score_chosen": 8.0 - i,
        "score_rejected": 2.0,
    }


def capybara(i, question, answers) -> dict:
    row = whole(i, question, answers)
    return {
        "source": "garden",
        "conversation": [{"input": question, "output": answers[0]}],
        "prompt": question,
        **row,
        "rating_chosen": 5,
        "rating_rejected": 5 if i == 3 else 2,
        "chosen_model": "ash-7b",
        "rejected_model": "birch-13b",
    }


def hh(i, question, answers) -> dict:
    asked = f"\n\nHuman: {question}\n\nAssistant:"
    if i % 2:
        asked = f"\n\nHuman: Hello.\n\nAssistant: Hello!{asked}"
    return {"chosen": f"{asked} {answers[0]}", "rejected": f"{asked} {answers[2]}"}


def rewardbench(i, question, answers) -> dict:
    models = {"chosen_model": "ash-7b", "rejected_model": "birch-13b"}
    return {**standard(i, question, answers), **models, "subset": "garden-easy", "id": i}


def rm_bench(i, question, answers) -> dict:
    return {
        "id": f"b{i}",
        "prompt": question,
        "chosen": [answers[0], answers[1], f"{answers[0]} Truly."],
        "rejected": [answers[2], answers[3], f"{answers[2]} Truly."],
        "domain": "chat",
    }


def alpaca(i, question, answers) -> dict:
    return {
        "instruction": question,
        "input": ("", "Be kind.", None)[i % 3],
        "chosen": answers[0],
        "rejected": answers[2],
    }


def sharegpt(i, question, answers) -> dict:
    return {
        "conversations": [human("Hello."), gpt("Hello!"), human(question)],
        "chosen": gpt(answers[0]),
        "rejected": gpt(answers[2]),
    }


def openrlhf(i, question, answers) -> dict:
    return {
        "context_messages": [user(question)],
        "chosen": [assistant(answers[0])],
        "rejected": [assistant(answers[2])],
    }


def intel(i, question, answers) -> dict:
    return {
        "system": (SYSTEM, "", None)[i % 3],
        "question": question,
        "chosen": answers[0],
        "rejected": answers[2],
    }


def icr(i, question, answers) -> dict:
    return {"system": SYSTEM, "input": question, "chosen": answers[0], "rejected": answers[2]}


def chosen_response(i, question, answers) -> dict:
    return {
        "system": SYSTEM,
        "instruction": question,
        "chosen_response": answers[0],
        "rejected_response": answers[2],
    }


def history(i, question, answers) -> dict:
    return {
        "instruction": question,
        "input": "",
        "history": [["Hello.", "Hello!"]] * (i % 3),
        "chosen": answers[0],
        "rejected": answers[2],
    }


def win_lose(i, question, answers) -> dict:
    return {"query": question, "response_w": answers[0], "response_l": answers[2]}


ENTRIES = [
    Entry(
        name="TRL preference",
        about="prompt, chosen, rejected",
        records=each(standard),
        means=READY,
        first=PAIR,
        rows=12,
    ),
    Entry(
        name="TRL preference, CSV",
        shown=False,
        about="the same with options, as people have it from a spreadsheet",
        records=each(standard),
        line=READY,
        first=PAIR,
        rows=12,
        kind="csv",
    ),
    Entry(
        name="TRL preference to labels",
        about="KTO's rows out of pairs",
        records=each(standard),
        means=READY,
        command="unpair",
        first=PAIR,
        rows=12,
        kind="parquet",
    ),
    Entry(
        name="TRL conversational preference",
        about="prompt, chosen and rejected as messages",
        records=each(messages),
        means=READY,
        first=TALK,
        rows=12,
    ),
    Entry(
        name="TRL implicit prompt",
        about="chosen and rejected are whole conversations; a prompt column is not there",
        records=each(whole),
        means=f"{READY} --prompt common",
        first=[
            *TALK,
            (
                [user("Hello."), assistant("Hello!"), user(ASKED[1])],
                [assistant("The kiwi.")],
                1.0,
            ),
        ],
        rows=12,
        kind="parquet",
    ),
    Entry(
        name="UltraFeedback binarized",
        about="whole conversations next to a prompt, and the scores of both",
        records=each(binarized),
        line=f"{READY} --prompt common --score score_chosen,score_rejected",
        first=[
            ([user(ASKED[0])], [assistant(GOOD)], 8.0),
            ([user(ASKED[0])], [assistant(BAD)], 2.0),
        ],
        rows=12,
        kind="parquet",
    ),
    Entry(
        name="Capybara",
        about="ratings under the names of Argilla; one pair has no better side",
        records=each(capybara),
        line=f"{READY} --prompt common --score rating_chosen,rating_rejected --disagree drop"
        " --source chosen_model,rejected_model",
        dropped={"disagreement": 1},
        first=[
            ([user(ASKED[0])], [assistant(GOOD)], 5),
            ([user(ASKED[0])], [assistant(BAD)], 2),
        ],
        rows=10,
    ),
    Entry(
        name="HH",
        about="whole conversations as texts",
        records=each(hh),
        means=f"{READY} --prompt common",
        first=[
            *TALK,
            (
                [user("Hello."), assistant("Hello!"), user(ASKED[1])],
                [assistant("The kiwi.")],
                1.0,
            ),
        ],
        rows=12,
        kind="jsonl.gz",
    ),
    Entry(
        name="Pairs with scores, the better score wins",
        about="in one pair the scores say the other way round, in one they are equal",
        records=each(scored),
        line=f"{READY} --score chosen_score,rejected_score",
        first=[(ASKED[0], GOOD, 9.0), (ASKED[0], BAD, 2.0)],
        rows=12,
    ),
    Entry(
        name="Pairs with scores that disagree, dropped",
        about="label and score have to agree",
        records=each(scored),
        line=f"{READY} --score chosen_score,rejected_score --disagree drop",
        dropped={"disagreement": 2},
        first=[(ASKED[0], GOOD, 9.0), (ASKED[0], BAD, 2.0)],
        rows=8,
        kind="csv",
    ),
    Entry(
        name="Pairs with scores that disagree, kept",
        about="the label is right, whatever the scores say",
        records=each(scored),
        line=f"{READY} --score chosen_score,rejected_score --disagree keep",
        first=PAIR,
        rows=12,
        kind="parquet",
    ),
    Entry(
        name="RewardBench",
        about="pairs with the models of both sides",
        records=each(rewardbench),
        line=f"{READY} --source chosen_model,rejected_model",
        first=PAIR,
        rows=12,
        kind="parquet",
    ),
    Entry(
        name="RM-Bench",
        about="three chosen and three rejected in lists",
        records=each(rm_bench),
        line=f"{READY} --each chosen,rejected",
        plan={"strategy": "all"},
        first=[
            (ASKED[0], "Stuff them with paper.", 1.0),
            (ASKED[0], "Put them outside.", 1.0),
            (ASKED[0], "Stuff them with paper. Truly.", 1.0),
            (ASKED[0], "Wait.", 0.0),
            (ASKED[0], "Buy new ones.", 0.0),
            (ASKED[0], "Wait. Truly.", 0.0),
        ],
        rows=36,
        kind="json",
    ),
    Entry(
        name="LLaMA-Factory, Alpaca pairs",
        about="instruction and input are one prompt",
        records=each(alpaca),
        means=f"{READY} --prompt instruction,input",
        first=[*PAIR, (f"{ASKED[1]}\n\nBe kind.", "The kiwi.", 1.0)],
        rows=12,
        kind="json",
    ),
    Entry(
        name="LLaMA-Factory, ShareGPT pairs",
        about="`from` and `value`; chosen and rejected are one message each",
        records=each(sharegpt),
        line=f"{READY} --prompt conversations",
        first=[
            ([human("Hello."), gpt("Hello!"), human(ASKED[0])], GOOD, 1.0),
            ([human("Hello."), gpt("Hello!"), human(ASKED[0])], BAD, 0.0),
        ],
        rows=12,
        kind="json",
    ),
    Entry(
        name="LLaMA-Factory, history",
        about="earlier turns as pairs in a column",
        records=each(history),
        line=f"{READY} --prompt instruction,input --history history",
        first=[
            ([user(ASKED[0])], GOOD, 1.0),
            ([user(ASKED[0])], BAD, 0.0),
            ([user("Hello."), assistant("Hello!"), user(ASKED[1])], "The kiwi.", 1.0),
        ],
        rows=12,
        kind="json",
    ),
    Entry(
        name="OpenRLHF",
        about="the context under a name of its own",
        records=each(openrlhf),
        line=f"{READY} --prompt context_messages",
        first=TALK,
        rows=12,
    ),
    Entry(
        name="axolotl chatml.intel",
        about="a system prompt in a column, empty or missing in some rows",
        records=each(intel),
        line=f"{READY} --prompt question --system system",
        first=PAIR,
        rows=12,
    ),
    Entry(
        name="axolotl icr",
        about="`input` is the prompt",
        records=each(icr),
        line=f"{READY} --prompt input --system system",
        first=PAIR,
        rows=12,
        kind="json",
    ),
    Entry(
        name="axolotl argilla",
        about="chosen_response and rejected_response: scores as constants",
        records=each(chosen_response),
        line="--completion chosen_response,rejected_response --score 1,0 --system system",
        first=PAIR,
        rows=12,
    ),
    Entry(
        name="Winner and loser",
        about="response_w and response_l",
        records=each(win_lose),
        line="--completion response_w,response_l --score 1,0",
        first=PAIR,
        rows=12,
        kind="parquet",
    ),
]
