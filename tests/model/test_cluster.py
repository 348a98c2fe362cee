"""
A model of sessions in an engine, and of nodes that take them from each other, are
killed and lose their connections before or after the engine did what it was told, made
up by Hypothesis; the engine is a real one.

What each session's client sends is handled in order, at whichever node holds the
session.  The handler of message 3 of session A says C{A:3} to the log, to the key of
the next session, to A itself, and to one other session that the node holds.  What the
log says is the truth: all else must agree with it, each once and in order, whatever
happened; and nothing that was acknowledged may be missing.  Only what goes to the other
session may be, if that has moved by then, as over any connection that is over.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from aesm.cluster import again, batch, repair, scripts, writer
from aesm.cluster.again import Sent
from aesm.cluster.batch import Call, Changes, Gathered, Part
from aesm.cluster.image import Image
from aesm.cluster.scripts import Script
from aesm.store.interface import Entry, Stored
from tests.support.engines import Line, Node, sharedServer

EXAMPLES = os.environ.get("AESM_MODEL_EXAMPLES")
SESSIONS = ("A", "B", "C")
MOST = 3  # nodes
FOREVER = 86_400.0  # seconds

sessions = st.sampled_from(SESSIONS)
numbers = st.integers(0, 5)
fates = st.sampled_from(["delivered", "delivered", "once", "swallowed", "cut", "later"])
arrivals = st.sampled_from(["delivered", "delivered", "delivered", "swallowed", "cut"])


def keyOf(name: str) -> str:
    """Tell whose a session is."""
    return f"key-{name}"


def follower(name: str) -> str:
    """Tell which session's key a handler sends to."""
    return SESSIONS[(SESSIONS.index(name) + 1) % len(SESSIONS)]


class Known:
    """
    What the world knows of a session, that is what it cannot be told otherwise.

    @ivar acknowledged: how many messages its client need not keep.
    @ivar sent: what its client may have got, by number.
    """

    def __init__(self) -> None:
        """ """
        self.acknowledged = 0
        self.sent: dict[int, str] = {}


class Holding:
    """
    A session at a node that believes that it has it.

    @ivar received: messages that were handled.
    @ivar committed: the number behind the last message that may leave.
    @ivar said: what was given to the store: turn, cause, content.
    @ivar staged: what was not: cause, content.
    @ivar read: position up to which the inlet was read.
    @ivar took: of the inlet, in this turn.
    @ivar effects: what goes to others in this turn: message, other session or none.
    @ivar open: the numbers of messages that are requests, and not answered.
    @ivar answered: those that were answered in this turn.
    """

    def __init__(self, stored: Stored) -> None:
        """Go on with what is kept."""
        self.received: int = stored.state["received"]
        blobs = stored.outgoing
        first = stored.state["acknowledged"]
        assert not blobs or blobs[0].number == first, "the first are missing"
        self.committed = first + sum(blob.messages for blob in blobs)
        self.said: list[tuple[int, str, str]] = []
        self.staged: list[tuple[str, str]] = []
        self.read = 0
        self.took: list[Entry] = []
        self.effects: list[tuple[int, str]] = []
        self.open: list[int] = stored.state["open"]
        assert [blob.number for blob in stored.requests] == self.open, "other requests"
        self.asked = len(self.open)  # how many of these the store knows
        self.answered: list[int] = []
        self.discarded = first


class App:
    """
    What runs at a node.

    @ivar node: the node.
    @ivar holds: by the session's name.
    """

    def __init__(self, machine: ClusterMachine, node: Node) -> None:
        """ """
        self._machine = machine
        self._turn = 0
        self.node = node
        self.holds: dict[str, Holding] = {}
        node.store.lost = self.lost
        node.store.came = self.came

    def watched(self, deferred: Deferred[Any], *callback: Any) -> None:
        """Go on behind something that may fail; not so what goes on."""
        deferred.addCallbacks(callback[0], lambda failure: None, callback[1:])
        deferred.addErrback(self._machine.noted)

    def lost(
        self, lost: Mapping[str, bool | None], undone: Mapping[str, Collection[int]]
    ) -> None:
        """Forget sessions, and what they caused."""
        for name in lost:
            self.holds.pop(name, None)
        for name, holding in self.holds.items():
            staged = holding.staged
            holding.staged = [each for each in staged if each[0] not in lost]
            for number in sorted(undone.get(name, []), reverse=True):
                del holding.said[number - holding.committed]

    def came(self, name: str, entry: Entry | None) -> None:
        """Read an inlet from its beginning: its positions may be others now."""
        if name in self.holds:
            self.holds[name].read = 0

    def claim(self, name: str) -> None:
        """A client comes."""
        claimed = self.node.store.claim(name, keyOf(name))
        self.watched(claimed, self._cbClaimed, name)

    def _cbClaimed(self, stored: Stored | None, name: str) -> None:
        """Its session is ours."""
        if stored is not None:
            self._machine.check(name)
            self._machine.places[name] = self
            self.holds[name] = Holding(stored)
            sent = self._machine.known[name].sent
            for blob in stored.outgoing:  # it may leave from now on
                content = blob.frames.decode()
                assert sent.setdefault(blob.number, content) == content, "another one"

    def handle(self, name: str, other: str) -> None:
        """A message comes."""
        holding = self.holds[name]
        holding.received += 1
        content = f"{name}:{holding.received}"
        other = other if other in self.holds and other != name else ""
        holding.staged.append((name, content))
        if other:
            self.holds[other].staged.append((name, content))
        holding.effects.append((holding.received, other))
        if holding.received % 2:
            holding.open.append(holding.received)

    def answer(self, name: str) -> None:
        """Answer the oldest request."""
        holding = self.holds[name]
        if holding.open:
            number = holding.open.pop(0)
            if holding.asked:
                holding.asked -= 1
                holding.answered.append(number)

    def take(self, name: str) -> None:
        """Look what others sent."""
        holding = self.holds[name]
        found = self.node.store.readInlet(name, holding.read)
        self.watched(found, self._cbTaken, name, holding)

    def _cbTaken(self, entries: list[Entry], name: str, holding: Holding) -> None:
        """Send on what there was."""
        took = [entry.name for entry in holding.took]
        for entry in entries:
            if entry.position > holding.read and entry.name not in took:
                holding.read = entry.position
                holding.took.append(entry)
                holding.staged.append((name, entry.data.decode()))

    def discard(self, name: str, count: int) -> None:
        """The client has acknowledged messages."""
        holding = self.holds[name]
        holding.discarded = min(holding.discarded + count, holding.committed)

    def commit(self) -> None:
        """End a turn."""
        self._turn += 1
        for name, holding in self.holds.items():
            self._write(name, holding)
        held = {name: (each, each.received) for name, each in self.holds.items()}
        done = self.node.store.commit(partial(self._cbStored, self._turn, held))
        self.watched(done, self._cbCommitted, self._turn, held)

    def _write(self, name: str, holding: Holding) -> None:
        """Say what has happened to a session."""
        store = self.node.store
        state = {
            "received": holding.received,
            "acknowledged": holding.discarded,
            "open": holding.open,
        }
        store.put(name, keyOf(name), state)
        store.discard(name, True, holding.discarded)
        staged, holding.staged = holding.staged, []
        for cause, content in staged:
            number = holding.committed + len(holding.said)
            store.append(name, True, number, 1, content.encode(), cause)
            holding.said.append((self._turn, cause, content))
        for number in holding.open[holding.asked :]:
            store.addRequest(name, number, b"%d?" % number)
        holding.asked = len(holding.open)
        answered, holding.answered = holding.answered, []
        for number in answered:
            store.removeRequest(name, number)
        took, holding.took = holding.took, []
        for entry in took:
            store.took(name, entry)
        effects, holding.effects = holding.effects, []
        for message, other in effects:
            content = f"{name}:{message}"
            store.log(name, f"{content}>{other}".encode(), lambda *results: None)
            to = keyOf(follower(name))
            store.send(name, to, f"@{content}".encode(), self._sent)

    def _sent(self, sent: int, full: int) -> None:
        """All sessions are there, and have room."""
        if (sent, full) != (1, 0) and not self._machine.forgets:
            self._machine.noted(AssertionError("it was not sent"))

    def _cbStored(
        self, turn: int, held: dict[str, tuple[Holding, int]], names: Collection[str]
    ) -> None:
        """Go on with some of what was committed, before the rest is."""
        stored = {name: held.pop(name) for name in list(held) if name in names}
        try:
            self._cbCommitted(None, turn, stored)
        except AssertionError as error:
            self._machine.noted(error)

    def _cbCommitted(
        self, result: None, turn: int, held: dict[str, tuple[Holding, int]]
    ) -> None:
        """Acknowledge what came, and let go what is to be sent."""
        for name, (holding, received) in held.items():
            if self.holds.get(name) is not holding:
                continue
            known = self._machine.known[name]
            if self._machine.forgets and self._machine.places[name] is not self:
                known = Known()  # nobody is there to hear of it
            known.acknowledged = max(known.acknowledged, received)
            while holding.said and holding.said[0][0] <= turn:
                content = holding.said.pop(0)[2]
                known.sent.setdefault(holding.committed, content)
                assert known.sent[holding.committed] == content, "another message"
                holding.committed += 1


class ClusterMachine(RuleBasedStateMachine):
    """
    Nodes, and sessions that clients take from one to another.

    @ivar forgets: whether the engine may have lost something.
    @ivar known: of each session.
    @ivar places: where the client of each was last.
    """

    forgets = False

    def __init__(self) -> None:
        """Begin with an engine that is empty."""
        super().__init__()
        self.redis = sharedServer()
        self.redis.command("FLUSHALL")
        self.clock = Clock()
        self.known = {name: Known() for name in SESSIONS}
        self.apps: list[App] = []
        self.places: dict[str, App] = {}
        self.ghosts: list[Line] = []
        self.wrong: Any = None
        self.nodes: list[Node] = []

    @initialize()
    def begin(self) -> None:
        """All sessions begin, at one node."""
        self.join()
        (app,) = self.apps
        for name in SESSIONS:
            state = {"received": 0, "acknowledged": 0, "open": []}
            begun = app.node.store.begin(name, keyOf(name), state)
            app.node.settle()
            assert begun.called
            self.places[name] = app
            app.holds[name] = Holding(Stored(name, keyOf(name), state, [], [], []))

    @precondition(lambda self: len(self.apps) < MOST)
    @rule()
    def join(self) -> None:
        """A node comes."""
        name = f"node-{len(self.nodes)}"
        node = Node(self.clock, name, self.redis.path, FOREVER)
        self.nodes.append(node)
        node.store.open()
        node.settle()
        self.apps.append(App(self, node))

    @rule(name=sessions, which=numbers, fate=arrivals)
    def claim(self, name: str, which: int, fate: str) -> None:
        """A client comes to a node, which does not have its session."""
        apps = [app for app in self.apps if name not in app.holds]
        if apps:
            app = apps[which % len(apps)]
            app.claim(name)
            self.meet(app, fate)

    @rule(which=numbers, name=sessions, other=sessions, fate=st.none() | fates)
    def handle(self, which: int, name: str, other: str, fate: str | None) -> None:
        """
        A client's message is handled, maybe where its session was before, and more of
        them in the same turn, or the turn ends.
        """
        for app in self.holders(which, name):
            app.handle(name, other)
            if fate is not None:
                app.commit()
                self.meet(app, fate)

    @rule(which=numbers, name=sessions, other=sessions, fate=fates)
    def overtake(self, which: int, name: str, other: str, fate: str) -> None:
        """A client has come to another node, and the former one goes on."""
        for app in self.holders(which, name):
            app.handle(name, other)
            if other != name and other in app.holds:
                app.handle(other, name)
            self.claim(name, which, "delivered")
            app.commit()
            self.meet(app, fate)

    @rule(which=numbers, name=sessions)
    def take(self, which: int, name: str) -> None:
        """A node reads an inlet."""
        for app in self.holders(which, name):
            app.take(name)

    @rule(which=numbers, name=sessions)
    def answer(self, which: int, name: str) -> None:
        """A node answers a request."""
        for app in self.holders(which, name):
            app.answer(name)

    @rule(which=numbers, name=sessions, count=st.integers(1, 3))
    def discard(self, which: int, name: str, count: int) -> None:
        """A client acknowledges messages."""
        for app in self.holders(which, name):
            app.discard(name, count)

    @rule(which=numbers, fate=fates)
    def commit(self, which: int, fate: str) -> None:
        """A node's turn ends."""
        app = self.apps[which % len(self.apps)]
        app.commit()
        self.meet(app, fate)

    @rule(which=numbers, fate=fates)
    def goOn(self, which: int, fate: str) -> None:
        """Something happens to what a node has told the engine."""
        self.meet(self.apps[which % len(self.apps)], fate)

    @precondition(lambda self: self.ghosts)
    @rule()
    def haunt(self) -> None:
        """The engine reads what came over a connection that was given up."""
        self.ghosts.pop(0).execute()

    @precondition(lambda self: len(self.apps) > 1)
    @rule(which=numbers)
    def kill(self, which: int) -> None:
        """A node is killed."""
        self.end(self.apps.pop(which % len(self.apps)).node)

    def holders(self, which: int, name: str) -> list[App]:
        """Choose a node that believes that it has a session, if any does."""
        apps = [app for app in self.apps if name in app.holds]
        return apps and [apps[which % len(apps)]]

    def meet(self, app: App, fate: str) -> None:
        """Let something happen to what a node has told the engine."""
        lines = app.node.lines
        if not lines.line.isOpen:  # it is connected again
            self.clock.advance(10)
        if fate == "delivered":
            app.node.settle()
        elif fate == "once":
            lines.deliver()
        elif fate == "swallowed":  # it is done, and nobody hears of it
            lines.line.execute()
            lines.line.cut()
        elif fate == "cut":  # it is not done, or much later
            lines.line.cut()
            self.ghosts.append(lines.line)

    def noted(self, wrong: Any) -> None:
        """Have a rule fail, where Deferreds would keep that to themselves."""
        self.wrong = wrong

    @invariant()
    def nothingWrong(self) -> None:
        """What was noted fails."""
        wrong, self.wrong = self.wrong, None
        if wrong is not None:
            raise getattr(wrong, "value", wrong)

    def end(self, node: Node) -> None:
        """Have a node do nothing any more."""
        node.lines.path = None
        for line in (*node.lines.lines, *node.lines.bells):
            line.cut()
        node.engine.stop()
        node.store.lease.stop()
        node.store._doorbell.stop()

    def teardown(self) -> None:
        """All that was promised is kept."""
        try:
            self.nothingWrong()
            for name in self.places:  # none, where Hypothesis stops before they begin
                self.check(name)
        finally:
            self.endAll()

    def endAll(self) -> None:
        """Nothing is left."""
        for app in self.apps:
            self.end(app.node)
        for node in self.nodes:
            for line in (*node.lines.lines, *node.lines.bells):
                line.close()
        assert not self.clock.getDelayedCalls(), "something is left"

    # What must be so

    def truth(self) -> Iterator[tuple[str, int, str]]:
        """List what handlers did: session, message, other session."""
        for member in self.redis.command("ZRANGE", "{aesm:test}:log", 0, -1):
            content, _, other = member.decode().partition(" ")[2].partition(">")
            name, _, message = content.partition(":")
            yield name, int(message), other

    def check(self, name: str) -> None:
        """Compare what the engine has of a session with the truth and the world."""
        known, command = self.known[name], self.redis.command
        state = command("GET", f"{{aesm:test}}:t:{name}")
        received = json.loads(state)["received"]
        asked = command("ZRANGE", f"{{aesm:test}}:r:{name}", 0, -1)
        numbers = [int(member.partition(b" ")[0]) for member in asked]
        assert numbers == json.loads(state)["open"], "other requests are open"
        assert received >= known.acknowledged, "what was acknowledged is lost"
        done: dict[str, list[int]] = defaultdict(list)
        local: dict[str, list[str]] = defaultdict(list)
        for cause, message, other in self.truth():
            done[cause].append(message)
            if name in (cause, other):
                local[cause].append(f"{cause}:{message}")
        assert done[name] == list(range(1, received + 1)), "it was not handled once"
        inlet = command("ZRANGE", f"{{aesm:test}}:q:{name}", 0, -1)
        held = command("HGET", f"{{aesm:test}}:s:{name}", "held")
        assert int(held or 0) == sum(map(len, inlet)), "the inlet's size is wrong"
        came = self.outbox(name)
        came += [member.decode().partition(" ")[2] for member in inlet]
        for cause in SESSIONS:
            got = [each for each in came if each.startswith(cause)]
            # What others sent over a session that was elsewhere by then is left out.
            sure = local[cause] if cause == name else got
            assert len(set(got)) == len(got), "something arrives twice"
            assert set(got) <= set(local[cause]), "what did not happen arrives"
            assert sorted(got, key=local[cause].index) == got, "out of order"
            assert got == sure, "what was sent here does not arrive"
        before = SESSIONS[SESSIONS.index(name) - 1]
        got = [each for each in came if each.startswith("@")]
        sent = [f"@{before}:{message}" for message in done[before]]
        assert got == sent, "what was sent from elsewhere does not arrive once"

    def outbox(self, name: str) -> list[str]:
        """List all that a client was and is to be sent."""
        known = self.known[name]
        found = dict(known.sent)
        members = self.redis.command("ZRANGE", f"{{aesm:test}}:o:{name}", 0, -1)
        for member in members:
            number, count, content = member.decode().split(" ", 2)
            assert count == "1"
            had = found.setdefault(int(number), content)
            assert had == content, "a number has two messages"
        assert sorted(found) == list(range(len(found))), "a number has no message"
        state = self.redis.command("GET", f"{{aesm:test}}:t:{name}")
        kept = len(found) - json.loads(state)["acknowledged"]
        assert len(members) == kept, "what was not acknowledged is lost"
        return [found[number] for number in sorted(found)]


class FailoverMachine(ClusterMachine):
    """
    The same, with an engine that fails over to a replica which is behind, while all
    nodes live.  What was told all may be lost then, and what was sent for a session
    that has moved, which operators are told; nothing else may.

    @ivar snapshots: what the engine had after the last steps.
    @ivar told: how many messages operators were told of that are lost, or may be.
    """

    forgets = True

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.snapshots: list[dict[bytes, bytes]] = []
        self.joined = 0
        self.told = 0
        globalLogPublisher.addObserver(cast(ILogObserver, self.hear))

    kill = None  # type: ignore[assignment]

    def hear(self, event: LogEvent) -> None:
        """Count what the log says that is lost."""
        if (event.get("log_format") or "").startswith("{count} messages"):
            self.told += event["count"]

    def endAll(self) -> None:
        """Nor is who reads the log."""
        globalLogPublisher.removeObserver(cast(ILogObserver, self.hear))
        super().endAll()

    @invariant()
    def remember(self) -> None:
        """A replica may be at this step, or some before it, but knows all nodes."""
        snapshot = self.redis.snapshot()
        if len(self.nodes) > self.joined:
            self.snapshots, self.joined = [], len(self.nodes)
        self.snapshots = [*self.snapshots[-5:], snapshot]

    @rule(back=st.integers(0, 5), order=st.permutations(range(MOST)), count=numbers)
    def failOver(self, back: int, order: list[int], count: int) -> None:
        """A replica takes over; some nodes, or all, come to it, one after the other."""
        if not all(map(self.isHeld, SESSIONS)):
            return  # nobody could write it again
        for app in self.apps:
            app.node.cut()
        self.ghosts.clear()  # they are at the former one
        self.redis.goBack(self.snapshots[-1 - back % len(self.snapshots)])
        self.clock.advance(10)
        apps = [self.apps[index] for index in order if index < len(self.apps)]
        for app in apps[:count]:
            app.node.settle()

    def meet(self, app: App, fate: str) -> None:
        """Let nodes see first whether all others have looked by now."""
        if any(each.node.store._writer.isLooking for each in self.apps):
            self.clock.advance(writer.RETRY)
        super().meet(app, fate)

    def isHeld(self, name: str) -> bool:
        """Tell whether a node has a session, and not one that it has lost since."""
        fence = self.redis.command("HGET", f"{{aesm:test}}:s:{name}", "fence")
        images = [app.node.store._writer.ours.get(name) for app in self.apps]
        return any(image and image.fence >= int(fence or 0) for image in images)

    def teardown(self) -> None:
        """When all have come, all that was promised is kept."""
        for _ in range(15):  # seconds: they connect, look, and wait for each other
            self.clock.advance(writer.RETRY)
            for app in self.apps:
                app.node.settle()
        super().teardown()

    def check(self, name: str) -> None:
        """Compare what the engine has of a session with the world."""
        command = self.redis.command
        state = json.loads(command("GET", f"{{aesm:test}}:t:{name}"))
        assert state["received"] >= self.known[name].acknowledged, "it is lost"
        asked = command("ZRANGE", f"{{aesm:test}}:r:{name}", 0, -1)
        numbers = [int(member.partition(b" ")[0]) for member in asked]
        assert numbers == state["open"], "other requests are open"
        came = self.outbox(name)
        for cause in (*SESSIONS, f"@{SESSIONS[SESSIONS.index(name) - 1]}"):
            got = [int(it.partition(":")[2]) for it in came if it.startswith(cause)]
            assert got == sorted(set(got)), "something arrives twice, or out of order"
            if cause == name:
                assert got == list(range(1, state["received"] + 1)), "it is missing"
        before = SESSIONS[SESSIONS.index(name) - 1]
        handled = json.loads(command("GET", f"{{aesm:test}}:t:{before}"))["received"]
        inlet = command("ZRANGE", f"{{aesm:test}}:q:{name}", 0, -1)
        came += [member.decode().partition(" ")[2] for member in inlet]
        got = [int(it.partition(":")[2]) for it in came if it.startswith("@")]
        assert got == sorted(set(got)), "it comes twice, or out of order"
        lacking = len({*range(1, handled + 1)} - {*got})
        if command("HGET", f"{{aesm:test}}:s:{before}", "fence") == b"1":  # never moved
            assert not lacking, "what was sent does not come"
        assert lacking <= self.told, "what was sent does not come, and nobody is told"


class FullMachine(ClusterMachine):
    """
    The same, with an engine that is full at times.  What clients acknowledge makes room
    all the same.
    """

    @initialize()
    def begin(self) -> None:
        """All sessions begin, while there is room."""
        self.setRoom(0)
        super().begin()

    def setRoom(self, most: int) -> None:
        """Have the engine hold so many bytes at the most; 0 for any number."""
        self.redis.command("CONFIG", "SET", "maxmemory", most)

    @rule()
    def fill(self) -> None:
        """There is no room any more."""
        self.setRoom(1)

    @rule()
    def empty(self) -> None:
        """There is room again."""
        self.setRoom(0)

    @rule()
    def wait(self) -> None:
        """What was refused is tried again."""
        self.clock.advance(writer.RETRY)
        for app in self.apps:
            app.node.settle()

    def teardown(self) -> None:
        """All that was promised is kept, and nothing has stuck."""
        try:
            self.setRoom(1)
            for app in self.apps:
                app.commit()
            for _ in range(11):  # seconds: some have to connect again
                self.wait()
            for app in self.apps:
                for name, holding in app.holds.items():
                    self.checkRoom(app, name, holding)
        finally:
            self.setRoom(0)
        self.wait()
        super().teardown()

    def checkRoom(self, app: App, name: str, holding: Holding) -> None:
        """Check that what a client has acknowledged is gone."""
        command, key = self.redis.command, f"{{aesm:test}}:s:{name}"
        if command("HGET", key, "node").decode() == app.node.engine.node:
            kept = command("ZRANGE", f"{{aesm:test}}:o:{name}", 0, -1)
            numbers = [int(member.partition(b" ")[0]) for member in kept]
            assert all(it >= holding.discarded for it in numbers), "it takes room still"


def run(machine: type[ClusterMachine] = ClusterMachine, **options: Any) -> None:
    """Look for a schedule that breaks a rule."""
    if EXAMPLES is None:
        given = settings(max_examples=15, stateful_step_count=50, derandomize=True)
    else:
        given = settings(max_examples=int(EXAMPLES), stateful_step_count=100)
    unbounded = settings(
        given, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=settings(unbounded, **options))


class ClusterModelTests(SynchronousTestCase):
    """What is promised holds, whatever happens."""

    def test_everyMessageOnce(self) -> None:
        """
        Each message is handled once, and what its handler sent, wherever to, arrives
        once, in order; nothing that was acknowledged is lost.
        """
        run()

    def test_failover(self) -> None:
        """What was acknowledged survives an engine that loses it."""
        self.patch(repair, "TIME", FOREVER)  # until all nodes have come
        run(FailoverMachine, **({} if EXAMPLES else {"max_examples": 8}))

    def test_full(self) -> None:
        """
        An engine that is full loses nothing, and what is acknowledged makes room; be it
        that nodes may have it hold a little more, or nothing at all, and that all is
        done at once, or one session after the other.
        """
        for reserve, sessions in ((0, batch.MAX_SESSIONS), (1000, 1)):
            self.patch(writer, "RESERVE", reserve)
            self.patch(batch, "MAX_SESSIONS", sessions)  # of a call
            run(FullMachine, **({} if EXAMPLES else {"max_examples": 5}))


class BrokenTests(SynchronousTestCase):
    """The model finds what it is there to find."""

    def finds(self, name: str, text: str, fault: str) -> None:
        """
        Check that a script with a fault breaks a rule.

        @param name: which script.
        @param text: what is in its source.
        @param fault: what is to be there instead.
        """
        users = (writer, again, repair) if name == "COMMIT" else (scripts,)
        script: Script = getattr(scripts, name)
        source = script.source.decode()
        self.assertEqual(source.count(text), 1)
        broken = Script(script.name, source.replace(text, fault).encode())
        for module in users:
            self.patch(module, name, broken)
        self.fails()

    def fails(self, machine: type[ClusterMachine] = ClusterMachine) -> None:
        """Check that a rule is broken."""
        quick = {"max_examples": 1000, "phases": [Phase.generate]}
        with self.assertRaises(AssertionError):
            run(machine, report_multiple_bugs=False, **quick)

    def test_fenceNotChecked(self) -> None:
        """A node writes a session that is another's."""
        self.finds("COMMIT", "local isStale = fence ~= ARGV[at + 1]", "local isStale")

    def test_fenceNotMoved(self) -> None:
        """A claim does not keep out the node that had the session."""
        self.finds("CLAIM", "kept[2] + 1", "tonumber(kept[2])")

    def test_notNumbered(self) -> None:
        """A batch whose reply was lost is done again."""
        self.finds("COMMIT", "if batch <= last and", "if false and")

    def test_causeIgnored(self) -> None:
        """What a session caused that is another node's is sent all the same."""
        self.patch(Changes, "without", lambda self, lost, shift=0: [])
        self.fails()

    def test_gap(self) -> None:
        """What is behind messages that are left out keeps its numbers."""
        without = Changes.without

        def broken(changes: Changes, lost: Iterable[str], shift: int = 0) -> list[Part]:
            """Leave out, and keep the numbers."""
            kept = [part for part in changes.parts[True] if part.cause not in lost]
            left = without(changes, lost, shift)
            changes.parts[True].clear()
            changes.parts[True].extend(kept)
            return left

        self.patch(Changes, "without", broken)
        self.fails()

    def test_stuck(self) -> None:
        """Nothing goes ahead of what an engine has no room for."""
        self.patch(writer, "RESERVE", 0)
        self.patch(Gathered, "ahead", lambda self, ours, room: (deque(), room))
        self.fails(FullMachine)

    def test_early(self) -> None:
        """Who waits for a session goes on when only a part of it is written."""
        ahead = Gathered.ahead

        def broken(
            gathered: Gathered, ours: Mapping[str, Image], room: int
        ) -> tuple[deque[Call], int]:
            """Take out what makes room, and say that it is all."""
            calls, left = ahead(gathered, ours, room)
            for call in calls:
                call.isWhole = True
            return calls, left

        self.patch(Gathered, "ahead", broken)
        self.fails(FullMachine)

    def test_notRestored(self) -> None:
        """What an engine has lost is not written again."""
        self.patch(repair, "_BEHIND", repair._WHOLE)
        self.fails(FailoverMachine)

    def test_notSentAgain(self) -> None:
        """Nor is what was sent to others."""
        self.patch(Sent, "missing", lambda self, last, due: [])
        self.fails(FailoverMachine)
