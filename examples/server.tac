"""
A server as an application of Twisted's: it tells everybody who listens what time
it is.  Put other services beside it, and give C{Server} your options::

    twistd -ny examples/server.tac
    aesm connect tcp:127.0.0.1:8765

The variable C{LISTEN} may name another endpoint.
"""

import os
import time

from twisted.application.internet import TimerService
from twisted.application.service import Application

from aesm import Server


def tick():
    """
    Tell the time.
    """
    server.sendAll(time.strftime("%H:%M:%S"))


application = Application("aesm")
server = Server(os.environ.get("LISTEN", "tcp:8765:interface=127.0.0.1"))
for part in (server, TimerService(1.0, tick)):
    part.setServiceParent(application)
