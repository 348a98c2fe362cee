"""
Whoever has set C{NOTIFY_SOCKET}: a socket on which a server says how it is doing.
"""

from __future__ import annotations

import re
import socket
import tempfile
import time
from collections.abc import Callable

MAX_SIZE = 4096  # bytes of a datagram that we take


class NotifySocket:
    """
    The socket, and what was said on it.

    @ivar path: what C{NOTIFY_SOCKET} is to be.
    @ivar said: all datagrams so far.
    """

    def __init__(
        self, addCleanup: Callable[..., object], isAbstract: bool = False
    ) -> None:
        """
        Open it.

        @param addCleanup: the test's.
        @param isAbstract: whether it is in no file system.
        """
        # The path of a UNIX socket has at most some hundred bytes.
        folder = tempfile.TemporaryDirectory()
        addCleanup(folder.cleanup)
        path = f"{folder.name}/notify"
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        addCleanup(self._socket.close)
        self._socket.bind("\0" + path if isAbstract else path)
        self.path = "@" + path if isAbstract else path

    def heard(self) -> list[str]:
        """Take what has been said since the last time, and wait for nothing."""
        before = len(self.said)
        self._socket.setblocking(False)
        try:
            while True:
                self.said.append(self._socket.recv(MAX_SIZE).decode())
        except BlockingIOError:
            return self.said[before:]

    def expect(self, pattern: str, patience: float) -> None:
        """
        Wait until something is said.

        @param pattern: a regular expression for a whole datagram.
        @param patience: seconds.
        @raise TimeoutError: it was not.
        """
        deadline = time.monotonic() + patience
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            self.said.append(self._socket.recv(MAX_SIZE).decode())
            if re.fullmatch(pattern, self.said[-1]):
                return
