"""Text files as blocks of whole records in valid UTF-8: decompression, encodings, and where a record ends.

Everything here streams: a block is some megabytes, and a record that is longer grows its block up to `MAX_RECORD`. What a record holds is
not looked at; that is the work of `prefmill.readers`.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import json
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from encodings.aliases import aliases
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput

Positions = npt.NDArray[np.int64]

#: The longest record in bytes. A quote that never closes is found after so many bytes at the latest.
MAX_RECORD = 128 << 20
#: Encodings that are worth a try whatever a detector says, the more usual first: on equal plausibility the order decides.
USUAL = ("cp1252", "mac_roman", "latin_1", "cp1251", "koi8_r", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "cp1250")
#: Codecs of Python that are no encodings of files: they escape, or they hide text from every check.
REFUSED = frozenset(
    {"utf_7", "idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem", "hz"}
    | {"iso2022_jp", "iso2022_jp_1", "iso2022_jp_2", "iso2022_jp_2004", "iso2022_jp_3", "iso2022_jp_ext", "iso2022_kr"}
)
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf_32"),
    (codecs.BOM_UTF32_BE, "utf_32"),
    (codecs.BOM_UTF16_LE, "utf_16"),
    (codecs.BOM_UTF16_BE, "utf_16"),
)
_WINDOW = 256 << 10
_QUOTE, _LF, _CR, _BACKSLASH = 34, 10, 13, 92


def check_encoding(name: str, where: str) -> str:
    """The normal name of the encoding `name`; `BadArgument` with near names when Python has no such text encoding.

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
            hint=f"did you mean {', '.join(near)}?" if near else "for example utf_8, cp1252, mac_roman, gb18030.",
        ) from None
    if found in REFUSED:
        raise BadArgument(f"{where}: the encoding {name!r} is not supported.", hint="convert the file to UTF-8 first.")
    return found


# --- bytes of a file ------------------------------------------------------------------------------------------------------------------


def _raw(path: Path, label: str, compression: str | None, size: int) -> Iterator[bytes]:
    """The bytes of a file, decompressed, in pieces of about `size`."""
    try:
        if compression == "gz":
            with gzip.open(path, "rb") as file:
                while piece := file.read(size):
                    yield piece
        elif compression == "zst":
            yield from _unzstd(path, label, size)
        else:
            with path.open("rb", buffering=0) as file:
                while piece := file.read(size):
                    yield piece
    except EOFError as error:
        raise BadInput(f"{label}: the compressed file is cut short.", hint="copy or download it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{label}: not a valid gzip file; {error}.", hint="is the ending .gz right, and the file complete?") from error
    except OSError as error:
        raise BadInput(f"{label}: cannot be read; {error.strerror or error}.") from error


def _unzstd(path: Path, label: str, size: int) -> Iterator[bytes]:
    import zstandard

    # 2 GiB windows are what `zstd --long=31` writes; the memory is only taken for files that ask for it.
    make = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
    frame = None
    with path.open("rb", buffering=0) as file:
        # Small reads: one call inflates all that it is given, and text can shrink a hundredfold.
        while piece := file.read(max(size // 32, 1 << 12)):
            while piece:
                frame = frame or make()
                try:
                    out = frame.decompress(piece)
                except zstandard.ZstdError as error:
                    raise BadInput(
                        f"{label}: not a valid zstd file; {error}.", hint="is the ending .zst right, and the file complete?"
                    ) from error
                if out:
                    yield out
                piece = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise BadInput(f"{label}: the compressed file is cut short.", hint="copy or download it again.")


def _tail(data: bytes) -> int:
    """How many bytes at the end of `data` begin a character of UTF-8 that is not complete."""
    for back, byte in enumerate(reversed(data[-3:]), start=1):
        if byte >= 0xC0:
            return back if back < 2 + (byte >= 0xE0) + (byte >= 0xF0) else 0
        if byte < 0x80:
            return 0
    return 0


def _first_bad(data: bytes) -> int | None:
    """Position of the first byte that no UTF-8 text has; None when all is well."""
    ends = np.array([0, len(data)], dtype=np.int64)
    try:  # Arrow's check is several times faster than decoding, but tells no position
        pa.Array.from_buffers(pa.large_string(), 1, [None, pa.py_buffer(ends), pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        try:
            codecs.utf_8_decode(data, "strict", True)
        except UnicodeDecodeError as error:
            return error.start
    return None


def utf8_blocks(path: Path, label: str, *, compression: str | None, encoding: str | None, size: int) -> Iterator[bytes]:
    """The text of a file as pieces of valid UTF-8 without a byte order mark; no piece ends inside a character.

    `label` names the file in errors. Raises `BadInput` with the 0-based offset (after decompression) of the first byte that is not
    text in `encoding`.
    """
    pieces = _raw(path, label, compression, size)
    first = next(pieces, b"")
    while len(first) < 4 and (more := next(pieces, b"")):
        first += more
    if encoding is None:
        encoding = next((name for bom, name in _BOMS if first.startswith(bom)), "utf_8")
        if encoding == "utf_8" and first[:1024].count(0) * 3 > len(first[:1024]):
            wide = "utf_16_le" if first[1:1024:2].count(0) >= first[0:1024:2].count(0) else "utf_16_be"
            raise BadInput(f"{label}: every third byte or more is NUL: not text in UTF-8.", hint=f"try --encoding {wide}")

    def everything() -> Iterator[bytes]:
        if first:
            yield first
        yield from pieces

    if encoding in ("utf_8", "utf_8_sig"):
        yield from _checked(everything(), label)
    else:
        yield from _transcoded(everything(), label, encoding)


def _checked(pieces: Iterator[bytes], label: str) -> Iterator[bytes]:
    offset, rest, start = 0, b"", True
    for piece in pieces:
        data = rest + piece if rest else piece
        cut = len(data) - _tail(data)
        whole, rest = (data, b"") if cut == len(data) else (data[:cut], data[cut:])
        bad = _first_bad(whole)
        if bad is not None:
            raise _not_utf8(label, data + next(pieces, b""), bad, offset)
        offset += len(whole)
        if start and whole:
            start, whole = False, whole.removeprefix(codecs.BOM_UTF8)
        if whole:
            yield whole
    if rest:
        raise _not_utf8(label, rest, 0, offset)


def _transcoded(pieces: Iterator[bytes], label: str, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    done, start = 0, True
    pending: Iterable[tuple[bytes, bool]] = ((piece, False) for piece in pieces)
    try:
        for piece, final in _chain_final(pending):
            done += len(piece)
            text = decoder.decode(piece, final)
            if start and text:  # codecs that name their byte order keep the mark
                start, text = False, text.removeprefix("\ufeff")
            if text:
                yield text.encode()
    except UnicodeDecodeError as error:
        # The decoder's own buffer stands in front of the piece, so positions count back from its end.
        where = done - len(error.object) + error.start
        byte = error.object[error.start : error.start + 1]
        raise BadInput(
            f"{label}: not valid {encoding}; the byte 0x{byte.hex().upper()} at offset {where} cannot be decoded ({error.reason}).",
            hint=_hint(error.object, error.start),
        ) from None
    except UnicodeEncodeError as error:
        raise BadInput(f"{label}: decoded as {encoding} it holds lone surrogates, which are not text ({error.reason}).") from None
    except UnicodeError as error:  # UTF-16 without a byte order mark where the codec wants one
        raise BadInput(f"{label}: not valid {encoding}; {error}.", hint="try --encoding utf_16_le") from None


def _chain_final(pairs: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    yield from pairs
    yield b"", True


def _not_utf8(label: str, data: bytes, at: int, offset: int) -> BadInput:
    message = f"{label}: not valid UTF-8; the byte 0x{data[at]:02X} at offset {offset + at} cannot be decoded."
    return BadInput(message, hint=_hint(data, at))


# --- which encoding could it be -------------------------------------------------------------------------------------------------------


def _hint(data: bytes, at: int) -> str:
    found = likely_encodings(data, at)
    if not found:
        return "no usual encoding fits; is it a text file?"
    also = f" (also possible: {', '.join(found[1:])})" if found[1:] else ""
    return f"try --encoding {found[0]}{also}"


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

        names += [match.encoding for match in from_bytes(window[max(0, at - start - 8192) : at - start + 8192])]
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
        # Two encodings that read the window alike are one candidate: the more usual one speaks for both.
        if value > 0 and text not in seen:
            seen.add(text)
            scored.append((-value, rank, name))
    return [name for _, _, name in sorted(scored)][:most]


_JOINERS = frozenset("’‘“”«»–—…•·\xa0")
#: Lead bytes of the frequent characters in the double-byte sets: the sets are ordered by use, not by shape.
_FREQUENT = {
    "gb18030": ("gb2312", 0xB0, 0xD7), "gbk": ("gb2312", 0xB0, 0xD7), "gb2312": ("gb2312", 0xB0, 0xD7), "cp949": ("euc_kr", 0xB0, 0xC8),
    "big5": ("big5", 0xA4, 0xC6), "big5hkscs": ("big5", 0xA4, 0xC6), "cp950": ("big5", 0xA4, 0xC6), "euc_kr": ("euc_kr", 0xB0, 0xC8),
    "shift_jis": ("shift_jis", 0x88, 0x97), "cp932": ("shift_jis", 0x88, 0x97), "euc_jp": ("euc_jp", 0xB0, 0xCF),
}  # fmt: skip


def plausibility(text: str, encoding: str, *, most: int = 20_000) -> float:
    """How much the characters of `text` beyond ASCII look like written language: about 1 is text, below 0 is noise.

    Judges each character by its neighbours: letters belong inside words of their own script and case, quotes and dashes at their edges, and
    control characters nowhere. Looks at the first `most` such characters. Not a language model: it ranks encodings, no more.
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
    return unicodedata.name(char, "?").split(" ", 1)[0].replace("HIRAGANA", "CJK").replace("KATAKANA", "CJK").lower()


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
        if "\u3040" <= char <= "\u30ff":  # kana are in the Chinese sets too, but Chinese text has none
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
            return 0.1 if kind == "Ll" else -0.6  # a capital letter with an accent that stands alone
        if any(_script(c) != _script(char) for c in near):
            return -1.2
        if kind == "Lu" and before.islower():
            return -1.2
        if kind == "Ll" and before.isupper() and after.isupper():
            return -0.8
        if char < "\u0250":  # letters with accents stand between letters without: a whole word of them is another script, misread
            return (1.0, 0.4, -0.8)[sum(c > "\x7f" for c in near)]
        return 1.0
    if kind.startswith("M"):
        return 0.3
    if kind in ("Po", "Ps", "Pe", "Pi", "Pf", "Pd") or "\u3000" <= char <= "\u303f" or "\uff00" <= char <= "\uff60":
        return -0.4 if all(words) and char < "\u3000" else 0.6
    return -0.8 if any(words) else 0.1  # signs: currency, mathematics, boxes


# --- where records end ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Whole records, and what is known of where they stand."""

    data: bytes
    line: int  #: of the first byte, from 1
    starts: Positions | None = None  #: of the elements of a JSON array, and the end of the last; None: records are lines
    quotes: Positions | None = None  #: of CSV: opening and closing quotes by turns
    newline: bytes = b"\n"

    def line_of(self, at: int) -> int:
        """The line, from 1, of the byte at `at`."""
        return self.line + self.data.count(self.newline, 0, at)


@dataclass(frozen=True)
class Bad:
    """A malformed record. After a `fatal` one the file cannot be followed further."""

    line: int
    reason: str
    raw: str
    fatal: bool = False


def _too_long(label: str, line: int) -> BadInput:
    return BadInput(f"{label}: line {line}: a record is longer than {MAX_RECORD >> 20} MB.")


def line_blocks(pieces: Iterable[bytes], label: str) -> Iterator[Block]:
    """Blocks of whole lines, each ended by LF but for the last of the file."""
    held: list[bytes] = []
    line, size = 1, 0
    for piece in pieces:
        cut = piece.rfind(b"\n") + 1
        if cut:
            data = b"".join((*held, piece[:cut])) if held or cut < len(piece) else piece
            yield Block(data, line)
            line += data.count(b"\n")
            held, size = [], 0
        if cut < len(piece):
            held.append(piece[cut:])
            size += len(piece) - cut
            if size > MAX_RECORD:
                raise _too_long(label, line)
    if held:
        yield Block(b"".join(held), line)


def _quote_roles(data: bytes, quotes: Sequence[int], seps: bytes, eof: bool) -> tuple[list[int], int | None]:
    """Which quotes open and close fields, one by one: a quote inside a field without quotes is a character like others.

    Returns the opening and closing ones by turns (an odd count: the last is still open), and the opening quote of the first field with
    text behind its closing quote, or None.
    """
    roles: list[int] = []
    at, count, size = 0, len(quotes), len(data)
    while at < count:
        opening = quotes[at]
        if opening and data[opening - 1] not in seps:
            at += 1
            continue
        at += 1
        while at + 1 < count and quotes[at + 1] == quotes[at] + 1:
            at += 2
        if at >= count:
            roles.append(opening)
            break
        closing = quotes[at]
        if closing + 1 < size and data[closing + 1] not in seps:
            return roles, opening
        if closing + 1 == size and not eof:
            roles.append(opening)  # the next piece may double it
            break
        roles += (opening, closing)
        at += 1
    return roles, None


def _scan_quotes(data: bytes, seps: bytes, eof: bool) -> tuple[Positions, int | None]:
    array = np.frombuffer(data, dtype=np.uint8)
    quotes = np.flatnonzero(array == _QUOTE)
    if not len(quotes):
        return quotes, None
    is_sep = np.zeros(256, dtype=bool)
    is_sep[list(seps)] = True
    opens, closes = quotes[0::2], quotes[1::2]
    # The usual case, for all quotes at once: they take turns, an opening one stands behind a separator (or is the second of a doubled
    # one), a closing one in front of a separator (or is the first of a doubled one).
    fine = is_sep[array[opens - 1]]
    fine[0] |= opens[0] == 0
    fine[1:] |= opens[1:] == closes[: len(opens) - 1] + 1
    if fine.all():
        inner = closes[:-1] if len(closes) and closes[-1] == len(data) - 1 else closes
        shut = is_sep[array[inner + 1]]
        following = opens[1:][: len(inner)]
        shut[: len(following)] |= following == inner[: len(following)] + 1
        if shut.all():
            return quotes, None
    roles, bad = _quote_roles(data, quotes.tolist(), seps, eof)
    return np.array(roles, dtype=np.int64), bad


def inside(quotes: Positions, at: Positions) -> npt.NDArray[np.bool_]:
    """Whether each position in `at` lies between an opening and its closing quote."""
    found: npt.NDArray[np.bool_] = np.searchsorted(quotes, at) % 2 == 1
    return found


def _last_end(data: bytes, quotes: Positions, limit: int, newline: bytes, eof: bool) -> int:
    """End of the last record that ends at or before `limit`; 0 when none does."""
    while (at := data.rfind(newline, 0, limit)) >= 0:
        turn = int(np.searchsorted(quotes, at))
        if turn % 2 == 0 and not (newline == b"\r" and at == len(data) - 1 and not eof):
            return at + 1
        limit = int(quotes[turn - 1]) if turn % 2 else at
    return 0


def _newline(data: bytes, quotes: Positions) -> bytes:
    """CR for the files whose first record ends in one without LF (old Macs), else LF: what counts as a line in messages."""
    array = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero((array == _LF) | (array == _CR))
    ends = ends[~inside(quotes, ends)]
    if len(ends) and array[ends[0]] == _CR and ends[0] + 1 < len(data) and array[ends[0] + 1] != _LF:
        return b"\r"
    return b"\n"


def csv_blocks(pieces: Iterable[bytes], delimiter: str) -> Iterator[Block | Bad]:
    """Blocks of whole CSV records, in order, with `Bad` where a quoted field does not end as it must.

    After a `Bad` record reading goes on in the next line of the file, so that a lone quote never swallows more than its own line.
    """
    seps = delimiter.encode() + b"\r\n"
    line, data, newline = 1, b"", b""
    source = iter(pieces)
    eof = False
    while not eof or data:
        held = [data]
        grown, wanted = 0, len(data)  # double what could not be cut, or long records would be scanned over and over
        while not eof and (not grown or grown < wanted):
            piece = next(source, None)
            eof = piece is None
            held.append(piece or b"")
            grown += len(held[-1])
        data = b"".join(held)
        while data:
            quotes, bad = _scan_quotes(data, seps, eof)
            newline = newline or _newline(data, quotes)
            opened = bad if bad is not None else int(quotes[-1]) if len(quotes) % 2 else None
            cut = _last_end(data, quotes, len(data) if opened is None else opened, newline, eof)
            if eof and opened is None:
                cut = len(data)
            if cut:
                whole = data if cut == len(data) else data[:cut]
                yield Block(whole, line, quotes=quotes[: np.searchsorted(quotes, cut)], newline=newline)
                line += whole.count(newline)
                data = data[cut:]
            if opened is None:
                if len(data) > MAX_RECORD:
                    yield Bad(line, f"the record is longer than {MAX_RECORD >> 20} MB", data[:200].decode(errors="ignore"), fatal=True)
                    return
                break
            if bad is None and not eof and len(data) <= MAX_RECORD:
                break
            where = line + data.count(newline, 0, opened - cut)
            reason = "has text behind its closing quote" if bad is not None else "never closes"
            end = data.find(newline)
            if end < 0 and not eof and len(data) <= MAX_RECORD:
                break  # the rest of its line is in the next piece
            end = len(data) if end < 0 else end
            yield Bad(line, f"the quote opened in line {where} {reason}", data[:end].decode().rstrip("\r\n"))
            data = data[end + 1 :]
            line += 1


_KINDS = np.zeros(256, dtype=np.int8)
for _chars, _kind in ((b'"', 2), (b"[{", 1), (b"]}", -1), (b",", 3)):
    _KINDS[list(_chars)] = _kind
_MARKS = bytes(int(kind != 0) for kind in _KINDS.tolist())


def _json_marks(data: bytes) -> tuple[Positions, npt.NDArray[np.uint8], Positions]:
    """Brackets and commas outside strings: their positions, their bytes, and the depth behind each (0 at the start of `data`)."""
    array = np.frombuffer(data, dtype=np.uint8)
    at = np.flatnonzero(np.frombuffer(data.translate(_MARKS), dtype=np.bool_))
    kinds = _KINDS[array[at]]
    slashes = np.flatnonzero(array == _BACKSLASH)
    quoted = kinds == 2
    if len(slashes):
        runs = slashes[np.concatenate(([True], np.diff(slashes) > 1))]
        behind = at - 1
        follows = quoted & (at > 0) & (array[behind] == _BACKSLASH)
        run = runs[np.searchsorted(runs, behind[follows], side="right") - 1]
        escaped = (behind[follows] - run) % 2 == 0  # an odd run of backslashes
        quoted[np.flatnonzero(follows)[escaped]] = False
        dropped = np.zeros(len(at), dtype=bool)
        dropped[np.flatnonzero(follows)[escaped]] = True
        at, kinds, quoted = at[~dropped], kinds[~dropped], quoted[~dropped]
    outside = (np.cumsum(quoted) % 2 == 0) & ~quoted
    at, kinds = at[outside], kinds[outside].astype(np.int64)
    depth = np.cumsum(np.where(kinds == 3, 0, kinds))
    return at, array[at], depth


def json_blocks(pieces: Iterable[bytes], label: str) -> Iterator[Block | Bad]:
    """The elements of a top-level array, or the objects of a file that begins with one, as blocks.

    A file whose first line is an object of its own is read line by line, as JSON Lines under the name .json.
    """
    source = iter(pieces)
    data = b""
    while not data.strip() and (piece := next(source, None)) is not None:
        data += piece
    body = data.lstrip(b" \t\r\n")
    if not body.startswith(b"["):
        while b"\n" not in body and (piece := next(source, None)) is not None and len(body) < MAX_RECORD:
            body, data = body + piece, data + piece
        if not body.startswith(b"{") or _is_json(body.split(b"\n", 1)[0]):
            yield from line_blocks(_chain(data, source), label)
            return
    array = body.startswith(b"[")
    lead = len(data) - len(body) + array
    yield from _elements(data[lead:], source, label, 1 + data.count(b"\n", 0, lead), array)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _elements(data: bytes, source: Iterator[bytes], label: str, line: int, array: bool) -> Iterator[Block | Bad]:
    base = 1 if array else 0
    closed, found, eof = not array, False, False
    while True:
        at, chars, depth = _json_marks(data)
        depth = depth + base
        outer = np.flatnonzero((depth <= 0) & (chars != ord(",")))
        if array:
            end = int(outer[0]) if len(outer) else None
            splits = at[:end][(chars[:end] == ord(",")) & (depth[:end] == 1)]
        else:
            end = None
            splits = at[outer] + 1
        if array and end is not None:
            stop = int(at[end])
            found = found or bool(len(splits)) or bool(data[:stop].strip())
            if chars[end] != ord("]"):
                yield Bad(
                    line + data.count(b"\n", 0, stop),
                    "a '}' without its '{' ends the array",
                    data[stop : stop + 200].decode(errors="ignore"),
                    True,
                )
                return
            edges = [*splits.tolist(), stop] if found else []
            rest, closed = data[stop + 1 :], True
        else:
            edges = splits.tolist()
            rest = data[edges[-1] + (1 if array else 0) :] if edges else data
            found = found or bool(edges)
        if edges:
            whole = bytearray(data[: edges[-1] + (1 if array else 0)])
            if array:
                np.frombuffer(whole, dtype=np.uint8)[edges] = 32
            starts = np.array([0, *((e + 1 for e in edges) if array else edges)], dtype=np.int64)
            yield Block(bytes(whole), line, starts=starts)
            line += whole.count(b"\n")
        if array and closed:
            while rest is not None:
                if rest.strip():
                    lead = len(rest) - len(rest.lstrip())
                    yield Bad(
                        line + rest.count(b"\n", 0, lead),
                        "text behind the end of the array",
                        rest[lead : lead + 200].decode(errors="ignore"),
                        True,
                    )
                    return
                line += rest.count(b"\n")
                rest = next(source, None)  # type: ignore[assignment]
            return
        if eof:
            if rest.strip() or array:
                lead = len(rest) - len(rest.lstrip())
                what = "array" if array else "object"
                yield Bad(line + rest.count(b"\n", 0, lead), f"the file ends inside the {what}", rest.strip().decode(errors="ignore"))
            return
        if len(rest) > MAX_RECORD:
            raise _too_long(label, line)
        held, grown = [rest], 0
        while not eof and (not grown or grown < len(rest)):
            piece = next(source, None)
            eof = piece is None
            held.append(piece or b"")
            grown += len(held[-1])
        data = b"".join(held)
