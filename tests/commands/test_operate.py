"""
C{aesm status}, C{aesm kick} and others: L{aesm.commands.operate}.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aesm.commands import operate as module
from aesm.commands.control import NotDone
from tests.commands.test_cli import CommandTestCase
from tests.commands.test_table import answer, row


class OperateTests(CommandTestCase):
    """Each command asks for what it is told to."""

    def setUp(self) -> None:
        """Answer in the place of a server."""
        super().setUp()
        self.asked: list[tuple[Path, dict[str, Any]]] = []
        self.answer: dict[str, Any] = {"ok": True}
        self.patch(module, "ask", self.ask)

    def ask(self, path: Path, request: dict[str, Any]) -> dict[str, Any]:
        """Answer."""
        self.asked.append((path, request))
        return self.answer

    def test_commands(self) -> None:
        """What is not given is left to the server."""
        for command, fields, more, said in (
            (["kick", "a"], {"who": "a", "reason": ""}, {"connections": 2}, "2"),
            (
                ["kick", "--reason", "b c", "a"],
                {"who": "a", "reason": "b c"},
                {"connections": 1},
                "ended connections: 1",
            ),
            (["authorize", "k", "n"], {"key": "k", "name": "n"}, {}, "let in: n"),
            (
                ["revoke", "a"],
                {"who": "a"},
                {"keys": 1, "connections": 3},
                "keys taken out: 1; ended connections: 3",
            ),
            (["reload"], {}, {}, ""),
            (["drain"], {}, {"connections": 4}, "told to leave: 4"),
            (["drain", "--over", "2.5"], {"over": 2.5}, {"connections": 0}, "0"),
        ):
            self.answer = {"ok": True, **more}
            self.assertIn(said, self.good(*command))
            expected = self.home / "control.sock", {"command": command[0], **fields}
            self.assertEqual(self.asked.pop(), expected)

    def test_status(self) -> None:
        """Those are shown who lag most, or whom one asks for, or all."""
        self.answer = answer(row())
        for words, fields in (
            (["status"], {"most": module.LISTED}),
            (["status", "--json"], {"most": module.LISTED}),
            (["status", "--json", "--all"], {}),
            (["status", "alice"], {"who": "alice"}),
        ):
            self.assertIn("alice", self.good(*words))
            path, request = self.asked.pop()
            self.assertEqual(path, self.home / "control.sock")
            self.assertEqual(request, {"command": "status", **fields})
        self.good("status", "alice", "--control", "/x/y")
        self.assertEqual(self.asked.pop()[0], Path("/x/y"))

    def test_watch(self) -> None:
        """They are watched where that is asked for."""
        self.patch(module, "watch", lambda ask, asJSON: 7 * asJSON)
        self.assertEqual(self.execute("status", "--watch", "--json")[0], 7)

    def test_notDone(self) -> None:
        """What a server cannot do, or does not say, is one line and status 1."""
        self.answer = {"error": "nobody is\x1b here"}
        self.assertIn(r"nobody is\x1b here", self.bad("kick", "alice"))
        self.answer = {}
        self.assertIn("says nothing", self.bad("kick", "alice"))

    def test_noServer(self) -> None:
        """Nor is there always one."""

        def fail(path: Path, request: object) -> None:
            """Find none."""
            raise NotDone("no server")

        self.patch(module, "ask", fail)
        self.assertIn("no server", self.bad("reload"))

    def test_wrong(self) -> None:
        """What cannot be parsed is status 2."""
        for command in (
            *(["kick"], ["status", "a", "b"], ["authorize", "k"], ["revoke"]),
            *(["reload", "a"], ["drain", "--over", "x"], ["status", "--nosuch"]),
        ):
            status, output, errors = self.execute(*command)
            self.assertEqual((status, output), (2, ""), command)
            self.assertRegex(errors, r"\Aaesm: [^\n]+`aesm \w+ --help`\)\n\Z")
        self.assertEqual(self.asked, [])
