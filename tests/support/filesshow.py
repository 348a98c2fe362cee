"""
C{aesm send} and C{aesm receive}, over a network that keeps cutting their connection,
and killed over and over::

    python -m tests.support.filesshow --bytes 10G --cuts 100 --kills 10

The file has to arrive, whole.  It says how fast that was, how much was sent twice, and
how much memory it took.  Without cuts and kills nothing is between the two.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from aesm.trust.keys import PrivateKey
from tests.system.test_commands import freePort

PIECE = 1 << 20  # bytes that are made at once
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
LOOK = 0.005  # seconds between two looks at how far the file is


def sizeOf(text: str) -> int:
    """
    Read a size.

    @param text: such as C{"10G"}.
    """
    unit = UNITS.get(text[-1:].upper(), 0)
    return int(text[:-1]) * unit if unit else int(text)


def write(path: Path, size: int) -> str:
    """
    Write a file no two parts of which are the same.

    @return: its SHA-256.
    """
    digest, block = sha256(), bytearray(os.urandom(PIECE))
    with open(path, "wb") as file:
        for number in range(0, size, PIECE):
            block[:8] = number.to_bytes(8, "big")
            piece = block[: size - number]
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def digestOf(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = sha256()
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


class Side:
    """
    One of the two commands, and those that took its place.

    @ivar peak: the most memory that any of them had, KiB.
    @ivar kills: how many were killed.
    """

    def __init__(self, home: Path, *arguments: str) -> None:
        """
        Make its key.

        @param home: its state directory.
        @param arguments: what follows C{aesm}.
        """
        self.key = PrivateKey.generate()
        self.key.save(home / "client.key")
        self.arguments = list(arguments)
        self.peak = self.kills = 0
        self._home = home
        self._log = open(home / "log", "w+b")  # noqa: SIM115

    def start(self) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aesm", *self.arguments],
            env={**os.environ, "AESM_HOME": str(self._home)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def look(self) -> int:
        """
        Note how much memory it has had.

        @return: as much, KiB; 0 if it has ended.
        """
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        found = re.search(r"VmHWM:\s+(\d+)", status)
        most = int(found[1]) if found else 0
        self.peak = max(self.peak, most)
        return most

    def said(self) -> str:
        """Return all that was said."""
        return (self._home / "log").read_text("utf-8", "replace")

    def kill(self) -> None:
        """Kill it, and start it again."""
        self.look()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1
        self.start()

    def close(self) -> None:
        """End it if it has not, and close its log."""
        self.process.kill()
        self.process.wait()
        self._log.close()


class Show:
    """A file on its way."""

    def __init__(self, options: Any, folder: Path) -> None:
        """
        Make the file, and both sides.

        @param options: of the command line.
        @param folder: for all that is written.
        """
        self.options = options
        self.path, self.into = folder / "file.bin", folder / "into"
        homes = [folder / name for name in ("sender", "receiver")]
        for each in (self.into, *homes):
            each.mkdir()
        self.digest = write(self.path, options.bytes)
        self.port = freePort()
        self.sender = Side(homes[0], "send", str(self.path))
        listen = f"--listen=tcp:{self.port}:interface=127.0.0.1"
        self.receiver = Side(homes[1], "receive", listen, f"--into={self.into}")
        self.receiver.arguments.append(f"--pin={self.sender.key.publicKey}")
        self.proxy: subprocess.Popen[str] | None = None

    def startProxy(self) -> int:
        """
        Start what cuts connections.

        @return: its port.
        """
        each = 2 * self.options.bytes // self.options.cuts
        proxy = [sys.executable, "-m", "tests.support.cuttingproxy", str(self.port)]
        self.proxy = subprocess.Popen(
            [*proxy, f"--bytes={each}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.proxy.stdout is not None
        return int(self.proxy.stdout.readline().rpartition(" ")[2])

    def there(self) -> int:
        """Tell how much of the file is there."""
        sizes = [0]
        for path in self.into.iterdir():
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:  # it has its name now
                return int(self.options.bytes)
        return int(max(sizes))

    def run(self) -> int:
        """
        Send the file.

        @return: the exit status.
        """
        self.receiver.start()
        while "listening" not in self.receiver.said():
            if self.receiver.process.poll() is not None:
                raise SystemExit(self.receiver.said())
            time.sleep(LOOK)
        idle = self.receiver.look()
        port = self.startProxy() if self.options.cuts else self.port
        self.sender.arguments.append(f"tcp:127.0.0.1:{port}")
        self.sender.arguments.append(f"--pin={self.receiver.key.publicKey}")
        began = time.monotonic()
        self.sender.start()
        self.follow()
        took = time.monotonic() - began
        return self.tell(idle, took)

    def follow(self) -> None:
        """Kill one and the other while they are at it, until both are done."""
        count = 2 * self.options.kills
        due = [self.options.bytes * (n + 1) // (count + 1) for n in range(count)]
        sides = self.sender, self.receiver
        while True:
            if due and self.there() >= due[0]:
                due.pop(0)
                sides[len(due) % 2].kill()
            for side in sides:
                side.look()
            status = self.sender.process.poll()
            if status == 0:
                return
            if status is not None:  # its first attempt to connect was cut
                self.sender.start()
            time.sleep(LOOK)

    def tell(self, idle: int, took: float) -> int:
        """
        Tell how it went.

        @param idle: memory of a process that waits, KiB.
        @param took: seconds.
        @return: the exit status.
        """
        status = self.receiver.process.wait()
        names = os.listdir(self.into)
        print(f"receiver: status {status}, {names}")
        isSame = names == ["file.bin"]
        isSame = isSame and digestOf(self.into / "file.bin") == self.digest
        print("digests are", "equal" if isSame else "NOT EQUAL")
        size = self.options.bytes
        print(f"{size:,} bytes in {took:.1f} s: {size / took / 1e6:.0f} MB/s")
        for name, side in ("sender", self.sender), ("receiver", self.receiver):
            more = (side.peak - idle) / 1024
            print(f"{name}: {side.kills} kills, {more:.1f} MiB more than idle")
            tracebacks = side.said().count("Traceback")
            isSame = isSame and not tracebacks
            if tracebacks:
                print(side.said())
        if self.proxy is not None:
            self.proxy.terminate()
            said = self.proxy.communicate()[0]
            cuts = len(re.findall(r"^cut ", said, re.MULTILINE))
            sent = int(re.findall(r"(\d+) bytes from clients", said)[-1])
            again = (sent - size) / max(cuts + 2 * self.options.kills, 1)
            print(f"{cuts} cuts; sent again: {again / 1024:.0f} KiB for each, and kill")
        return 0 if isSame and status == 0 else 1

    def close(self) -> None:
        """End all processes."""
        for side in (self.sender, self.receiver):
            if hasattr(side, "process"):
                side.close()
        if self.proxy is not None and self.proxy.poll() is None:
            self.proxy.kill()
            self.proxy.communicate()


def main() -> int:
    """
    Do what the command line says.

    @return: the exit status.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=sizeOf, default=sizeOf("100M"))
    parser.add_argument("--cuts", type=int, default=0, help="about so many")
    parser.add_argument("--kills", type=int, default=0, help="of each side")
    parser.add_argument("--folder", help="where there is room for the file, twice")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        show = Show(options, Path(folder))
        try:
            return show.run()
        finally:
            show.close()


if __name__ == "__main__":
    sys.exit(main())
