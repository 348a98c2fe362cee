"""
Builds the documentation site of this version::

    python docs/build.py site

writes C{site/0.1.0/}, with the reference of the API in it, beside what other versions
have left there; then C{site/index.html}, which leads to the newest, and
C{site/versions.html}, which lists them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.version import Version

ROOT = Path(__file__).parent.parent
FRONT = "docs/index.html"  # of each version

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
{head}
<title>aesm</title>
<h1>aesm</h1>
<ul>
{items}
</ul>
"""


def build(site: Path) -> None:
    """
    Write this version.

    @param site: where all versions are.
    """
    text = (ROOT / "aesm" / "_version.py").read_text("utf-8")
    folder = site / re.findall(r'__version__ = "(.*)"', text)[0]
    shutil.rmtree(folder, ignore_errors=True)
    with TemporaryDirectory() as cache:
        _run(
            "sphinx", "-W", "--keep-going", "-q", "-d", cache, "-c", "docs", ".", folder
        )
    _run("pydoctor", "-q", "-W", f"--html-output={folder / 'docs' / 'api'}")


def _run(module: str, *arguments: str | Path) -> None:
    """Run a tool."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True)


def listVersions(site: Path) -> None:
    """Write what leads to all versions that there are."""
    versions = sorted(
        (front.relative_to(site).parts[0] for front in site.glob(f"*/{FRONT}")),
        key=Version,
        reverse=True,
    )
    items = "\n".join(
        f'<li><a href="{name}/{FRONT}">{name}</a></li>' for name in versions
    )
    newest = f'<meta http-equiv="refresh" content="0; url={versions[0]}/{FRONT}">'
    for name, head in (("index.html", newest), ("versions.html", "")):
        (site / name).write_text(_PAGE.format(head=head, items=items), "utf-8")


if __name__ == "__main__":
    site = Path(sys.argv[1]).resolve()
    build(site)
    listVersions(site)
