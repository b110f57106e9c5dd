"""A real browser without a window, driven over its own protocol."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path


def _axe():
    found = importlib.util.find_spec("axe_playwright_python")
    places = found.submodule_search_locations if found else ()
    return next((Path(place) / "axe.min.js" for place in places), None)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: axe-core, where its package is installed: none of its Python is used.
AXE = _axe()
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-port=0", "--disable-dev-shm-usage"),
]
_TOLD = (
    *("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"),
    "Page.javascriptDialogOpening",
)
_WAIT = 60.0
_CODES = {"Escape": 27, "Tab": 9, "Enter": 13}


class Page:
    """One page; `told` is what its console and its errors said, or a dialog that it opened, and
    `asked` what it fetched.
    """

    def __init__(self, socket, loop):
        self._socket, self._loop = socket, loop
        self._number = 0
        self.told, self.asked = [], []

    def send(self, method, **words):
        """The answer to a command of the protocol."""
        return self._loop.run_until_complete(asyncio.wait_for(self._send(method, words), _WAIT))

    async def _send(self, method, words):
        self._number += 1
        await self._socket.send_str(
            json.dumps({"id": self._number, "method": method, "params": words})
        )
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            event = message.get("method")
            if event in _TOLD:
                self.told.append(message["params"])
            elif event == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])

    def value(self, script):
        """What a script gives in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script):
        """Wait until a script gives something true; that."""
        end = time.monotonic() + _WAIT
        while not (value := self.value(script)):
            assert time.monotonic() < end, f"never: {script}"
            time.sleep(0.05)
        return value

    def key(self, key):
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {"windowsVirtualKeyCode": _CODES[key]}
        if key == "Enter":
            text["text"] = "\r"
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def open(self, url):
        """Go to a page, and wait until all of it is there."""
        self.send("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def look(self, *, width, dark=False, media=""):
        """From here on the window has this width, and its user this scheme of colours."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def violations(self):
        """What axe finds against WCAG 2 A and AA: the rule, and what it is about."""
        if not self.value("typeof axe === 'object'"):
            self.value(f"{AXE.read_text('utf-8')};0")
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
        asked = {"runOnly": tags, "resultTypes": ["violations"]}
        self.value(
            "window.found = null;"
            f"axe.run(document, {json.dumps(asked)}).then(all => {{ window.found = all }}); 0"
        )
        self.until("window.found !== null")
        return self.value(
            "window.found.violations.flatMap(rule => rule.nodes.map(node =>"
            " `${rule.id}: ${node.html.slice(0, 200)}: ${node.failureSummary}`))"
        )


@contextmanager
def browsing():
    """A page of a browser that ends with the context."""
    import aiohttp

    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        words = [CHROMIUM, *_FLAGS, f"--user-data-dir={home}", "about:blank"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(words, stdout=quiet, stderr=quiet)
        try:
            port = _port(Path(home) / "DevToolsActivePort", process)

            async def opened():
                session = aiohttp.ClientSession()
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    pages = [each for each in await answer.json() if each["type"] == "page"]
                place = pages[0]["webSocketDebuggerUrl"]
                return session, await session.ws_connect(place, max_msg_size=0)

            session, socket = loop.run_until_complete(opened())
            page = Page(socket, loop)
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.send(f"{domain}.enable")
            yield page
            loop.run_until_complete(socket.close())
            loop.run_until_complete(session.close())
        finally:
            process.kill()
            process.wait()
            loop.close()


def _port(file, process):
    end = time.monotonic() + _WAIT
    while not (file.exists() and "\n" in file.read_text()):
        assert process.poll() is None, "the browser ended"
        assert time.monotonic() < end, "the browser has no port"
        time.sleep(0.05)
    return int(file.read_text().split("\n")[0])
