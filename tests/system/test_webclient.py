"""
The client of C{clients/javascript} in a real browser, over WebSockets, with a real
server; and the chat in a page.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SkipTest

from aesm.trust.keys import PrivateKey
from tests.support.certificates import selfSigned
from tests.support.chromium import BROWSER, Chromium, Pages, Proxy, Tab
from tests.system.test_commands import KEY, PATIENCE, ProcessTestCase, freePort
from tests.system.test_javascript import CLIENT, OFFLINE, whyNot

EVIL = "<img src=x onerror='document.title=1'>\u202e"

# Sends messages to the server, the largest of 0.8 MB, and counts those that come back;
# and looks how many bytes wait in the browser.
MUCH = """(async () => {
    const {connect, Pinned, SUITES} = await import("/aesm.js");
    let most = 0;
    const {send} = WebSocket.prototype;
    WebSocket.prototype.send = function (data) {
        send.call(this, data);
        most = Math.max(most, this.bufferedAmount);
    };
    const client = await connect("ws://127.0.0.1:%d/aesm", {trust: new Pinned("%s")});
    const messages = Array.from({length: 64}, (_, number) =>
        new Uint8Array((number %% 8) ** 7).fill(number));
    messages.forEach(message => client.send(message));
    let same = 0;
    for (const message of messages) {
        const {data} = await client.receive();
        const isWhole = data.length === message.length;
        same += isWhole && data.every(byte => byte === message[0]);
    }
    await client.close();
    return [same, most];
})()"""


def missing() -> str | None:
    """Say why nothing can be tested here."""
    if BROWSER is None:
        return "there is no chromium on the path"
    if find_spec("wsproto") is None:
        return "no wsproto"
    return whyNot()


@cache
def pages() -> Path:
    """Build what pages have, once for all tests of this process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    copy = folder / "javascript"
    ignored = shutil.ignore_patterns("node_modules", "dist")
    shutil.copytree(CLIENT, copy, ignore=ignored)
    for command in ("ci --ignore-scripts --no-audit --no-fund", "run bundle"):
        done = subprocess.run(
            ["npm", *command.split()],
            cwd=copy,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        said = done.stdout + done.stderr
        if done.returncode and OFFLINE.search(said):
            raise SkipTest("npm's registry is out of reach")
        assert done.returncode == 0, said
    return copy / "dist" / "browser"


class BrowserTestCase(ProcessTestCase):
    """A browser, and a server for its pages."""

    handler: str
    skip = missing()

    def setUp(self) -> None:
        """Start a server, a web server with the pages, and a browser."""
        super().setUp()
        self.pages = Pages(pages())
        self.addCleanup(self.pages.close)
        self.port = freePort()
        where = f"websocket:{self.port}:interface=127.0.0.1:path=/aesm"
        options = "--handler", self.handler, "--listen", where
        self.server, self.endpoint = self.serve(*options)
        self.key = self.server.expect(f"with the public key ({KEY})")[1]
        self.browser = Chromium(self.home)
        self.addCleanup(self.browser.close)


class ClientTests(BrowserTestCase):
    """The client in a page of one's own."""

    handler = "echo"

    def test_much(self) -> None:
        """
        Much of all sizes goes there and back, whole and in order, and no more waits in
        the browser than the transport lets.
        """
        tab = self.browser.open(f"http://127.0.0.1:{self.pages.port}/aesm.js")
        same, most = tab.evaluate(MUCH % (self.port, self.key))
        self.assertEqual(same, 64)
        self.assertGreater(most, 262_144)
        self.assertLess(most, 262_144 + 65_600)


class ChatTests(BrowserTestCase):
    """People in pages, which come by HTTPS and speak over C{wss:}, and in terminals."""

    handler = "chat"

    def setUp(self) -> None:
        """Put what ends TLS before both servers."""
        super().setUp()
        certificate = self.home / "certificate.pem"
        certificate.write_bytes(selfSigned())
        self.site = Proxy(self.pages.port, certificate)
        self.addCleanup(self.site.close)
        self.proxy = Proxy(self.port, certificate)
        self.addCleanup(self.proxy.close)

    def browse(self, key: str, host: str = "127.0.0.1") -> Tab:
        """
        Open the page.

        @param key: that the server is to have.
        @param host: where the page is.
        """
        there = f"#wss://127.0.0.1:{self.proxy.port}/aesm,{key}"
        return self.browser.open(f"https://{host}:{self.site.port}/chat/{there}")

    def test_chat(self) -> None:
        """
        Somebody in a page and somebody in a terminal talk to each other, also when the
        page was cut off meanwhile; nothing that is said is more than text.
        """
        alice = self.browse(self.key)
        alice.when("state.textContent == 'Connected.'")
        self.submit(alice, "name", "alice")
        self.sees(alice, "you are alice in lobby")
        bob = self.start("-m", "aesm", "chat", self.endpoint, "--nick", "bob")
        bob.expect("you are bob in lobby")
        self.sees(alice, "bob has come into lobby")
        self.assertEqual(alice.evaluate("present.innerText"), "alice\nbob")
        self.submit(alice, "text", f"hello, {EVIL}")
        bob.expect("alice: hello, <img src=x onerror='document.title=1'>")
        self.sees(alice, "alice: hello, <img")
        bob.type(f"you too, {EVIL}\n")
        self.sees(alice, "bob: you too, <img")
        self.proxy.cut()
        alice.when("log.querySelector('.error')")
        bob.type("are you there?\n")
        self.submit(alice, "text", "I am cut off")
        bob.expect("alice: I am cut off")
        alice.when("state.textContent == 'Connected.'")
        self.sees(alice, "bob: are you there?")
        self.assertNotIn("alice has left", bob.output)
        self.assertEqual(alice.evaluate("document.images.length"), 0)
        self.assertEqual(alice.evaluate("document.title"), "aesm chat")
        complaints = [each for each in self.browser.console if "ERR_" not in each]
        self.assertEqual(complaints, [])
        self.submit(alice, "text", "/quit")
        bob.expect("alice has left lobby")
        alice.when("state.textContent == 'You have left.'")

    def test_wrong(self) -> None:
        """
        A page of another origin is refused, and so is a server with another key; the
        page says so, and the server's log.
        """
        for key, host, words in (
            (self.key, "localhost", "does it let pages of this origin come"),
            (PrivateKey.generate().publicKey, "127.0.0.1", f"has the key {self.key}"),
        ):
            tab = self.browse(str(key), host)
            self.sees(tab, words)
        tab.when("state.textContent.startsWith('Over: reload the page')")
        origin = re.escape(f"https://localhost:{self.site.port}")
        self.server.expect(f"no WebSocket .403.: here come no pages of .*{origin}")
        self.assertEqual(self.server.output.count("clients connect with"), 1)

    def submit(self, tab: Tab, field: str, text: str) -> None:
        """Fill a field in, and press Enter."""
        element = f"document.getElementById({json.dumps(field)})"
        tab.when(f"!{element}.closest('form').hidden")
        tab.evaluate(f"{element}.focus()")
        tab.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r")

    def sees(self, tab: Tab, words: str) -> None:
        """Wait until the page shows some words."""
        tab.when(f"log.innerText.includes({json.dumps(words)})")
