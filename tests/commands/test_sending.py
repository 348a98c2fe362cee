"""
The files that C{aesm send} is to send.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from aesm.commands import sending
from aesm.commands.progress import Lines
from aesm.commands.sending import MOST_TOGETHER, Sending
from aesm.files.receiver import MOST_OPEN
from tests.support.files import FileTestCase


class SendingTests(FileTestCase):
    """Which of them go when."""

    def test_together(self) -> None:
        """
        Small files go together, not more than the other side takes nor than may leave
        twice, and of one name one at a time; a large one goes alone.
        """
        begun: list[str] = []
        underWay: list[Deferred[str]] = []

        def send(connection: object, path: str, progress: object) -> Deferred[str]:
            """Begin, and no more."""
            begun.append(path)
            underWay.append(Deferred())
            return underWay[-1]

        self.patch(sending, "sendFile", send)
        small = [str(self.put(f"{number}", b"x")) for number in range(MOST_OPEN + 1)]
        large = str(self.put("large", b"x" * (MOST_TOGETHER + 1)))
        half = [str(self.put(n, b"x" * (MOST_TOGETHER // 2))) for n in ("a", "b")]
        (self.ours / "c").mkdir()
        same = str(self.put("c/0", b"x"))
        missing = str(self.ours / "missing")
        paths = [*small, large, *half, small[0], same, missing]
        pair = self.meet()
        running = Sending(paths, Lines(Clock())).run(pair.client)
        done = Deferred.fromCoroutine(running)
        for together in (
            small[:MOST_OPEN],
            small[MOST_OPEN:],
            [large],
            half,
            [small[0]],
            [same, missing],
        ):
            self.assertEqual(begun, together)
            begun.clear()
            former, underWay[:] = underWay[:], []
            for each in former:
                self.assertEqual(begun, [])
                each.callback("")
        pair.deliver()
        self.successResultOf(done)
