"""
Headless Chromium, as distributions have it, over the pipe of its DevTools protocol, and
what a page needs around it: a web server, and a network that a test can cut.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any, cast

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # root, and containers, have none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--enable-logging=stderr",
)
PATIENCE = 600.0  # seconds; more than any machine needs

# Resolves with what an expression says once that is true: it is looked at again at each
# change of the page.
WHEN = """new Promise(resolve => {
    const look = () => {
        const value = %s;
        if (value) { seer.disconnect(); resolve(value); }
    };
    const seer = new MutationObserver(look);
    const all = {attributes: true, childList: true, characterData: true, subtree: true};
    seer.observe(document, all);
    look();
})"""


class Chromium:
    """
    A browser.

    @ivar console: what pages have written there, or broken.
    """

    def __init__(self, home: Path) -> None:
        """
        Start it.

        @param home: gets its profile.
        """
        theirInput, self._output = os.pipe()
        self._input, theirOutput = os.pipe()
        # The protocol is spoken at descriptors 3 and 4.
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$0" "$@" 3<&{theirInput} 4>&{theirOutput}'),
                *(cast(str, BROWSER), *ARGUMENTS, "--remote-debugging-pipe"),
                f"--user-data-dir={home / 'profile'}",
            ],
            pass_fds=(theirInput, theirOutput),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=home,
        )
        os.close(theirInput)
        os.close(theirOutput)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._input, selectors.EVENT_READ)
        self._numbers = count(1)
        self._buffer = b""
        self._reached: set[tuple[str, str]] = set()  # which load, and how far
        self.console: list[str] = []

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        self._selector.close()
        os.close(self._input)
        os.close(self._output)

    def open(self, url: str) -> Tab:
        """Open a page, and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        tab = Tab(self, attached["sessionId"])
        for domain in ("Runtime", "Log", "Page"):
            tab.call(f"{domain}.enable")
        tab.call("Page.setLifecycleEventsEnabled", enabled=True)
        loading = tab.call("Page.navigate", url=url)["loaderId"]
        deadline = time.monotonic() + PATIENCE
        while (loading, "load") not in self._reached:
            self._read(deadline)
        return tab

    def call(self, method: str, sessionId: str | None = None, **params: Any) -> Any:
        """
        Have it do something.

        @param sessionId: at which page.
        @return: the result.
        @raise AssertionError: it cannot, or takes too long.
        """
        number = next(self._numbers)
        request = {"id": number, "method": method, "params": params}
        if sessionId is not None:
            request["sessionId"] = sessionId
        os.write(self._output, json.dumps(request).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self._read(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self, deadline: float) -> dict[str, Any]:
        """Read what it says next, and take note of it if nobody has asked for that."""
        while b"\0" not in self._buffer:
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            data = os.read(self._input, 65536) if ready else b""
            assert data, f"the browser says nothing more; last {self.console[-2:]}"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        said: dict[str, Any] = json.loads(message)
        if said.get("method") in (
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
        ):
            self.console.append(json.dumps(said["params"]))
        elif said.get("method") == "Page.lifecycleEvent":
            self._reached.add((said["params"]["loaderId"], said["params"]["name"]))
        return said


class Tab:
    """A page in a browser."""

    def __init__(self, browser: Chromium, session: str) -> None:
        """@param session: what the browser calls it."""
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> Any:
        """Have the browser do something at this page."""
        return self._browser.call(method, self._session, **params)

    def evaluate(self, expression: str) -> Any:
        """
        Ask for an expression's value, or for what its promise resolves with.

        @raise AssertionError: it throws, or rejects.
        """
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def when(self, expression: str) -> Any:
        """Wait until an expression is true, and return its value."""
        return self.evaluate(WHEN % expression)


class Pages:
    """
    A web server on this machine.

    @ivar port: where.
    """

    def __init__(self, folder: Path) -> None:
        """@param folder: has the pages."""
        handler = partial(_Quiet, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self._server.server_port
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    """Writes down nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Do not."""


class Network:
    """
    Forwards connections to a port of this machine.

    @ivar port: where it listens.
    """

    def __init__(self, port: int) -> None:
        """@param port: where to."""
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = []
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        while self._sockets:
            with self._sockets.pop() as each:
                _end(each)

    def _accept(self) -> None:
        """Accept connections until we are closed."""
        while True:
            try:
                here, _ = self._listening.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [here, there]
            for pair in ((here, there), (there, here)):
                Thread(target=_forward, args=pair, daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    """Forward what comes, then its end."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    _end(target)


def _end(each: socket.socket) -> None:
    """End a connection, if it is there."""
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
