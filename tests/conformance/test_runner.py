"""
What the checks find in our own server and client, and how they are told.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from aesm import ClientService, PrivateKey
from aesm.conformance.case import CHECKS, CLIENT, SERVER
from aesm.conformance.runner import NOT_APPLICABLE, PASS, chosen, summary
from aesm.noise import KeyPair
from aesm.store import spool
from tests.support.helpers import PSK
from tests.support.judging import failed, judge
from tests.support.spooled import AtOnce

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"


def eager(
    clock: Clock, endpoint: IStreamClientEndpoint, trust: object, **options: Any
) -> None:
    """Start a client that has something to say before it is let in."""
    service = ClientService(endpoint, reactor=clock, trust=trust, **options)
    service.sendData("early")
    service.startService()


class OursTests(SynchronousTestCase):
    """Our own server and client."""

    def test_server(self) -> None:
        """Our server passes all checks, more than a hundred."""
        outcomes = judge(SERVER)
        self.assertEqual(failed(outcomes), {})
        counts = summary(list(outcomes.values()))
        self.assertGreater(counts[PASS], 200)
        self.assertLess(counts[NOT_APPLICABLE], 10)

    def test_client(self) -> None:
        """Our client passes all checks, more than a hundred."""
        outcomes = judge(CLIENT)
        self.assertEqual(failed(outcomes), {})
        counts = summary(list(outcomes.values()))
        self.assertGreater(counts[PASS], 100)
        self.assertLess(counts[NOT_APPLICABLE], 10)

    def test_early(self) -> None:
        """A client that does not wait for the WELCOME is looked at, too."""
        for name in ("client.early-taken", "client.waits"):
            outcomes = judge(CLIENT, [name], client=eager)
            self.assertEqual(outcomes[name].verdict, PASS)

    def test_spool(self) -> None:
        """Both pass what has to do with it when all is written down first."""
        self.patch(spool, "_OwnThread", lambda reactor: AtOnce())
        for role in (SERVER, CLIENT):
            groups = "closing", "early", "flow", "requests", "sessions"
            only = [*(f"{group}.*" for group in groups), "frames.too-*"]
            outcomes = judge(role, only, spool=self.mktemp())
            self.assertEqual(failed(outcomes), {})

    def test_psk(self) -> None:
        """A server and a client with a pre-shared key are tested with it."""
        for role, only in ((SERVER, ("offer.[!st]*", "handshake.*")), (CLIENT, ())):
            outcomes = judge(role, only or ("client.*",), psk=PSK)
            self.assertEqual(failed(outcomes), {})
        psk = judge(SERVER, ["handshake.wrong-psk"], psk=PSK)
        self.assertEqual(psk["handshake.wrong-psk"].verdict, PASS)

    def test_identity(self) -> None:
        """A server that lets in one key alone is tested with that."""
        key = PrivateKey.generate()
        outcomes = judge(
            SERVER,
            ["sessions.*"],
            identity=KeyPair.fromBytes(key.raw),
            authorizedKeys=lambda public, address: public == key.publicKey,
        )
        self.assertEqual(failed(outcomes), {})
        self.assertEqual(outcomes["sessions.other-key"].verdict, NOT_APPLICABLE)

    def test_smallServer(self) -> None:
        """What a server does not have is not applicable: here early messages."""
        outcomes = judge(SERVER, ["early.*"], maxMessage=60_000)
        self.assertEqual(failed(outcomes), {})
        self.assertEqual(outcomes["early.in-batch"].verdict, NOT_APPLICABLE)


class ListTests(SynchronousTestCase):
    """The list of the checks."""

    def test_requirements(self) -> None:
        """Each check names a requirement that is in the document."""
        known = set(re.findall(r"\*\*(R-[\d.]+)\*\*", PROTOCOL.read_text("utf-8")))
        unknown = {c.name: c.requirement for c in CHECKS.values()}
        self.assertEqual(
            {name: number for name, number in unknown.items() if number not in known},
            {},
        )

    def test_sentences(self) -> None:
        """Each check says what is so if it passes, in one sentence."""
        for check in CHECKS.values():
            self.assertRegex(check.says, r"^[A-Z0-9].*[^.]\.$", check.name)
            self.assertNotIn(". ", check.says, check.name)
            self.assertRegex(check.name, r"^[a-z]+\.[a-z0-9-]+$")

    def test_chosen(self) -> None:
        """Checks are chosen by role and globs, in the order of the list."""
        both = [check.name for check in chosen(CLIENT, ["records.s*", "client.hello"])]
        self.assertEqual(both, ["client.hello", "records.shortest", "records.swapped"])
        self.assertEqual(chosen(SERVER, ["client.*"]), [])
        self.assertEqual(chosen(CLIENT, ["offer.*"]), [])
