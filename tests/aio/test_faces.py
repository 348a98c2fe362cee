"""
The promises of a client, in each of its faces: L{tests.support.facecontract}.
"""

from __future__ import annotations

from pathlib import Path

from tests.blocking.test_network import ProgramCase
from tests.support import facecontract as contract
from tests.support.aio import LoopTestCase


class TwistedTests(LoopTestCase):
    """L{aesm.ClientService}, on asyncio's loop."""

    face = "twisted"

    def test_inOrder(self) -> None:
        """What is sent arrives once and in order."""
        self.runLoop(contract.keep(self.face, contract.inOrder))

    def test_ends(self) -> None:
        """Closing tells the server."""
        self.runLoop(contract.keep(self.face, contract.ends))

    def test_outlivesCuts(self) -> None:
        """Cuts lose nothing and double nothing."""
        self.runLoop(contract.keep(self.face, contract.outlivesCuts))

    def test_anotherServer(self) -> None:
        """It goes over to a server that was started anew."""
        self.runLoop(contract.keep(self.face, contract.anotherServer))

    def test_refusals(self) -> None:
        """Errors have the same classes everywhere."""
        self.runLoop(contract.keep(self.face, contract.refusals))

    def test_requests(self) -> None:
        """Requests are answered, refused, and time out."""
        self.runLoop(contract.keep(self.face, contract.requests))


class AioTests(TwistedTests):
    """L{aesm.aio.connect}."""

    face = "aio"


class BlockingTests(ProgramCase):
    """L{aesm.ClientNetwork}, in a process of its own."""

    def test_all(self) -> None:
        """It keeps all of them."""
        program = self.start(str(Path(contract.__file__)), "blocking")
        names = " ".join(promise.__name__ for promise in contract.PROMISES)
        self.check(program, f"kept {names}\n")
