"""
C{aesm serve} as a process, as an operator, systemd or a container runs it, and the
files for these in C{examples}.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

from twisted.trial.unittest import SkipTest

from aesm.trust.keys import PrivateKey
from tests import ROOT
from tests.support.engines import sharedServer
from tests.support.notify import NotifySocket
from tests.system.test_commands import (
    AT,
    PATIENCE,
    RUNS,
    TWISTD,
    Process,
    ProcessTestCase,
    freePort,
)
from tests.system.test_deployment import LAUNCHER

EXAMPLES = ROOT / "examples"
PORT = "8765"  # in the examples

# Lets no memory be written to and executed, as MemoryDenyWriteExecute=, where the
# system can do that, and becomes what follows "python".
NO_WRITE_EXECUTE = """
import ctypes, os, sys
zero = ctypes.c_ulong(0)
ctypes.CDLL(None).prctl(65, ctypes.c_ulong(1), zero, zero, zero)  # PR_SET_MDWE
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class ServeTestCase(ProcessTestCase):
    """Servers that log to standard error."""

    def serving(self, *arguments: str) -> tuple[Process, str]:
        """
        Start a server on a port of its own, and wait until it runs.

        @param arguments: what follows C{aesm serve}.
        @return: it, and the endpoint for its clients.
        """
        listen = ("--listen", "tcp:0:interface=127.0.0.1")
        server = self.start("-m", "aesm", "serve", *listen, *arguments)
        return server, server.expect(RUNS, "errors")[1]

    def notified(self) -> NotifySocket:
        """Be who has started what is started from now on."""
        notified = NotifySocket(self.addCleanup)
        self.setEnvironment(NOTIFY_SOCKET=notified.path)
        return notified

    def setEnvironment(self, **variables: str) -> None:
        """
        Give variables to what is started from now on.

        @param variables: more of the environment.
        """
        self.patch(os, "environ", {**os.environ, **variables})

    def assertEnds(self, server: Process, number: int, status: int = 0) -> None:
        """
        Send a signal, and check how the server ends.

        @param number: the signal.
        @param status: the exit status.
        """
        server.process.send_signal(number)
        self.assertEqual(server.wait(), status, server.said())
        self.assertNotIn("Traceback", server.said())

    def assertTalk(self, server: Process, endpoint: str) -> None:
        """
        Check that two clients reach each other.

        @param endpoint: where to connect to.
        """
        one, two = self.connect(endpoint), self.connect(endpoint)
        server.expect(r"(?s)( accepted .*){2}", "errors")
        one.type("hello\n")
        two.expect(f"^{AT} hello$")


class ServeTests(ServeTestCase):
    """The command."""

    def test_serves(self) -> None:
        """
        The key and the clients' line are the first that it says, on standard error;
        it leaves no pid file, and SIGTERM and Ctrl-C end it in order, with status 0.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            server, endpoint = self.serving()
            lines = server.errors.splitlines()
            self.assertRegex(lines[-2], "listening on .* with the public key")
            self.assertTalk(server, endpoint)
            self.assertEnds(server, number)
            self.assertEqual(server.output, "")
            self.assertNotIn("twistd", server.errors)
            self.assertEqual(os.listdir(self.home), ["state"])

    def test_secondInterrupt(self) -> None:
        """
        Another SIGTERM does not hurry it while it waits for its clients; a Ctrl-C then
        ends it at once.
        """
        notified = self.notified()
        server, endpoint = self.serving()
        client = self.connect(endpoint)
        server.expect(" accepted ", "errors")
        client.process.send_signal(signal.SIGSTOP)  # it does not answer to the goodbye
        server.process.terminate()
        notified.expect("STOPPING=1", PATIENCE)
        server.process.terminate()
        self.assertEnds(server, signal.SIGINT, -signal.SIGINT)
        client.process.send_signal(signal.SIGCONT)

    def test_json(self) -> None:
        """
        For machines each line of standard error is an object, and standard output has
        the activity alone.
        """
        server, endpoint = self.serving(
            "--log-format=json", "--activity-log=-", "--no-control"
        )
        self.connect(endpoint).end()
        server.expect("lost ", "errors")
        self.assertEnds(server, signal.SIGTERM)
        entries = [json.loads(line) for line in server.errors.splitlines()]
        self.assertEqual({entry["level"] for entry in entries}, {"info"})
        self.assertTrue(
            any(entry["message"].startswith("accepted ") for entry in entries)
        )
        activity = [json.loads(line)["event"] for line in server.output.splitlines()]
        self.assertEqual(activity, ["started", "accepted", "lost", "stopped"])

    def test_inUse(self) -> None:
        """
        A port in use is one line of the log, and status 1; no UNIX socket is left, nor
        its lock.
        """
        # Of trial's own folders the path may be longer than a UNIX socket's can be.
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            words = ("--listen", f"unix:{folder}/s", "--listen", listen)
            control = f"--control={folder}/c"
            server = self.start("-m", "aesm", "serve", *words, control)
            self.assertEqual(server.wait(), 1, server.said())
        self.assertEqual(os.listdir(folder), [])
        said = [line for line in server.errors.splitlines() if "#info]" not in line]
        self.assertEqual(len(said), 1, server.errors)
        self.assertIn(f"cannot listen on {listen}: ", said[0])

    def test_noReader(self) -> None:
        """It serves on when nobody reads its log any more."""
        server, endpoint = self.serving("--handler", "echo")
        assert server.process.stderr is not None
        server.process.stderr.close()
        for _ in range(2):
            client = self.connect(endpoint)
            client.type("hello\n")
            client.expect(f"^{AT} hello$")
        server.process.terminate()
        self.assertEqual(server.process.wait(PATIENCE), 0)


class NotifyTests(ServeTestCase):
    """Whoever has started it is told how it is doing."""

    def assertTells(self, *arguments: str) -> None:
        """
        Check what a server says in its life.

        @param arguments: what follows C{python}.
        """
        notified = self.notified()
        self.setEnvironment(WATCHDOG_USEC="400000")
        listen = ("--listen", "tcp:0:interface=127.0.0.1")
        server = self.start(*arguments, *listen)
        notified.expect("READY=1", PATIENCE)
        for _ in range(3):
            notified.expect("WATCHDOG=1", PATIENCE)
        server.process.send_signal(signal.SIGHUP)
        notified.expect(r"RELOADING=1\nMONOTONIC_USEC=\d+", PATIENCE)
        notified.expect("READY=1", PATIENCE)
        server.process.terminate()
        notified.expect("STOPPING=1", PATIENCE)
        server.wait()
        self.assertNotIn("Traceback", server.said())
        self.assertTrue(any(each.startswith("STATUS=") for each in notified.said))

    def test_serve(self) -> None:
        """So does C{aesm serve}."""
        self.assertTells("-m", "aesm", "serve")

    def test_twistd(self) -> None:
        """And so does C{twistd -n aesm}."""
        self.assertTells("-c", TWISTD, "-n", "--pidfile=", "aesm")


class UnitTests(ServeTestCase):
    """The units in C{examples/systemd}."""

    def unit(self, name: str) -> RawConfigParser:
        """
        Read a unit.

        @param name: its file.
        """
        parser = RawConfigParser(strict=False, comment_prefixes=("#",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        text = (EXAMPLES / "systemd" / name).read_text("utf-8")
        parser.read_string(text.replace("\\\n", " "))
        return parser

    def command(
        self, variables: dict[str, str], name: str = "aesm.service"
    ) -> list[str]:
        """
        Expand a service's command as systemd does.

        @param variables: what it would set.
        @param name: the unit's file.
        @return: what follows the program.
        """
        words = shlex.split(self.unit(name)["Service"]["ExecStart"])
        self.assertEqual(words.pop(0), "/opt/aesm/bin/aesm")
        self.assertEqual(words.pop(), "$AESM_OPTIONS")
        return [
            re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], word)
            for word in words
        ]

    def test_starts(self) -> None:
        """
        The service's command serves with what systemd hands over: the socket, the
        key, the folders, and where to say that it runs; it is told when to reload.
        """
        if not socket.has_dualstack_ipv6():
            raise SkipTest("no IPv6 here")
        folders = {}
        for name in ("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "LOGS_DIRECTORY"):
            (self.home / name).mkdir(mode=0o700)
            folders[name] = str(self.home / name)
        key = PrivateKey.generate()
        key.save(self.home / "CREDENTIALS_DIRECTORY" / "server.key")
        self.start("-m", "aesm", "keygen").wait()
        client = PrivateKey.load(self.home / "state" / "client.key").publicKey
        keys = self.home / "authorized_keys"
        keys.write_text(f"{client} me\n")
        command = [
            str(keys) if word == "/etc/aesm/authorized_keys" else word
            for word in self.command(folders)
        ]
        notified = self.notified()
        # None but these: the state directory is nobody's home.
        self.setEnvironment(**folders)
        server = self.start(
            *("-c", NO_WRITE_EXECUTE, "-c", LAUNCHER, "::", "-m", "aesm"), *command
        )
        notified.expect("READY=1", PATIENCE)
        port = server.expect(r"aesm connect tcp:HOST:(\d+) --pin (\S+)", "errors")
        self.assertEqual(port[2], str(key.publicKey))
        self.assertTalk(server, f"tcp:127.0.0.1:{port[1]}")
        server.process.send_signal(signal.SIGHUP)  # ExecReload=
        notified.expect("RELOADING=1\n.*", PATIENCE)
        self.assertEnds(server, signal.SIGTERM)
        self.assertTrue((self.home / "STATE_DIRECTORY" / "spool").exists())
        activity = self.home / "LOGS_DIRECTORY" / "activity.json"
        self.assertIn('"accepted"', activity.read_text())

    def test_agree(self) -> None:
        """
        The socket is the one that the command asks for, and the statuses after which
        there is no new start are those of wrong options.
        """
        service = self.unit("aesm.service")
        (listen,) = re.findall("--listen (.*?) ", service["Service"]["ExecStart"])
        self.assertEqual(listen, "systemd:domain=INET6:index=0")
        streams = self.unit("aesm.socket")["Socket"]["ListenStream"]
        self.assertEqual(streams, f"[::]:{PORT}")
        self.assertEqual(service["Unit"]["Requires"], "aesm.socket")
        wrong = self.start("-m", "aesm", "serve", "--nosuch")
        again = service["Service"]["RestartPreventExitStatus"]
        self.assertEqual(wrong.wait(), int(again))

    def test_node(self) -> None:
        """
        A node of a cluster is as hardened, has names of its own for what is its own,
        and options that there are.
        """
        service, node = (
            self.unit(name)["Service"] for name in ("aesm.service", "aesm@.service")
        )
        differ = {
            name for name in {*service, *node} if service.get(name) != node.get(name)
        }
        names = "EnvironmentFile ExecStart LogsDirectory RestartSec RuntimeDirectory"
        self.assertEqual(differ, {*names.split(), "TimeoutStartSec"})
        for name in ("ExecStart", "LogsDirectory", "RuntimeDirectory"):
            self.assertIn("%i", node[name])

    def test_nodeStarts(self) -> None:
        """The command of a node serves, with an engine."""
        folder = Path(tempfile.mkdtemp(prefix="aesm-"))  # paths of sockets are short
        self.addCleanup(shutil.rmtree, folder)
        PrivateKey.generate().save(folder / "server.key")
        keys = self.home / "authorized_keys"
        keys.write_text(f"{PrivateKey.generate().publicKey} me\n")
        places = {
            "reuseport:8765": "reuseport:0:interface=127.0.0.1",
            "%i": "one",
            "/etc/aesm/authorized_keys": str(keys),
        }
        folders = ("CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY", "LOGS_DIRECTORY")
        words = self.command(dict.fromkeys(folders, str(folder)), "aesm@.service")
        engine = sharedServer()
        engine.command("FLUSHALL")
        server = self.start(
            *("-m", "aesm", *(places.get(word, word) for word in words)),
            *("--cluster", f"redis+unix://{engine.path}"),
        )
        server.expect("clients connect with", "errors")
        self.assertTrue((folder / "control.sock").exists())
        self.assertEnds(server, signal.SIGTERM)

    def test_verified(self) -> None:
        """systemd finds nothing wrong with them, and little that is exposed."""
        for name in ("aesm.service", "aesm.socket", "aesm@.service"):
            text = (EXAMPLES / "systemd" / name).read_text("utf-8")
            there = text.replace("/opt/aesm/bin/aesm", shutil.which("sh") or "")
            (self.home / name).write_text(there)
        for command in (
            ["verify", "./aesm.service", "./aesm.socket", "./aesm@.service"],
            ["security", "--offline=true", "--threshold=15", "./aesm.service"],
            ["security", "--offline=true", "--threshold=15", "./aesm@.service"],
        ):
            said = subprocess.run(
                ["systemd-analyze", "--no-pager", *command],
                cwd=self.home,
                capture_output=True,
                text=True,
            )
            self.assertEqual((said.returncode, said.stderr), (0, ""), said.stdout)

    if shutil.which("systemd-analyze") is None:  # pragma: no cover
        test_verified.skip = "no systemd-analyze here"  # type: ignore[attr-defined]


class ContainerTests(ServeTestCase):
    """C{examples/Dockerfile}, as far as that goes without a container."""

    def instructions(self) -> Iterator[tuple[str, str]]:
        """List the instructions: the word, and what follows it."""
        for line in (EXAMPLES / "Dockerfile").read_text("utf-8").splitlines():
            if line and not line.startswith("#"):
                word, _, rest = line.partition(" ")
                yield word, rest

    def given(self, wanted: str) -> list[str]:
        """
        List what follows an instruction, each time.

        @param wanted: the instruction.
        """
        return [rest for word, rest in self.instructions() if word == wanted]

    def test_starts(self) -> None:
        """
        What the image starts listens on the port that it exposes and keeps all that
        it writes in the volume; whether it is well can be asked, and the signal that
        it is stopped with ends it in order.
        """
        port = str(freePort())
        (volume,) = self.given("VOLUME")
        state = self.home / "state"
        state.mkdir(mode=0o700)
        replaced = {volume: str(state), f"tcp:{PORT}": f"tcp:{port}", PORT: port}

        def words(instruction: str) -> list[str]:
            """Take an instruction's command, with what is different here."""
            (text,) = self.given(instruction)
            for old, new in replaced.items():
                text = text.replace(old, new)
            program, *arguments = json.loads(text.removeprefix("CMD "))
            return ["-m", "aesm", *arguments] if program == "aesm" else arguments

        self.assertIn(f"AESM_HOME={volume} ", self.given("ENV")[0])
        self.assertEqual(
            (self.given("EXPOSE"), self.given("WORKDIR")), ([PORT], [volume])
        )
        server = self.start(*words("CMD"))
        server.expect(RUNS, "errors")
        well = self.start(*words("HEALTHCHECK"))
        self.assertEqual((well.wait(), well.said()), (0, "\n-- standard error:\n"))
        (stop,) = self.given("STOPSIGNAL")
        self.assertEnds(server, signal.Signals[stop])
        unwell = self.start(*words("HEALTHCHECK"))
        self.assertEqual(unwell.wait(), 1)
        self.assertEqual(os.listdir(self.home), ["state"])
        self.assertIn("spool", os.listdir(state))

    def test_layers(self) -> None:
        """
        Each command to build it can be read by a shell, what one stage takes from the
        other is there, and it does not run as root.
        """
        stages = self.given("FROM")
        self.assertTrue(stages[0].endswith(" AS build"))
        self.assertEqual(stages[0].removesuffix(" AS build"), stages[1])
        source, target = self.given("COPY")[-1].split()[1:]
        self.assertEqual(source, target)  # a virtual environment cannot be moved
        runs = self.given("RUN")
        self.assertIn(f"-m venv {source} ", runs[0])
        self.assertIn(f"{source}/bin:", self.given("ENV")[0])
        for command in runs:
            subprocess.run(["sh", "-nc", command], check=True)
        self.assertIn(f" {self.given('USER')[0]} ", runs[-1])
