"""Secrets in texts: of URLs, of connection strings, of the environment, and of JSON by its names.

One place knows what a secret looks like. Errors, stderr, logs, records and ledgers go through here.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

#: A URL: its scheme (`Path` takes one slash away), user and password, the rest, and its query. A
#: backslash ends it: in JSON it stands before a quotation mark.
_URL = re.compile(r"(\b\w[\w+.-]+:/{1,3})([^/@\s'\"\\]*@)?([^\s?'\"\\]*)(\?[^\s'\"\\]*)?")
#: What ends a sentence, after a URL's query.
_END = re.compile(r"[:;,.)\]}]*$")
#: A password in a connection string, and a key in a header.
_WORD = re.compile(
    r"\b(password|passwd|pwd|sslpassword|api[_-]?key|access[_-]?token|secret[_-]?access[_-]?key)"
    r"(\s*=\s*)('[^'\"\\]*'|\"[^'\"\\]*\"|[^\s'\"\\&;,#]+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic) [A-Za-z0-9._~+/=-]{8,}")
#: Fields of JSON whose texts are secrets: not those of tokenizers (`pad_token`).
_FIELD = re.compile(
    r"^(.*_)?(password|passwd|secret|secret_key|secret_access_key|api_?key|authorization"
    r"|(access|auth|session|hf)_token)$",
    re.IGNORECASE,
)
#: Parts of a run's key that have the size, the time, the tag of each input next to its name.
_INPUTS = frozenset({"inputs", "joined"})
#: Fields of reports that are named by what rows hold: columns and their types, sources and counts.
_OF_ROWS = frozenset({"schema", "sources"})
#: Variables whose values are; a path is where one is kept.
_VARIABLE = re.compile(
    r"(^|_)(secret\w*|password|passwd|credentials?|authorization|token|\w*key|sas)$", re.IGNORECASE
)
_SHORTEST = 12  #: a shorter value of a variable may be any word
_HIDDEN = "***"


def without_secrets(text: str) -> str:
    """`text` without what opens doors; what else it says stays.

    URLs lose user, password and query; passwords of connection strings, and values of environment
    variables that are named like secrets, become stars.

    >>> without_secrets("https://me:pw@host/x.csv?sig=s: no answer; got password=pw2")
    'https://host/x.csv: no answer; got password=***'
    """
    for value in _of_environment():
        text = text.replace(value, _HIDDEN)
    if ":/" in text:
        text = _URL.sub(_bare, text)
    text = _WORD.sub(rf"\1\2{_HIDDEN}", text)
    return _BEARER.sub(rf"\1 {_HIDDEN}", text)


def url_without_secrets(text: str) -> str:
    """`text` whose URLs have lost user, password and query: the same places, whoever asks.

    >>> url_without_secrets("s3://bucket/x?.csv, s3://bucket/y?secret=s")
    's3://bucket/x?.csv, s3://bucket/y'
    """
    return _URL.sub(_bare, text) if ":/" in text else text


def redacted(value: Any) -> Any:
    """A value of JSON without secrets of URLs, and without what fields named like secrets hold.

    >>> redacted({"file": "https://me:pw@host/x.parquet?token=1", "to": ["s3://bucket/y"]})
    {'file': 'https://host/x.parquet', 'to': ['s3://bucket/y']}
    >>> redacted({"extra": {"api_key": "k", "max_tokens": 5}})
    {'extra': {'api_key': '***', 'max_tokens': 5}}
    """
    if isinstance(value, str):
        return url_without_secrets(value)
    if isinstance(value, Mapping):
        return {redacted(name): _field(name, each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each) for each in value]
    return value


def redacted_key(key: Any) -> Any:
    """`redacted` of what tells runs apart: texts that differ stay different.

    A text whose URLs lost something ends in digits that are made of all of it, slowly, so that
    nobody finds a secret by trying. Fields named like secrets, and inputs, which are told apart by
    more than their names, are as `redacted` has them.

    >>> one, two = (redacted_key({"query": f"p = 'https://h/?q={n}'"}) for n in "12")
    >>> one["query"].partition(" #")[0], one == two
    ("p = 'https://h/'", False)
    """
    if isinstance(key, str):
        bare = url_without_secrets(key)
        return bare if bare == key else f"{bare} #{_digits(key)}"
    if isinstance(key, Mapping):
        return {redacted_key(name): _field_of_key(name, each) for name, each in key.items()}
    if isinstance(key, list | tuple):
        return [redacted_key(each) for each in key]
    return key


def _field_of_key(name: Any, value: Any) -> Any:
    if name in _INPUTS or _is_secret(name, value):
        return _field(name, value)
    return redacted_key(value)


@functools.lru_cache(1024)
def _digits(text: str) -> str:
    raw = text.encode("utf-8", "surrogatepass")
    return hashlib.pbkdf2_hmac("sha256", raw, b"prefmill", 20_000, 8).hex()


def _is_secret(name: Any, value: Any) -> bool:
    return isinstance(value, str) and bool(_FIELD.match(str(name).replace("-", "_")))


def _field(name: Any, value: Any) -> Any:
    if _is_secret(name, value):
        return _HIDDEN
    if name in _OF_ROWS and isinstance(value, Mapping):
        return dict(value)
    return redacted(value)


def _bare(found: re.Match[str]) -> str:
    scheme, _, place, query = found.groups()
    if not query:
        return f"{scheme}{place}"
    # Without a value it is the wildcard of a pattern; of HTTP it may be a whole token.
    if "=" not in query and not scheme.lower().startswith("http"):
        return f"{scheme}{place}{query}"
    end = _END.search(query)
    return f"{scheme}{place}{end[0] if end else ''}"


def _of_environment() -> list[str]:
    """The values of variables that are named like secrets, the longest first."""
    named = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and value[0] not in "/." and _VARIABLE.search(name)
    }
    return sorted(named, key=len, reverse=True)
