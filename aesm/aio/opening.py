"""
What can be awaited, or used in an C{async with} statement that closes it::

    client = await connect("tcp:127.0.0.1:8765")
    async with connect("tcp:127.0.0.1:8765") as client:
        ...
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar


class Opened(Protocol):
    """What is open."""

    async def close(self) -> None:
        """Close it in order."""


_T = TypeVar("_T", bound=Opened)


class Opening(Generic[_T]):
    """What is opened when somebody awaits it, or once when somebody enters it."""

    _opened: _T

    def __init__(self, open: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        """@param open: opens it."""
        self._open = open
        self._isEntered = False

    def __await__(self) -> Generator[Any, Any, _T]:
        """Open it; closing is up to who awaits this."""
        return self._open().__await__()

    async def __aenter__(self) -> _T:
        """
        Open it.

        @raise RuntimeError: it was entered before; who leaves could close another's.
        """
        if self._isEntered:
            raise RuntimeError("it was entered before: call connect or serve again")
        self._isEntered = True
        try:
            self._opened = await self._open()
        except BaseException:
            self._isEntered = False  # there is nothing to be left
            raise
        return self._opened

    async def __aexit__(self, *reason: object) -> None:
        """Close it; an error that ended the statement goes on."""
        await self._opened.close()
