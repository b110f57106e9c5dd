"""Docstrings as the site shows them: examples are blocks, defaults of fields are values."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
TABLE = re.compile(r"^ *\|.*(?:\n *\|.*)*", re.MULTILINE)


class Shown(griffe.Extension):
    """What begins with `>>>`, up to a blank line, gets a fence, and so does a table. A field
    `key(check, default)` of a plan has that default.
    """

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Every object that was read."""
        if obj.docstring:
            text = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
            obj.docstring.value = TABLE.sub(r"```text\n\g<0>\n```", text)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Every attribute that was read."""
        call = attr.value
        if isinstance(call, griffe.ExprCall) and str(call.function) == "key":
            given = [each for each in call.arguments if not isinstance(each, griffe.ExprKeyword)]
            attr.value = given[1] if len(given) > 1 else None
