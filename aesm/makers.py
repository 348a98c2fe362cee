"""
Plugins that name a handler without loading it: C{twistd}, which imports all
dropins at each start, shall not wait for what it does not use::

    relay = HandlerMaker("relay", "what it does", "aesm.handlers.Relay")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer

from aesm.interfaces import IMessageHandler, IMessageHandlerMaker

if TYPE_CHECKING:
    from aesm.registry import Connections

__all__ = ["HandlerMaker"]


@implementer(IPlugin, IMessageHandlerMaker)
@dataclass(frozen=True)
class HandlerMaker:
    """
    Makes handlers, and loads their module when it makes the first.

    @ivar name: what the operator types.
    @ivar description: one line for C{--help}.
    @ivar factory: the full name of what is called with the server's registry and
        returns the handler, or None.
    """

    name: str
    description: str
    factory: str

    def makeHandler(self, connections: Connections) -> IMessageHandler | None:
        """
        Make the handler of one server.

        @param connections: that server's registry.
        @return: the handler, or None to leave packets in their streams.
        @see: L{IMessageHandlerMaker.makeHandler}
        """
        made = namedAny(self.factory)(connections)
        return cast("IMessageHandler | None", made)
