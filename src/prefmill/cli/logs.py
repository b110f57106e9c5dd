"""What a command logs: as people read it, or with `--log-format json` an object a line on stderr.

Then every line on stderr is such an object, whoever writes it: events of the run (`start`,
`progress`, `done`, `failed`, `stopped`), messages, and at the end `exit` with the exit code.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from prefmill import ending
from prefmill.errors import PrefmillError
from prefmill.redact import without_secrets

#: What every record of `logging` has; the rest came with this one.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(io.TextIOBase):
    """A stream that makes an object of every message that is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._text = stream, ""
        self.name = stream.name

    def write(self, text: str) -> int:
        """Keep `text` until its line ends: what one `print` writes is one message."""
        self._text += text
        if self._text.endswith("\n"):
            message, self._text = self._text.rstrip("\n"), ""
            if message.strip():
                self.put("warning", "message", message.removeprefix("prefmill: "))
        return len(text)

    def put(self, level: str, event: str, message: str, **more: Any) -> None:
        """Write one object. Control characters are escapes in JSON, so no text moves a cursor."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        told = {"event": event, "message": message, **more}
        texts = {n: without_secrets(v) if isinstance(v, str) else v for n, v in told.items()}
        record = {"time": now, "level": level, **texts}
        self._stream.write(json.dumps(record, default=str) + "\n")
        self._stream.flush()

    def flush(self) -> None:
        """Write what has no end of line, too."""
        if self._text:
            self.write("\n")
        self._stream.flush()

    def fileno(self) -> int:
        """The file beneath, for programs that are started."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """No: nothing on it moves."""
        return False


class _Handler(logging.Handler):
    """Records of the logger `prefmill`, as objects."""

    def __init__(self, lines: JsonLines) -> None:
        super().__init__(logging.INFO)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        more = {name: value for name, value in vars(record).items() if name not in _OWN}
        event = more.pop("event", "message")
        self._lines.put(record.levelname.lower(), event, record.getMessage(), **more)


class _Text(logging.Handler):
    """Warnings of the logger, as people are told everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        ending.say(f"prefmill: {record.getMessage()}")


def as_text() -> None:
    """Let people see warnings of the logger, as all commands do unless objects are asked for."""
    if not isinstance(sys.stderr, JsonLines):
        logging.getLogger("prefmill").addHandler(_Text(logging.WARNING))


def as_json() -> None:
    """Log objects from here on, and make objects of what is written to stderr."""
    lines = JsonLines(sys.stderr)
    sys.stderr = lines
    logger = logging.getLogger("prefmill")
    logger.addHandler(_Handler(lines))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    ending.LAST_WORDS = b'{"level": "error", "event": "stopped", "message": "stopped."}\n'


def told(error: PrefmillError) -> bool:
    """Log an error of ours as an object, where that is how things are told."""
    if not isinstance(sys.stderr, JsonLines):
        return False
    name = type(error).__name__
    sys.stderr.put("error", "error", error.message, error=name, hint=error.hint)
    return True


def end(code: int) -> None:
    """Log the exit code, as the last object."""
    if isinstance(sys.stderr, JsonLines):
        level = "error" if code else "info"
        sys.stderr.put(level, "exit", f"exit code {code}", exit_code=code)
