"""Names and values that want to be code."""

from __future__ import annotations

SAYS = "sing\n"

NAMES = {
    "double": 'a"b""c',
    "single": "a'b''c",
    "semicolon": "a;b",
    "dashes": "a -- b",
    "comment": "a /* b */ c",
    "open comment": "a /* b",
    "glob": "*?[ab]{c,d}",
    "all but": "COLUMNS(*)",
    "dollar": "$1",
    "question": "?",
    "percent": "%s %(x)s %",
    "braces": "{0} {x!r} {",
    "backslash": "a\\b\\n\\",
    "newline": "a\nb\r\nc\t",
    "spaces": "  a  b ",
    "emoji": "🙂\u200dé",
    "combining": "e\u0301 \u202e",
    "long": "x" * 200,
    "long emoji": "🙂" * 50,
    "inject": "a\"; COPY (SELECT 1) TO 'CANARY'; --",
    "inject string": "a'); COPY (SELECT 1) TO 'CANARY'; --",
    "inject bracket": "a\")) TO 'CANARY' --",
    "_pos": "_pos",
    "_prompt": "_prompt",
    "_completion": "_completion",
    "_grp": "_grp",
    "_score0": "_score0",
    "_value": "_value",
    "_reason": "_reason",
    "_keep0": "_keep0",
    "slot": "slot",
    "slots": "slots",
    "numbered": "numbered",
    "row": "row",
    "score": "score",
    "prompt": "prompt",
    "completion": "completion",
    "chosen": "chosen",
    "rejected": "rejected",
    "chosen_score": "chosen_score",
    "label": "label",
    "keyword": "SELECT",
    "keywords": "from",
    "null": "NULL",
    "true": "true",
    "number": "1",
    "minus": "-",
    "minus name": "-rank",
    "dot": "a.b.c",
    "equals": "a=b",
    "comma": "a,b",
    "colon": "a::INT",
    "brackets": "a[1]",
    "parenthesis": "count(*)",
    "hash": "a#b#1",
    "at": "@a",
    "rowid": "rowid",
    "filename": "filename",
}

KEYS = list(NAMES)

TEXTS = list(NAMES.values())

# Values


VALUES = [
    "",
    *TEXTS,
    "nul \0 inside",
    "\0",
    "\ufeff",
    "\u2028",
    "'''",
    '"""',
    "\\",
    "$$",
    "NaN",
    "null",
    "\x1a",
    "\x1b[31m",
]
