"""The bytes of a text file as pieces of valid UTF-8.

Decompression, byte order marks, transcoding, and the offset of the first bad byte. One piece is
held, of about the size asked for. A check of UTF-8 costs a fraction of what parsing does; other
encodings are decoded and encoded in full.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import itertools
import zlib
from collections.abc import Iterator
from encodings.aliases import aliases
from pathlib import Path

import numpy as np
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf_32"),
    (codecs.BOM_UTF32_BE, "utf_32"),
    (codecs.BOM_UTF16_LE, "utf_16"),
    (codecs.BOM_UTF16_BE, "utf_16"),
)
#: Encodings that files are in, the more usual first. Only these are named in hints.
_USUAL = (
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
#: Codecs of Python that files are not in: they escape, or they hide text from every check.
_REFUSED = frozenset(
    (
        *("utf_7", "idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"),
        *("mbcs", "oem", "hz", "iso2022_jp", "iso2022_jp_1", "iso2022_jp_2", "iso2022_jp_2004"),
        *("iso2022_jp_3", "iso2022_jp_ext", "iso2022_kr"),
    )
)
#: Bytes around the one that does not fit, which a hint is made from.
_WINDOW = 8192


def check_encoding(name: str, where: str) -> str:
    """The normal name of the encoding `name`.

    Raises `BadArgument`, with near names, where Python has no such text encoding.

    >>> check_encoding("Windows-1252", "doc")
    'cp1252'
    """
    try:
        info = codecs.lookup(name.strip())
        normal = info.name.replace("-", "_")
        # rot13, base64 and zlib are "codecs" too.
        if "\0" in name or not info._is_text_encoding:
            raise LookupError
    except (LookupError, ValueError):
        known = sorted({*aliases.values(), *aliases, "utf_8_sig", "mac_roman", "koi8_r", "koi8_u"})
        plain = name.strip().lower().replace("-", "_").replace(" ", "_")
        near = difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
        usual = "for example utf_8, cp1252, mac_roman, gb18030."
        raise BadArgument(
            f"{where}: no encoding {name!r}; expected the name of a Python text codec.",
            hint=f"did you mean {', '.join(near)}?" if near else usual,
        ) from None
    if normal in _REFUSED:
        raise BadArgument(
            f"{where}: the encoding {name!r} is not supported.",
            hint="convert the file to UTF-8 first.",
        )
    return normal


def likely_encodings(data: bytes, at: int = 0, *, most: int = 4) -> list[str]:
    """Usual encodings in which the bytes around `at` read like text, the most plausible first.

    For hints in errors only, never for reading.

    >>> likely_encodings("Bœuf à l’étouffée, c’est très bon".encode("mac_roman"))[0]
    'mac_roman'
    """
    from charset_normalizer import from_bytes

    # From line end to line end: no usual encoding has one inside a character.
    first, last = max(0, at - _WINDOW), at + _WINDOW
    start, end = first, last
    if first > 0:
        start = data.find(b"\n", first, at) + 1 or first
    if last < len(data):
        end = data.rfind(b"\n", at, last) + 1 or last
    matches = from_bytes(data[start:end], cp_isolation=list(_USUAL))
    # Encodings that read these bytes alike are one answer: the most usual of them.
    alike = [[name for name in _USUAL if name in match.could_be_from_charset] for match in matches]
    return list(dict.fromkeys(names[0] for names in alike if names))[:most]


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
        raise BadInput(
            f"{label}: the compressed file is cut short.", hint="copy or download it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(
            f"{label}: not a valid gzip file; {error}.",
            hint="is the ending .gz right, and the file complete?",
        ) from error
    except OSError as error:
        raise BadInput(f"{label}: cannot be read; {error.strerror or error}.") from error


def _unzstd(path: Path, label: str, size: int) -> Iterator[bytes]:
    import zstandard

    # `zstd --long=31` writes windows of 2 GiB; only files that ask for one take the memory.
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
                        f"{label}: not a valid zstd file; {error}.",
                        hint="is the ending .zst right, and the file complete?",
                    ) from error
                if out:
                    yield out
                piece = b""
                if frame.eof:
                    piece, frame = frame.unused_data, None
    if frame is not None:
        raise BadInput(
            f"{label}: the compressed file is cut short.", hint="copy or download it again."
        )


def utf8_blocks(
    path: Path, label: str, *, compression: str | None, encoding: str | None, size: int
) -> Iterator[bytes]:
    """The text of a file as pieces of valid UTF-8 without a byte order mark.

    No piece ends inside a character.
    `label` names the file in errors. Raises `BadInput` with the 0-based offset (after
    decompression) of the first byte that is not text in `encoding`.
    """
    pieces = _raw(path, label, compression, size)
    first = next(pieces, b"")
    while len(first) < 4 and (more := next(pieces, b"")):
        first += more
    if encoding is None:
        encoding = next((name for bom, name in _BOMS if first.startswith(bom)), "utf_8")
        if encoding == "utf_8" and first[:1024].count(0) * 3 > len(first[:1024]):
            little = first[1:1024:2].count(0) >= first[0:1024:2].count(0)
            wide = "utf_16_le" if little else "utf_16_be"
            raise BadInput(
                f"{label}: every third byte or more is NUL: not text in UTF-8.",
                hint=f"try --encoding {wide}",
            )

    everything = itertools.chain([first] if first else [], pieces)
    if encoding in ("utf_8", "utf_8_sig"):
        yield from _checked(everything, label)
    else:
        yield from _transcoded(everything, label, encoding)


def _checked(pieces: Iterator[bytes], label: str) -> Iterator[bytes]:
    offset, rest, start = 0, b"", True
    for piece in pieces:
        data = rest + piece
        cut = len(data) - _tail(data)
        whole, rest = data[:cut], data[cut:]
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
    try:
        for piece, final in itertools.chain(((piece, False) for piece in pieces), [(b"", True)]):
            done += len(piece)
            text = decoder.decode(piece, final)
            # Codecs that name their byte order keep the mark.
            if start and text:
                start, text = False, text.removeprefix("\ufeff")
            if text:
                yield text.encode()
    except UnicodeDecodeError as error:
        # The decoder's buffer stands in front of the piece: positions count back from the end.
        where = done - len(error.object) + error.start
        byte = error.object[error.start : error.start + 1]
        raise BadInput(
            f"{label}: not valid {encoding}; the byte 0x{byte.hex().upper()} at offset {where}"
            f" cannot be decoded ({error.reason}).",
            hint=_hint(error.object, error.start),
        ) from None
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{label}: decoded as {encoding} it holds lone surrogates, which are not text"
            f" ({error.reason})."
        ) from None
    except UnicodeError as error:  # no byte order mark, where the codec wants one
        raise BadInput(
            f"{label}: not valid {encoding}; {error}.", hint="try --encoding utf_16_le"
        ) from None


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
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(data)]
    # Arrow's check is several times faster than decoding, but tells no position.
    try:
        pa.Array.from_buffers(pa.large_string(), 1, buffers).validate(full=True)
    except pa.ArrowInvalid:
        try:
            codecs.utf_8_decode(data, "strict", True)
        except UnicodeDecodeError as error:
            return error.start
    return None


def _not_utf8(label: str, data: bytes, at: int, offset: int) -> BadInput:
    where = f"the byte 0x{data[at]:02X} at offset {offset + at}"
    return BadInput(f"{label}: not valid UTF-8; {where} cannot be decoded.", hint=_hint(data, at))


def _hint(data: bytes, at: int) -> str:
    names = likely_encodings(data, at)
    if not names:
        return "no usual encoding fits; is it a text file?"
    hint = f"try --encoding {names[0]}"
    if names[1:]:
        hint += f" (also possible: {', '.join(names[1:])})"
    return hint
