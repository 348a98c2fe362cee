"""
The status page of a real server, in a real browser: headless Chromium, as distributions
have it.
"""

from __future__ import annotations

import re
import subprocess
from urllib.request import urlopen

from tests.support.chromium import ARGUMENTS, BROWSER
from tests.system.test_commands import PATIENCE, Process, ProcessTestCase

# One who says of itself what is markup, and looks like something else.
HOSTILE = "<script>document.title='mine'</script>\u202e<img src=//evil.example/x>"
CLIENT = """
import sys
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from aesm import AnyServer, PrivateKey, connect
import aesm.client.connect

async def main(reactor, endpoint, agent):
    aesm.client.connect.AGENT = agent
    connection = await connect(
        reactor, endpoint, trust=AnyServer(), key=PrivateKey.generate()
    )
    await connection.sendData("hello")
    print("connected", flush=True)
    await Deferred()

react(main, sys.argv[1:])
"""


class BrowserTests(ProcessTestCase):
    """What a person sees, and what the browser makes of what it is told."""

    if BROWSER is None:
        skip = "there is no chromium on the path"

    def watch(self) -> tuple[str, str]:
        """
        Start a server that has a page.

        @return: where clients connect to, and where the page is.
        """
        server, endpoint = self.serve(
            "--handler", "echo", "--status", "tcp:0:interface=127.0.0.1"
        )
        return endpoint, server.expect("status page at (http://[^ ]*/)$")[1]

    def join(self, endpoint: str, agent: str) -> Process:  # type: ignore[override]
        """Start a client that calls itself something, and wait until it is in."""
        client = self.start("-c", CLIENT, endpoint, agent)
        client.expect("^connected$")
        return client

    def browse(self, *arguments: str) -> tuple[str, str]:
        """
        Start the browser, and wait for its end.

        @return: what it writes, and what it complains of.
        """
        assert BROWSER is not None
        profile = f"--user-data-dir={self.home / 'profile'}"
        done = subprocess.run(
            [BROWSER, *ARGUMENTS, profile, *arguments],
            capture_output=True,
            timeout=PATIENCE,
            check=True,
            cwd=self.home,
        )
        return done.stdout.decode("utf-8"), done.stderr.decode("utf-8", "replace")

    def test_page(self) -> None:
        """
        The browser shows who is there; what a client says of itself is text to it, and
        nothing on the page breaks the page's own rules.
        """
        endpoint, page = self.watch()
        self.join(endpoint, "meter 1.0")
        self.join(endpoint, HOSTILE)
        dom, complaints = self.browse("--dump-dom", page)
        self.assertIn("<title>aesm: 2 connected</title>", dom)
        self.assertIn(">meter 1.0</bdi>", dom)
        self.assertIn("&lt;script&gt;document.title='mine'&lt;/script&gt;", dom)
        self.assertEqual(re.findall("<(?:script|img|iframe)", dom), [])
        console = [line for line in complaints.splitlines() if "CONSOLE" in line]
        self.assertEqual(console, [])
        for look in ("light", "dark"):
            picture = self.home / f"{look}.png"
            scheme = ["--force-dark-mode"] if look == "dark" else []
            self.browse(*scheme, f"--screenshot={picture}", page)
            self.assertEqual(picture.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def test_rebinding(self) -> None:
        """A page of a stranger's, whose name leads to this machine, gets nothing."""
        _, page = self.watch()
        port = page.rstrip("/").rpartition(":")[2]
        dom, _ = self.browse(
            "--host-resolver-rules=MAP evil.example 127.0.0.1",
            "--dump-dom",
            f"http://evil.example:{port}/",
        )
        self.assertIn("ask for it by a name of this machine", dom)
        self.assertNotIn("Connected", dom)


class FetchTests(ProcessTestCase):
    """What is fetched without a browser."""

    def test_fetched(self) -> None:
        """A server says where its page is, and that it is well."""
        server = self.serveAt(0, "--status", "tcp:0:interface=127.0.0.1")
        page = server.expect("status page at (http://[^ ]*/)$")[1]
        with urlopen(f"{page}healthz", timeout=PATIENCE) as answer:
            self.assertEqual(answer.read(), b"ok\n")
        with urlopen(f"{page}metrics", timeout=PATIENCE) as answer:
            self.assertIn(b"\naesm_connections 0\n", answer.read())
        self.assertStops(server)

    def test_strangers(self) -> None:
        """A page that other machines could see is one line, and the end."""
        server = self.twistd("--listen", "tcp:0", "--status", "tcp:0")
        self.assertEqual(server.wait(), 1)
        self.assertIn("no status page: other machines reach", server.said())
        self.assertNotIn("Traceback", server.said())
