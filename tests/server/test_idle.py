"""
What a server keeps for a connection over which nothing passes: a server with thousands
of them is as large as their sum.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from types import FunctionType, ModuleType

from twisted.internet.base import DelayedCall

from aesm import PrivateKey, Server
from aesm.messages.protocol import AESMProtocol
from aesm.noise import CipherState, HandshakeState
from aesm.secure.factory import SILENCE
from aesm.secure.protocol import SecureProtocol
from tests.support.pairs import PairTestCase, Recorder

SHARED = (type, ModuleType, FunctionType, DelayedCall)
MOST = 3328  # bytes; what Twisted and the registry have for it come on top


def reach(roots: Iterable[object], stop: Iterable[object]) -> dict[int, object]:
    """
    Collect what objects hold, directly or not.

    @param stop: where to go no further.
    """
    past = {id(each) for each in stop}
    found: dict[int, object] = {}
    todo = list(roots)
    while todo:
        each = todo.pop()
        if id(each) not in past and not isinstance(each, SHARED):
            past.add(id(each))
            found[id(each)] = each
            todo += gc.get_referents(each)
    return found


def sizeOf(each: object) -> int:
    """Count the bytes of an object, those of its attributes' places included."""
    size = sys.getsizeof(each)
    if type(each).__dictoffset__:  # which is not looked at, since that would make one
        size += 8 * len(gc.get_referents(each))
    return size


class IdleTests(PairTestCase):
    """One connection of several."""

    def own(self, server: Server) -> list[object]:
        """List what there is for the last connection alone."""
        factory = server.factory
        places = [factory, factory._manager, factory.connections]
        shared = [value for place in places for value in vars(place).values()]
        held = []
        for secure in list(factory._incoming)[-2:]:
            stop = [*places, *shared, secure.transport]
            held.append(reach([secure, factory._incoming[secure]], stop))
        others, own = held
        return [each for key, each in own.items() if key not in others]

    def test_rest(self) -> None:
        """
        At rest it keeps the keys of its ciphers, nothing of its handshake, and a few
        KB in all; and it is what it was once there is a message.
        """
        pair = self.pair(Recorder())
        client = [self.join(pair.network, key=PrivateKey.generate()) for _ in range(3)][
            -1
        ]
        pair.advance(2 * SILENCE)
        own = self.own(pair.server)
        kinds = [type(each) for each in own]
        for kind in (SecureProtocol, AESMProtocol):
            self.assertEqual(kinds.count(kind), 1)
        self.assertNotIn(HandshakeState, kinds)
        ciphers = [each for each in own if isinstance(each, CipherState)]
        self.assertEqual([cipher._aead for cipher in ciphers], [None, None])
        self.assertLess(sum(map(sizeOf, own)), MOST)
        sent = client.sendData("hello")
        pair.deliver()
        self.successResultOf(sent)
