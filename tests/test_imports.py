"""
The shape of the package: who imports whom, what importing runs, and how long
a module may be.

The rules are read off the import statements, those inside functions too, so
that an import which no test happens to execute is seen as well.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import aesm

PACKAGE = Path(aesm.__file__).parent
PLUGINS = sorted((PACKAGE.parent / "twisted" / "plugins").glob("aesm_*.py"))

MAX_CODE = 350  # lines that are neither blank, comments nor docstrings

# Standard modules that do I/O, tell the time, log, wait or start things.
IMPURE = frozenset(
    {
        "asyncio",
        "concurrent",
        "datetime",
        "glob",
        "http",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "sched",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "warnings",
    }
)


def moduleFiles() -> dict[str, Path]:
    """
    Find the modules of the package.

    @return: the source file of each, by its full name; a package goes by its
        own name, not by that of its C{__init__}.
    """
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        files[".".join(parts)] = path
    return files


def isTypeChecking(test: ast.expr) -> bool:
    """
    Tell whether a condition is C{TYPE_CHECKING}, so that nothing below it runs.

    @param test: the condition of an C{if}.
    """
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def importsIn(node: ast.AST, package: str) -> Iterator[str]:
    """
    List what a piece of source imports when it runs, at any depth.

    @param node: the piece.
    @param package: the full name of the package that it is in, from which
        relative imports count.
    @return: full names: C{"a.b"} for C{import a.b}, C{"a.b.c"} for C{from a.b
        import c}, whether C{c} is a module or not.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = [node.module] if node.module else []
        if node.level:
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] + base
        yield from (".".join([*base, alias.name]) for alias in node.names)
    elif isinstance(node, ast.If) and isTypeChecking(node.test):
        for branch in node.orelse:
            yield from importsIn(branch, package)
    else:
        for child in ast.iter_child_nodes(node):
            yield from importsIn(child, package)


def importsOf(module: str, path: Path) -> list[str]:
    """
    List what a module imports when it runs.

    @param module: its full name.
    @param path: its source.
    @return: full names, as L{importsIn} gives them.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return list(importsIn(ast.parse(path.read_bytes()), package))


def codeLines(source: str) -> int:
    """
    Count lines of code.

    @param source: a module.
    """
    lines: set[int] = set()
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.expr | ast.stmt) or node.end_lineno is None:
            continue
        span = range(node.lineno, node.end_lineno + 1)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.update(span)
        elif isinstance(node, ast.stmt) and hasattr(node, "body"):
            lines.add(node.lineno)
        else:
            lines.update(span)
    return len(lines - docstrings)


def runPython(program: str) -> str:
    """
    Run a program in a fresh interpreter that finds the same C{aesm}.

    @param program: its source.
    @return: what it printed, without the line end.
    """
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout.strip()


class ImportsInTests(SynchronousTestCase):
    """The reader of import statements sees what the rules are about."""

    def importsIn(self, source: str) -> list[str]:
        """
        Read the imports of a module in C{aesm.core}.

        @param source: the module.
        """
        return list(importsIn(ast.parse(source), "aesm.core"))

    def test_forms(self) -> None:
        """Each form of the statement gives full names."""
        self.assertEqual(self.importsIn("import a.b, c"), ["a.b", "c"])
        self.assertEqual(self.importsIn("from a.b import c, d"), ["a.b.c", "a.b.d"])
        self.assertEqual(self.importsIn("from . import c"), ["aesm.core.c"])
        self.assertEqual(self.importsIn("from ..noise import d"), ["aesm.noise.d"])

    def test_depth(self) -> None:
        """Imports inside functions and conditions count."""
        source = "def f():\n  try:\n    import a\n  finally:\n    from b import c"
        self.assertEqual(self.importsIn(source), ["a", "b.c"])

    def test_typeChecking(self) -> None:
        """
        What only a type checker imports does not count, what stands in its place
        does.
        """
        source = "if TYPE_CHECKING:\n  import a\nelse:\n  import b"
        self.assertEqual(self.importsIn(source), ["b"])


class PurityTests(SynchronousTestCase):
    """
    What needs no Twisted stands without it; who may import whom inside of C{aesm} is
    import-linter's business.
    """

    def test_coreIsPure(self) -> None:
        """
        The modules of C{noise} and C{core} import C{cryptography}, what is pure in
        the standard library, and ours; nothing that waits, logs or reads a clock.
        """
        allowed = (sys.stdlib_module_names - IMPURE) | {"aesm", "cryptography"}
        wrong = [
            f"{module} imports {name}"
            for module, path in moduleFiles().items()
            if module.startswith(("aesm.noise", "aesm.core", "aesm.errors"))
            for name in importsOf(module, path)
            if name.split(".")[0] not in allowed
        ]
        self.assertEqual(wrong, [])

    def test_errorsStandAlone(self) -> None:
        """The errors import nothing of ours."""
        names = importsOf("aesm.errors", PACKAGE / "errors.py")
        self.assertEqual([name for name in names if name.startswith("aesm")], [])


EXTRAS = ("prompt_toolkit", "tqdm", "wsproto")  # what the optional dependencies bring


class FreshInterpreterTests(SynchronousTestCase):
    """Importing runs nothing."""

    def test_noReactor(self) -> None:
        """
        No module, when it is imported, installs a reactor: that choice is the
        program's.  (What needs an extra that is not there cannot be imported.)
        """
        modules = [*moduleFiles()]
        program = f"""
import importlib, sys
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in {EXTRAS!r}:
            raise
    if "twisted.internet.reactor" in sys.modules:
        print(name)
        break
"""
        self.assertEqual(runPython(program), "")

    def test_lightPlugin(self) -> None:
        """
        The dropin, which each start of any C{twistd} on the machine may import,
        loads neither a reactor nor C{cryptography}.
        """
        modules = [f"twisted.plugins.{path.stem}" for path in PLUGINS]
        program = f"""
import importlib, sys
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in {EXTRAS!r}:
            raise
heavy = {{"twisted.internet.reactor", "cryptography"}}
print(sorted(heavy & set(sys.modules)))
"""
        self.assertEqual(runPython(program), "[]")

    def test_lightCommands(self) -> None:
        """
        A command that talks to nobody, or to a server on this machine only, does not
        wait for what the others need.
        """
        program = """
import sys
from aesm.commands.cli import main
for command in ("psk", "pubkey", "log", "status"):
    try:
        main([command, "--help"])
    except SystemExit:
        pass
heavy = {"twisted.internet.defer", "twisted.internet.reactor", "aesm.messages"}
print(sorted(heavy & set(sys.modules)))
"""
        self.assertTrue(runPython(program).endswith("[]"))


class SizeTests(SynchronousTestCase):
    """One module, one job."""

    def test_length(self) -> None:
        """No module has more than L{MAX_CODE} lines of code."""
        lengths = {
            str(path): codeLines(path.read_text("utf-8"))
            for path in [*moduleFiles().values(), *PLUGINS]
        }
        long = {name: count for name, count in lengths.items() if count > MAX_CODE}
        self.assertEqual(long, {})

    def test_dropinHoldsInstancesOnly(self) -> None:
        """The dropin has at most 20 lines."""
        for path in PLUGINS:
            self.assertLessEqual(len(path.read_text("utf-8").splitlines()), 20)
