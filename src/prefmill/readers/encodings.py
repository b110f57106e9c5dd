"""Encodings of text: whether a name is one, and which could be meant where bytes do not fit.

Guessing is for hints in errors only, never for reading; it costs some tries over 512 KB around the
byte that does not fit.
"""

from __future__ import annotations

import codecs
import difflib
import unicodedata
from encodings.aliases import aliases

from prefmill.errors import BadArgument

#: Encodings that are worth a try whatever a detector says, the more usual first: on equal
#: plausibility the order decides.
USUAL = (
    "cp1252",
    "mac_roman",
    "latin_1",
    "cp1251",
    "koi8_r",
    "gb18030",
    "big5",
    "shift_jis",
    "euc_jp",
    "euc_kr",
    "cp1250",
)
#: Codecs of Python that are no encodings of files: they escape, or they hide text from every check.
REFUSED = frozenset(
    {
        "utf_7",
        "idna",
        "punycode",
        "undefined",
        "unicode_escape",
        "raw_unicode_escape",
        "mbcs",
        "oem",
        "hz",
    }
    | {
        "iso2022_jp",
        "iso2022_jp_1",
        "iso2022_jp_2",
        "iso2022_jp_2004",
        "iso2022_jp_3",
        "iso2022_jp_ext",
        "iso2022_kr",
    }
)
_WINDOW = 256 << 10
_JOINERS = frozenset("’‘“”«»–—…•·\xa0")
#: Lead bytes of the frequent characters in the double-byte sets: the sets are ordered by use, not
#: by shape.
_FREQUENT = {
    "gb18030": ("gb2312", 0xB0, 0xD7),
    "gbk": ("gb2312", 0xB0, 0xD7),
    "gb2312": ("gb2312", 0xB0, 0xD7),
    "cp949": ("euc_kr", 0xB0, 0xC8),
    "big5": ("big5", 0xA4, 0xC6),
    "big5hkscs": ("big5", 0xA4, 0xC6),
    "cp950": ("big5", 0xA4, 0xC6),
    "euc_kr": ("euc_kr", 0xB0, 0xC8),
    "shift_jis": ("shift_jis", 0x88, 0x97),
    "cp932": ("shift_jis", 0x88, 0x97),
    "euc_jp": ("euc_jp", 0xB0, 0xCF),
}


def check_encoding(name: str, where: str) -> str:
    """The normal name of the encoding `name`; `BadArgument` with near names when Python has no such
    text encoding.

    >>> check_encoding("Windows-1252", "doc")
    'cp1252'
    """
    known = sorted({*aliases.values(), *aliases, "utf_8_sig", "mac_roman", "koi8_r", "koi8_u"})
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    try:
        info = codecs.lookup(name.strip())
        found = info.name.replace("-", "_")
        if "\0" in name or not info._is_text_encoding:  # rot13, base64 and zlib are "codecs" too
            raise LookupError
    except (LookupError, ValueError):
        near = difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
        raise BadArgument(
            f"{where}: no encoding {name!r}; expected the name of a Python text codec.",
            hint=f"did you mean {', '.join(near)}?"
            if near
            else "for example utf_8, cp1252, mac_roman, gb18030.",
        ) from None
    if found in REFUSED:
        raise BadArgument(
            f"{where}: the encoding {name!r} is not supported.",
            hint="convert the file to UTF-8 first.",
        )
    return found


def likely_encodings(data: bytes, at: int = 0, *, most: int = 4) -> list[str]:
    """Encodings in which the bytes around position `at` read like text, the most plausible first.

    >>> likely_encodings("Bœuf à l’étouffée, c’est très bon".encode("mac_roman"))[0]
    'mac_roman'
    """
    start = max(0, at - _WINDOW)
    if start:  # begin behind a line end: no usual multi-byte encoding has one inside a character
        start = data.find(b"\n", start, at) + 1 or start
    window = data[start : at + _WINDOW]
    names = list(USUAL)
    try:
        from charset_normalizer import from_bytes

        names += [
            match.encoding
            for match in from_bytes(window[max(0, at - start - 8192) : at - start + 8192])
        ]
    except (ImportError, UnicodeError, ValueError):
        pass  # a detector that stumbles costs candidates, never the error message
    scored: list[tuple[float, int, str]] = []
    seen: set[str] = set()
    for rank, name in enumerate(dict.fromkeys(names)):
        if name in ("ascii", "utf_8", "utf_8_sig") or name in REFUSED:
            continue
        try:
            text = codecs.getincrementaldecoder(name)("strict").decode(window, False)
        except (UnicodeError, LookupError):
            continue
        value = plausibility(text, name)
        # Two encodings that read the window alike are one candidate: the more usual one speaks for
        # both.
        if value > 0 and text not in seen:
            seen.add(text)
            scored.append((-value, rank, name))
    return [name for _, _, name in sorted(scored)][:most]


def plausibility(text: str, encoding: str, *, most: int = 20_000) -> float:
    """How much the characters of `text` beyond ASCII look like written language: about 1 is text,
    below 0 is noise.

    Judges each character by its neighbours: letters belong inside words of their own script and
    case, quotes and dashes at their edges, and control characters nowhere. Looks at the first
    `most` such characters. Not a language model: it ranks encodings, no more.
    """
    total, count = 0.0, 0
    for at, char in enumerate(text):
        if char < "\x80":
            continue
        count += 1
        before, after = text[at - 1] if at else " ", text[at + 1] if at + 1 < len(text) else " "
        total += _fits(char, before, after, encoding)
        if count == most:
            break
    return total / count if count else 0.0


def _script(char: str) -> str:
    if char < "\u0250":
        return "latin"
    return (
        unicodedata.name(char, "?")
        .split(" ", 1)[0]
        .replace("HIRAGANA", "CJK")
        .replace("KATAKANA", "CJK")
        .lower()
    )


def _fits(char: str, before: str, after: str, encoding: str) -> float:
    kind = unicodedata.category(char)
    if kind in ("Cc", "Co", "Cn") or char == "\ufffd":
        return -3.0
    words = before.isalpha(), after.isalpha()
    if char in _JOINERS:
        if char == "’":
            return 1.5 if all(words) else 0.7
        return 0.2 if all(words) and char not in "–—" else 0.8
    if kind == "Lo" and char >= "\u1100":  # writing without case: Chinese, Japanese, Korean
        if "\uff61" <= char <= "\uff9f":
            return -0.5  # half-width forms, which mostly come out of wrong guesses
        if (
            "\u3040" <= char <= "\u30ff"
        ):  # kana are in the Chinese sets too, but Chinese text has none
            return 1.2 if "jis" in encoding or encoding in ("euc_jp", "cp932") else 0.2
        if "\uac00" <= char <= "\ud7a3":
            return 1.3
        known = _FREQUENT.get(encoding)
        if known is None:
            return 0.5
        try:
            lead = char.encode(known[0])[0]
        except UnicodeEncodeError:
            return -1.0
        return 1.0 if known[1] <= lead <= known[2] else -0.7
    if kind.startswith("L"):
        near = [c for c in (before, after) if c.isalpha()]
        if not near:
            return (
                0.1 if kind == "Ll" else -0.6
            )  # a capital letter with an accent that stands alone
        if any(_script(c) != _script(char) for c in near):
            return -1.2
        if kind == "Lu" and before.islower():
            return -1.2
        if kind == "Ll" and before.isupper() and after.isupper():
            return -0.8
        if (
            char < "\u0250"
        ):  # letters with accents stand between letters without: a whole word of them is another script, misread
            return (1.0, 0.4, -0.8)[sum(c > "\x7f" for c in near)]
        return 1.0
    if kind.startswith("M"):
        return 0.3
    if (
        kind in ("Po", "Ps", "Pe", "Pi", "Pf", "Pd")
        or "\u3000" <= char <= "\u303f"
        or "\uff00" <= char <= "\uff60"
    ):
        return -0.4 if all(words) and char < "\u3000" else 0.6
    return -0.8 if any(words) else 0.1  # signs: currency, mathematics, boxes
