"""
C{aesm send} and C{aesm receive}: their options, and what they say to people.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from io import StringIO
from pathlib import Path

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, execute
from twisted.internet.task import Clock

from aesm.commands import files
from aesm.commands import sending as sender
from aesm.commands.files import (
    ReceiveOptions,
    SendOptions,
    _Callers,
    _Meeting,
    _Receiving,
)
from aesm.commands.progress import Lines
from aesm.commands.sending import Sending
from aesm.errors import ConnectionClosed, NotAuthorized
from aesm.files.requests import CHUNK, Offer, offering
from aesm.files.sender import sendFile, sentAll
from aesm.handlers import Echo
from aesm.interfaces import MessageHandler
from aesm.messages.address import addressText
from aesm.messages.owner import FAILURES_TOLD
from aesm.secure.places import BURST_SECONDS
from aesm.server.registry import Connections
from aesm.trust.keys import PrivateKey, PublicKey
from aesm.trust.servers import AnyServer, Pinned
from tests.commands.test_cli import KEY, CommandTestCase
from tests.support.files import FileTestCase
from tests.support.pairs import CLIENT_KEY, SERVER_KEY

LISTEN = "--listen=tcp:0"
PIN = f"--pin={KEY}"


class FileOptionsTests(CommandTestCase):
    """What is given on the command line."""

    def setUp(self) -> None:
        """Have a file."""
        super().setUp()
        self.home.mkdir()
        self.file = self.home / "a b.txt"
        self.file.write_bytes(b"content")

    def send(self, *arguments: str) -> SendOptions:
        """
        Parse options.

        @param arguments: what follows C{aesm send}.
        """
        options = SendOptions()
        options.parseOptions(list(arguments))
        return options

    def receive(self, *arguments: str) -> ReceiveOptions:
        """
        Parse options.

        @param arguments: what follows C{aesm receive}.
        """
        options = ReceiveOptions()
        options.parseOptions(list(arguments))
        return options

    def test_send(self) -> None:
        """The endpoint stands behind the files; none does where it listens."""
        file = str(self.file)
        options = self.send(file, file, "tcp:h:1")
        self.assertEqual((options.files, options.endpoint), ([file, file], "tcp:h:1"))
        options = self.send(file, LISTEN, PIN)
        self.assertEqual((options.files, options.endpoint), ([file], None))

    def test_receive(self) -> None:
        """Files go here, or where it says."""
        options = self.receive("tcp:h:1")
        self.assertEqual((options.directory, options.endpoint), (Path("."), "tcp:h:1"))
        options = self.receive(LISTEN, PIN, "--into", str(self.home))
        self.assertEqual((options.directory, options.endpoint), (self.home, None))

    def test_oneWay(self) -> None:
        """One either connects or listens."""
        for command in (["receive"], ["receive", "tcp:h:1", LISTEN, PIN]):
            self.assertIn("give an ENDPOINT", self.bad(*command))
        self.assertIn("name the files", self.bad("send", "tcp:h:1"))
        self.assertIn("name the files", self.bad("send", LISTEN, PIN))
        self.assertIn("give an ENDPOINT", self.bad("send"))

    def test_whoMayCome(self) -> None:
        """Whoever listens says who may come."""
        self.assertIn("say who may come", self.bad("receive", LISTEN))
        for who in (PIN, "--psk=file", "--any-client"):
            self.receive(LISTEN, who)
        for wrong in (
            [LISTEN, PIN, "--any-client"],
            ["tcp:h:1", "--any-client"],
            [LISTEN, PIN, "--any-server"],
            ["--listen=tcp:99999", PIN],
            ["--listen=tcp:1:colour=red", PIN],
            ["--listen=systemd:domain=INET:index=0", PIN],
            ["tcp:h:1", PIN, "--any-server"],
        ):
            self.bad("receive", *wrong)

    def test_keys(self) -> None:
        """Both ways it is the key of C{aesm pubkey}; pins say who the others are."""
        dialling = self.receive("tcp:h:1", PIN).clientOptions()
        listening = self.receive(LISTEN, PIN).clientOptions()
        own = PrivateKey.load(self.home / "client.key")
        for options in (dialling, listening):
            self.assertEqual(options["key"].publicKey, own.publicKey)
        self.assertIsInstance(dialling["trust"], Pinned)
        where, isPinned = IPv4Address("TCP", "h", 1), listening["authorizedKeys"]
        self.assertTrue(isPinned(KEY, where))
        stranger = PublicKey(b"\1" * 32)
        error = self.assertRaises(NotAuthorized, isPinned, stranger, where)
        self.assertIn(f"run this again with --pin {stranger}", str(error))
        self.assertNotIn("trust", listening)
        for more, key in ((LISTEN, "authorizedKeys"), ("tcp:h:1", "trust")):
            who = "--any-client" if more == LISTEN else "--any-server"
            value = self.receive(more, who).clientOptions().get(key)
            self.assertIsInstance(value, type(None) if more == LISTEN else AnyServer)

    def test_ownKey(self) -> None:
        """It may be another one."""
        other = PrivateKey.generate()
        other.save(self.home / "other.key")
        options = self.receive(LISTEN, PIN, f"--key={self.home / 'other.key'}")
        self.assertEqual(options.clientOptions()["key"].publicKey, other.publicKey)

    def test_noFiles(self) -> None:
        """What cannot be sent is said before anybody is troubled."""
        os.mkfifo(self.home / "fifo")
        (self.home / "d d").mkdir()
        for name, words in (
            ("d d", f"`tar -cf 'd d.tar' '{self.home}/d d'`"),
            ("d d/..", f"`tar -cf {self.home.name}.tar '{self.home}/d d/..'`"),
            (
                "fifo",
                "is not a regular file, which can be read again after a cut: write",
            ),
            ("missing", "there is no "),
        ):
            said = self.bad("send", str(self.home / name), "tcp:h:1")
            self.assertIn(words, said)

    def test_standardInput(self) -> None:
        """For what cannot be read twice it is said what to do; C{./-} is a file."""
        said = self.bad("send", "-", "tcp:h:1")
        self.assertIn("write it to a file first", said)
        said = self.bad("send", "./-", "tcp:h:1")
        self.assertIn("there is no -", said)

    def test_noDirectory(self) -> None:
        """There has to be a directory to put files in."""
        for name in ("missing", "a b.txt"):
            said = self.bad("receive", "tcp:h:1", f"--into={self.home / name}")
            self.assertIn("is no directory", said)

    def test_notWritable(self) -> None:
        """A directory that this user may not write to is said, too."""
        self.patch(os, "access", lambda path, mode: False)
        said = self.bad("receive", "tcp:h:1", f"--into={self.home}")
        self.assertIn("cannot be written to", said)

    def test_notReadable(self) -> None:
        """A file that this user may not read does not keep the others from going."""
        self.patch(os, "access", lambda path, mode: False)
        file = str(self.file)
        self.assertEqual(self.send(file, file, "tcp:h:1").files, [file, file])

    def test_picture(self) -> None:
        """C{aesm pubkey} draws the key that both show."""
        publicKey = PrivateKey.loadOrCreate(self.home / "client.key").publicKey
        lines = self.good("pubkey", "--picture").splitlines()
        self.assertEqual(lines[0], str(publicKey))
        self.assertEqual(lines[1], "+-----[aesm]------+")
        self.assertEqual(len(lines), 12)

    def test_help(self) -> None:
        """Both explain themselves."""
        for command in ("send", "receive"):
            self.assertIn("--listen", self.good(command, "--help"))


class MeetingTests(FileTestCase):
    """What people are told."""

    def setUp(self) -> None:
        """Catch what is said."""
        super().setUp()
        self.errors = StringIO()
        self.patch(sys, "stderr", self.errors)
        pair = self.meet()
        lines = Lines(pair.clock)
        self.meeting = _Meeting(pair.clock, {"key": SERVER_KEY}, lines)
        self.receiving = _Receiving(self.theirs, self.meeting)
        self.receiving._inThread = execute

    def said(self) -> str:
        """Take what was said."""
        said = self.errors.getvalue()
        self.errors.seek(0)
        self.errors.truncate()
        return said

    def test_keys(self) -> None:
        """Both keys are shown once to whom they are of, and as pictures to people."""
        self.patch(os, "isatty", lambda descriptor: False)
        pair = self.meet()
        self.meeting.show(pair.accepted)
        ours, theirs = self.said().splitlines()
        self.assertEqual(ours, f"aesm: the key that is ours: {SERVER_KEY.publicKey}")
        publicKey = CLIENT_KEY.publicKey
        self.assertEqual(theirs, f"aesm: the key that is theirs: {publicKey}")
        self.meeting.show(pair.accepted)
        self.assertEqual(self.said(), "")
        other = self.pair(self.receiver)
        self.patch(os, "isatty", lambda descriptor: True)
        self.meeting.show(other.accepted)
        lines = self.said().splitlines()
        self.assertEqual(lines[0], "aesm: +-----[ours]------+   +----[theirs]-----+")
        self.assertEqual(len(lines), 13)

    def test_cut(self) -> None:
        """That the connection is cut is said once, and that it is back."""
        pair = self.meet()
        self.meeting.onWaiting(0.5, ConnectionClosed("no answer"))
        self.assertEqual(self.said(), "")  # the first attempt
        self.meeting.onConnected(pair.accepted)
        self.said()
        for _ in range(2):
            self.meeting.onWaiting(0.5, ConnectionClosed("cut off."))
        self.assertEqual(self.said(), "aesm: cut off; connecting again\n")
        self.meeting.onConnected(pair.accepted)
        self.assertEqual(self.said(), "aesm: connected again\n")

    def test_received(self) -> None:
        """What is there is said, and that a sender is gone who had not sent all."""
        path = self.put("a.bin", b"x" * 10 * CHUNK)
        pair = self.meet(self.receiving)

        def report(name: str, done: int, size: int) -> None:
            """Kill the sender."""
            if done == 5 * CHUNK:
                pair.client.abort()

        self.failureResultOf(self.send(pair, path, report), ConnectionClosed)
        pair.advance(100)
        self.assertRegex(
            self.said(), "a.bin is not complete: .*; waiting for it to be sent again\n$"
        )
        pair = self.meet(self.receiving)
        self.sent(pair, path)
        said = self.said()
        self.assertRegex(said, "a.bin: 1.[0-9]MB of 2.5MB are there already")
        self.assertIn(f"received {self.theirs / 'a.bin'}: ", said)
        self.assertNoResult(self.receiving.ended)
        sentAll(pair.client)
        pair.deliver()
        self.successResultOf(self.receiving.ended)
        self.assertFalse(self.receiving.failed)

    def test_oneName(self) -> None:
        """
        Of two files of one name that come at the same time, from two or from one who
        was started twice, each has its own figures; what is cut leaves none behind.
        """
        lines = self.meeting.progress
        first, second = self.meet(self.receiving), self.meet(self.receiving)
        for pair, done in ((first, 4), (second, 3), (first, 5), (second, 6)):
            self.receiving.fileProgress(pair.accepted, "a", done << 20, 10 << 20)
        where = addressText(second.accepted.address)
        said = self.said()
        self.assertIn("a: 4.0MB of 10MB are there already\n", said)
        self.assertIn(f"a from {where}: 3.0MB of 10MB are there already\n", said)
        for pair, figures in ((second, "3.0MB in "), (first, "1.0MB in ")):
            self.receiving.fileReceived(pair.accepted, "a", Path("a"), "")
            self.assertIn(f"received a: {figures}", self.said())
            self.receiving.fileFailed(pair.accepted, "a", "one more is refused")
        self.receiving.fileProgress(first.accepted, "a", 1, 2)
        self.receiving.connectionLost(first.accepted, ConnectionClosed("cut"))
        self.assertEqual((lines._courses, self.receiving._shown), ({}, {}))

    def test_stopped(self) -> None:
        """Who stops it before all is there is told to run it again."""
        path = self.put("a.bin", b"x" * 10 * CHUNK)
        pair = self.meet(self.receiving)

        def report(name: str, done: int, size: int) -> None:
            """Stop the receiver."""
            if done == 5 * CHUNK:
                self.receiving.ended.cancel()
                pair.accepted.abort()

        sending = self.send(pair, path, report)
        pair.advance(100)
        self.failureResultOf(self.receiving.ended, CancelledError)
        self.failureResultOf(sending, ConnectionClosed)
        self.assertIn("a.bin is not complete; run this again to go on\n", self.said())

    def test_bothReceive(self) -> None:
        """Two that both receive say so, and what to do, and have failed."""
        other = _Receiving(self.theirs, self.meeting)
        self.said()
        self.pair(self.receiving, client={"handler": other})
        words = "sends no files: run `aesm send` on one of both sides\n"
        self.assertEqual(self.said().count(words), 2)
        for each in (self.receiving, other):
            self.successResultOf(each.ended)
            self.assertTrue(each.failed)

    def test_noSender(self) -> None:
        """
        That the other side may be none that sends files is said, once it is there,
        whether it refuses requests or answers whatever comes; one that sends says so.
        """
        others: list[object] = [MessageHandler(), Echo(Connections())]
        for other in (
            *others,
            _Callers(Sending([], self.meeting.progress), self.meeting),
        ):
            receiving = _Receiving(self.theirs, self.meeting)
            pair = self.pair(receiving, client={"handler": other})
            pair.deliver()
            isSaid = "does not say that it sends files" in self.said()
            self.assertEqual(isSaid, other in others)

    def test_messages(self) -> None:
        """
        Who sends messages is disconnected; a receiver that has connected to it ends,
        where it would connect again and again.
        """
        for dials in (False, True):
            receiving = _Receiving(self.theirs, self.meeting, dials)
            pair = self.pair(receiving)
            pair.client.sendData("choose a name")
            pair.client.sendData("or two")
            pair.deliver()
            closed = self.successResultOf(pair.client.closed())
            self.assertEqual(getattr(closed, "code", 0), 1002)
            words = "the other side is no program for files: it sends messages\n"
            self.assertEqual(self.said().count(words), dials)
            self.assertEqual((receiving.ended.called, receiving.failed), (dials, dials))

    def test_bothWhileReceiving(self) -> None:
        """Somebody else who also receives does not end what a sender is at."""
        path = self.put("a.bin", b"x" * 10 * CHUNK)
        pair = self.meet(self.receiving)

        def report(name: str, done: int, size: int) -> None:
            """Have the other one say it in the middle."""
            if done == 5 * CHUNK:
                self.receiving.peerReceives(pair.accepted)

        self.assertEqual(self.successResultOf(self.send(pair, path, report)), "a.bin")
        self.assertNoResult(self.receiving.ended)

    def test_noReceiver(self) -> None:
        """A side that takes no files is said once, however many there are to send."""
        paths = [str(self.put(name, b"x")) for name in ("a", "b")]
        sending = Sending(paths, self.meeting.progress)
        callers = _Callers(sending, self.meeting)
        self.pair(callers, client={"handler": MessageHandler()})
        self.successResultOf(callers.sent)
        words = "takes no files: run `aesm receive` on one of both sides\n"
        said = self.said()
        self.assertEqual((said.count(words), said.count("not sent")), (1, 0))
        self.assertTrue(sending.failed)

    def test_failed(self) -> None:
        """That one cannot be received is said, and remembered for the exit status."""
        self.theirs.rmdir()
        self.failureResultOf(self.send(self.meet(self.receiving), self.put("a", b"x")))
        self.assertIn("a is not received: cannot write: No such file", self.said())
        self.assertTrue(self.receiving.failed)

    def test_manyFailed(self) -> None:
        """
        Of files of one key that are not received, whose sender may offer any number, so
        many are named at once, and then one a second; the others are counted.
        """
        clock = Clock()
        self.patch(files, "monotonic", clock.seconds)
        pair = self.meet(self.receiving)
        most = int(FAILURES_TOLD * BURST_SECONDS)

        def fail(number: int) -> list[str]:
            """Have so many fail, and tell what is said of them."""
            for each in range(number):
                self.receiving.fileFailed(pair.accepted, f"{each}", "it is not wanted")
            return self.said().splitlines()

        self.said()
        self.assertEqual(len(fail(most - 1)), most - 1)
        self.assertEqual(fail(4), ["aesm: 0 is not received: it is not wanted"])
        self.assertEqual(fail(2), [])
        clock.advance(1)
        self.assertEqual(fail(2), ["aesm: 0 is not received: it is not wanted"])
        self.receiving.tellRest()
        self.assertEqual(self.said(), "aesm: others that are not received: 6\n")

    def test_manyCut(self) -> None:
        """So it is with those that are not complete when their sender leaves."""
        clock = Clock()
        self.patch(files, "monotonic", clock.seconds)
        most = int(FAILURES_TOLD * BURST_SECONDS)
        pair = self.meet(self.receiving)
        for number in range(most + 2):
            self.ask(pair, offering(Offer(f"{number}", 1, 1)))
        pair.client.abort()
        pair.deliver()
        self.assertEqual(self.said().count("is not complete"), most)
        self.receiving.tellRest()
        self.assertEqual(self.said(), "aesm: others that are not received: 2\n")

    def test_callers(self) -> None:
        """
        Those who come are served one after another; if one is gone the next gets what
        is missing.
        """
        path = self.put("a.bin", b"x" * 10 * CHUNK)
        self.patch(sender, "sendFile", partial(sendFile, inThread=execute))
        sending = Sending([str(path)], self.meeting.progress)
        callers = _Callers(sending, self.meeting)
        first = self.pair(callers)  # it answers nothing
        second = self.pair(callers, client={"handler": self.receiver})
        self.assertNoResult(callers.sent)
        self.said()
        first.client.abort()
        first.deliver()
        first.advance(100)
        second.deliver()
        self.successResultOf(callers.sent)
        waiting, sent = self.said().splitlines()
        self.assertIn("; waiting for the other side to come again", waiting)
        self.assertIn(f"sent {path}: ", sent)
        self.assertEqual(self.there, ["a.bin"])
        self.assertFalse(sending.failed)
        self.assertEqual(self.receiver.events[-1], ("end",))

    def test_notSent(self) -> None:
        """A file that cannot be sent is said, and the others are sent."""
        self.patch(sender, "sendFile", partial(sendFile, inThread=execute))
        paths = [str(self.ours / "missing"), str(self.put("a.txt", b"x"))]
        sending = Sending(paths, self.meeting.progress)
        callers = _Callers(sending, self.meeting)
        self.pair(callers, client={"handler": self.receiver})
        self.successResultOf(callers.sent)
        self.assertIn("missing is not sent: No such file or directory", self.said())
        self.assertTrue(sending.failed)
        self.assertEqual(self.there, ["a.txt"])
