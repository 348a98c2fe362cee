"""
What goes into a wheel beside the sources: an SBOM, and, where C{AESM_COMPILE=1} asks
for it, the hot modules compiled by mypyc.

hatchling runs this; pyproject.toml names it, and which modules are compiled with what.

The SBOM, CycloneDX, is made of the metadata that goes into the wheel anyway, so that
nobody has to keep it up to date.  It has no time, and a serial number that follows
from the rest, so that a wheel can be built again to the last bit.  What we need is
external, of any version from the bound on, which CycloneDX can say since 1.7.  Nothing
is bundled but, in a compiled wheel, the runtime library of mypyc.

A compiled module is an extension beside its source, which stays for tracebacks, type
checkers and whoever reads it.  Without the switch nothing of this is needed or done.

@see: PEP 770
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Sequence
from contextlib import chdir
from importlib.metadata import version as versionOf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.core import ProjectMetadata

SWITCH = "AESM_COMPILE"  # 1 in the environment compiles


def sbom(metadata: ProjectMetadata[Any], compiledWith: str | None) -> dict[str, object]:
    """
    Describe the package.

    @param metadata: the project's; each dependency has one bound, the lowest version.
    @param compiledWith: the version of mypy, if that has compiled something.
    """
    core = metadata.core
    package = f"pkg:pypi/{core.name}@{metadata.version}"
    needed: list[dict[str, object]] = []
    for dependency in core.dependencies:
        name, bound = dependency.split(">=")
        needed.append(
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{name}",
                "name": name,
                "versionRange": f"vers:pypi/>={bound}",
                "isExternal": True,
                "purl": f"pkg:pypi/{name}",
            }
        )
    if compiledWith is not None:
        needed.append(
            {
                "type": "library",
                "bom-ref": "pkg:pypi/mypy",
                "name": "mypy",
                "version": compiledWith,
                "licenses": [{"expression": "MIT"}],
                "purl": f"pkg:pypi/mypy@{compiledWith}",
            }
        )
    described = {
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": package,
                "name": core.name,
                "version": metadata.version,
                "description": core.description,
                "licenses": [{"expression": core.license_expression}],
                "purl": package,
            }
        },
        "components": needed,
        "dependencies": [
            {"ref": package, "dependsOn": [part["bom-ref"] for part in needed]},
            *({"ref": part["bom-ref"]} for part in needed),
        ],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": uuid5(NAMESPACE_URL, json.dumps(described)).urn,
        "version": 1,
        **described,
    }


def compileModules(root: str, modules: Sequence[str], folder: Path) -> list[Path]:
    """
    Compile modules, all into one shared library and each into a shim that loads it.

    @param root: the folder of the sources.
    @param modules: full names.
    @param folder: an empty one, for what is made on the way and what comes out.
    @return: the extensions, below C{folder / "lib"} as they are to lie in the wheel.
    @raise SystemExit: they cannot be compiled; what was printed says why.
    """
    # Needed with the switch alone: WheelHook.dependencies.
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.errors import BaseError, CCompilerError

    sources = [f"{module.replace('.', '/')}.py" for module in modules]
    # Paths below here, and no debug information, so that none of this machine's is
    # compiled into them.
    with chdir(root):
        extensions = mypycify(
            [f"--cache-dir={folder / 'cache'}", *sources],
            debug_level="0",
            group_name="aesm",
            target_dir=str(folder / "c"),
        )
        distribution = Distribution({"ext_modules": extensions})
        command = distribution.get_command_obj("build_ext")
        command.build_lib = str(folder / "lib")
        command.build_temp = str(folder / "temp")
        command.ensure_finalized()
        try:
            command.run()
        except (BaseError, CCompilerError) as error:
            raise SystemExit(
                f"{SWITCH}=1 needs a C compiler and Python's headers, such as "
                f"build-essential and python3-dev of Debian have them: {error}\n"
                f"Without {SWITCH} aesm is installed in pure Python, which does the "
                "same."
            ) from error
    return sorted(path for path in (folder / "lib").rglob("*") if path.is_file())


class WheelHook(BuildHookInterface[Any]):
    """Hand SBOM and extensions to hatchling."""

    @property
    def _compiles(self) -> bool:
        """Whether to compile: an editable install has to follow its sources."""
        return (
            os.environ.get(SWITCH, "0") not in ("", "0")
            and self.target_name == "wheel"
            and sys.implementation.name == "cpython"
        )

    def dependencies(self) -> list[str]:
        """List what compiling needs: the dependency group C{compile}."""
        if not self._compiles:
            return []
        project = tomllib.loads(Path(self.root, "pyproject.toml").read_text("utf-8"))
        group: list[str] = project["dependency-groups"]["compile"]
        return group

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make them for the time of the build."""
        self._folder = TemporaryDirectory()
        folder = Path(self._folder.name)
        compiles = self._compiles and version == "standard"
        described = sbom(self.metadata, versionOf("mypy") if compiles else None)
        path = folder / f"{self.metadata.core.name}.cdx.json"
        path.write_text(json.dumps(described, indent=2) + "\n", "utf-8")
        build_data["sbom_files"].append(str(path))
        if compiles:
            for extension in compileModules(self.root, self.config["compile"], folder):
                inWheel = extension.relative_to(folder / "lib").as_posix()
                build_data["force_include"][str(extension)] = inWheel
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(
        self, version: str, build_data: dict[str, Any], artifact_path: str
    ) -> None:
        """Remove what was made."""
        self._folder.cleanup()
