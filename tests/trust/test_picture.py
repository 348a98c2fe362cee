"""
Keys as pictures.
"""

from __future__ import annotations

import base64

from twisted.trial.unittest import SynchronousTestCase

from aesm.trust import picture as module
from aesm.trust.keys import PublicKey
from aesm.trust.picture import picture

# What `ssh-keygen -lv` of OpenSSH draws for a key with this fingerprint.
FINGERPRINT = "qOLoTfmU4TmfkcP7KdBI8kiH1lGk/5oBNrTEXZfR5WE="
DRAWN = """\
|      oo . o+ .E |
|    ..o . .. .o .|
|    o=..       . |
|   =o+o.         |
|  o **+.S        |
|   .+=B.o        |
|  .o.*.* .       |
| oo.o o.O .      |
|o... . *oo       |"""


class PictureTests(SynchronousTestCase):
    """The drunken bishop."""

    def test_walk(self) -> None:
        """The same digest gives the same picture as at OpenSSH."""
        board = module._walk(base64.b64decode(FINGERPRINT))
        self.assertEqual("\n".join(f"|{''.join(row)}|" for row in board), DRAWN)

    def test_frame(self) -> None:
        """All lines are as long as the frame, which has the title."""
        drawn = picture(PublicKey(b"\x11" * 32), "ours")
        self.assertEqual({len(line) for line in drawn}, {19})
        self.assertEqual(len(drawn), 11)
        self.assertEqual(drawn[0], "+-----[ours]------+")
        self.assertEqual(drawn[-1], "+----[SHA256]-----+")

    def test_differ(self) -> None:
        """Another key has another picture."""
        one, other = (picture(PublicKey(bytes([n]) * 32), "") for n in (1, 2))
        self.assertNotEqual(one, other)
