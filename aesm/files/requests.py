"""
The requests of which sending files consists; docs/files.md has them for others, too::

    offer    a file, by name, size and time -> its token, and the offset to begin at
    chunk    bytes at an offset -> once they are written
    done     this is all, and its SHA-256 -> the name that it has, on the disk
    leave    no more of it now; what came of it stays for the next time
    drop     the file has changed, forget what came of it
    end      there will be no more files
    receive  who asks this receives files: nobody sends any, if both do

All but chunks are TEXT with JSON in it, and all begin with the same word, so that they
can be told from other requests over the same connection.  What a peer sends is checked
here and nowhere else.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from aesm.errors import RequestFailed

# Bytes of a file in one request: each of them takes time whatever it carries, and what
# is large does not stay in a processor's cache from one step to the next.
CHUNK = 1 << 18
AHEAD = 4  # chunks that may be under way: what a cut or a kill makes leave twice
MOST_TEXT = 8192  # characters of a request that is no chunk
MAX_SIZE = 1 << 62  # bytes of a file
_WORD = "aesm-file/1 "
_HEADER = struct.Struct("!12s8sQ")  # the word, the token, the offset
CHUNK_HEADER = _HEADER.size
_KINDS = frozenset({"offer", "done", "leave", "drop", "end", "receive"})


class FileCode(IntEnum):
    """Why something about a file is refused."""

    MALFORMED = 4100  # what was asked cannot be read
    REFUSED = 4101  # the receiver does not want it
    NO_ROOM = 4102  # on the disk, or among the files that are not complete
    CANNOT_WRITE = 4103  # the receiver's disk or directory
    BUSY = 4104  # another process, or another connection, receives the same file
    UNKNOWN = 4105  # no such token: it has to be offered again
    DIFFERS = 4106  # the digest is another one


@dataclass(frozen=True)
class Offer:
    """
    A file that somebody wants to send.

    @ivar name: as its sender calls it; it may be anything.
    @ivar size: bytes.
    @ivar mtime: when it was last changed, nanoseconds since the Unix epoch.
    @ivar executable: whether its owner may run it.
    """

    name: str
    size: int
    mtime: int
    executable: bool = False


@dataclass(frozen=True)
class Chunk:
    """
    Bytes of a file.

    @ivar token: of the offer's answer.
    @ivar offset: where they belong.
    """

    token: bytes
    offset: int
    data: memoryview

    def encode(self) -> bytes:
        """Make a request of it."""
        return chunkHeader(self.token, self.offset) + self.data


def chunkHeader(token: bytes, offset: int) -> bytes:
    """Make what a chunk has before its data, C{CHUNK_HEADER} bytes."""
    return _HEADER.pack(_WORD.encode("ascii"), token, offset)


def isOurs(data: object) -> bool:
    """Tell the data of our requests from those of others."""
    if isinstance(data, str):
        return data.startswith(_WORD)
    return isinstance(data, bytes) and data.startswith(_WORD.encode("ascii"))


def asking(kind: str, **fields: Any) -> str:
    """Make a request that is no chunk."""
    return _WORD + json.dumps({"do": kind, **fields})


def answering(**fields: Any) -> str:
    """Make an answer."""
    return json.dumps(fields)


def offering(offer: Offer) -> str:
    """Make the request that offers a file."""
    return asking("offer", **asdict(offer))


def readAsked(data: object) -> Chunk | tuple[str, dict[str, Any]]:
    """
    Read a request.

    @return: a chunk; or what is to be done, and with what: C{offer}, or C{token} and
        C{sha256}.
    @raise RequestFailed: it cannot be read.
    """
    if isinstance(data, bytes):
        if len(data) <= _HEADER.size:
            raise _malformed("a chunk has no data")
        _, token, offset = _HEADER.unpack_from(data)
        return Chunk(token, offset, memoryview(data)[_HEADER.size :])
    fields = _object(str(data).removeprefix(_WORD))
    kind = str(fields.get("do"))
    if kind not in _KINDS:
        raise _malformed(f"{kind[:40]!r} is unknown")
    try:
        if kind == "offer":
            return kind, {"offer": _offer(fields)}
        if kind in ("end", "receive"):
            return kind, {}
        sha256 = str(fields["sha256"]) if kind == "done" else ""
        return kind, {"token": bytes.fromhex(fields["token"]), "sha256": sha256}
    except (KeyError, TypeError, ValueError):
        raise _malformed(f"the fields of {kind!r} are not what they must be") from None


def readAnswer(data: object, **fields: type) -> list[Any]:
    """
    Read an answer.

    @param fields: which it must have, and of what type.
    @return: their values.
    @raise RequestFailed: it cannot be read.
    """
    answer = _object(data)
    values = [answer.get(name) for name in fields]
    if any(
        type(value) is not fields[name]
        for name, value in zip(fields, values, strict=True)
    ):
        raise _malformed("the answer is not what it must be")
    return values


def _offer(fields: dict[str, Any]) -> Offer:
    """Read an offer; C{ValueError} if it cannot be."""
    offer = Offer(*(fields[name] for name in ("name", "size", "mtime", "executable")))
    types = str, int, int, bool
    if [type(value) for value in asdict(offer).values()] != list(types):
        raise ValueError("a field has another type")
    if not (0 <= offer.size <= MAX_SIZE and abs(offer.mtime) <= MAX_SIZE):
        raise ValueError("a number is out of range")
    offer.name.encode("utf-8")
    return offer


def _object(text: object) -> dict[str, Any]:
    """Read a JSON object; C{RequestFailed} if it is something else."""
    if not isinstance(text, str) or len(text) > MOST_TEXT:
        raise _malformed("it is no text, or too long")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed("it is not JSON") from None
    if not isinstance(value, dict):
        raise _malformed("it is not an object")
    return value


def _malformed(why: str) -> RequestFailed:
    """Make the error for what cannot be read."""
    return RequestFailed(FileCode.MALFORMED, why)
