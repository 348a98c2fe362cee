"""
The targets of C{fuzz}, without a fuzzer: the corpus, and as many mutations of it as
fit into a few seconds, the same ones each time.
"""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from fuzz.script import Script, altered
from fuzz.seeds import inputs
from fuzz.targets import NAMES, target

MUTATIONS = {"keyfiles": 150, "handshake": 300, "offer": 300}  # the slow ones
PLENTY = 800  # mutations of each other target

INTERESTING = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\0\0\0\0", b"\n", b"=")


def mutate(data: bytes, others: list[bytes], random: Random) -> bytes:
    """
    Change an input a little.

    @param data: the input.
    @param others: inputs to take parts from.
    @param random: makes the choices.
    @return: another input.
    """
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(changed))
        end = min(len(changed), start + random.choice((0, 1, 1, 2, 4, 16)))
        other = random.choice(others)
        match random.randrange(5):
            case 0 if end > start:
                changed[start] ^= 1 << random.randrange(8)
            case 1:
                changed[start:end] = random.choice(INTERESTING)
            case 2:
                changed[start:end] = random.randbytes(end - start)
            case 3:
                changed[start:start] = changed[start:end]
            case _:
                changed[start:] = other[random.randint(0, len(other)) :]
    return bytes(changed)


class TargetTests(SynchronousTestCase):
    """The invariants that the targets state hold."""

    def check(self, name: str) -> None:
        """
        Run one target.

        @param name: which.
        """
        run, corpus, random = target(name).run, inputs(name), Random(name)
        self.assertGreater(len(corpus), 5)
        for data in corpus:
            run(data)
        for _ in range(MUTATIONS.get(name, PLENTY)):
            data = mutate(random.choice(corpus), corpus, random)
            try:
                run(data)
            except Exception as error:
                error.add_note(f"the input is {data!r}")
                raise

    def test_offer(self) -> None:
        """A stranger's first bytes are refused as documented."""
        self.check("offer")

    def test_handshake(self) -> None:
        """An altered handshake is not believed by either side."""
        self.check("handshake")

    def test_records(self) -> None:
        """Altered records give the beginning of the stream, and an error."""
        self.check("records")

    def test_frames(self) -> None:
        """Any stream gives frames, and perhaps an error."""
        self.check("frames")

    def test_conversation(self) -> None:
        """A conversation keeps its rules whatever its peer does."""
        self.check("conversation")

    def test_hello(self) -> None:
        """Any JSON is a hello or refused."""
        self.check("hello")

    def test_keyfiles(self) -> None:
        """Any file is read or refused."""
        self.check("keyfiles")

    def test_tokens(self) -> None:
        """Only tokens that were made with the key decrypt."""
        self.check("tokens")

    def test_all(self) -> None:
        """No target is left out."""
        methods = {name.removeprefix("test_") for name in dir(self)}
        self.assertLessEqual(set(NAMES), methods)


class ScriptTests(SynchronousTestCase):
    """An input is a script, however short it is."""

    def test_past(self) -> None:
        """Past its end a script is all zeroes."""
        script = Script(b"\1\2\3")
        self.assertEqual([script.number(2), script.number(2)], [0x0102, 0x0300])
        self.assertFalse(script.more)
        self.assertEqual((script.number(), script.rest()), (0, b""))

    def test_altered(self) -> None:
        """Each way to alter a frame does what it says."""
        frames = [b"\0\1a", b"\0\1b"]
        for way, expected in (
            (b"\0\0\0\2\1", b"\0\1`\0\1b"),
            (b"\0\1\0\2", b"\0\1\0\1b"),
            (b"\0\2\0\2\1x", b"\0\1xa\0\1b"),
            (b"\0\3\0\0", b"\0\1a\0\1a\0\1b"),
            (b"\0\4\0\0", b"\0\1b"),
            (b"\0\5\0\0", b"\0\1b\0\1a"),
            (b"\0\6\0\0\0\2yz", b"\0\2yz\0\1b"),
        ):
            self.assertEqual(b"".join(altered(frames, Script(way))), expected)
        for how in range(7):
            altered([], Script(bytes([0, how])))
