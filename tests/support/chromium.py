"""
Headless Chromium, as distributions have it, over the pipe of its DevTools protocol, and
what a page needs around it: a web server, and a proxy with TLS that a test can cut.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import shutil
import ssl
import subprocess
import time
from concurrent.futures import Future
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
    "--ignore-certificate-errors",  # nobody vouches for the proxy's
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


class Proxy:
    """
    Ends TLS before a port of this machine, and forwards what was inside.

    @ivar port: where it listens.
    """

    def __init__(self, port: int, certificate: Path) -> None:
        """
        Start it.

        @param port: where to.
        @param certificate: a file with it and its key, PEM.
        """
        self._to = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._writers: set[asyncio.StreamWriter] = set()
        started: Future[int] = Future()
        self._thread = Thread(target=asyncio.run, args=(self._run(started),))
        self._thread.start()
        self.port = started.result(PATIENCE)

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def cut(self) -> None:
        """Cut all connections."""
        self._loop.call_soon_threadsafe(self._cut)

    async def _run(self, started: Future[int]) -> None:
        """Accept connections until we are closed."""
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        server = await asyncio.start_server(self._join, "127.0.0.1", ssl=self._context)
        started.set_result(server.sockets[0].getsockname()[1])
        await self._closing.wait()
        server.close()
        self._cut()

    def _cut(self) -> None:
        """Cut all connections, in the loop's thread."""
        for writer in self._writers:
            writer.transport.abort()

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Connect with the port, and forward both ways until one side ends."""
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._to)
        both = {writer, ours}
        self._writers |= both
        await asyncio.gather(_forward(reader, ours), _forward(theirs, writer))
        self._writers -= both


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward what comes, then its end."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
