"""
What the sources say to mypyc, which compiles them where CONTRIBUTING.md says so.

Type checkers and mypyc see C{mypyc_attr} of C{mypy_extensions}; when the package runs,
compiled or not, nothing of that is needed, and the name stands for a decorator that
does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["mypyc_attr"]

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(*names, **values):
        """Decorate a class with what mypyc has to know of it."""
        return lambda decorated: decorated
