"""
Puts a list of what the package is and needs into each wheel: a CycloneDX SBOM.

hatchling runs this; pyproject.toml names it.  The list is made of the metadata
that goes into the wheel anyway, so that nobody has to keep it up to date.  It has no
time, and a serial number that follows from the rest, so that a wheel can be built
again to the last bit.  Nothing is bundled: what we need is external, of any version
from the bound on, which CycloneDX can say since 1.7.

@see: PEP 770
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.core import ProjectMetadata


def sbom(metadata: ProjectMetadata[Any]) -> dict[str, object]:
    """
    Describe the package.

    @param metadata: the project's; each dependency has one bound, the lowest version.
    """
    core = metadata.core
    package = f"pkg:pypi/{core.name}@{metadata.version}"
    needed = []
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


class SBOMHook(BuildHookInterface[Any]):
    """Hand the SBOM to hatchling, which puts it where PEP 770 says."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write it for the time of the build."""
        self._folder = TemporaryDirectory()
        path = Path(self._folder.name, f"{self.metadata.core.name}.cdx.json")
        path.write_text(json.dumps(sbom(self.metadata), indent=2) + "\n", "utf-8")
        build_data["sbom_files"].append(str(path))

    def finalize(
        self, version: str, build_data: dict[str, Any], artifact_path: str
    ) -> None:
        """Remove what was written."""
        self._folder.cleanup()
