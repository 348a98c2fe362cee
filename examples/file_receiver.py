"""
Receives files into a folder, whole or not at all, and replaces none::

    python file_receiver.py FOLDER
"""

import sys

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react

from aesm import FileReceiver, listen


class Receiver(FileReceiver):
    def fileReceived(self, connection, name, path, sha256):
        print("received", path.stat().st_size, "bytes", flush=True)


async def main(reactor):
    listening = "tcp:8766:interface=127.0.0.1"
    await listen(reactor, listening, handler=Receiver(sys.argv[1]))
    await Deferred()


react(lambda reactor: ensureDeferred(main(reactor)))
