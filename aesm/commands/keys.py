"""
C{aesm keygen}, C{aesm pubkey}, C{aesm psk} and C{aesm known}: our keys and those of
servers.
"""

from __future__ import annotations

import base64
import shlex
from pathlib import Path

from aesm.commands.command import Command, parameter
from aesm.commands.output import writeError, writeLine
from aesm.text import escape
from aesm.trust.files import expanded, stateDirectory
from aesm.trust.keys import PSK, PrivateKey
from aesm.trust.picture import picture
from aesm.trust.servers import KnownServers


class KeygenOptions(Command):
    """C{aesm keygen}."""

    synopsis = "[FILE] [--next]"
    optFlags = [
        ["next", None, "Make the key that a server will have after FILE's: FILE.next."]
    ]
    longdesc = (
        "Makes a private key in a new file that only you can read, and prints its "
        "public key.  Without FILE it makes the key that `aesm connect` uses (with "
        "--next, the next one of `twistd aesm`), in the "
        "state directory ($AESM_HOME, else $XDG_STATE_HOME/aesm, else "
        "~/.local/state/aesm)."
    )

    def parseArgs(self, file: str | None = None) -> None:
        """Take the path; without it this user's key, or with C{--next} the server's."""
        self.file = file

    def run(self) -> int:
        """Make a key."""
        path = present = _keyFile(self.file)
        if self["next"]:
            if self.file is None:
                # Here, not above: it loads a whole server.
                from aesm.server.factory import KEY_FILE

                present = stateDirectory() / KEY_FILE
            path = present.with_name(f"{present.name}.next")
        key = PrivateKey.generate()
        key.save(path)
        writeLine(str(key.publicKey))
        writeError(f"made a new private key in {path}")
        if self["next"]:
            writeError(
                "a server announces this key to its clients from its next start on; "
                "when they have met it, stop the server, `mv "
                f"{shlex.quote(str(path))} {shlex.quote(str(present))}`, and start it"
            )
        return 0


class PubkeyOptions(Command):
    """C{aesm pubkey}."""

    synopsis = "[FILE] [--picture]"
    optFlags = [["picture", None, "Draw it as well, as `aesm send` does."]]
    longdesc = (
        "Prints the public key of the private key in FILE; without FILE, of the one "
        "that `aesm connect` uses."
    )

    def parseArgs(self, file: str | None = None) -> None:
        """Take the path; without it this user's key."""
        self.file = _keyFile(file)

    def run(self) -> int:
        """Print a public key."""
        publicKey = PrivateKey.load(self.file).publicKey
        writeLine(str(publicKey))
        if self["picture"]:
            for line in picture(publicKey, "aesm"):
                writeLine(line)
        return 0


class PSKOptions(Command):
    """C{aesm psk}."""

    synopsis = "[FILE]"
    longdesc = (
        "Makes a pre-shared key in a new file that only you can read, to be copied "
        "to all members of a group.  Without FILE it prints the key, which is a "
        "secret."
    )

    def parseArgs(self, file: str | None = None) -> None:
        """Take the path; without it the key is printed."""
        self.file = file

    def run(self) -> int:
        """Make a pre-shared key."""
        psk = PSK.generate()
        if self.file is None:
            writeLine(base64.b64encode(psk).decode("ascii"))
        else:
            psk.save(self.file)
            writeError(f"made a new pre-shared key in {self.file}")
        return 0


class KnownOptions(Command):
    """C{aesm known}."""

    synopsis = "[--forget HOST:PORT]"
    longdesc = "Lists the servers that are known, and the key that each must have."
    optParameters = [
        parameter("forget", "Forget the keys of this server instead."),
    ]

    def run(self) -> int:
        """List known servers, or forget one."""
        known = KnownServers()
        location = self["forget"]
        if location is None:
            for entry, publicKey in known.entries():
                writeLine(f"{escape(entry)} {publicKey}")
        elif not known.forget(location):
            writeError(
                f"{known.path} has no {location}; `aesm known` lists what it has"
            )
            return 1
        return 0


def _keyFile(file: str | None) -> Path:
    """Say where a private key is: where the user says, or that of C{aesm connect}."""
    return stateDirectory() / "client.key" if file is None else expanded(file)
