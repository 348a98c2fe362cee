"""
C{hatch_build.py}: what the switch compiles, and that nothing else is needed without it.
That a whole wheel can be compiled, and works, is what tox's C{compiled} shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from hatchling.builders.wheel import WheelBuilder
from twisted.trial.unittest import SkipTest, SynchronousTestCase

import aesm
from aesm._version import FORM
from tests import ROOT

MODULE = """
from typing import Final

FORM: Final = "pure Python" if __file__.endswith(".py") else "compiled"
"""


class BuildTestCase(SynchronousTestCase):
    """Has the hook, as hatchling loads it, and a project of one module for it."""

    def setUp(self) -> None:
        """Load the hook, and write the project."""
        path = ROOT / "hatch_build.py"
        if not path.exists():
            raise SkipTest("not in a source tree")
        spec = spec_from_file_location("hatch_build", path)
        assert spec is not None and spec.loader is not None
        self.module: Any = module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.folder = Path(self.mktemp()).resolve()
        (self.folder / "aesm").mkdir(parents=True)
        (self.folder / "aesm" / "__init__.py").touch()
        (self.folder / "aesm" / "form.py").write_text(MODULE)
        project = (ROOT / "pyproject.toml").read_text("utf-8")
        (self.folder / "pyproject.toml").write_text(project, "utf-8")
        self.declared = tomllib.loads(project)

    def switch(self, value: str) -> None:
        """Set the switch."""
        self.patch(os, "environ", {**os.environ, "AESM_COMPILE": value})

    def hook(self, target: str = "wheel") -> Any:
        """
        Make the hook.

        @param target: what is built.
        """
        builder = WheelBuilder(str(self.folder))
        return self.module.WheelHook(
            str(self.folder),
            {"compile": ["aesm.form"]},
            builder.config,
            builder.metadata,
            str(self.folder / "dist"),
            target,
        )

    def build(self, version: str = "standard") -> dict[str, Any]:
        """
        Let the hook do its work.

        @param version: C{"standard"} or C{"editable"}.
        @return: what it tells hatchling.
        """
        (self.folder / "aesm" / "_version.py").write_text('__version__ = "1"\n')
        (self.folder / "README.md").touch()
        (self.folder / "LICENSE").touch()
        data = {"sbom_files": [], "force_include": {}, "pure_python": True}
        hook = self.hook()
        self.addCleanup(hook.finalize, version, data, "")
        hook.initialize(version, data)
        return data


class SwitchTests(BuildTestCase):
    """C{AESM_COMPILE}."""

    def test_off(self) -> None:
        """Without it nothing is needed, and the wheel is pure Python."""
        for value in ("", "0"):
            self.switch(value)
            self.assertEqual(self.hook().dependencies(), [])
            data = self.build()
            self.assertEqual((data["force_include"], data["pure_python"]), ({}, True))
            self.assertEqual(len(data["sbom_files"]), 1)

    def test_needs(self) -> None:
        """With it a wheel needs what the dependency group names; an sdist does not."""
        self.switch("1")
        group = self.declared["dependency-groups"]["compile"]
        self.assertEqual(self.hook().dependencies(), group)
        self.assertEqual(self.hook("sdist").dependencies(), [])

    def test_editable(self) -> None:
        """An editable install follows its sources."""
        self.switch("1")
        self.assertEqual(self.build("editable")["force_include"], {})

    def test_notCPython(self) -> None:
        """What mypyc does not compile for gets the pure wheel."""
        self.switch("1")
        self.patch(sys.implementation, "name", "pypy")
        self.assertEqual(self.hook().dependencies(), [])
        self.assertTrue(self.build()["pure_python"])


class CompileTests(BuildTestCase):
    """What happens with the switch, where mypyc is installed."""

    def setUp(self) -> None:
        """Turn it on."""
        if find_spec("mypyc") is None:
            raise SkipTest("mypyc is not installed")
        super().setUp()
        self.switch("1")

    def test_compiles(self) -> None:
        """The wheel is for this platform, and has extensions beside the sources."""
        data = self.build()
        self.assertEqual((data["pure_python"], data["infer_tag"]), (False, True))
        folders = []
        for path, inWheel in data["force_include"].items():
            os.link(path, self.folder / inWheel)
            folders.append(str(Path(inWheel).parent))
        self.assertEqual(sorted(folders), [".", "aesm"])
        said = subprocess.run(
            [sys.executable, "-c", "from aesm.form import FORM; print(FORM)"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(said.stdout, "compiled\n")

    def test_noCompiler(self) -> None:
        """Without a compiler the error says what to install, and how to do without."""
        self.patch(os, "environ", {**os.environ, "CC": "no-such-compiler"})
        error = self.assertRaises(SystemExit, self.build)
        self.assertIn("needs a C compiler", str(error))
        self.assertIn("Without AESM_COMPILE", str(error))


class FormTests(SynchronousTestCase):
    """What runs is what was built."""

    def test_wanted(self) -> None:
        """In an environment of tox that wants the compiled form, it runs."""
        self.assertEqual(FORM, os.environ.get("AESM_FORM", FORM))

    def setUp(self) -> None:
        """Read what is listed to be compiled."""
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
        hooks = declared["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
        self.listed: list[str] = hooks["custom"]["compile"]

    def test_whole(self) -> None:
        """Of the modules that are listed all are compiled, or none."""
        files = [str(import_module(module).__file__) for module in self.listed]
        sources = [file for file in files if file.endswith(".py")]
        self.assertEqual(sources, files if FORM == "pure Python" else [])

    def test_providedBy(self) -> None:
        """None of them asks C{providedBy}, which is compiled into another call."""
        package = Path(aesm.__file__).parent.parent
        for module in self.listed:
            source = package.joinpath(*module.split(".")).with_suffix(".py")
            self.assertNotIn(".providedBy(", source.read_text("utf-8"), module)
