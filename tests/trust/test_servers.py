"""
Tests for L{aesm.trust.servers}.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm.errors import KeyFileUnavailable, ServerKeyChanged, UntrustedServer
from aesm.interfaces import INextKeys, ITrustPolicy
from aesm.trust import files
from aesm.trust.keys import PublicKey
from aesm.trust.locations import canonicalLocation
from aesm.trust.servers import AnyServer, KnownServers, Pinned
from tests.trust.test_files import FilesTestCase, runPython, runTogether

ONE, TWO, THREE = (PublicKey(bytes([number]) * 32) for number in (1, 2, 3))
PLACE = "example.org:8765"


class PinnedTests(SynchronousTestCase):
    """Tests for L{Pinned}."""

    def test_interface(self) -> None:
        """It is a trust policy."""
        verifyObject(ITrustPolicy, Pinned(ONE))

    def test_accepts(self) -> None:
        """Each of the keys is accepted, whether it was given as such or as text."""
        trust = Pinned(ONE, str(TWO))
        self.assertIs(trust.checkServer(PLACE, PublicKey(ONE.raw)), True)
        self.assertIs(trust.checkServer("elsewhere:1", TWO), True)

    def test_refuses(self) -> None:
        """Any other is refused with an error that shows it and those."""
        error = self.assertRaises(
            UntrustedServer, Pinned(ONE, TWO).checkServer, PLACE, THREE
        )
        self.assertEqual(error.publicKey, str(THREE))
        for part in (PLACE, str(ONE), str(TWO), str(THREE)):
            self.assertIn(part, str(error))

    def test_badKeys(self) -> None:
        """No key, or what is none, is the caller's error."""
        self.assertRaises(ValueError, Pinned)
        self.assertRaises(ValueError, Pinned, ONE, "key")
        self.assertRaises(TypeError, Pinned, ONE.raw)
        self.assertRaises(TypeError, Pinned, [ONE])


class AnyServerTests(SynchronousTestCase):
    """Tests for L{AnyServer}."""

    def test_interface(self) -> None:
        """It is a trust policy."""
        verifyObject(ITrustPolicy, AnyServer())

    def test_accepts(self) -> None:
        """Any key is accepted."""
        self.assertIs(AnyServer().checkServer(PLACE, ONE), True)


class KnownServersTests(FilesTestCase):
    """Tests for L{KnownServers}."""

    def setUp(self) -> None:
        """Make one whose file is missing."""
        super().setUp()
        self.trust = KnownServers(self.path)

    def test_interface(self) -> None:
        """It is a trust policy."""
        verifyObject(ITrustPolicy, self.trust)

    def test_defaultPath(self) -> None:
        """Unless told otherwise the file is in the state directory."""
        self.patch(os, "environ", {"AESM_HOME": str(self.directory / "new")})
        trust = KnownServers()
        self.assertEqual(trust.path, self.directory / "new" / "known_servers")
        self.assertEqual(trust.forget(PLACE), 0)
        self.assertEqual(trust.entries(), [])
        self.assertFalse(trust.path.parent.exists())
        trust.checkServer(PLACE, ONE)
        self.assertEqual(trust.entries(), [(PLACE, ONE)])
        self.assertEqual(stat.S_IMODE(trust.path.parent.stat().st_mode), 0o700)

    def test_badPolicy(self) -> None:
        """A policy that there is not is a C{ValueError} that shows those."""
        for policy in ("", "accept", "STRICT", None):
            error = self.assertRaises(ValueError, KnownServers, self.path, policy)
            self.assertIn("accept-new", str(error))

    def test_firstContact(self) -> None:
        """The first key is accepted, remembered in a private file, and reported."""
        os.umask(0)
        with capturedLogs() as events:
            self.assertIs(self.trust.checkServer(PLACE, ONE), True)
        self.assertEqual(self.path.read_text(), f"{PLACE} {ONE}\n")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        [event] = events
        self.assertEqual(event["log_namespace"], "aesm.trust")
        self.assertEqual(event["log_level"], LogLevel.info)
        self.assertEqual(event["location"], PLACE)
        self.assertEqual(event["publicKey"], str(ONE))
        self.assertEqual(event["path"], str(self.path))

    def test_laterContact(self) -> None:
        """
        The same key is accepted again, without a word or a write, by another
        object and under the other policy too.
        """
        self.trust.checkServer(PLACE, ONE)
        before = self.path.stat()
        for policy in ("accept-new", "strict"):
            with capturedLogs() as events:
                trust = KnownServers(str(self.path), policy)
                self.assertIs(trust.checkServer(PLACE, ONE), True)
            self.assertEqual(events, [])
        self.assertEqual(self.path.stat().st_ino, before.st_ino)

    def test_strict(self) -> None:
        """An unknown server is refused, with the line that would make it known."""
        trust = KnownServers(self.path, "strict")
        error = self.assertRaises(UntrustedServer, trust.checkServer, PLACE, ONE)
        self.assertNotIsInstance(error, ServerKeyChanged)
        self.assertEqual(error.publicKey, str(ONE))
        self.assertIn(str(self.path), str(error))
        self.assertEqual(os.listdir(self.directory), [])
        line = f"{PLACE} {ONE}"
        self.assertIn(f"`{line}`", str(error))
        self.put(line.encode())
        self.assertIs(trust.checkServer(PLACE, ONE), True)
        self.assertRaises(UntrustedServer, trust.checkServer, "example.org:1", ONE)

    def test_changed(self) -> None:
        """
        Another key is refused under either policy, and the error shows both keys,
        the line, and the ways to remove it.
        """
        self.put(f"# mine\n\nother:1 {TWO}\n{PLACE} {ONE}\n".encode())
        for policy in ("accept-new", "strict"):
            trust = KnownServers(self.path, policy)
            error = self.assertRaises(ServerKeyChanged, trust.checkServer, PLACE, TWO)
            self.assertEqual(error.publicKey, str(TWO))
            self.assertEqual(error.known, (str(ONE),))
            for part in (
                PLACE,
                str(ONE),
                str(TWO),
                f"line 4 of {self.path}",
                f"`aesm known --forget {PLACE}`",
            ):
                self.assertIn(part, str(error))
        self.assertEqual(self.trust.entries(), [("other:1", TWO), (PLACE, ONE)])

    def test_severalKeys(self) -> None:
        """
        A location may have several keys; any other is a change that names all
        their lines.
        """
        self.put(f"{PLACE} {ONE}\nother:1 {THREE}\n{PLACE} {TWO}\n".encode())
        self.assertTrue(self.trust.checkServer(PLACE, ONE))
        self.assertTrue(self.trust.checkServer(PLACE, TWO))
        error = self.assertRaises(
            ServerKeyChanged, self.trust.checkServer, PLACE, THREE
        )
        self.assertEqual(error.known, (str(ONE), str(TWO)))
        self.assertIn("lines 1, 3 of", str(error))

    def test_forget(self) -> None:
        """All lines of a location go, and nothing else does."""
        self.put(
            f"# é\r\n{PLACE} {ONE}\r\n\n {PLACE}\t{TWO} \n#{PLACE}\nb:1 {ONE}".encode()
        )
        self.assertEqual(self.trust.forget("c:1"), 0)
        self.assertEqual(self.trust.forget(PLACE), 2)
        self.assertEqual(
            self.path.read_bytes(), f"# é\r\n\n#{PLACE}\nb:1 {ONE}".encode()
        )
        self.assertEqual(self.trust.forget(PLACE), 0)
        self.assertTrue(self.trust.checkServer(PLACE, THREE))
        self.assertEqual(self.trust.entries(), [("b:1", ONE), (PLACE, THREE)])

    def test_forgetLast(self) -> None:
        """A file may become empty."""
        self.trust.checkServer(PLACE, ONE)
        self.assertEqual(self.trust.forget(PLACE), 1)
        self.assertEqual(self.path.read_bytes(), b"")
        self.assertEqual(self.trust.entries(), [])

    def test_remember(self) -> None:
        """A key is added to those of its location, once."""
        self.trust.remember(PLACE, ONE)
        self.trust.remember(PLACE, TWO)
        self.trust.remember(PLACE, ONE)
        self.assertEqual(self.trust.entries(), [(PLACE, ONE), (PLACE, TWO)])
        self.assertTrue(self.trust.checkServer(PLACE, TWO))

    def test_keepsLines(self) -> None:
        """
        What is there stays as it is when a line is added, also without an end
        to its last line, and whatever its comments are written in.
        """
        content = f"# caf\xe9\r\n\n  b:1   {ONE}\t\r\n#".encode("latin-1")
        self.put(content)
        self.trust.checkServer("a:1", TWO)
        self.assertEqual(self.path.read_bytes(), content + f"\na:1 {TWO}\n".encode())
        self.assertEqual(self.trust.entries(), [("b:1", ONE), ("a:1", TWO)])

    def test_locations(self) -> None:
        """
        A location is one word in the file, whatever it has in it, and comes
        back from there.
        """
        for location, word in (
            ("[::1]:8765", "[::1]:8765"),
            ("[fe80::1%eth0]:8765", "[fe80::1%25eth0]:8765"),
            ("unix:/run/my server#1", "unix:/run/my%20server%231"),
            ("bücher.example:1", "b%C3%BCcher.example:1"),
            ("#:1", "%23:1"),
            ("%23:1", "%2523:1"),
        ):
            self.assertTrue(self.trust.checkServer(location, ONE))
            self.assertEqual(self.path.read_text(), f"{word} {ONE}\n")
            self.assertTrue(self.trust.checkServer(location, ONE))
            self.assertRaises(ServerKeyChanged, self.trust.checkServer, location, TWO)
            self.assertEqual(self.trust.entries(), [(location, ONE)])
            self.assertEqual(self.trust.forget(location), 1)

    @settings(max_examples=100, deadline=None)
    @given(st.text(min_size=1))
    def test_anyLocation(self, location: str) -> None:
        """
        A location comes back, as it is written everywhere, or is refused before the
        file is touched.
        """
        trust = KnownServers(self.directory / "any")
        if location.isprintable():
            trust.checkServer(location, ONE)
            self.assertEqual(trust.entries(), [(canonicalLocation(location), ONE)])
            self.assertEqual(trust.forget(location), 1)
        else:
            self.assertRaises(ValueError, trust.checkServer, location, ONE)

    def test_otherForms(self) -> None:
        """A host is the same one, however who asks has written it."""
        for written, same in (
            ("[2001:DB8:0::1]:5", "[2001:db8::1]:5"),
            ("Example.ORG.:1", "example.org:1"),
        ):
            self.trust.checkServer(written, ONE)
            self.trust.checkServer(written, ONE)
            self.trust.remember(written, ONE)
            self.assertEqual(self.trust.entries(), [(same, ONE)])
            self.assertRaises(ServerKeyChanged, self.trust.checkServer, written, TWO)
            self.trust.announced(written, TWO)
            self.assertTrue(self.trust.checkServer(written, TWO))
            self.assertEqual(self.trust.entries(), [(same, TWO)])
            self.assertEqual(self.trust.forget(written), 1)

    def test_handWritten(self) -> None:
        """What is written by hand without percent-encoding means what it says."""
        self.put(f"bücher.example:1 {ONE}\n[fe80::1%wlan0]:8765 {TWO}\n".encode())
        self.assertTrue(self.trust.checkServer("bücher.example:1", ONE))
        self.assertTrue(self.trust.checkServer("[fe80::1%wlan0]:8765", TWO))

    def test_badLocations(self) -> None:
        """A location that is empty or does not print is the caller's error."""
        for location in ("", "a\nb", "a\tb", "\x1b[m", "a\x00", "\ud800", "\u202e"):
            self.assertRaises(ValueError, self.trust.checkServer, location, ONE)
            self.assertRaises(ValueError, self.trust.remember, location, ONE)
            self.assertEqual(self.trust.forget(location), 0)
        self.assertEqual(os.listdir(self.directory), [])

    def test_quotesLocation(self) -> None:
        """The command that forgets is fit for a shell."""
        self.trust.checkServer("unix:/a b", ONE)
        error = self.assertRaises(
            ServerKeyChanged, self.trust.checkServer, "unix:/a b", TWO
        )
        self.assertIn("--forget 'unix:/a b'`", str(error))

    def test_badLines(self) -> None:
        """A line that cannot be read stops everything, is named, and stays."""
        good = f"{PLACE} {ONE}"
        for bad in (
            b"word",
            str(ONE).encode(),
            f"{ONE} {PLACE}".encode(),
            f"{good} more".encode(),
            f"{good}\r{good}".encode(),
            good[:-1].encode(),
            f"{good[:-2]}F=".encode(),
            f"{good}\0".encode(),
            f"a\0b {ONE}".encode(),
            b"\xff " + str(ONE).encode(),
            f"a%ff {ONE}".encode(),
            f"a%0Ab {ONE}".encode(),
            f"\u202ea {ONE}".encode(),
            f"\ufeffa {ONE}".encode(),
            f"{PLACE}\u00a0{ONE}".encode(),
            good.encode("utf-16-le"),
            b"<<<<<<< HEAD",
        ):
            content = f"# first\r\n{good}\n".encode() + bad + b"\nb:1 x\n"
            self.put(content)
            for function, arguments in (
                (self.trust.checkServer, (PLACE, ONE)),
                (self.trust.checkServer, ("new:1", ONE)),
                (self.trust.remember, (PLACE, TWO)),
                (self.trust.forget, (PLACE,)),
                (self.trust.entries, ()),
            ):
                error = self.refused(function, *arguments)
                self.assertIn(f"line 3 of {self.path}", str(error))
            self.assertEqual(self.path.read_bytes(), content)

    def test_unsafe(self) -> None:
        """
        A file that others can write, a link or a FIFO is refused; one that they
        can read is not.
        """
        self.put(f"{PLACE} {ONE}\n".encode(), 0o644)
        self.assertTrue(self.trust.checkServer(PLACE, ONE))
        self.path.chmod(0o664)
        error = self.refused(self.trust.checkServer, PLACE, ONE)
        self.assertIn(f"`chmod go-w {self.path}`", str(error))
        self.path.unlink()
        self.path.symlink_to("nothing")
        self.refused(self.trust.checkServer, PLACE, ONE)
        self.assertEqual(os.listdir(self.directory), ["file"])
        self.path.unlink()
        os.mkfifo(self.path, 0o600)
        self.refused(self.trust.checkServer, PLACE, ONE)

    def test_tooLarge(self) -> None:
        """A file that nobody has written line by line is refused."""
        with self.path.open("wb") as file:
            file.truncate(1 << 40)
        self.refused(self.trust.checkServer, PLACE, ONE)

    def test_cannotRemember(self) -> None:
        """
        A key that cannot be remembered is not accepted, and no event says that
        it was; the file is as before.
        """
        self.put(f"b:1 {TWO}\n".encode())
        before = self.path.read_bytes()

        def fail(source: object, destination: object) -> None:
            """
            Be a file system without room for names.

            @param destination: what it should be called.
            @raise OSError: always.
            """
            raise OSError(28, "No space left on device")

        self.patch(os, "replace", fail)
        with capturedLogs() as events:
            self.refused(self.trust.checkServer, PLACE, ONE)
            self.refused(self.trust.forget, "b:1")
        self.assertEqual(events, [])
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(set(os.listdir(self.directory)), {"file", "file.lock"})

    def test_crash(self) -> None:
        """
        A process that dies while it writes leaves the old file, and nothing that
        is in the way of the next.
        """
        self.trust.checkServer("b:1", TWO)
        before = self.path.read_bytes()
        process = runPython(
            "import os, sys\n"
            "from aesm.trust.keys import PublicKey\n"
            "from aesm import KnownServers\n"
            "os.replace = lambda source, destination: os._exit(9)\n"
            "KnownServers(sys.argv[1]).checkServer('a:1', PublicKey(bytes(32)))\n",
            str(self.path),
        )
        self.assertEqual(process.returncode, 9, process.stderr)
        self.assertEqual(self.path.read_bytes(), before)
        self.trust.checkServer(PLACE, ONE)
        self.assertEqual(self.trust.entries(), [("b:1", TWO), (PLACE, ONE)])

    def test_race(self) -> None:
        """
        Of processes that meet different servers at the same moment none loses
        another's line, and of those that meet different keys at one location one
        alone is believed.
        """
        printed = runTogether(
            8,
            "from aesm.errors import ServerKeyChanged\n"
            "from aesm.trust.keys import PublicKey\n"
            "from aesm import KnownServers\n"
            "trust = KnownServers(sys.argv[2])\n"
            "number = int(sys.argv[1])\n"
            "go()\n"
            "for port in range(5):\n"
            "    trust.checkServer(f'{number}:{port}', PublicKey(bytes(32)))\n"
            "try:\n"
            "    print(trust.checkServer('same:1', PublicKey(bytes([number]) * 32)))\n"
            "except ServerKeyChanged:\n"
            "    print(False)\n",
            str(self.path),
        )
        self.assertEqual(sorted(printed), ["False\n"] * 7 + ["True\n"])
        locations = [location for location, _ in self.trust.entries()]
        self.assertEqual(
            sorted(locations),
            sorted(
                [f"{number}:{port}" for number in range(8) for port in range(5)]
                + ["same:1"]
            ),
        )

    def test_metMeanwhile(self) -> None:
        """What another process has remembered between our look and our lock counts."""
        other = KnownServers(self.path)
        makeDirectory = files.makeDirectory

        def overtaken(path: Path) -> None:
            """Be slower than the other, on the way to the lock."""
            patch.restore()
            other.checkServer(PLACE, ONE)
            makeDirectory(path)

        patch = self.patch(files, "makeDirectory", overtaken)
        with capturedLogs() as events:
            self.assertIs(self.trust.checkServer(PLACE, ONE), True)
        self.assertEqual(len(events), 1)  # the other's
        self.assertEqual(self.trust.entries(), [(PLACE, ONE)])


class UnsettledTests(FilesTestCase):
    """Tests for L{KnownServers} where its file loses what it had."""

    def setUp(self) -> None:
        """Know two servers, and have time pass at will."""
        super().setUp()
        self.lines = [f"{PLACE} {ONE}\n", f"other:1 {TWO}\n"]
        self.path.write_text("".join(self.lines))
        self.trust = KnownServers(self.path)
        self.trust.checkServer(PLACE, ONE)
        self.now = 100.0
        self.patch(time, "monotonic", lambda: self.now)

    def assertUnsettled(self, publicKey: PublicKey) -> None:
        """Expect that nobody is trusted who was not, and that this may pass."""
        before = self.path.read_bytes() if self.path.exists() else None
        error = self.assertRaises(
            KeyFileUnavailable, self.trust.checkServer, PLACE, publicKey
        )
        self.assertIn(str(self.path), str(error))
        self.assertTrue(self.trust.checkServer(PLACE, ONE))
        after = self.path.read_bytes() if self.path.exists() else None
        self.assertEqual(after, before)

    def test_nothingLeft(self) -> None:
        """A file that is empty or away says nothing, however long."""
        for change in (lambda: self.path.write_text(""), self.path.unlink):
            change()
            for _ in range(3):
                self.assertUnsettled(THREE)
                self.now += 1000
        self.path.write_text("".join(self.lines))
        self.assertRaises(ServerKeyChanged, self.trust.checkServer, PLACE, THREE)

    def test_beingWritten(self) -> None:
        """A file that goes on changing lets in who was let in."""
        for content in ("", self.lines[1], self.lines[1] + self.lines[0][:20]):
            self.path.write_text(content)
            self.assertUnsettled(THREE)
            self.now += 0.5
        self.path.write_text("".join(reversed(self.lines)))
        self.assertTrue(self.trust.checkServer(PLACE, ONE))
        self.assertRaises(ServerKeyChanged, self.trust.checkServer, PLACE, THREE)

    def test_lineRemoved(self) -> None:
        """
        A line that was taken out is forgotten when two looks, a second apart, miss
        it.
        """
        self.path.write_text(self.lines[1])
        self.assertUnsettled(THREE)
        self.now += 0.9
        self.assertUnsettled(THREE)
        self.now += 0.1
        self.assertTrue(self.trust.checkServer(PLACE, THREE))
        self.assertRaises(ServerKeyChanged, self.trust.checkServer, PLACE, ONE)

    def test_lineReplaced(self) -> None:
        """A key that somebody has put into the file counts at once."""
        self.path.write_text(f"{PLACE} {THREE}\n{self.lines[1]}")
        self.assertTrue(self.trust.checkServer(PLACE, THREE))

    def test_badLineStays(self) -> None:
        """A bad line is an error once it is seen to stay."""
        self.path.write_text("".join(self.lines) + "half")
        self.assertUnsettled(THREE)
        self.now += 1
        self.assertIn("line 3", str(self.refused(self.trust.checkServer, PLACE, ONE)))

    def test_forgotten(self) -> None:
        """What is forgotten through it is forgotten at once, also the last."""
        self.trust.forget("other:1")
        self.trust.forget(PLACE)
        self.assertTrue(self.trust.checkServer(PLACE, THREE))

    def test_link(self) -> None:
        """The file may be a link: what it leads to is changed, and the link stays."""
        self.path.rename(self.directory / "target")
        self.path.symlink_to("target")
        self.trust.checkServer("new:1", THREE)
        self.assertTrue(self.path.is_symlink())
        self.assertEqual(len(self.trust.entries()), 3)


class NextKeyTests(FilesTestCase):
    """Tests for the keys that servers announce, in L{KnownServers}."""

    def setUp(self) -> None:
        """Know one server."""
        super().setUp()
        self.trust = KnownServers(self.path)
        self.trust.checkServer(PLACE, ONE)
        self.announced = Path(f"{self.path}.next")

    def test_interface(self) -> None:
        """It remembers next keys."""
        verifyObject(INextKeys, self.trust)

    def test_announced(self) -> None:
        """
        An announced key is kept in a file beside, once, and said; the present
        one stays the only one that is known.
        """
        with capturedLogs() as events:
            self.trust.announced(PLACE, TWO)
            self.trust.announced(PLACE, TWO)
        self.assertEqual(len(events), 1)
        self.assertEqual(self.announced.read_text(), f"{PLACE} {TWO}\n")
        self.assertEqual(stat.S_IMODE(self.announced.stat().st_mode), 0o600)
        self.assertEqual(self.trust.entries(), [(PLACE, ONE)])
        self.assertTrue(self.trust.checkServer(PLACE, ONE))

    def test_announcedPresent(self) -> None:
        """A key that is known already needs no second place."""
        self.trust.announced(PLACE, ONE)
        self.assertFalse(self.announced.exists())

    def test_changedMind(self) -> None:
        """What a server announces last counts, for its location only."""
        self.trust.announced("other:1", ONE)
        self.trust.announced(PLACE, TWO)
        self.trust.announced(PLACE, THREE)
        self.assertEqual(
            self.announced.read_text(), f"other:1 {ONE}\n{PLACE} {THREE}\n"
        )
        self.assertRaises(ServerKeyChanged, self.trust.checkServer, PLACE, TWO)

    def test_switch(self) -> None:
        """
        A server that proves the key that it announced is accepted, and from then
        on its old key is not.
        """
        self.path.write_text(f"# mine\nother:1 {THREE}\n{PLACE} {ONE}\n")
        self.trust.announced(PLACE, TWO)
        with capturedLogs() as events:
            self.assertIs(self.trust.checkServer(PLACE, TWO), True)
        self.assertIn("switched", events[0]["log_format"])
        self.assertEqual(
            self.path.read_text(), f"# mine\nother:1 {THREE}\n{PLACE} {TWO}\n"
        )
        self.assertEqual(self.announced.read_text(), "")
        self.assertTrue(self.trust.checkServer(PLACE, TWO))
        self.assertRaises(ServerKeyChanged, self.trust.checkServer, PLACE, ONE)

    def test_switchOfOnlyLine(self) -> None:
        """So it is where the file has one line, and that has no end."""
        self.path.write_text(f"{PLACE} {ONE}")
        self.trust.announced(PLACE, TWO)
        self.assertIs(self.trust.checkServer(PLACE, TWO), True)
        self.assertEqual(self.path.read_text(), f"{PLACE} {TWO}\n")

    def test_switchStrict(self) -> None:
        """The policy for unknown servers makes no difference."""
        trust = KnownServers(self.path, "strict")
        trust.announced(PLACE, TWO)
        self.assertIs(trust.checkServer(PLACE, TWO), True)

    def test_switchOfSeveral(self) -> None:
        """Where several keys were put by hand, the announced one joins them."""
        self.trust.remember(PLACE, TWO)
        self.trust.announced(PLACE, THREE)
        self.assertTrue(self.trust.checkServer(PLACE, THREE))
        self.assertEqual(
            self.trust.entries(), [(PLACE, ONE), (PLACE, TWO), (PLACE, THREE)]
        )

    def test_switchTwice(self) -> None:
        """Two processes that meet the new key at once both accept it."""
        self.trust.announced(PLACE, TWO)
        content = self.announced.read_bytes()
        self.assertTrue(self.trust.checkServer(PLACE, TWO))
        self.announced.write_bytes(content)  # as the slower one has read it
        self.assertTrue(self.trust._promote(PLACE, TWO))
        self.assertEqual(self.trust.entries(), [(PLACE, TWO)])

    def test_forget(self) -> None:
        """Forgetting a location forgets what it announced too."""
        self.trust.announced(PLACE, TWO)
        self.assertEqual(self.trust.forget(PLACE), 2)
        self.assertIs(self.trust.checkServer(PLACE, THREE), True)
        self.assertRaises(ServerKeyChanged, self.trust.checkServer, PLACE, TWO)
