"""
Tests for L{aesm.cluster.engine}.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.logger import capturedLogs
from twisted.trial.unittest import SkipTest, TestCase

from aesm.cluster import engine
from aesm.cluster.address import EngineAddress
from aesm.cluster.engine import Engine
from aesm.cluster.scripts import BEGIN, INLET
from aesm.cluster.store import EngineStore
from aesm.errors import SpoolError
from tests import ROOT
from tests.support.engines import (
    EngineTestCase,
    Lines,
    Node,
    RedisServer,
    Sentinel,
    freePort,
    sharedServer,
)

# What an engine has to allow a node, and nothing else: an ACL's rules.
RULES = (
    "-@all ~{aesm:test}:* resetchannels &{aesm:test}:* +info +eval +evalsha +wait "
    "+config|get +get +set +hget +hset +hsetnx +hdel +hmget +hincrby +sadd +srem "
    "+srandmember +sdiff +sunionstore +zadd +zrem +zcard +zscore +zrange "
    "+zrangebyscore +zremrangebyscore +exists +del +pexpire +publish +subscribe +ping "
    "+time +hgetall +hexists +lpop +rpush +scard +sscan +zscan +sismember +zcount"
)


class EngineTests(EngineTestCase):
    """L{Engine}."""

    def ask(self, node: Node) -> Any:
        """Call something."""
        return node.engine.call(INLET, "S", 0, 1)

    def assertStartFails(self, words: str, **options: Any) -> Node:
        """Check that a node cannot start, and is told why."""
        node, started = self.starting(**options)
        node.settle()
        error = self.failureResultOf(started, SpoolError)
        self.assertIn(words, error.getErrorMessage())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return node

    def assertNow(self, node: Node, failing: Any, words: str) -> None:
        """Check that something fails."""
        node.settle()
        error = self.failureResultOf(failing, SpoolError)
        self.assertIn(words, error.getErrorMessage())

    # Starting

    def test_nobody(self) -> None:
        """If nobody is there at first, it says so, and tries no more."""
        node = Node(self.clock, "one", None, 60.0)
        started = node.engine.start()
        self.clock.advance(0)
        error = self.failureResultOf(started, SpoolError)
        self.assertIn("nobody is there", error.getErrorMessage())
        self.assertIn("redis://127.0.0.1:6379", error.getErrorMessage())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_policy(self) -> None:
        """An engine that would forget something when it is full is not used."""
        for policy in ("allkeys-lru", "volatile-ttl"):
            self.setting("maxmemory-policy", policy, "noeviction")
            self.assertStartFails(f"maxmemory-policy is {policy}")

    def test_disk(self) -> None:
        """Nor one that would lose something with the power, if it is not to."""
        self.assertStartFails("appendfsync always", sync="disk")
        self.setting("appendfsync", "always", "everysec")
        self.assertStartFails("appendonly yes", sync="disk")

    def test_diskIsAlways(self) -> None:
        """One that writes each batch to its disk is."""
        self.redis = RedisServer("--appendonly", "yes", "--appendfsync", "always")
        self.addCleanup(self.redis.stop)
        node = self.node(sync="disk")
        self.assertEqual(self.done(node, self.ask(node)), [])

    def test_old(self) -> None:
        """One that is older than what the scripts need is not."""
        self.patch(engine, "OLDEST", (99, 0))
        self.assertStartFails("use 6.2 or later")

    def test_later(self) -> None:
        """One that only cannot write at the moment is waited for."""
        self.setting("min-replicas-to-write", 1, 0)
        node, started = self.starting()
        self.assertNoResult(started)
        self.assertIn("NOREPLICAS", str(node.engine.failure))
        self.redis.command("CONFIG", "SET", "min-replicas-to-write", 0)
        self.clock.advance(engine.MAX_RETRY)
        node.settle()
        self.successResultOf(started)
        self.assertIs(node.engine.failure, None)

    def test_cancelled(self) -> None:
        """Who waits for that may stop."""
        self.setting("min-replicas-to-write", 1, 0)
        node, started = self.starting()
        started.cancel()
        self.failureResultOf(started, CancelledError)
        node.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_warning(self) -> None:
        """An engine that others can reach without a password is warned of."""
        warned = []
        for url, password in (
            ("redis://192.0.2.1", None),
            ("redis://192.0.2.1", "word"),
            ("redis://127.0.0.1", None),
        ):
            address = EngineAddress.parse(url)
            options = {"password": password, "endpoint": Lines(None)}
            node = Engine(self.clock, address, "test", "one", **options)  # type: ignore[arg-type]
            with capturedLogs() as logs:
                started = node.start()
            self.clock.advance(0)
            self.failureResultOf(started, SpoolError)
            warned.append(self.told(logs))
        self.assertEqual(warned, [["warn"], [], []])

    def test_quiet(self) -> None:
        """To be stopped is no error; what is wrong for long is told once."""
        node = self.node()
        with capturedLogs() as logs:
            self.done(node, node.store.close())
        self.assertEqual(self.told(logs), [])
        self.setting("min-replicas-to-write", 1, 0)
        with capturedLogs() as logs:
            node, _ = self.starting("two")
            for _ in range(3):
                self.clock.advance(engine.MAX_RETRY)
                node.settle()
        self.assertEqual(self.told(logs), ["error"])

    def told(self, logs: Iterable[Any]) -> list[str]:
        """List how bad what an operator is told is."""
        levels = [log["log_level"].name for log in logs]
        return [level for level in levels if level != "info"]

    # Logging in

    def user(self) -> None:
        """Have a user with a password."""
        self.redis.command("ACL", "SETUSER", "aesm", "on", ">word", *RULES.split(" "))
        self.addCleanup(self.redis.command, "ACL", "DELUSER", "aesm")

    def test_rules(self) -> None:
        """What is asked of an engine is no more than the rules in the documents."""
        self.user()
        node = self.node(user="aesm@", password="word")
        store = node.store
        self.done(node, store.begin("S", "K", {}))
        store.put("S", "K", {"a": 1})
        store.append("S", True, 0, 1, b"x")
        store.discard("S", True, 1)
        store.attend("S", True)
        store.send("S", "K", b"x", lambda *results: None)
        store.log("", b"x", lambda *results: None)
        self.done(node, store.commit())
        for entry in self.done(node, store.readInlet("S")):
            store.took("S", entry)
        self.done(node, store.readLog(0))
        store.append("S", False, 0, 1, b"x")
        self.done(node, store.commit())
        for work in self.done(node, store.work()):
            store.read("S", work, 1)
        store.attend("S", False)
        self.done(node, store.claim("S", "K"))
        self.done(node, store.commit())
        store.drop("S")
        self.done(node, store.commit())
        self.done(node, store.lease._renew())
        self.assertIs(store.failure, None)
        store._doorbell._ping()
        node.settle()
        self.assertTrue(node.lines.bells[0].isOpen)

    def test_documented(self) -> None:
        """The rules in the documents are these, for a cluster of the usual name."""
        text = (ROOT / "docs" / "cluster.md").read_text("utf-8")
        self.assertIn(f" {RULES.replace('aesm:test', 'aesm:aesm')}\n", text)

    def test_wrongPassword(self) -> None:
        """A password that is wrong is told, and not shown."""
        self.user()
        node = self.assertStartFails("WRONGPASS", user="aesm@", password="secret")
        self.assertNotIn("secret", str(node.engine.failure))

    def test_noPassword(self) -> None:
        """Who gives none to an engine that asks for one is told how to."""
        self.redis.command("ACL", "SETUSER", "default", ">word")
        open_ = ("ACL", "SETUSER", "default", "nopass")
        self.addCleanup(self.redis.commands, ("AUTH", "word"), open_)
        node = self.assertStartFails("NOAUTH")
        self.assertIn("--cluster-password", str(node.engine.failure))

    def test_notAllowed(self) -> None:
        """An engine that does not allow it says so."""
        self.user()
        self.redis.command("ACL", "SETUSER", "aesm", "-info")
        self.assertStartFails("NOPERM", user="aesm@", password="word")

    # Calling

    def test_call(self) -> None:
        """A script is run; the engine need not know it."""
        node = self.node()
        for _ in range(2):
            self.redis.command("SCRIPT", "FLUSH")
            self.assertEqual(self.done(node, self.ask(node)), [])

    def test_cut(self) -> None:
        """What has no reply when the connection is lost fails, and so does the rest."""
        node = self.node()
        asked = self.ask(node)
        node.lines.line.cut()
        self.assertNow(node, asked, "Lost connection")
        self.assertNow(node, self.ask(node), "is lost")

    def test_comesBack(self) -> None:
        """It connects again, and tells both."""
        node = self.node()
        told: list[Any] = []
        node.engine.up = lambda isLost: told.append(isLost)
        node.engine.down = lambda: told.append("down")
        node.lines.line.cut()
        self.assertEqual(told, ["down"])
        self.clock.advance(engine.MAX_RETRY)
        node.settle()
        self.assertEqual(told, ["down", False])
        self.assertEqual(self.done(node, self.ask(node)), [])

    def test_silent(self) -> None:
        """A connection on which no reply comes in time is given up."""
        node = self.node()
        node.store.lease.stop()
        asked = self.ask(node)
        self.clock.advance(engine.REPLY_TIMEOUT - 0.1)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.assertNow(node, asked, "Not received")
        self.assertFalse(node.lines.line.isOpen)
        self.assertNow(node, self.ask(node), "is lost")

    def test_later_replies(self) -> None:
        """An engine that does not take something says why, and may take it later."""
        node = self.node()
        begin = (BEGIN, "one", "S", "K", "{}", 1000, 0)
        self.setting("min-replicas-to-write", 1, 0)
        self.assertNow(node, node.engine.call(*begin), "NOREPLICAS")
        self.redis.command("CONFIG", "SET", "min-replicas-to-write", 0)
        self.assertEqual(self.done(node, node.engine.call(*begin)), [])
        self.assertEqual(len(node.lines.lines), 1)

    def test_replica(self) -> None:
        """One that became a replica is left, for whoever is the primary."""
        node = self.node()
        self.redis.command("REPLICAOF", "127.0.0.1", freePort())
        self.addCleanup(self.redis.command, "REPLICAOF", "NO", "ONE")
        asked = node.engine.call(BEGIN, "one", "S", "K", "{}", 1000, 0)
        self.assertNow(node, asked, "READONLY")
        self.assertFalse(node.lines.line.isOpen)
        self.clock.advance(engine.MAX_RETRY)
        node.settle()
        self.assertIn("READONLY", str(node.engine.failure))
        self.redis.command("REPLICAOF", "NO", "ONE")
        self.clock.advance(engine.MAX_RETRY)
        node.settle()
        self.assertIs(node.engine.failure, None)

    def test_lostAll(self) -> None:
        """One that has lost its data is found out by the next call."""
        node = self.node()
        told: list[bool] = []
        node.engine.up = told.append
        self.redis.command("FLUSHALL")
        self.assertNow(node, self.ask(node), "EPOCH")
        self.clock.advance(engine.MAX_RETRY)
        node.settle()
        self.assertEqual(told, [True])
        self.assertEqual(self.done(node, self.ask(node)), [])

    def test_unfitLater(self) -> None:
        """One that is not fit any more when it is back is not used until it is."""
        node = self.node()
        self.setting("maxmemory-policy", "allkeys-lru", "noeviction")
        node.lines.line.cut()
        self.clock.advance(engine.MAX_RETRY)
        node.settle()
        self.assertNow(node, self.ask(node), "allkeys-lru")
        self.redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        self.clock.advance(engine.MAX_RETRY)
        node.settle()
        self.assertEqual(self.done(node, self.ask(node)), [])

    def test_killed(self) -> None:
        """One that is killed and started again has what it had, if it has a file."""
        self.redis = RedisServer("--appendonly", "yes")
        self.addCleanup(self.redis.stop)
        node = self.node()
        self.done(node, node.store.begin("S", "K", {}))
        node.store.put("S", "K", {"a": 1})
        self.done(node, node.store.commit())
        node.store.put("S", "K", {"a": 2})
        committed = node.store.commit()
        self.redis.kill()
        for line in (*node.lines.lines, *node.lines.bells):
            line.cut()
        self.redis.restart()
        self.clock.advance(engine.MAX_RETRY)
        self.done(node, committed)
        self.assertEqual(self.redis.command("GET", self.key("t:S")), b'{"a":2}')
        self.assertEqual(node.lost, [])

    def test_cancelledCall(self) -> None:
        """A call can be cancelled; the next one gets its own reply."""
        node = self.node()
        asked = self.ask(node)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        begun = node.engine.call(BEGIN, "one", "S", "K", "{}", 1000, 0)
        self.assertEqual(self.done(node, begun), [])

    def test_stopped(self) -> None:
        """Nothing is left of one that is stopped."""
        node = self.node()
        self.done(node, node.store.close())
        self.assertNow(node, self.ask(node), "is lost")
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ReplicaTests(EngineTestCase):
    """Engines with replicas."""

    def setUp(self) -> None:
        """Have a primary."""
        super().setUp()
        self.patch(engine, "WAIT_MILLIS", 1)
        quick = ("--repl-diskless-sync-delay", "0")
        self.redis = RedisServer(*quick, port=freePort())
        self.addCleanup(self.redis.stop)

    def replica(self) -> RedisServer:
        """Have a replica that has all."""
        replica = RedisServer("--replicaof", f"127.0.0.1 {self.redis.port}")
        self.addCleanup(replica.stop)
        written = self.redis.commands(("SET", "a", "b"), ("WAIT", 1, 60_000))
        self.assertEqual(written[-1], 1)
        return replica

    def test_replicated(self) -> None:
        """What is committed is at a replica; without one nothing is."""
        replica = self.replica()
        self.patch(engine, "WAIT_MILLIS", 60_000)
        node = self.node(sync="replica")
        self.done(node, node.store.begin("S", "K", {}))
        node.store.put("S", "K", {"a": 1})
        self.done(node, node.store.commit())
        self.assertEqual(replica.command("GET", self.key("t:S")), b'{"a":1}')

    def test_never(self) -> None:
        """
        Without a replica nothing is acknowledged, however often it is tried; it is
        once there is one.
        """
        node = self.node(sync="replica")
        begun = node.store.begin("S", "K", {})
        node.settle()
        error = self.failureResultOf(begun, SpoolError)
        self.assertIn("none of its replicas", error.getErrorMessage())
        node.store.log("", b"x", lambda *results: None)
        committed = node.store.commit()
        for _ in range(3):
            node.settle()
            self.clock.advance(1)
        self.assertNoResult(committed)
        self.replica()
        self.patch(engine, "WAIT_MILLIS", 60_000)
        node.settle()
        self.clock.advance(1)
        self.done(node, committed)
        self.assertEqual(self.redis.command("ZCARD", self.key("log")), 1)


class RealTests(TestCase):
    """Over sockets, with a reactor."""

    async def converse(
        self, address: EngineAddress, cluster: str = "real", **options: Any
    ) -> None:
        """
        Have a node do what nodes do.

        @param options: of L{Engine}.
        """
        node = Engine(reactor, address, cluster, "one", **options)
        store = EngineStore(node, reactor, 60.0)
        await store.open()
        await store.begin("S", "K", {"a": 1})
        store.append("S", True, 0, 1, b"x" * 1_000_000)
        store.release("S")
        await store.commit()
        stored = await store.claim("S", "K")
        assert stored is not None
        self.assertEqual(stored.state, {"a": 1})
        self.assertEqual(stored.outgoing, [(0, 1, b"x" * 1_000_000)])
        await store.close()

    async def test_unix(self) -> None:
        """UNIX sockets."""
        server = sharedServer()
        server.command("FLUSHALL")
        await self.converse(EngineAddress.parse(f"redis+unix://{server.path}"))

    async def test_tcp(self) -> None:
        """TCP."""
        server = RedisServer(port=freePort())
        self.addCleanup(server.stop)
        await self.converse(EngineAddress.parse(f"redis://127.0.0.1:{server.port}"))

    def tls(self) -> tuple[list[str], int]:
        """
        Make certificates, of which the server's is not trusted so far.

        @return: options of an engine with TLS, and its port.
        """
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        for name in ("server", "other"):
            key, certificate = selfSigned()
            (self.folder / f"{name}.key").write_bytes(key)
            (self.folder / f"{name}.pem").write_bytes(certificate)
        path, port = self.folder.absolute() / "server", freePort()
        options = [
            *("--tls-port", str(port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", f"{path}.pem", "--tls-key-file", f"{path}.key"),
            *("--tls-ca-cert-file", f"{path}.pem"),
        ]
        return options, port

    def serverWith(self, options: list[str]) -> RedisServer:
        """Have an engine with TLS."""
        try:
            server = RedisServer(*options)
        except AssertionError:
            raise SkipTest("this redis-server has no TLS") from None
        self.addCleanup(server.stop)
        return server

    async def test_tls(self) -> None:
        """TLS, with a user's name and a password; and nobody without a certificate."""
        options, port = self.tls()
        server = self.serverWith(options)
        server.command("ACL", "SETUSER", "aesm", "on", ">word", *RULES.split(" "))
        url = f"rediss://aesm@localhost:{port}"
        try:
            self.trust(self.folder / "other.pem")
            address = EngineAddress.parse(url)
            node = Engine(reactor, address, "test", "one", password="word")
        except ImportError:
            raise SkipTest("TLS needs pyOpenSSL") from None
        with self.assertRaises(SpoolError) as caught:
            await node.start()
        self.assertIn("certificate verify failed", str(caught.exception))
        self.trust(self.folder / "server.pem")
        await self.converse(address, "test", password="word")

    async def test_tlsSentinel(self) -> None:
        """Sentinels and the engine, both with TLS."""
        options, port = self.tls()
        server = self.serverWith(options)
        options[1] = str(freePort())
        sentinel = Sentinel(
            server,
            *options,
            at=f"localhost {port}",
            config="tls-replication yes\nsentinel resolve-hostnames yes\n"
            "sentinel announce-hostnames yes\n",
        )
        self.addCleanup(sentinel.stop)
        self.trust(self.folder / "server.pem")
        url = f"rediss+sentinel://localhost:{options[1]}/main"
        if find_spec("OpenSSL") is None:
            raise SkipTest("TLS needs pyOpenSSL")
        await self.converse(EngineAddress.parse(url))

    def trust(self, path: Path) -> None:
        """Trust a certificate, and no other."""
        os.environ["SSL_CERT_FILE"] = str(path.absolute())
        self.addCleanup(os.environ.pop, "SSL_CERT_FILE", None)


def selfSigned() -> tuple[bytes, bytes]:
    """Make a key, and a certificate of this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, certificate.public_bytes(Encoding.PEM)
