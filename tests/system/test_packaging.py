"""
What an installation of the package holds, and that its programs start.

The files are looked up in the records of the installed distribution, so that
the tests say something about the wheel: in a source tree without one, or after
an editable install, those are skipped.  The programs run in interpreters of
their own, as an operator would run them.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sysconfig
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import aesm
from aesm._version import FORM
from tests import ROOT


def installed() -> Distribution:
    """
    Find the installed distribution.

    @raise SkipTest: there is none.
    """
    try:
        return distribution("aesm")
    except PackageNotFoundError as error:
        raise SkipTest("aesm is not installed") from error


def wheelFiles() -> list[str]:
    """
    List the files that came out of the wheel.

    @return: paths relative to the folder that the wheel was installed in.
    @raise SkipTest: aesm is not installed from a wheel.
    """
    files = [str(path) for path in installed().files or ()]
    if "aesm/errors.py" not in files:
        raise SkipTest("aesm is installed editable")
    return files


class WheelTests(SynchronousTestCase):
    """The wheel holds what it should and no more."""

    def test_isWhatIsTested(self) -> None:
        """
        The package that the tests import is the installed one, not a source tree
        that happens to be on the path.
        """
        wheelFiles()
        self.assertEqual(
            Path(aesm.__file__).resolve(),
            Path(str(installed().locate_file("aesm/__init__.py"))).resolve(),
        )

    def test_typed(self) -> None:
        """Type checkers see the annotations."""
        self.assertIn("aesm/py.typed", wheelFiles())

    def test_plugin(self) -> None:
        """The dropin lies where Twisted looks for it."""
        self.assertIn("twisted/plugins/aesm_plugin.py", wheelFiles())

    def test_twistedIsLeftAlone(self) -> None:
        """
        Nothing else goes into C{twisted}: an C{__init__.py} there would replace
        Twisted's.
        """
        theirs = [
            name
            for name in wheelFiles()
            if name.startswith("twisted/") and "__pycache__" not in name
        ]
        self.assertEqual(theirs, ["twisted/plugins/aesm_plugin.py"])

    def test_nothingElse(self) -> None:
        """
        Tests, documents and examples stay out; compiled modules have a library beside
        the package.
        """
        tops = {name.split("/")[0] for name in wheelFiles() if name[0] != "."}
        expected = {"aesm", "twisted", f"aesm-{aesm.__version__}.dist-info"}
        if FORM == "compiled":
            expected.add(f"aesm__mypyc{EXTENSION_SUFFIXES[0]}")
        self.assertEqual(tops, expected)

    def test_license(self) -> None:
        """The license travels with the code, and that of Unicode's table beside it."""
        licenses = [name for name in wheelFiles() if name.endswith("/LICENSE")]
        self.assertEqual(len(licenses), 1)
        self.assertIn("aesm/chat/UNICODE-LICENSE.txt", wheelFiles())

    def test_sbom(self) -> None:
        """
        The SBOM lies where PEP 770 says, and agrees with the metadata, but for extras;
        what a compiled wheel has beside its own is no external part.
        """
        [name] = [name for name in wheelFiles() if "/sboms/" in name]
        self.assertEqual(name, f"aesm-{aesm.__version__}.dist-info/sboms/aesm.cdx.json")
        path = Path(str(installed().locate_file(name)))
        sbom: dict[str, Any] = json.loads(path.read_text("utf-8"))
        package = sbom["metadata"]["component"]
        self.assertEqual(
            [package["name"], package["version"], package["purl"]],
            ["aesm", aesm.__version__, f"pkg:pypi/aesm@{aesm.__version__}"],
        )
        self.assertEqual(
            package["licenses"],
            [{"expression": installed().metadata["License-Expression"]}],
        )
        needed = [
            bound.split(">=")
            for bound in installed().requires or ()
            if "extra ==" not in bound
        ]
        self.assertEqual(
            [
                (part["name"], part["versionRange"], part["purl"])
                for part in sbom["components"]
                if part.get("isExternal")
            ],
            [
                (name, f"vers:pypi/>={bound}", f"pkg:pypi/{name}")
                for name, bound in needed
            ],
        )
        bundled = [p["name"] for p in sbom["components"] if not p.get("isExternal")]
        self.assertEqual(bundled, ["mypy"] if FORM == "compiled" else [])
        self.assertEqual(
            sbom["dependencies"][0],
            {
                "ref": package["bom-ref"],
                "dependsOn": [part["bom-ref"] for part in sbom["components"]],
            },
        )


class MetadataTests(SynchronousTestCase):
    """What the distribution says of itself is so."""

    def test_version(self) -> None:
        """The version has one home."""
        self.assertEqual(installed().version, aesm.__version__)

    def test_scripts(self) -> None:
        """There is one command, C{aesm}."""
        scripts = installed().entry_points.select(group="console_scripts")
        self.assertEqual(
            [(script.name, script.value) for script in scripts],
            [("aesm", "aesm.__main__:main")],
        )


class ClaimTests(SynchronousTestCase):
    """The project claims what tox runs."""

    def setUp(self) -> None:
        """Read the two files that must agree."""
        try:
            project = (ROOT / "pyproject.toml").read_text("utf-8")
            tox = (ROOT / "tox.ini").read_text("utf-8")
        except FileNotFoundError as error:
            raise SkipTest("not in a source tree") from error
        declared = tomllib.loads(project)
        self.project: dict[str, Any] = declared["project"]
        self.groups: dict[str, list[str]] = declared["dependency-groups"]
        self.tox = configparser.RawConfigParser()
        self.tox.read_string(tox)

    def test_oldestDependencies(self) -> None:
        """The lower bounds are what the C{oldest} environment pins."""
        pins = re.findall(r"oldest: (\S+)==(\S+)", self.tox["testenv"]["deps"])
        bounds = [tuple(bound.split(">=")) for bound in self.project["dependencies"]]
        self.assertEqual(bounds, pins)

    def test_pythons(self) -> None:
        """The Pythons that are claimed are those that the tests are run on."""
        claimed = re.findall(r":: 3\.(\d+)", " ".join(self.project["classifiers"]))
        environments = self.tox["tox"]["env_list"]
        self.assertEqual(claimed, re.findall(r"3(\d\d)", environments))

    def test_releaseTools(self) -> None:
        """Each tool that makes a release is among those that have a hash."""
        pins = (ROOT / "requirements" / "packaging.txt").read_text("utf-8")
        pinned = re.findall(r"(?m)^([\w.-]+)==", pins)
        tools = [tool.split("[")[0] for tool in self.groups["packaging"]]
        self.assertEqual([tool for tool in tools if tool not in pinned], [])


class ProgramTests(SynchronousTestCase):
    """The programs start, and Twisted finds the plugins."""

    def runProgram(self, *command: str) -> str:
        """
        Run an installed program, away from any source tree.

        @param command: its name, in the folder of the interpreter's programs, and
            its arguments.
        @return: what it printed.
        @raise SkipTest: aesm is not installed.
        """
        installed()
        home = self.mktemp()
        os.makedirs(home)
        program = os.path.join(sysconfig.get_path("scripts"), command[0])
        done = subprocess.run(
            [program, *command[1:]],
            env={**os.environ, "PYTHONPATH": "", "AESM_HOME": os.path.abspath(home)},
            cwd=home,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_twistdKnowsUs(self) -> None:
        """C{twistd --help} lists the service."""
        self.assertRegex(self.runProgram("twistd", "--help"), r"(?m)^ +aesm +\S")

    def test_twistdHelp(self) -> None:
        """C{twistd aesm --help} shows the service's options."""
        self.assertIn("--listen", self.runProgram("twistd", "aesm", "--help"))

    def test_command(self) -> None:
        """C{aesm --help} and C{python -m aesm --help} are one."""
        usage = self.runProgram("aesm", "--help")
        self.assertIn("aesm", usage)
        self.assertEqual(self.runProgram("python", "-m", "aesm", "--help"), usage)

    def test_endpointStrings(self) -> None:
        """Twisted parses C{aesm:} strings, the server's and the client's."""
        program = r"""
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, serverFromString
serverFromString(reactor, r"aesm:tcp\:0\:interface\=127.0.0.1")
clientFromString(reactor, r"aesm:tcp\:127.0.0.1\:9")
print("parsed")
"""
        self.assertEqual(self.runProgram("python", "-c", program).strip(), "parsed")
