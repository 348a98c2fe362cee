"""
Public keys as pictures, for people who compare two of them::

    print("\\n".join(picture(publicKey, "ours")))

They are those of C{ssh-keygen -lv}: a bishop walks from the middle, two bits of the
key's SHA-256 for each step, and each square shows how often it came there.  Keys that
are not the same look different at a glance; who wants to be sure compares the text.

@see: U{"The drunken bishop", Loss, Limmer, von Gernler 2009
    <http://www.dirk-loss.de/sshvis/drunken_bishop.pdf>}
"""

from __future__ import annotations

from hashlib import sha256

from aesm.trust.keys import PublicKey

WIDTH, HEIGHT = 17, 9
VISITS = " .o+=*BOX@%&#/^"  # never, once, and so on; the last for all that is more
START, END = "S", "E"


def picture(publicKey: PublicKey, title: str) -> list[str]:
    """
    Draw a key.

    @param title: at most 15 characters, for the frame.
    @return: eleven lines of nineteen characters.
    """
    board = _walk(sha256(publicKey.raw).digest())
    return [
        f"+{f'[{title}]':-^{WIDTH}}+",
        *(f"|{''.join(row)}|" for row in board),
        f"+{'[SHA256]':-^{WIDTH}}+",
    ]


def _walk(digest: bytes) -> list[list[str]]:
    """Send the bishop over the board: the lowest two bits of each byte first."""
    visits = [[0] * WIDTH for _ in range(HEIGHT)]
    x, y = WIDTH // 2, HEIGHT // 2
    for step in (byte >> shift & 3 for byte in digest for shift in (0, 2, 4, 6)):
        x = min(max(x + (1 if step & 1 else -1), 0), WIDTH - 1)
        y = min(max(y + (1 if step & 2 else -1), 0), HEIGHT - 1)
        visits[y][x] += 1
    most = len(VISITS) - 1
    board = [[VISITS[min(count, most)] for count in row] for row in visits]
    board[HEIGHT // 2][WIDTH // 2] = START
    board[y][x] = END
    return board
