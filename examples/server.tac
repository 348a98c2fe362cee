"""
A server as an application of Twisted's: it tells everybody who listens what time
it is.  Put other services beside it, and give C{AESMServerFactory} your options::

    twistd -ny examples/server.tac
    aesm connect tcp:127.0.0.1:8765

The variable C{LISTEN} may name another endpoint.
"""

import os
import time

from twisted.application.internet import TimerService
from twisted.application.service import Application, Service
from twisted.application.strports import service

from aesm import AESMServerFactory


class Farewell(Service):
    """
    Tells the clients of a factory when the application stops, since C{strports}
    knows of its port only.
    """

    def __init__(self, factory):
        """
        @param factory: whose clients.
        """
        self.factory = factory

    def stopService(self):
        """
        Stop in order.

        @return: fires when all clients are gone, after five seconds at the most.
        """
        super().stopService()
        return self.factory.stop()


def tick():
    """
    Tell the time.
    """
    factory.sendAll(time.strftime("%H:%M:%S"))


application = Application("aesm")
factory = AESMServerFactory()
listen = os.environ.get("LISTEN", "tcp:8765:interface=127.0.0.1")
for part in (service(listen, factory), Farewell(factory), TimerService(1.0, tick)):
    part.setServiceParent(application)
