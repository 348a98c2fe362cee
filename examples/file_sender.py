"""
Sends a file to C{file_receiver.py}, and goes on where it was, if one of both is cut
off or killed and started again meanwhile::

    python file_sender.py FILE
"""

import sys

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react

from aesm import ClientService, sendFile


async def main(reactor):
    receiver = ClientService("tcp:127.0.0.1:8766", reactor=reactor)
    receiver.startService()
    print("sent as", await sendFile(receiver, sys.argv[1]))
    await receiver.stopService()


react(lambda reactor: ensureDeferred(main(reactor)))
