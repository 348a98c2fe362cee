"""
Tests for L{aesm.trust.clients}.
"""

from __future__ import annotations

import os
from errno import EACCES, EMFILE, EPERM
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.logger import LogLevel, capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from aesm.errors import KeyFileError
from aesm.interfaces import IClientPolicy
from aesm.trust import clients as module
from aesm.trust.clients import AuthorizedKeys
from aesm.trust.files import MAX_FILE, readFile
from aesm.trust.keys import PublicKey
from tests.trust.test_files import FilesTestCase, failing

ONE, TWO, THREE = (PublicKey(bytes([number]) * 32) for number in (1, 2, 3))
ADDRESS = IPv4Address("TCP", "127.0.0.1", 50000)


class ClientsTestCase(FilesTestCase):
    """A file of authorized keys."""

    def authorize(self, *lines: str) -> None:
        """Replace the file."""
        new = self.directory / "new"
        new.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        new.chmod(0o600)
        new.rename(self.path)

    def load(self, *lines: str) -> AuthorizedKeys:
        """
        Write a file and read it.

        @return: what it lets in.
        """
        self.authorize(*lines)
        return AuthorizedKeys(self.path)


class AuthorizedKeysTests(ClientsTestCase):
    """Tests for L{AuthorizedKeys}."""

    def test_interface(self) -> None:
        """It is a client policy."""
        verifyObject(IClientPolicy, self.load())

    def test_names(self) -> None:
        """
        Keys have their names, several keys the same if so written; other keys
        are refused.
        """
        clients = self.load(
            "# friends", "", f"{ONE} alice", f" \t{TWO}\talice \r", "  # more"
        )
        self.assertEqual(clients.checkClient(PublicKey(ONE.raw), ADDRESS), "alice")
        self.assertEqual(clients.checkClient(TWO, ADDRESS), "alice")
        self.assertIsNone(clients.checkClient(THREE, ADDRESS))

    def test_nobody(self) -> None:
        """An empty file lets nobody in."""
        self.assertIsNone(self.load().checkClient(ONE, ADDRESS))

    def test_printableNames(self) -> None:
        """A name is 1 to 64 characters that print, of any script."""
        for name in ("a", "a" * 64, "é" * 64, "жук", "alice@home#1", "\N{BUG}"):
            clients = self.load(f"{ONE} {name}")
            self.assertEqual(clients.checkClient(ONE, ADDRESS), name)

    def test_operators(self) -> None:
        """
        The word before a key marks it; a key that is not in the list is nobody's, and
        somebody may be called like the word.
        """
        clients = self.load(
            f"operator {ONE} alice", f"{TWO} operator", f"operator\t {THREE}  operator"
        )
        self.assertTrue(clients.isOperator(ONE))
        self.assertFalse(clients.isOperator(TWO))
        self.assertTrue(clients.isOperator(THREE))
        self.assertEqual(clients.checkClient(ONE, ADDRESS), "alice")
        self.assertEqual(clients.checkClient(TWO, ADDRESS), "operator")
        self.authorize(f"{ONE} alice", f"operator {TWO} bob")
        with capturedLogs() as logs:
            self.assertEqual(clients.reload(), frozenset([THREE]))
        self.assertIn("2 keys, 1 of operators, 1 fewer", formatEvent(logs[0]))
        self.assertFalse(clients.isOperator(ONE))
        self.assertTrue(clients.isOperator(TWO))
        self.assertFalse(clients.isOperator(THREE))

    def test_operatorsOfBadList(self) -> None:
        """A list with a bad line makes nobody an operator, but unmakes some."""
        clients = self.load(
            f"operator {ONE} alice", f"operator {TWO} bob", f"{THREE} c"
        )
        self.authorize(
            f"operator {ONE} alice", f"{TWO} bob", f"operator {THREE} c", "?"
        )
        clients.reload()
        marked = [clients.isOperator(key) for key in (ONE, TWO, THREE)]
        self.assertEqual(marked, [True, False, False])

    def test_badLines(self) -> None:
        """Any other line is an error that names it."""
        for bad in (
            f"{ONE}",
            "alice",
            f"alice {ONE}",
            f"{ONE} alice bob",
            f"operator {ONE}",
            "operator",
            f"operators {ONE} alice",
            f"Operator {ONE} alice",
            f"operator operator {ONE} alice",
            f"{ONE} operator alice",
            f"{ONE} alice # home",
            f"{ONE} {'a' * 65}",
            f"{ONE} a\x00b",
            f"{ONE} a\x1b[31m",
            f"{ONE} a\u202eb",
            f"{ONE} a\u200bb",
            f"{ONE} a\u00adb",
            f"{ONE} a\u00a0b",
            f"{ONE} \u2028",
            f"{str(ONE)[:-1]} alice",
            f"{str(ONE)[:-2]}F= alice",
            f"ssh-ed25519 {ONE}",
            f"{TWO} bob2",
        ):
            self.authorize("# first", f"{TWO} bob", bad)
            error = self.refused(AuthorizedKeys, self.path)
            self.assertIn(f"line 3 of {self.path}", str(error))

    def test_notUTF8(self) -> None:
        """A name in another encoding is not guessed, but a comment may be in any."""
        self.put(b"# caf\xe9\n" + f"{ONE} caf\xe9\n".encode("latin-1"))
        self.assertIn("line 2 of", str(self.refused(AuthorizedKeys, self.path)))
        self.put(b"# caf\xe9\r\n" + f"{ONE} café\r\n".encode())
        self.assertEqual(AuthorizedKeys(self.path).checkClient(ONE, ADDRESS), "café")

    def test_missing(self) -> None:
        """Without a file there is no object, and the error says what to write."""
        error = self.refused(AuthorizedKeys, str(self.path))
        self.assertIn("`KEY NAME`", str(error))

    def test_readableByAll(self) -> None:
        """Others may read the file, but not write it."""
        self.put(f"{ONE} alice\n".encode(), 0o644)
        AuthorizedKeys(self.path)
        for mode in (0o664, 0o646):
            self.path.chmod(mode)
            error = self.refused(AuthorizedKeys, self.path)
            self.assertIn(f"`chmod go-w {self.path}`", str(error))

    def test_kinds(self) -> None:
        """A link to a file will do; a dangling one, a directory and a FIFO will not."""
        self.authorize(f"{ONE} alice")
        target = self.path
        self.path = self.directory / "link"
        self.path.symlink_to(target.name)
        self.assertEqual(AuthorizedKeys(self.path).checkClient(ONE, ADDRESS), "alice")
        target.unlink()
        self.refused(AuthorizedKeys, self.path)
        self.path.unlink()
        os.mkfifo(self.path, 0o600)
        self.refused(AuthorizedKeys, self.path)
        self.path.unlink()
        self.path.mkdir()
        self.refused(AuthorizedKeys, self.path)

    def test_unchanged(self) -> None:
        """A file that is the same as before is not read again."""
        clients = self.load(f"{ONE} alice")
        self.patch(os, "open", None)
        self.assertEqual(clients.look(), frozenset())
        self.assertEqual(clients.checkClient(ONE, ADDRESS), "alice")

    def test_reload(self) -> None:
        """
        What the file says now is in force, and the keys taken out are returned,
        once.
        """
        clients = self.load(f"{ONE} alice", f"{TWO} bob")
        self.authorize(f"{TWO} robert", f"{THREE} carol")
        self.assertEqual(clients.reload(), frozenset([ONE]))
        self.assertIsNone(clients.checkClient(ONE, ADDRESS))
        self.assertEqual(clients.checkClient(TWO, ADDRESS), "robert")
        self.assertEqual(clients.checkClient(THREE, ADDRESS), "carol")
        self.assertEqual(clients.reload(), frozenset())
        self.authorize()
        self.assertEqual(clients.reload(), frozenset([TWO, THREE]))

    def test_reloadInPlace(self) -> None:
        """A change of size within the same file is seen."""
        clients = self.load(f"{ONE} alice")
        with self.path.open("a") as file:
            file.write(f"{TWO} bob\n")
        self.assertEqual(clients.reload(), frozenset())
        self.assertEqual(clients.checkClient(TWO, ADDRESS), "bob")

    def test_reloadThroughLink(self) -> None:
        """A link that is switched to another file is seen."""
        self.authorize(f"{ONE} alice")
        self.path.rename(self.directory / "1")
        self.path.symlink_to("1")
        clients = AuthorizedKeys(self.path)
        self.path.unlink()
        self.authorize(f"{TWO} alice")
        self.path.rename(self.directory / "2")
        self.path.symlink_to("2")
        self.assertEqual(clients.reload(), frozenset([ONE]))

    def look(self, clients: AuthorizedKeys, times: int = 2) -> frozenset[PublicKey]:
        """
        Look several times.

        @return: whose keys were taken out.
        """
        return frozenset().union(*[clients.look() for _ in range(times)])

    def assertKept(self, clients: AuthorizedKeys, part: str) -> None:
        """
        Look several times, and insist on one warning and the old keys.

        @param clients: what has alice in it.
        @param part: what the warning says.
        """
        with capturedLogs() as events:
            self.assertEqual(self.look(clients, 4), frozenset())
        self.assertEqual(clients.checkClient(ONE, ADDRESS), "alice")
        [event] = events
        self.assertEqual(event["log_namespace"], "aesm.trust")
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertEqual(event["path"], str(self.path))
        self.assertIn(part, event["error"])
        self.assertEqual(event["count"], 1)
        self.assertIn(
            "; until then what was read before stays in force: 1 key",
            formatEvent(event),
        )

    def test_twoLooks(self) -> None:
        """
        A change counts when the next look finds the same, and not before; one that
        goes on is none yet, nor is one that was taken back.
        """
        clients = self.load(f"{ONE} alice", f"{TWO} bob")
        for lines in ((), (f"{ONE} alice",), (f"{TWO} bob",), (f"{ONE} a",)):
            self.authorize(*lines)
            self.assertEqual(clients.look(), frozenset())
        self.assertEqual(clients.checkClient(TWO, ADDRESS), "bob")
        self.assertEqual(clients.look(), frozenset([TWO]))
        self.assertEqual(clients.checkClient(ONE, ADDRESS), "a")

    def test_missingForAMoment(self) -> None:
        """A file that is away at one look only is none that was removed."""
        clients = self.load(f"{ONE} alice")
        self.path.rename(self.directory / "away")
        self.assertEqual(clients.look(), frozenset())
        (self.directory / "away").rename(self.path)
        self.assertEqual(self.look(clients), frozenset())
        self.assertEqual(clients.checkClient(ONE, ADDRESS), "alice")

    def test_removed(self) -> None:
        """A file that was removed lets nobody in, until it is there again."""
        clients = self.load(f"{ONE} alice")
        self.path.unlink()
        with capturedLogs() as events:
            self.assertEqual(self.look(clients, 4), frozenset([ONE]))
        [event] = events
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertIn("no authorized-keys file", formatEvent(event))
        self.assertIn("0 keys, 1 fewer; nobody is let in", formatEvent(event))
        self.assertIsNone(clients.checkClient(ONE, ADDRESS))
        self.authorize(f"{ONE} alice")
        self.look(clients)
        self.assertEqual(clients.checkClient(ONE, ADDRESS), "alice")

    def test_emptied(self) -> None:
        """
        Nobody is thrown out by a file without keys, until somebody says that it is
        meant.
        """
        for lines in ((), ("# nobody",), ("half of a li",)):
            clients = self.load(f"{ONE} alice")
            self.authorize(*lines)
            self.assertKept(clients, "SIGHUP")
            self.assertEqual(clients.reload(), frozenset([ONE]))
            self.assertIsNone(clients.checkClient(ONE, ADDRESS))

    def test_badLineTakesAway(self) -> None:
        """A bad line keeps no key in that no good line has, and lets nobody new in."""
        clients = self.load(f"{ONE} alice", f"{TWO} bob")
        self.authorize("typo", f"{TWO} bob", f"{THREE} carol")
        with capturedLogs() as events:
            self.assertEqual(self.look(clients, 4), frozenset([ONE]))
        [event] = events
        self.assertIn(f"line 1 of {self.path}", formatEvent(event))
        self.assertIn("1 key, 1 fewer", formatEvent(event))
        self.assertIsNone(clients.checkClient(THREE, ADDRESS))
        self.authorize(f"{TWO} bob", f"{THREE} carol")
        self.look(clients)
        self.assertEqual(clients.checkClient(THREE, ADDRESS), "carol")

    def test_unreadable(self) -> None:
        """
        Whatever cannot be used leaves the old keys in force, with one warning, until
        it can be used again.
        """
        clients = self.load(f"{ONE} alice")
        self.authorize(f"{TWO} bob")
        self.path.chmod(0o666)
        self.assertKept(clients, "chmod go-w")
        self.path.chmod(0o600)
        patch = self.patch(os, "open", failing(EMFILE))
        self.assertKept(clients, "Too many open files")
        patch.restore()
        self.assertEqual(self.look(clients), frozenset([ONE]))
        self.assertEqual(clients.checkClient(TWO, ADDRESS), "bob")

    def test_says(self) -> None:
        """Each reading is told of: how many keys, and what is different."""
        with capturedLogs() as events:
            clients = self.load(f"{ONE} a", f"{TWO} b")
            self.authorize(f"{TWO} c", f"{THREE} d")
            clients.reload()
            clients.reload()
            self.assertEqual(len(clients), 2)
            self.path.chmod(0o666)
            clients.reload()
            self.path.chmod(0o600)
            self.authorize()
            clients.reload()
            self.path.chmod(0o666)
            clients.reload()
        said = [formatEvent(event) for event in events]
        stays = "; until then what was read before stays in force: "
        for index, end in (
            (3, f"{stays}2 keys"),
            (5, f"{stays}0 keys; nobody is let in"),
        ):
            self.assertIn("written by other users", said[index])
            self.assertTrue(said[index].endswith(end), said[index])
        self.assertEqual(
            said[:3] + said[4:5],
            [
                f"{self.path}: 2 keys",
                f"{self.path}: 2 keys, 1 fewer, 1 new, 1 renamed",
                f"{self.path}: 2 keys",
                f"{self.path}: 0 keys, 2 fewer; nobody is let in",
            ],
        )

    def test_byteOrderMark(self) -> None:
        """A byte order mark is no part of the first line."""
        self.put(b"\xef\xbb\xbf" + f"{ONE} alice\r\n".encode())
        self.assertEqual(AuthorizedKeys(self.path).checkClient(ONE, ADDRESS), "alice")

    def test_keyFileErrorOnly(self) -> None:
        """A path that leads through a file is an error like any other."""
        self.put(b"")
        self.path = self.path / "more"
        self.assertRaises(KeyFileError, AuthorizedKeys, self.path)


class EditTests(ClientsTestCase):
    """The file is written."""

    def content(self) -> str:
        """Read the file as it is."""
        return self.path.read_text("utf-8")

    def left(self, clients: AuthorizedKeys, *names: str) -> str:
        """
        Check that nobody can be added, and that nothing has changed.

        @param names: of whom; none for a good one.
        @return: why.
        """
        before = self.path.read_bytes() if self.path.exists() else None
        for name in names or ("carol",):
            error = self.assertRaises(KeyFileError, clients.add, THREE, name)
        after = self.path.read_bytes() if self.path.exists() else None
        self.assertEqual(after, before)
        left = {path.name for path in self.directory.iterdir()}
        self.assertLessEqual(left, {self.path.name, f"{self.path.name}.lock"})
        return str(error)

    def test_add(self) -> None:
        """A line is added behind all that is there, also where its end lacks."""
        clients = self.load("# friends", f"operator {ONE} alice")
        before = self.content()
        clients.add(TWO, "b\xf6b")
        self.assertEqual(self.content(), f"{before}{TWO} b\xf6b\n")
        self.assertIsNone(clients.checkClient(TWO, ADDRESS))
        clients.reload()
        self.assertEqual(clients.checkClient(TWO, ADDRESS), "b\xf6b")
        self.path.write_text(f"{ONE} alice")
        clients.add(TWO, "bob")
        self.assertEqual(self.content(), f"{ONE} alice\n{TWO} bob\n")
        self.path.write_text("")
        clients.add(TWO, "bob")
        self.assertEqual(self.content(), f"{TWO} bob\n")

    def test_noName(self) -> None:
        """What is no name is not added, nor is a key that is there."""
        clients = self.load(f"{THREE} alice")
        names = ("", "a b", "a\nb", "\x1b[2J", "\u202e", "\ud800\n", "x" * 65)
        clients.remove([THREE])
        self.assertIn("is no name", self.left(clients, *names))
        clients.add(THREE, "x" * 64)
        self.assertIn("already", self.left(clients))

    def test_remove(self) -> None:
        """The lines of keys are taken out, and nothing else is touched."""
        clients = self.load(
            *("# one", f"{ONE} alice", "", f" operator {TWO} bob\r", "#\v\x85"),
            f"{THREE} c",
        )
        self.assertEqual(clients.remove([TWO, PublicKey(b"9" * 32)]), 1)
        self.assertEqual(self.content(), f"# one\n{ONE} alice\n\n#\v\x85\n{THREE} c\n")
        self.assertEqual(clients.remove([ONE, THREE]), 2)
        self.assertEqual(self.content(), "# one\n\n#\v\x85\n")
        self.assertEqual(clients.reload(), {ONE, TWO, THREE})

    def test_keysOf(self) -> None:
        """A name may be that of several keys."""
        clients = self.load(f"{ONE} alice", f"{TWO} bob", f"{THREE} alice")
        self.assertEqual(clients.keysOf("alice"), {ONE, THREE})
        self.assertEqual(clients.keysOf("carol"), frozenset())

    def test_kept(self) -> None:
        """Mode and owner stay, and a link stays one."""
        clients = self.load(f"{ONE} alice")
        link = self.directory / "link"
        link.symlink_to(self.path.name)
        self.path.chmod(0o644)
        before = self.path.stat()
        AuthorizedKeys(link).add(TWO, "bob")
        after = self.path.stat()
        self.assertNotEqual(after.st_ino, before.st_ino)
        for name in ("st_mode", "st_uid", "st_gid"):
            self.assertEqual(getattr(after, name), getattr(before, name))
        self.assertTrue(link.is_symlink())
        clients.reload()
        self.assertEqual(clients.keysOf("bob"), {TWO})

    def test_othersGroup(self) -> None:
        """Where its owner cannot be kept it stays as it is."""
        clients = self.load(f"{ONE} alice")
        self.patch(os, "fchown", failing(EPERM))
        self.assertIn("cannot write", self.left(clients))

    def test_readOnly(self) -> None:
        """Nor is one written that we may only read."""
        clients = self.load(f"{ONE} alice")
        opened = os.open

        def open(path: Any, flags: int, *mode: int) -> int:
            """Open, but not to write."""
            if path == self.path and flags & os.O_WRONLY:
                raise PermissionError(EACCES, "Permission denied")
            return opened(path, flags, *mode)

        self.patch(os, "open", open)
        self.assertIn("cannot change", self.left(clients))

    def test_unusable(self) -> None:
        """Nor one that is missing, unsafe, has a bad line, or would be too long."""
        clients = self.load(f"{ONE} alice")
        self.authorize(f"{ONE} alice", "nonsense")
        self.assertIn("line 2", self.left(clients))
        self.authorize(f"{ONE} alice")
        self.path.chmod(0o666)
        self.assertIn("other users", self.left(clients))
        self.authorize("#" * (MAX_FILE - 1))
        self.assertIn("too long", self.left(clients))
        self.path.unlink()
        self.assertIn("No such file", self.left(clients))

    def test_changedMeanwhile(self) -> None:
        """What somebody else writes meanwhile stays, and we say so."""
        clients = self.load(f"{ONE} alice")
        read = readFile

        def readAndChange(path: Any, **options: Any) -> bytes:
            """Read, and let somebody else write then."""
            content = read(path, **options)
            self.authorize(f"{ONE} alice", f"{TWO} bob")
            return content

        self.patch(module, "readFile", readAndChange)
        self.assertRaises(KeyFileError, clients.remove, [ONE])
        self.assertEqual(self.content(), f"{ONE} alice\n{TWO} bob\n")
