"""
The programs of the README and of C{examples}, each run as a process, as somebody
runs it who has pasted it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import time

from tests import ROOT
from tests.blocking.test_network import freePort
from tests.system.test_commands import AT, TWISTD, Process, ProcessTestCase
from tests.test_imports import codeLines

EXAMPLES = ROOT / "examples"

# Runs a program, and says on standard output where it listens.
LOUD = """
import sys
from twisted.python.log import startLogging
startLogging(sys.stdout, setStdout=False)
exec(open(sys.argv.pop(1)).read())
"""


def readmePrograms() -> list[str]:
    """
    Take the programs out of the README, in order: a server and a client with
    Twisted, and both without.
    """
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith("from ")]


class ExampleTestCase(ProcessTestCase):
    """Tests that run programs."""

    def program(
        self, text: str, port: int | str, *arguments: str, loud: bool = False
    ) -> Process:
        """
        Start a program with another port than the one it names.

        @param text: the program.
        @param port: the port; 0 for any.
        @param arguments: its command line.
        @param loud: whether it is to say where it listens.
        """
        changed, count = re.subn(r"\b876[67]\b", str(port), text)
        self.assertGreater(count, 0)
        path = self.home / f"program{len(list(self.home.iterdir()))}.py"
        path.write_text(changed, "utf-8")
        return self.start("-u", *(("-c", LOUD) if loud else ()), str(path), *arguments)

    def example(self, name: str, endpoint: str) -> Process:
        """
        Start an example that is told its port.

        @param name: its file.
        @param endpoint: of the server that it is to talk to.
        """
        return self.start(str(EXAMPLES / name), endpoint.rpartition(":")[2])

    def assertPrints(self, program: Process, output: str) -> None:
        """
        Check that a program ends, without a word but those expected.

        @param program: the program.
        @param output: all of its standard output.
        """
        status = program.wait()
        self.assertEqual((program.errors, program.output, status), ("", output, 0))


class ReadmeTests(ExampleTestCase):
    """What the README shows runs."""

    def test_same(self) -> None:
        """C{twisted_server.py} and C{twisted_client.py} are the README's programs."""
        texts = [
            (EXAMPLES / name).read_text("utf-8")
            for name in ("twisted_server.py", "twisted_client.py")
        ]
        self.assertEqual(texts, readmePrograms()[:2])

    def test_twisted(self) -> None:
        """
        The client is answered, and the server says who comes and goes until Ctrl-C,
        and says goodbye then to who is there.
        """
        serverText, clientText, _ = readmePrograms()
        server = self.program(serverText, 0, loud=True)
        port = server.expect(r"starting on (\d+)$")[1]
        self.assertPrints(self.program(clientText, port), "you said 'hello'\n")
        server.expect(r"^here is \('127\.0\.0\.1', \d+\) \S{44}$")
        server.expect(r"^gone is \('127\.0\.0\.1', \d+\) .*code 1000")
        staying = self.connect(f"tcp:127.0.0.1:{port}")
        server.expect(r"(?s)here is .*here is ")
        server.process.send_signal(signal.SIGINT)
        self.assertIn(server.wait(), (0, -signal.SIGINT))
        self.assertLeft(staying)
        self.assertNotIn("Traceback", server.said())

    def test_blocking(self) -> None:
        """Server and client in one, without a reactor in sight."""
        program = self.program(readmePrograms()[2], freePort())
        self.assertEqual((program.wait(), program.errors), (0, ""))
        self.assertRegex(
            program.output,
            r"\A\(\('127\.0\.0\.1', \d+\), .*'text or bytes'.*\)\n\Z",
        )


class AsyncioTests(ExampleTestCase):
    """Programs of asyncio's."""

    def test_both(self) -> None:
        """The client is answered and asks, and Ctrl-C ends the server."""
        server = self.start("-u", str(EXAMPLES / "asyncio_server.py"), "0")
        (port,) = server.expect(r"^listening on \('127\.0\.0\.1', (\d+)\)$").groups()
        client = self.start(str(EXAMPLES / "asyncio_program.py"), port)
        self.assertEqual((client.wait(), client.errors), (0, ""), client.said())
        said = "".join(f"you said {word!r}\n" for word in ("one", "two", "three"))
        self.assertRegex(client.output, rf"\Ait answers \d\d:\d\d\n{said}\Z")
        server.expect("^gone is ")
        server.process.send_signal(signal.SIGINT)
        self.assertEqual((server.wait(), server.errors), (0, ""), server.said())


class CoroutineTests(ExampleTestCase):
    """A server with a coroutine for each client."""

    def test_guessing(self) -> None:
        """A client guesses until it is right, and is told of the end then."""
        program = str(EXAMPLES / "coroutine_server.py")
        server = self.start("-u", "-c", LOUD, program, "0")
        port = server.expect(r"starting on (\d+)$")[1]
        client = self.connect(f"tcp:127.0.0.1:{port}")
        client.expect(f"^{AT} guess a number from 1 to 100$")
        client.type("".join(f"{number}\n" for number in (101, *range(1, 101))))
        client.expect(f"^{AT} less$")
        client.expect(f"^{AT} yes!$")
        server.process.send_signal(signal.SIGINT)
        self.assertIn(server.wait(), (0, -signal.SIGINT))
        self.assertNotIn("Traceback", server.said())


class ServerTests(ExampleTestCase):
    """Servers that C{twistd} runs."""

    def tac(self, listen: str) -> Process:
        """
        Start the application.

        @param listen: where it is to listen.
        """
        self.patch(os, "environ", os.environ | {"LISTEN": listen})
        tac = str(EXAMPLES / "server.tac")
        return self.start("-c", TWISTD, "-n", "--pidfile=", "-y", tac)

    def test_tac(self) -> None:
        """The application tells the time, and says goodbye when it is stopped."""
        server = self.tac("tcp:0:interface=127.0.0.1")
        where = server.expect(r"listening on (127\.0\.0\.1:\d+) with")[1]
        client = self.connect(f"tcp:{where}")
        client.expect(f"^{AT} {AT}$")
        server.process.terminate()
        self.assertLeft(client)
        server.wait()
        self.assertIn("Server Shut Down", server.output)
        self.assertNotIn("Traceback", server.said())

    def test_tacInUse(self) -> None:
        """Where it cannot listen, it does not start."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = self.tac(f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1")
            self.assertEqual(server.wait(), 1, server.said())
        self.assertIn("CannotListenError: Couldn't listen on", server.output)

    def test_handlerPlugin(self) -> None:
        """With its folder on the path, a handler of one's own has a name."""
        folder = self.home / "plugin"  # a copy, since Twisted keeps a cache beside it
        shutil.copytree(EXAMPLES / "handler_plugin", folder)
        self.patch(sys, "path", [*sys.path, str(folder)])
        _, endpoint = self.serve("--handler", "shout")
        client = self.connect(endpoint)
        client.expect(f"^{AT} 1 here$")
        client.type("hello\n")
        client.expect(f"^{AT} HELLO$")
        client.end()
        self.assertEqual(client.wait(), 0, client.said())
        usage = self.twistd("--help")
        usage.expect(r"shout:\s+text\s+comes\s+back\s+in\s+capitals")
        self.assertEqual(usage.wait(), 0)


class ComparedTests(ExampleTestCase):
    """The programs that C{docs/comparison.md} has beside those of others."""

    def run_(self, name: str, port: int, *arguments: str) -> Process:
        """
        Start one.

        @param name: its file.
        @param port: where they meet.
        """
        return self.program((EXAMPLES / name).read_text("utf-8"), port, *arguments)

    def serving(self, name: str, *arguments: str) -> tuple[Process, int]:
        """
        Start one that listens, and wait until it does.

        @param name: its file.
        @return: the process, and where it listens.
        """
        port = freePort()
        process = self.run_(name, port, *arguments)
        while process.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port)),
            ):
                break
            time.sleep(0.05)
        return process, port

    def test_jobs(self) -> None:
        """Workers are killed in the middle of a job: others have it, each is done."""
        boss, port = self.serving("jobs_boss.py")
        for _ in range(2):
            worker = self.run_("jobs_worker.py", port, "3600")
            worker.expect("working on")
            worker.process.kill()
            worker.wait()
        worker = self.run_("jobs_worker.py", port, "0")
        self.assertEqual((boss.wait(), boss.errors), (0, ""))
        done = {f"{number} squared is {number**2}" for number in range(20)}
        self.assertEqual(set(boss.output.splitlines()), done)
        self.assertIsNone(worker.process.poll())  # it waits for another boss

    def test_telemetry(self) -> None:
        """All readings of all sensors are there."""
        collector, port = self.serving("telemetry_collector.py")
        sensors = self.run_("telemetry_sensors.py", port)
        self.assertPrints(sensors, "")
        collector.expect("^100 sensors, 5000 readings, ")

    def test_file(self) -> None:
        """Both sides are killed in the middle of a file: started again, it arrives."""
        sent, into = self.home / "film", self.home / "into"
        sent.write_bytes(bytes(range(256)) * (1 << 16))
        into.mkdir()
        receiver, port = self.serving("file_receiver.py", str(into))
        sender = self.run_("file_sender.py", port, str(sent))
        while not any(path.stat().st_size for path in into.iterdir()):
            self.assertIsNone(sender.process.poll(), sender.said())
            time.sleep(0.01)
        for process in (receiver, sender):
            process.process.kill()
            process.wait()
        sender = self.run_("file_sender.py", port, str(sent))
        receiver = self.run_("file_receiver.py", port, str(into))
        receiver.expect(f"^received {sent.stat().st_size} bytes$")
        self.assertPrints(sender, "sent as film\n")
        self.assertEqual((into / "film").read_bytes(), sent.read_bytes())

    def test_lines(self) -> None:
        """
        Ours are not longer than those of others, and how long all are the document
        says.
        """
        text = (ROOT / "docs" / "comparison.md").read_text("utf-8")
        rows = re.findall(r"^\| (`\w+\.py`, `\w+\.py`).*?\|([ \d|]+)\|", text, re.M)
        self.assertEqual(len(rows), 3)
        for names, told in rows:
            lengths = [
                sum(
                    codeLines((EXAMPLES / folder / name).read_text("utf-8"))
                    for name in re.findall(r"\w+\.py", names)
                )
                for folder in (".", "peers/natspy", "peers/socketio")
            ]
            self.assertEqual(lengths, [int(each) for each in told.split("|")], names)
            self.assertEqual(lengths[0], min(lengths), names)
