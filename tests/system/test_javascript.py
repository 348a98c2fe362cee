"""
The client in TypeScript, C{clients/javascript}, which was written from the protocol's
document alone, has tests of its own; they start our server.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests import ROOT

CLIENT = ROOT / "clients" / "javascript"
SCHEDULES = "30"  # of cuts; `npm test` by itself has thousands
OLDEST = (20, 19)  # of Node
OFFLINE = re.compile("ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT")


def whyNot() -> str | None:
    """Say why the tests cannot run, or None if they can."""
    node = shutil.which("node")
    if not CLIENT.is_dir():
        return "clients/javascript is not here"
    if node is None or shutil.which("npm") is None:
        return "there is no node and npm on the path"
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    return None if numbers >= OLDEST else f"node {version.strip()} is too old"


class JavascriptTests(SynchronousTestCase):
    """The tests of the package."""

    skip = whyNot()
    timeout = 1200

    def test_package(self) -> None:
        """
        It builds from what its lock file names, and passes its tests against our
        server.
        """
        # In a copy, so that nothing is written beside the sources; beside it the
        # vectors that its tests read.
        copy = Path(self.mktemp()).absolute() / "clients" / "javascript"
        ignored = shutil.ignore_patterns("node_modules", "dist")
        shutil.copytree(CLIENT, copy, ignore=ignored)
        (copy.parents[1] / "tests").symlink_to(ROOT / "tests")
        environment = {
            **os.environ,
            "AESM_PYTHON": sys.executable,
            "AESM_SCHEDULES": SCHEDULES,
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        }
        for command in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "test"]):
            done = subprocess.run(
                command,
                cwd=copy,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if command[1] == "ci" and done.returncode and OFFLINE.search(done.stdout):
                raise SkipTest("npm's registry is out of reach")
            self.assertEqual(done.returncode, 0, done.stdout)
