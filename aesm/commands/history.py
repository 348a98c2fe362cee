"""
What C{aesm log} reads out of activity logs, as L{aesm.commands.activity} writes them::

    lines = linesOf(["activity.json.1.gz", "activity.json"])
    verified(lines, None)                                    # are they whole?
    entries = entriesOf(lines, print)
    whoWasIn(entries, moment("03:30", now))
    Query(who="alice", since=moment("2h", now)).of(entries)

Files of any size are read line by line; nothing of them reaches a terminal unescaped.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from gzip import GzipFile
from hashlib import sha256
from ipaddress import ip_address
from itertools import chain
from math import inf
from typing import Any, NamedTuple

from aesm.commands.activity import MAX_LINE, encoded, readEntry
from aesm.errors import AESMError, KeyFileError
from aesm.secure.places import hostOf
from aesm.secure.refusals import OTHERS
from aesm.text import escape

Entry = dict[str, Any]

GZIP = b"\x1f\x8b"
KEY_PREFIX = 6  # characters of a key that stand for it, at least
SHOWN_KEY = 12  # the same, in a table
FEW = 10  # lines at the beginning of a file in which there should be an entry
OF_ALL = frozenset({"started", "stopped"})  # events, of the server itself
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
HASH = re.compile(r"[0-9a-f]{64}")

_AGO = re.compile(r"(\d{1,9})([smhd])")
_CLOCK = re.compile(r"(\d\d?):(\d\d)(?::(\d\d))?")


class Line(NamedTuple):
    """
    A line of a log.

    @ivar where: its file, and its number there.
    @ivar raw: as it stands, with its end; a part of one that is much too long.
    @ivar entry: what it says; None if it is no entry.
    """

    where: str
    raw: bytes
    entry: Entry | None


class Broken(AESMError):
    """A log is not as it was written; says where and how."""


# Read


def linesOf(paths: Iterable[str]) -> Iterator[Line]:
    """
    Read logs, whose files may be packed by C{gzip}, the oldest first.

    @param paths: in any order; C{"-"} is standard input.
    @raise KeyFileError: one cannot be read.
    """
    begun = sorted(map(_begin, paths), key=lambda first: first[0])
    return chain.from_iterable(lines for _, lines in begun)


def _begin(path: str) -> tuple[float, Iterator[Line]]:
    """Begin to read a file: when its first entry was written, and its lines."""
    lines, before = _read(path), []
    for line in lines:
        before.append(line)
        if line.entry is not None:
            return line.entry["time"], chain(before, lines)
        if len(before) > FEW:
            break
    return inf, chain(before, lines)


def _read(path: str) -> Iterator[Line]:
    """Read a file."""
    name = escape(path)
    try:
        with open(0 if path == "-" else path, "rb") as plain:
            packed = plain.peek(len(GZIP)).startswith(GZIP)
            readline = GzipFile(fileobj=plain).readline if packed else plain.readline
            number = 1
            while raw := readline(MAX_LINE):
                yield Line(f"{name} line {number}", raw, readEntry(raw))
                number += raw.endswith(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise KeyFileError(f"cannot read {name}: {reason}", path) from None


def entriesOf(lines: Iterable[Line], tell: Callable[[str], object]) -> Iterator[Entry]:
    """
    Take the entries, and say what else there was.

    @param tell: takes a sentence for people.
    """
    first, others = "", 0
    for line in lines:
        if line.entry is not None:
            yield line.entry
        else:
            first, others = first or line.where, others + 1
    if others:
        tell(f"{first} is no entry, and lines like it were left out: {others} in all")


# Verify


def verified(lines: Iterable[Line], expected: str | None) -> Iterator[str]:
    """
    See whether logs are as they were written.

    @param expected: a hash that the chain had once; None to ask for none.
    @return: what to say, line by line; the last says how many entries there are, and
        which hash the chain has now.
    @raise Broken: they are not, or the chain has never had that hash.
    @see: C{aesm.commands.activity}, for the chain
    """
    count = missing = seq = first = 0
    chains: set[str] = set()  # the first hash of each
    before = "the beginning"
    since, found, torn = sha256(), expected is None, None
    for line in lines:
        entry = line.entry
        if entry is None:
            torn = torn or line
            since.update(line.raw)
            continue
        if torn is not None:
            if "torn" not in entry:
                raise Broken(f"{torn.where} is no entry")
            yield f"{torn.where} is torn, as a crash or a full disk leaves it"
        link = entry["seq"], entry["prev"]
        head = sha256(line.raw).hexdigest()
        if link == (1, None):
            if head in chains:
                raise Broken(f"{line.where} stands there for the second time")
            if count:
                yield f"{line.where}: a new chain begins"
            chains.add(head)
        elif count and link != (seq + 1, since.hexdigest()):
            raise Broken(
                f"{line.where}: entry {entry['seq']} does not go on from {before}, "
                f"entry {seq}: one of the two was changed, or what was between them "
                "was taken out, or put in"
            )
        count, missing = count + 1, missing + _number(entry.get("missing"))
        seq, before, torn = entry["seq"], line.where, None
        first = first or seq
        since = sha256(line.raw)
        found = found or head == expected
    if not count:
        raise Broken("there are no entries")
    if torn is not None and torn.raw.endswith(b"\n"):
        raise Broken(f"{torn.where} is no entry")
    if torn is not None:
        yield f"{torn.where} is torn, or is being written"
    if not found:
        raise Broken(
            f"no entry has the hash {expected}: the chain is another one, or these "
            "are not all files"
        )
    if missing:
        yield f"{missing} entries are missing that could not be written"
    yield f"{count} entries, {first} to {seq}, whole; the hash of the last is {head}"


def _number(value: object) -> int:
    """Read what should be a number."""
    return value if isinstance(value, int) else 0


# Ask


def moment(text: str, now: float) -> float:
    """
    Read a time.

    @param text: ISO 8601, local where no zone is named; a time of day, the last one
        that has been; or how long ago, as C{2h}.
    @param now: Unix seconds.
    @raise ValueError: it is none of them.
    """
    if ago := _AGO.fullmatch(text):
        return now - int(ago[1]) * SECONDS[ago[2]]
    try:
        if clock := _CLOCK.fullmatch(text):
            hour, minute, second = (int(part or 0) for part in clock.groups())
            when = datetime.fromtimestamp(now).replace(
                hour=hour, minute=minute, second=second, microsecond=0
            )
            if when.timestamp() > now:
                when -= timedelta(days=1)
        else:
            when = datetime.fromisoformat(text)
        return when.timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is no time: give one such as 2026-03-01T03:30, 03:30, or 2h for "
            "two hours ago"
        ) from None


class Query(NamedTuple):
    """
    Which entries are wanted; None is for all.

    @ivar since: Unix seconds.
    @ivar until: Unix seconds.
    @ivar who: as L{isAbout}.
    """

    since: float | None = None
    until: float | None = None
    who: str | None = None
    event: str | None = None

    def of(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Pick the entries; the server's own start and end concern all."""
        for entry in entries:
            event, when = entry["event"], entry["time"]
            if (
                (self.since is None or self.since <= when)
                and (self.until is None or when <= self.until)
                and self.event in (None, event)
                and (self.who is None or event in OF_ALL or isAbout(self.who, entry))
            ):
                yield entry


def isAbout(who: str, entry: Entry) -> bool:
    """
    Tell whether an entry is about somebody.

    @param who: a name in the authorized keys, a public key or its beginning, a session,
        or an address, with its port or without.
    """
    address, peer = str(entry.get("address")), str(entry.get("peer"))
    if who in (entry.get("name"), address, address.rpartition(":")[0]):
        return True
    if len(who) >= KEY_PREFIX and peer.startswith(who):
        return True
    if entry.get("session") and who == entry["session"]:
        return True
    # What is told of a host together names it as it counts, and so many are told of at
    # a time that an address may be among the others.
    return address == hostOf(who) or (address == OTHERS and _isAddress(who))


def _isAddress(who: str) -> bool:
    """Tell whether somebody is named by an address."""
    with suppress(ValueError):
        return bool(ip_address(who))
    return False


def whoWasIn(
    entries: Iterable[Entry], when: float, tell: Callable[[str], object]
) -> list[Entry]:
    """
    Tell who was in at a time: let in, and not lost by then, by a server that was not
    started again since.

    @param when: Unix seconds.
    @param tell: takes a sentence for people, about what is not known.
    @return: the entry of each that let it in, the oldest first.
    """
    inside: dict[str, Entry] = {}
    first = None
    for entry in entries:
        if first is None:
            first = entry["seq"]
        if entry["time"] > when:
            continue
        whose = str(entry.get("session") or entry.get("address"))
        match entry["event"]:
            case event if event in OF_ALL:
                # Of two processes, one of which takes over, both are there meanwhile.
                if not entry.get("upgrade"):
                    inside.clear()
            case "accepted":
                inside.setdefault(whose, entry)
            case "lost":
                inside.pop(whose, None)
    if first not in (None, 1):
        tell(f"the files begin with entry {first}: who came before that is not known")
    return list(inside.values())


# Show


def asJSON(entry: Entry) -> str:
    """Write an entry for programs."""
    return encoded(entry).decode("ascii").rstrip()


def shown(entry: Entry) -> str:
    """Write an entry for people: when, what, who, from where, why."""
    name, peer = entry.get("name"), entry.get("peer")
    key = f"{peer[:SHOWN_KEY]}..." if isinstance(peer, str) else "-"
    columns = [
        _when(entry["time"]),
        entry["event"].ljust(8),
        str(name or key).ljust(SHOWN_KEY + 3),
        str(entry.get("address") or "-").ljust(21),
        _why(entry),
    ]
    return escape("  ".join(columns)).rstrip()


def _when(time: float) -> str:
    """Write a time as it is here, and how far that is from UTC."""
    try:
        local = datetime.fromtimestamp(time).astimezone()
        return local.isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return "?".ljust(25)


def _why(entry: Entry) -> str:
    """Write why something happened, and what it brought."""
    if entry["event"] == "started":
        why = f"aesm {entry.get('version')}, process {entry.get('pid')}"
        if entry.get("upgrade"):
            why += ", takes over"
    elif entry["event"] == "rotated":
        why = "goes on from another file"
    else:
        why = str(entry.get("reason", ""))
    duration = entry.get("duration")
    if isinstance(duration, int | float) and 0 <= duration < 1e9:
        passed = timedelta(seconds=round(duration))
        why += (
            f" (after {passed}; {entry.get('received')} messages came, "
            f"{entry.get('sent')} went)"
        )
    if "missing" in entry:
        why += f" [{entry['missing']} entries before this one are missing]"
    return why
