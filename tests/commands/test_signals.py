"""
Signals that end a command at once.
"""

from __future__ import annotations

import os
import signal

from twisted.trial.unittest import SynchronousTestCase

from aesm.commands.signals import awaitInterrupt, endAtOnce


class SignalTests(SynchronousTestCase):
    """L{endAtOnce}, and L{awaitInterrupt}."""

    def setUp(self) -> None:
        """Leave the handlers of signals as they were."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def test_system(self) -> None:
        """A process is ended by the system."""
        endAtOnce(signal.SIGTERM)
        self.assertIs(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)

    def test_container(self) -> None:
        """
        The first process of a container, to which the system does nothing, ends itself,
        with the status that shells have.
        """
        ended: list[int] = []
        self.patch(os, "getpid", lambda: 1)
        self.patch(os, "_exit", ended.append)
        for number in (signal.SIGINT, signal.SIGTERM):
            endAtOnce(number)
            signal.raise_signal(number)
        self.assertEqual(ended, [130, 143])

    def test_awaited(self) -> None:
        """Who waits for Ctrl-C has it raised, wherever it would end the process."""
        for process in (os.getpid(), 1):
            self.patch(os, "getpid", lambda process=process: process)
            endAtOnce(signal.SIGINT)
            awaitInterrupt()
            self.assertRaises(KeyboardInterrupt, signal.raise_signal, signal.SIGINT)

    def test_ignored(self) -> None:
        """A program that was started without Ctrl-C stays so."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        awaitInterrupt()
        self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_IGN)
