"""JSON whose records lie inside one object, or over many lines, whatever the file is called."""

from __future__ import annotations

import gzip
import json
import random

import pytest
from reading import MESSAGES, ROWS, jsonl, put, rejected, rows

import prefmill as pm
from prefmill.errors import BadInput
from prefmill.readers import utf8

SOME = [{"prompt": "p", "completion": "a", "score": 1}, {"prompt": "p", "completion": "b"}]
FILLED = [SOME[0], {**SOME[1], "score": None}]
MAP = {"q1": SOME[0], "q2": SOME[1]}
DEEP = "[" * 9000 + "]" * 9000


@pytest.fixture
def small_blocks(monkeypatch):
    """Sets the size of the pieces of text that are read at a time."""
    whole = utf8.utf8_blocks

    def shrink(size: int) -> None:
        monkeypatch.setattr(utf8, "utf8_blocks", lambda *a, **k: whole(*a, **{**k, "size": size}))

    return shrink


# --- many lines, and any ending


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.jsonl.gz"])
@pytest.mark.parametrize("indent", [0, 1, "\t"])
def test_many_lines_under_any_name(tmp_path, read, name, indent):
    texts = {
        "array": json.dumps(ROWS, indent=indent),
        "objects": "\n".join(json.dumps(row, indent=indent) for row in ROWS),
        "objects apart": "\n\n \n".join(json.dumps(row, indent=indent) for row in ROWS) + "\n\n",
        "array in lines": "[" + ",\n".join(json.dumps(row) for row in ROWS) + "]\n",
        "array in a line": json.dumps(ROWS) + "\n",
        "array without an end of line": json.dumps(ROWS),
        "wrapped": json.dumps({"version": 2, "rows": ROWS}, indent=indent),
        "map": json.dumps(dict(enumerate(ROWS)), indent=indent),
    }
    for form, text in texts.items():
        data = text.encode()
        if name.endswith(".gz"):
            data = gzip.compress(data)
        expected = ROWS
        if form == "map":
            expected = [{"key": str(number), **row} for number, row in enumerate(ROWS)]
        assert rows(read(put(tmp_path / name, data))) == expected, form


def test_one_object_over_many_lines_is_one_record(tmp_path, read):
    for name in ("a.json", "a.jsonl"):
        assert rows(read(put(tmp_path / name, json.dumps(ROWS[0], indent=2)))) == ROWS[:1]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('{"a":1\n{"a":2}\n', 1, "Expecting ',' delimiter"),
        ('{"a":1,}\n{"a":2}\n', 1, "not valid JSON"),
        ('{"a":NaN}\n{"a":2}\n', 1, "NaN"),
        ('[1]\n{"a":2}\n', 1, "an array where an object is expected"),
        ('[1\n{"a":2}\n', 1, "not valid JSON"),
        ('{"a":2}\n{\n"b":1}\n', 2, "not valid JSON"),
    ],
)
def test_a_bad_line_does_not_turn_lines_into_a_document(tmp_path, read, text, line, reason):
    path = put(tmp_path / "a.jsonl", text)
    with pytest.raises(BadInput, match=f"line {line}: ") as caught:
        read(path)
    assert reason in str(caught.value)
    assert {"a": 2} in rows(read(path, rejects=tmp_path / "r"))


def test_a_fault_in_a_record_of_many_lines_has_its_place(tmp_path, read):
    path = put(tmp_path / "a.json", '{\n "a": 1\n}\n{\n "a": 2,\n "b" 3\n}\n')
    with pytest.raises(BadInput, match=r"line 4: .*line 3 of the record, column 6"):
        read(path)


# --- records inside one object


def test_an_engine_may_cut_its_message_in_a_character(tmp_path):
    """DuckDB quotes a part of the text, and its client cannot decode half a character."""
    fields = ('"\u202e""prompt": "p1"', f'"completion": "{"é😀" * 20}"', '"score": 2.5')
    for pad in range(6):
        record = ",\n  ".join(fields)
        path = put(tmp_path / "a.json", "[\n {" + " " * pad + record + "\n }\n]\n")
        with pytest.raises(BadInput, match=r"a.json: line 2: not valid JSON"):
            pm.run(pm.Advantage(), path, None)


def test_records_inside_one_object(tmp_path, read):
    document = {"meta": {"n": [1, {"data": [{"no": 1}]}]}, "v": "x", "none": [], "data": SOME}
    for indent in (None, 2):
        path = put(tmp_path / "a.json", json.dumps(document, indent=indent))
        source = read(path)
        assert rows(source) == FILLED
        assert source.notes == (
            f"{path}: records are in 'data'; what its other keys hold is left out: 'meta', 'v',"
            " 'none'.",
        )
    path = put(tmp_path / "b.json", json.dumps({f"k{n}": n for n in range(9)} | {"data": SOME}))
    assert read(path).notes[0].endswith("'k6', 'k7', ....")


def test_the_records_reach_a_plan(tmp_path):
    document = {"model": "m", "results": ROWS}
    path = put(tmp_path / "a.json", json.dumps(document, indent=1))
    report = pm.run(pm.Pairs(chosen_min=None, rejected_below=None), path, None)
    assert (report.rows_in, report.pairs_out) == (2, 1)
    assert "records are in 'results'" in report.notes[0]


def test_a_choice_of_several_lists(tmp_path, read):
    path = put(tmp_path / "a.json", json.dumps({"n": 1, "train": SOME, "test": SOME[:1]}))
    with pytest.raises(BadInput, match=r"several keys .* got 'train', 'test', expected one") as e:
        read(path)
    assert f"'{path}#train'" in str(e.value)
    assert rows(read(f"{path}#test")) == SOME[:1]
    source = read(f"{path}#train", f"{path}#test")
    assert rows(source) == [*FILLED, SOME[0]]
    assert source.labels == (f"{path}#train", f"{path}#test")
    assert rows(read(f"{tmp_path}/*.json#test")) == SOME[:1]
    with pytest.raises(BadInput, match="no key 'dev' with a list; got 'train', 'test'"):
        read(f"{path}#dev")
    with pytest.raises(BadInput, match="no key 'n' with a list"):
        read(f"{path}#n")
    many = put(tmp_path / "b.json", json.dumps({f"k{n}": SOME for n in range(30)}))
    with pytest.raises(BadInput, match=r"'k7' .the first of 30., expected"):
        read(many)
    assert rows(read(f"{many}#k29")) == FILLED


def test_a_file_may_have_the_name_of_a_choice(tmp_path, read):
    put(tmp_path / "a.json", json.dumps({"data": SOME}))
    put(tmp_path / "a.json#data", "x")
    with pytest.raises(pm.PrefmillError, match="names no known format"):
        read(tmp_path / "a.json#data")
    with pytest.raises(BadInput, match="no such file"):
        read(tmp_path / "b.json#data")
    with pytest.raises(BadInput, match=r"'#x' chooses a key of one object .* got an array"):
        read(f"{put(tmp_path / 'c.json', json.dumps(SOME))}#x")
    with pytest.raises(BadInput, match="got several objects"):
        read(f"{put(tmp_path / 'd.jsonl', jsonl(SOME))}#x")
    # A key of any text; of a line of JSON Lines too.
    assert rows(read(f"{put(tmp_path / 'e.jsonl', jsonl([{'a#b': SOME}]))}#a#b")) == FILLED


RECORDS = [
    {"prompt": "x", "completions": SOME},
    {"Question": "x", "votes": [{"n": 1}], "answers": [{"n": 1}]},
    {"chosen": MESSAGES, "rejected": MESSAGES},
    {"messages": MESSAGES, "tools": [{"name": "f"}]},
    {"id": 1, "conversations": [{"from": "human", "value": "x"}], "tags": [{"t": 1}]},
    {"prompt": {"text": "x"}, "completion": {"text": "y"}},
    {"q": {"0": "x", "1": "y"}, "a": {"0": "z", "1": "w"}},
    {"q1": SOME[0]},
    {"data": []},
    {"data": [1, 2]},
    {"data": [[{"a": 1}]]},
    {"a": {"x": 1}, "b": {"y": 1}},
    {"a": {"x": 1}, "b": {"x": 1}, "c": None},
    {"a": {"x": 1}, "b": {}, "c": {"y": 2}},
]


@pytest.mark.parametrize("record", RECORDS, ids=json.dumps)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_record_stays_a_record(tmp_path, read, record, indent):
    source = read(put(tmp_path / "a.json", json.dumps(record, indent=indent)))
    assert rows(source) == [record]
    assert source.notes == ()


def test_a_key_that_somebody_spelled_makes_a_record(tmp_path, read):
    document = {"task": 3, "answers": SOME}
    path = put(tmp_path / "a.json", json.dumps(document))
    assert rows(read(path)) == FILLED
    for named in ("answers", "answers.score", "answers[0].score", "task"):
        assert rows(read(path, named=[named])) == [document]
    assert rows(read(path, named=["answer", "score"])) == FILLED


def test_lines_stay_lines(tmp_path, read):
    for one in ({"data": SOME}, MAP, {"a": {"x": 1}}):
        assert rows(read(put(tmp_path / "a.jsonl", jsonl([one])))) == [one]
        assert rows(read(put(tmp_path / "a.json", jsonl([one, one])))) == [one, one]


# --- maps of records


def test_a_map_of_records(tmp_path, read):
    keyed = [{"key": key, **row} for key, row in zip(MAP, FILLED, strict=True)]
    for indent in (None, 3):
        path = put(tmp_path / "a.json", json.dumps(MAP, indent=indent))
        source = read(path)
        assert rows(source) == keyed
        assert source.notes == (
            f"{path}: the values of one object are the records, its keys are in the column 'key'.",
        )


@pytest.mark.parametrize(
    ("own", "name"), [("key", "_key"), ("KEY", "_key"), ("_key", "key"), ("keys", "key")]
)
def test_a_record_keeps_its_own_key(tmp_path, read, own, name):
    document = {"a": {"x": 1, "y": 2}, "b": {"x": 3, own: 4}}
    found = rows(read(put(tmp_path / "a.json", json.dumps(document))))
    assert [(row[name], row["x"], row[own]) for row in found] == [("a", 1, None), ("b", 3, 4)]


def test_a_key_inside_a_value_is_no_key_of_its_record(tmp_path, read):
    document = {"a": {"x": {"key": 1}, "t": '"key": 2'}, "b": {"x": {"key": 3}, "t": '"key":'}}
    assert [row["key"] for row in rows(read(put(tmp_path / "a.json", json.dumps(document))))] == [
        "a",
        "b",
    ]


def test_keys_and_values_of_maps_survive(tmp_path, read):
    keys = ['a"b', "c\\", "é😀", "x: {", "", "\n", "k,", "k"]
    document = {key: {"t": key, "n": number} for number, key in enumerate(keys)}
    document["{}"] = {}
    for ascii_only in (True, False):
        text = json.dumps(document, ensure_ascii=ascii_only, indent=2).replace('":', '"\n :\n')
        found = rows(read(put(tmp_path / "a.json", text)))
        assert [row["key"] for row in found] == [*keys, "{}"]
        assert [row["t"] for row in found] == [*keys, None]


def test_a_bad_value_of_a_map_has_its_line(tmp_path, read):
    path = put(tmp_path / "a.json", '{\n"a":\n{"x":1},\n"b": {"x":01},\n"c": {"x":2}}')
    with pytest.raises(BadInput, match="line 4: not valid JSON"):
        read(path)
    assert [row["key"] for row in rows(read(path, rejects=tmp_path / "r"))] == ["a", "c"]
    assert rejected(tmp_path / "r")[0]["line"] == 4


# --- hostile documents


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('{"data":[{"a":1},\nnull,\n{"a":2}]}', 2, "null where an object is expected"),
        ('{"data":[{"a":1},\n[2],\n{"a":2}]}', 2, "an array where an object is expected"),
        ('{"data":[{"a":1},\n]}', 2, "nothing between two commas"),
        ('{"data":[{"a":1},\n{"a":NaN}]}', 2, "NaN"),
        ('{"data":[{"a":1}],}', 1, "not valid JSON"),
        ('{"data":[{"a":1}],"b":}', 1, "not valid JSON"),
        ('{"data":[{"a":1}],"b":x}', 1, "not valid JSON"),
        ('{"data" [{"a":1}]}', 1, "not valid JSON"),
        ('{data:[{"a":1}]}', 1, "not valid JSON"),
        ('{"data":[{"a":1}] "b":[]}', 1, "not valid JSON"),
        ('{"data":[{"a":1}]', 1, "the file ends inside the object"),
        ('{"data":[{"a":1}', 1, "the file ends inside the object"),
        ('{"data":[{"a":1}]}\nx', 2, "not valid JSON"),
        ('{\n"data":[{"a":1}]}\nx', 3, "text where an object is expected"),
        ('{"data":[{"a":1}}', 1, "the file ends inside the object"),
        ('{"data":[{"a":1}}]}', 1, "not valid JSON"),
        ('{"data":[{"a":' + DEEP + "}]}", 1, "nested"),
        ('{"data":' + DEEP + "}", 1, "nested"),
        ('{"a":' * 9000 + "1" + "}" * 9000, 1, "nested"),
        ('{"a":{"x":1},"b":{"x":1},}', 1, "not valid JSON"),
        ('{"a":{"x":1},"b":{"x":1]}', 1, "not valid JSON"),
        (json.dumps({f"k{n}": n for n in range(100_000)}), 1, "too many keys; got 100,000"),
    ],
)
def test_hostile_documents(tmp_path, read, text, line, reason):
    with pytest.raises(BadInput, match=f"a.json:? line {line}: ") as caught:
        read(put(tmp_path / "a.json", text))
    assert reason in str(caught.value)


def test_empty_documents(tmp_path, read):
    for text in ("{}", "[]", "{}\n{}\n", "[\n]\n", "[{}]", '{"data": [{}]}'):
        with pytest.raises(BadInput, match="no rows and no columns"):
            read(put(tmp_path / "a.json", text))
    for text in (" \n", "\ufeff"):
        with pytest.raises(BadInput, match=r"empty|no rows"):
            read(put(tmp_path / "a.json", text))


def test_a_hundred_thousand_records_in_a_map(tmp_path, read):
    document = {f"k{n}": {"a": n, "l": [{"x": n}]} for n in range(100_000)}
    found = rows(read(put(tmp_path / "a.json", json.dumps(document))))
    assert found == [{"key": key, **value} for key, value in document.items()]


def test_keys_that_are_twice(tmp_path, read):
    path = put(tmp_path / "a.json", '{"data":[{"a":1}],"data":[{"a":2}]}')
    source = read(path)
    assert rows(source) == [{"a": 1}]
    assert "twice; the first counts" in source.notes[0]
    both = read(put(tmp_path / "b.json", '{"k":{"a":1},"k":{"a":2}}'))
    assert rows(both) == [{"key": "k", "a": 1}, {"key": "k", "a": 2}]


def test_marks_and_encodings(tmp_path, read):
    text = json.dumps({"data": ROWS}, indent=1)
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert rows(read(put(tmp_path / "a.json", text.encode(encoding)))) == ROWS


def test_records_of_unlike_kinds(tmp_path, read):
    items = [{"a": 1}, {"b": "x"}, {"a": "y", "b": [1]}]
    found = rows(read(put(tmp_path / "a.json", json.dumps({"n": 1, "data": items}))))
    assert found == [{"a": "1", "b": None}, {"a": None, "b": "x"}, {"a": "y", "b": [1]}]


@pytest.mark.parametrize("seed", range(20))
def test_any_block_size_reads_the_same(tmp_path, read, small_blocks, seed):
    chance = random.Random(seed)
    small_blocks(chance.choice([1, 7, 64, 300]))
    texts = ["a", '"', "\\", "],[", "{", "}", "é😀", "\n", ",", '"key":', ":"]
    items = [
        {"t": "".join(chance.choices(texts, k=4)), "l": [{"x": 1}] * chance.randrange(3)}
        for _ in range(20)
    ]
    indent = chance.choice([None, 1])
    others = {f"m{n}": chance.choice(["}", 1, [1], {"a": [{}]}, []]) for n in range(5)}
    members = [*others.items(), ("".join(chance.choices(texts, k=3)), items)]
    chance.shuffle(members)
    ending = "json"
    if indent:
        ending = chance.choice(["json", "jsonl"])
    path = put(tmp_path / f"a.{ending}", json.dumps(dict(members), indent=indent))
    assert rows(read(path)) == items
    keyed = {f"{number}{item['t']}": item for number, item in enumerate(items)}
    path = put(tmp_path / "b.json", json.dumps(keyed, indent=indent))
    assert rows(read(path)) == [{"key": key, **item} for key, item in keyed.items()]
