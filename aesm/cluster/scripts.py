"""
What is done in the engine, each in one step that nothing comes between: the scripts in
C{aesm/cluster/lua/}, which say themselves what they take and give.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files

FORMAT = 3  # of what is in the engine


class Script:
    """
    A script.

    @ivar name: what it is called.
    @ivar source: Lua.
    @ivar digest: what the engine knows it by.
    @ivar isDurable: whether more depends on what it writes than the next call of it.
    """

    def __init__(self, name: str, source: bytes, isDurable: bool = False) -> None:
        self.name = name
        self.source = source
        self.digest = sha1(source).hexdigest()
        self.isDurable = isDurable


def _script(name: str, isDurable: bool = False, *, prelude: bool = True) -> Script:
    """Read a script."""
    folder = files("aesm.cluster") / "lua"
    parts = ["prelude", name] if prelude else [name]
    source = b"\n".join((folder / f"{part}.lua").read_bytes() for part in parts)
    return Script(name, source, isDurable)


JOIN = _script("join", prelude=False)
BEGIN = _script("begin", True)
CLAIM = _script("claim", True)
HOME = _script("home")
PAGE = _script("page")
COMMIT = _script("commit", True)
CHECK = _script("check")
SETTLE = _script("settle")
LOOKED = _script("looked")
LEASE = _script("lease")
SWEEP = _script("sweep")
INLET = _script("inlet")
LOG = _script("log")
SNAPSHOT = _script("snapshot")
SNAPSHOTS = _script("snapshots")
SAY = _script("say")
DRAIN = _script("drain")
OVERVIEW = _script("overview")
FIND = _script("find")
UNREAD = _script("unread")
WORK = _script("work", True)
