"""
What the documents say of the code is so: files, names and tests that they name exist,
and the state diagrams are those of the tables.

  - C{`aesm/messages/protocol.py`} is a file, and so on for other folders;
  - C{`aesm.messages.protocol.AESMProtocol.sending`} is a module, or a name in one;
  - C{`core/channel/roles: test_memory, OfferTests`} are tests in
    C{tests/core/channel/test_roles.py};
  - C{`test_memory`}, alone, is a test somewhere;
  - in C{docs/architecture.md}, where the code is walked through function by function,
    C{`Connection.sendData`} behind a file's name and a colon, up to the next file's
    name or the end of the line, is in that file.
"""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import aesm
from tests import ROOT
from tests.support import diagrams

PACKAGE = Path(aesm.__file__).parent  # not in ROOT when the wheel is tested
DOCUMENTS = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
    ROOT / "tests" / "README.md",
    ROOT / "examples" / "README.md",
]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PROTOCOL = ROOT / "docs" / "protocol.md"

_SPAN = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"(aesm|tests|fuzz|benchmarks|docs|examples|twisted)/[\w/.]*")
_DOTTED = re.compile(r"aesm(\.\w+)+")
_TESTS = re.compile(r"([a-z][\w/]*): (\w+(?:\.\w+)?(?:, \w+(?:\.\w+)?)*)")
_TEST = re.compile(r"test_\w+")
_NAME = re.compile(r"_*[A-Za-z]\w*(\.\w+)*")
_TABLE = re.compile(r"^(_?[A-Z_]*TRANSITIONS)\b", re.MULTILINE)


def spans(path: Path) -> Iterator[str]:
    """
    List what a document has in code type, outside of blocks.

    @param path: the document.
    """
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S)
    for found in _SPAN.finditer(text):
        yield found[1]


def located(name: str) -> Path:
    """
    Find a file that a document names.

    @param name: from the root of the project, as in C{"aesm/errors.py"}.
    """
    beside = name.startswith(("aesm/", "twisted/"))
    return (PACKAGE.parent if beside else ROOT) / name


@cache
def namesIn(path: Path) -> frozenset[str]:
    """
    List what a module defines or takes from others, without importing it: C{"Class"},
    C{"Class.method"}, C{"method"}, C{"function"}, C{"CONSTANT"}.

    @param path: the module.
    """
    names: set[str] = set()

    def visit(node: ast.AST, prefix: str) -> None:
        """Add what is below a node."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.update({child.name, prefix + child.name})
                if isinstance(child, ast.ClassDef):
                    visit(child, child.name + ".")
            elif isinstance(child, ast.Assign | ast.AnnAssign):
                targets = child.targets if isinstance(child, ast.Assign) else []
                for target in [*targets, getattr(child, "target", None)]:
                    if isinstance(target, ast.Name):
                        names.update({target.id, prefix + target.id})
            elif isinstance(child, ast.ImportFrom):
                names.update(alias.asname or alias.name for alias in child.names)
            elif isinstance(child, ast.If | ast.Try):
                visit(child, prefix)

    visit(ast.parse(path.read_bytes()), "")
    return frozenset(names)


def isThere(dotted: str) -> bool:
    """
    Look for a module, or something in one.

    @param dotted: its full name.
    """
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name, None)
        return found is not None
    return False


class NameTests(SynchronousTestCase):
    """What is named exists."""

    def test_files(self) -> None:
        """All files and folders that any document names."""
        missing = {
            f"{path.name}: {span}"
            for path in DOCUMENTS
            for span in spans(path)
            if _FILE.fullmatch(span) and not located(span).exists()
        }
        self.assertEqual(missing, set())

    def test_dotted(self) -> None:
        """All modules, and names in modules, that any document names in full."""
        missing = {
            f"{path.name}: {span}"
            for path in DOCUMENTS
            for span in spans(path)
            if _DOTTED.fullmatch(span) and not isThere(span)
        }
        self.assertEqual(missing, set())

    def test_tests(self) -> None:
        """All tests that show what a document promises."""
        everywhere: set[str] = set()
        for module in (ROOT / "tests").rglob("test_*.py"):
            everywhere |= namesIn(module)
        count, missing = 0, set()
        for path in DOCUMENTS:
            for span in spans(path):
                if named := _TESTS.fullmatch(span):
                    module = ROOT / "tests" / f"{named[1]}.py"
                    module = module.with_name(f"test_{module.name}")
                    if not module.exists() and "test_" not in named[2]:
                        continue  # something else with a colon
                    tests = namesIn(module) if module.exists() else frozenset()
                    wanted = set(named[2].split(", "))
                    count += len(wanted)
                    missing |= {f"{span}: {test}" for test in wanted - tests}
                elif (
                    _TEST.fullmatch(span) and span != "test_" and path.stem != "testing"
                ):
                    count += 1
                    if span not in everywhere:
                        missing.add(f"{path.name}: {span}")
        self.assertEqual(missing, set())
        self.assertGreater(count, 100)

    def test_examples(self) -> None:
        """C{examples/README.md} has all programs."""
        text = (ROOT / "examples" / "README.md").read_text("utf-8")
        programs = {path.name for path in (ROOT / "examples").glob("*.*")}
        missing = {name for name in programs - {"README.md"} if f"({name})" not in text}
        self.assertEqual(missing, set())

    def test_bounds(self) -> None:
        """All rows of C{docs/limits.md} name a test."""
        rows = re.findall(
            r"(?m)^\| .*$", (ROOT / "docs" / "limits.md").read_text("utf-8")
        )
        untested = [row for row in rows if not re.search(r"`[a-z/]+: [^`|]+` \|$", row)]
        self.assertEqual(
            {row.split(" | ")[-1] for row in untested}, {"test |", "--- |"}
        )

    def test_walks(self) -> None:
        """All functions that C{docs/architecture.md} names behind a file."""
        count, missing = 0, set()
        text = re.sub(
            r"^```.*?^```$", "", ARCHITECTURE.read_text("utf-8"), flags=re.M | re.S
        )
        text = re.sub(r"\n +", " ", text)  # an item of a list is one line
        for line in text.splitlines():
            names: frozenset[str] | None = None
            for found in _SPAN.finditer(line):
                span = found[1]
                if _FILE.fullmatch(span):
                    walked = line.startswith(": `", found.end())
                    names = namesIn(located(span)) if walked else None
                elif names is not None and _NAME.fullmatch(span):
                    count += 1
                    if span not in names:
                        missing.add(f"{line[:60]}: {span}")
        self.assertEqual(missing, set())
        self.assertGreater(count, 50)


class RequirementTests(SynchronousTestCase):
    """The numbered requirements of C{docs/protocol.md}."""

    def test_numbers(self) -> None:
        """
        Each number is that of its section, has an anchor of its own, and is there once.
        """
        text = PROTOCOL.read_text("utf-8")
        numbers: list[str] = []
        for section in re.split(r"(?m)^## (?=\d)", text)[1:]:
            chapter = section.partition(".")[0]
            found = re.findall(r"(<a [^>]*></a>)?\*\*(R-.*?)\*\*", section)
            for anchor, number in found:
                numbers.append(number)
                self.assertEqual(anchor, f'<a id="{number.lower()}"></a>', number)
                self.assertRegex(number, rf"^R-{chapter}\.[1-9][0-9]*$")
        self.assertEqual(len(set(numbers)), len(numbers))
        self.assertGreater(len(numbers), 100)

    def test_cited(self) -> None:
        """All numbers that a document cites are there."""
        known = set(re.findall(r"\*\*(R-[\d.]+)\*\*", PROTOCOL.read_text("utf-8")))
        cited = {
            f"{path.name}: {number}"
            for path in DOCUMENTS
            for number in re.findall(r"\bR-\d+\.\d+\b", path.read_text("utf-8"))
            if number not in known
        }
        self.assertEqual(cited, set())

    def test_words(self) -> None:
        """What has to be done has a number: before each MUST of a paragraph is one."""
        text = PROTOCOL.read_text("utf-8").partition("\n## 1.")[2]
        for block in re.split(r"\n\n|\n(?=- )", text):
            if found := re.search(r"\b(MUST|SHOULD|MAY)\b", block):
                self.assertRegex(block[: found.start()], r"\*\*R-", block)


class SiteTests(SynchronousTestCase):
    """The site of the documents, all versions of them."""

    def test_versions(self) -> None:
        """A site leads to its newest version; a candidate is older than its release."""
        site = Path(self.mktemp())
        for version in ("1.9.0", "1.10.0rc1", "1.10.0", "1.2.0"):
            front = site / version / "docs" / "index.html"
            front.parent.mkdir(parents=True)
            front.touch()
        runpy.run_path(str(ROOT / "docs" / "build.py"))["listVersions"](site)
        listed = re.findall(r">([\w.]+)</a>", (site / "versions.html").read_text())
        self.assertEqual(listed, ["1.10.0", "1.10.0rc1", "1.9.0", "1.2.0"])
        self.assertIn("url=1.10.0/", (site / "index.html").read_text())


class _State(Enum):
    """A life."""

    EGG = "egg"
    YOUNG = "young"
    OLD = "old"
    DEAD = "dead"
    EATEN = "eaten"


_TABLE_OF_LIFE = {
    (_State.EGG, "hatched"): _State.YOUNG,
    (_State.YOUNG, "fed"): _State.YOUNG,
    (_State.YOUNG, "grown"): _State.OLD,
    (_State.OLD, "died"): _State.DEAD,
} | {(state, "eaten"): _State.EATEN for state in _State}


class DiagramTests(SynchronousTestCase):
    """The diagrams of C{docs/architecture.md}."""

    def test_drawn(self) -> None:
        """
        What leads elsewhere is drawn, in the order of the table; what leads to one
        state from all is told in words.
        """
        expected = """\
```mermaid
stateDiagram-v2
    [*] --> EGG
    EGG --> YOUNG: hatched
    YOUNG --> OLD: grown
    OLD --> DEAD: died
    EATEN --> [*]
```

From every state: `eaten` to EATEN.
"""
        self.assertEqual(diagrams.diagram(_TABLE_OF_LIFE), expected)

    def test_replaced(self) -> None:
        """A diagram takes the place of the former one, and of nothing else."""
        mark = f"<!-- transitions: {__name__}._TABLE_OF_LIFE -->\n"
        drawn = diagrams.diagram(_TABLE_OF_LIFE)
        text = f"before\n\n{mark}{drawn}\nFrom here on other things.\n\n{mark}"
        self.assertEqual(diagrams.updated(text + "```mermaid\n```\n"), text + drawn)

    def test_same(self) -> None:
        """
        They are those of the tables: C{python -m tests.support.diagrams} prints them
        anew.
        """
        text = ARCHITECTURE.read_text("utf-8")
        self.assertEqual(diagrams.updated(text), text)

    def test_all(self) -> None:
        """Each table of transitions has one."""
        text = ARCHITECTURE.read_text("utf-8")
        missing = []
        for path in PACKAGE.rglob("*.py"):
            for name in _TABLE.findall(path.read_text("utf-8")):
                module = ".".join(
                    path.relative_to(PACKAGE.parent).with_suffix("").parts
                )
                if f"<!-- transitions: {module}.{name} -->\n```mermaid\n" not in text:
                    missing.append(f"{module}.{name}")
        self.assertEqual(missing, [])
