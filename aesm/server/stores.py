"""
What a server keeps its sessions in: a file, an engine, or only its memory, as its
options say it::

    openStore = storeOpener(options, clock, grace=60.0, perKey="allow")
    store = openStore()
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from aesm.cluster.opening import engineOpener
from aesm.server.admission import PER_KEY
from aesm.store.interface import ISessionStore
from aesm.store.spool import spoolOpener
from aesm.store.sqlite import MAX_SIZE

_SPOOL: dict[str, Any] = {"spool": None, "spoolSync": "normal", "spoolMax": MAX_SIZE}
_ENGINE: dict[str, Any] = {
    "cluster": None,
    "clusterName": "aesm",
    "clusterPassword": None,
    "clusterSync": "primary",
    "clusterKey": None,
    "node": None,
}


def storeOpener(
    options: dict[str, Any], clock: IReactorTime, grace: float, perKey: str
) -> Callable[..., ISessionStore] | None:
    """
    Check the options of a store that is opened later.

    @param options: as L{AESMServerFactory<aesm.AESMServerFactory>} takes them; those of
        a store are taken out.
    @param grace: seconds that clients have to come back.
    @param perKey: what a second connection of one key does.
    @return: opens it; None to keep sessions in memory.
    @raise KeyFileError: a file cannot be used; says why.
    @raise ValueError: an option has a value that it cannot have.
    """
    spool, engine = (
        {name: options.pop(name, usual) for name, usual in each.items()}
        for each in (_SPOOL, _ENGINE)
    )
    openSpool = spoolOpener(
        spool["spool"], spool["spoolSync"], spool["spoolMax"], clock
    )
    if engine["cluster"] is None:
        return openSpool
    if openSpool is not None:
        raise ValueError("cluster= takes the place of spool=: give one of them")
    return engineOpener(
        *engine.values(), grace=grace, perKey=PER_KEY.get(perKey, 0), clock=clock
    )
