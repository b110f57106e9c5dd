"""The page of one table, served to this machine only.

Who asks has to know the token in the address, and to name this machine as the host: a page of the
internet that makes a browser ask (DNS rebinding) knows neither.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prefmill.errors import PrefmillError
from prefmill.reports.page import DARK, LIGHT
from prefmill.shown import shown
from prefmill.viewer.asked import OPERATORS, asked_of
from prefmill.viewer.flags import Flags
from prefmill.viewer.shows import plain, row_told
from prefmill.viewer.table import BRIEF, Table

HOST = "127.0.0.1"
_KINDS = {"view.html": "text/html", "view.js": "text/javascript", "view.css": "text/css"}
_MOST_ROWS, _MOST_BODY = 200, 100_000
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_MADE = (PrefmillError, KeyError, ValueError, TypeError)


class Viewer(ThreadingHTTPServer):
    """A server of one table; `url` is where a browser finds it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, table: Table, flags: Flags, name: str, *, port: int = 0) -> None:
        self.table, self.flags, self.name = table, flags, name
        self.token = secrets.token_urlsafe(24)
        super().__init__((HOST, port), _Handler)
        self.hosts = [f"{host}:{self.server_port}" for host in (HOST, "localhost")]

    @property
    def url(self) -> str:
        """The address with its token."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def answer(self, path: str, words: Mapping[str, Any]) -> Any:
        """What the page is told; raises `PrefmillError` for what there is not."""
        table = self.table
        match path:
            case "about":
                return self._about()
            case "rows":
                asked, first = asked_of(words), max(0, int(words.get("first", 0)))
                count = min(_MOST_ROWS, max(0, int(words.get("count", 50))))
                positions = table.positions(asked, first, count)
                pages = zip(positions, table.page(positions), strict=True)
                names = list(table.columns)
                return [[pos, [plain(row[name]) for name in names]] for pos, row in pages]
            case "count":
                return table.count(asked_of(words))
            case "row":
                other = words.get("other")
                return row_told(table, int(words["row"]), None if other is None else int(other))
            case "siblings":
                return [plain(each) for each in table.siblings(int(words["row"]))]
            case "text":
                name = list(table.columns)[int(words["column"])]
                return plain(table.text(int(words["row"]), name))
            case "flag":
                self.flags.set(int(words["row"]), on=bool(words["on"]))
                return self.flags.rows
        raise KeyError(path)

    def _about(self) -> dict[str, Any]:
        table, layout = self.table, self.table.layout
        columns = [
            {"name": name, "shown": shown(name), "kind": cells.kind, "number": cells.is_number}
            for name, cells in table.columns.items()
        ]
        return {
            "name": shown(self.name),
            "rows": table.rows,
            "columns": columns,
            "operators": list(OPERATORS),
            "brief": BRIEF,
            "prompt": layout.prompt,
            "sides": layout.sides,
            "answer": layout.answer,
            "flags": self.flags.rows,
            "file": shown(str(self.flags.path)),
            "excludes": table.known_by_texts,
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no matter; what we raise is told to the page."""


class _Handler(BaseHTTPRequestHandler):
    server: Viewer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "prefmill", ""
    timeout = 600

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not size.isdigit() or int(size) > _MOST_BODY:
            self.close_connection = True
            self._send(413, "text/plain", b"too large")
            return
        self._answer(self.rfile.read(int(size)))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses have the token."""

    def _answer(self, body: bytes | None) -> None:
        asked = urlsplit(self.path)
        _, token, *rest = [*asked.path.split("/"), ""]
        host = self.headers.get("Host", "")
        known = hmac.compare_digest(token.encode(), self.server.token.encode())
        if host not in self.server.hosts or not known:
            self._send(403, "text/plain", b"This page is opened by the address that was printed.")
            return
        name = "/".join(rest).rstrip("/") or "view.html"
        if name in _KINDS and body is None:
            self._send(200, _KINDS[name], _file(name))
            return
        self._tell(name, asked.query, body)

    def _tell(self, name: str, query: str, body: bytes | None) -> None:
        changes = name == "flag"
        if changes != (body is not None):
            self._send(405, "text/plain", b"not so")
            return
        try:
            text = body if body is not None else parse_qs(query).get("q", ["{}"])[0]
            told = self.server.answer(name, json.loads(text))
            code, content = 200, json.dumps({"told": told})
        except _MADE as error:
            code = 400 if isinstance(error, PrefmillError) else 404
            content = json.dumps({"error": shown(str(error))})
        except Exception as error:  # an engine's: said on the page, and the server goes on
            code, content = 500, json.dumps({"error": shown(str(error))})
        self._send(code, "application/json", content.encode())

    def _send(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _file(name: str) -> bytes:
    """A file of the page; the colours are those of reports."""
    content = (files("prefmill.viewer") / "page" / name).read_text("utf-8")
    if name == "view.css":
        dark = f"@media(prefers-color-scheme:dark){{:root{{{DARK}}}}}"
        content = f":root{{{LIGHT}}}\n{dark}\n{content}"
    return content.encode()
