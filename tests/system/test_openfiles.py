"""
A server whose process has no file left, since others of it have used them up.
"""

from __future__ import annotations

from tests.system.test_commands import ProcessTestCase

SERVER = """
import os, resource, sys
from contextlib import suppress
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from aesm import PrivateKey, listen

async def main(reactor):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    where = "tcp:0:interface=127.0.0.1"
    server = await listen(reactor, where, key=PrivateKey.generate())
    print("listening", server.address[1], flush=True)
    taken = []
    while await deferToThread(sys.stdin.readline):
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        print("none left", flush=True)
        await deferToThread(sys.stdin.readline)
        while taken:
            os.close(taken.pop())
        print("free", flush=True)

react(main)
"""

CLIENT = """
import sys
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from aesm import AESMError, AnyServer, PrivateKey, connect

async def main(reactor, port):
    inside = []
    for number in range(1, 9):
        try:
            options = {"key": PrivateKey.generate(), "trust": AnyServer()}
            inside.append(await connect(reactor, f"tcp:127.0.0.1:{port}", **options))
            print(number, "is in", flush=True)
        except AESMError as error:
            print(number, "is not:", type(error).__name__, flush=True)
        await inside[0].sendData("hello")
        print(number, "heard", flush=True)
        await deferToThread(sys.stdin.readline)

react(main, sys.argv[1:])
"""


class NoFilesTests(ProcessTestCase):
    """Nobody gets in, nobody who is in notices, and afterwards all is as before."""

    def test_usedUp(self) -> None:
        """Those who come are hung up on, until there are files again."""
        server = self.start("-uc", SERVER)
        port = server.expect(r"^listening (\d+)$").group(1)
        client = self.start("-uc", CLIENT, port)
        client.expect(r"^1 is in\n1 heard$")
        server.type("\n")
        server.expect("none left")
        for number in range(2, 7):
            client.type("\n")
            client.expect(rf"^{number} is not: .*\n{number} heard$")
        server.type("\n")
        server.expect("free")
        client.type("\n")
        client.expect(r"^7 is in\n7 heard$")
