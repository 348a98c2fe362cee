/** The client and a server that the test plays: what no real server does, and when. */

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  AnyServer,
  Client,
  type ClientOptions,
  ConnectionClosed,
  HandshakeTimeout,
  KnownServers,
  MessageTooBig,
  NameOrKeyMismatch,
  NotAuthorized,
  Pinned,
  PrivateKey,
  ProtocolError,
  RequestFailed,
  RequestTimeout,
  SendBufferFull,
  ServerKeyChanged,
  SessionLost,
  UntrustedServer,
} from "../src/index.js";
import { toUTF8 } from "../src/bytes.js";
import {
  decodeAck,
  decodeBatch,
  decodeReason,
  decodeResponse,
  encodeAck,
  encodeData,
  encodeFrame,
  encodeMessages,
  encodeReason,
  encodeRequest,
  encodeResponse,
  FrameReader,
  Type,
  type Frame,
} from "../src/frames.js";
import { ScriptedServer, type ScriptedConnection } from "./support/responder.js";

const NAME = "a".repeat(32);
const OTHER = "b".repeat(32);

function clientOf(server: ScriptedServer, options: Partial<ClientOptions> = {}): Client {
  return new Client(server, {
    key: PrivateKey.generate(),
    trust: new AnyServer(),
    suite: server.suite,
    retryPolicy: () => 0,
    handshakeTimeout: 60,
    closeTimeout: 60,
    ...options,
  });
}

/** A client that is let in. */
async function open(
  options: Partial<ClientOptions> = {},
  welcome: Record<string, unknown> = {},
): Promise<{ server: ScriptedServer; client: Client; far: ScriptedConnection }> {
  const server = new ScriptedServer();
  const client = clientOf(server, options);
  const far = await server.accept();
  far.welcome({ session: NAME, ...welcome });
  await client.connected;
  return { server, client, far };
}

function close(code: number, reason = ""): Uint8Array {
  return encodeFrame(Type.CLOSE, encodeReason(code, reason));
}

/** The server closes, and the client answers. */
async function closeFrom(far: ScriptedConnection, code: number, reason = ""): Promise<void> {
  far.send(close(code, reason));
  far.sendRaw(new Uint8Array(0));
  await far.ended();
}

/** The client closes, and the server answers. */
async function closeBy(client: Client, far: ScriptedConnection): Promise<void> {
  const closed = client.close();
  await far.ended();
  far.send(close(1000));
  far.sendRaw(new Uint8Array(0));
  await closed;
}

function data(frame: Frame): string {
  return Buffer.from(frame.body).toString();
}

test("what is sent in one turn goes together, in one BATCH", async () => {
  const { client, far } = await open();
  const sent = [client.send("one"), client.send(Uint8Array.of(2)), client.send("three")];
  const batch = await far.frame(Type.BATCH);
  assert.equal(decodeBatch(batch.body).length, 3);
  far.send(encodeAck(3, 1 << 24));
  await Promise.all(sent);
  await closeBy(client, far);
});

test("a server that takes no BATCH gets none", async () => {
  const { client, far } = await open({}, { batch: false });
  void client.send("one");
  void client.send("two");
  assert.equal(data(await far.frame(Type.TEXT, 1)), "two");
  await closeBy(client, far);
});

test("what is sent waits for the server's limit, and a message within it may go past it", async () => {
  const { client, far } = await open({}, { window: 100 });
  void client.send("x".repeat(200));
  const second = client.send("second");
  await far.frame(Type.TEXT);
  assert.equal(far.frames.length, 1);
  far.send(encodeAck(0, 264));
  far.send(encodeAck(1, 265));
  await far.frame(Type.TEXT, 1);
  far.send(encodeAck(2, 265));
  await second;
  await closeBy(client, far);
});

test("what came is acknowledged, and the limit grows as it is taken", async () => {
  const { client, far } = await open({ receiveBuffer: 400 });
  far.send(encodeFrame(Type.TEXT, toUTF8("x".repeat(136))));
  far.send(encodeFrame(Type.TEXT, toUTF8("x".repeat(136))));
  assert.deepEqual(decodeAck((await far.frame(Type.ACK, 1)).body), { count: 2, limit: 400 });
  const packet = await client.receive();
  assert.equal(packet?.data, "x".repeat(136));
  assert.deepEqual(decodeAck((await far.frame(Type.ACK, 2)).body), { count: 2, limit: 600 });
  await closeBy(client, far);
});

test("what came before a record that was altered counts, and nothing behind it", async () => {
  const { client, far, server } = await open();
  far.sendTogether(encodeFrame(Type.TEXT, toUTF8("good")), encodeFrame(Type.TEXT, toUTF8("bad")));
  const again = await server.accept();
  assert.deepEqual([again.hello["session"], again.hello["received"]], [NAME, 1]);
  assert.equal((await client.receive())?.data, "good");
  await client.close();
});

test("a message past the limit is a protocol error", async () => {
  const { client, far } = await open({ receiveBuffer: 100 });
  far.send(encodeFrame(Type.TEXT, new Uint8Array(0)), encodeFrame(Type.TEXT, toUTF8("x".repeat(200))));
  far.send(encodeFrame(Type.TEXT, new Uint8Array(0)));
  assert.equal(decodeReason((await far.frame(Type.CLOSE)).body).code, 1002);
  await client.close();
});

const wrong: [string, number, Uint8Array][] = [
  ["a second WELCOME", 1002, encodeFrame(Type.WELCOME, toUTF8("{}"))],
  ["an ACK of what was not sent", 1002, encodeAck(1, 1 << 24)],
  ["an ACK with a lower limit", 1002, encodeAck(0, 1)],
  ["an unknown type", 1002, encodeFrame(99, new Uint8Array(0))],
  ["a text that is not UTF-8", 1007, encodeFrame(Type.TEXT, Uint8Array.of(0xff))],
  ["a message that is too big", 1009, encodeFrame(Type.BINARY, new Uint8Array(1001))],
  [
    "a message in a BATCH that is too big",
    1009,
    encodeMessages([encodeData(""), encodeData(new Uint8Array(1001))], 0n),
  ],
  ["a RESPONSE to nothing", 1002, encodeFrame(Type.RESPONSE, encodeResponse(0, "x").body)],
  ["a withdrawal of nothing", 1002, encodeFrame(Type.RESPONSE, encodeResponse(0).body)],
  ["a REST of nothing", 1002, encodeFrame(Type.REST, new Uint8Array(1))],
];
for (const [what, code, frame] of wrong) {
  test(`${what} is a protocol error: ${code}, and the session is over`, async () => {
    const { client, far, server } = await open({ maxMessage: 1000 });
    far.send(frame);
    await far.ended();
    assert.equal(decodeReason((await far.frame(Type.CLOSE)).body).code, code);
    const again = await server.accept();
    assert.equal(again.hello["session"], undefined);
    await client.close();
  });
}

test("too many frames that carry nothing are a protocol error", async () => {
  const { client, far } = await open();
  for (let count = 0; count < 110; count++) {
    far.send(encodeFrame(Type.PONG, new Uint8Array(0)));
  }
  assert.equal(decodeReason((await far.frame(Type.CLOSE)).body).code, 1002);
  await client.close();
});

for (const [key, value] of Object.entries({
  maxMessage: -1,
  heartbeat: 0,
  batch: 1,
  session: "x",
  received: 0.5,
  early: 65_537,
  window: null,
})) {
  test(`a WELCOME with an impossible ${key} is a protocol error`, async () => {
    const server = new ScriptedServer();
    const client = clientOf(server, { reconnect: false });
    (await server.accept()).welcome({ [key]: value });
    await assert.rejects(client.connected, ProtocolError);
  });
}

test("any first frame but a WELCOME or CLOSE is a protocol error", async () => {
  const server = new ScriptedServer();
  const client = clientOf(server, { reconnect: false });
  const far = await server.accept();
  far.send(encodeFrame(Type.PING, new Uint8Array(0)));
  await assert.rejects(client.connected, ProtocolError);
  assert.deepEqual(far.frames, []);
});

// Sessions

test("a session goes on after a cut: what the server has not is sent again, once", async () => {
  const { client, far, server } = await open();
  const first = client.send("first");
  await far.frame(Type.TEXT);
  const second = client.send("second");
  await far.frame(Type.TEXT, 1);
  far.send(encodeFrame(Type.TEXT, toUTF8("reply")));
  await far.frame(Type.ACK);
  far.cut();
  const again = await server.accept();
  assert.deepEqual([again.hello["session"], again.hello["received"]], [NAME, 1]);
  const third = client.send("third");
  again.welcome({ session: NAME, received: 1 });
  const [ack, batch] = [await again.frame(Type.ACK), await again.frame(Type.TEXT)];
  assert.equal(decodeAck(ack.body).count, 1);
  assert.equal(data(batch), "second");
  assert.equal(data(await again.frame(Type.TEXT, 1)), "third");
  again.send(encodeAck(3, 1 << 24));
  await Promise.all([first, second, third]);
  assert.equal((await client.receive())?.data, "reply");
  await closeBy(client, again);
});

test("`received` of the WELCOME acknowledges nothing", async () => {
  const { client, far, server } = await open();
  let isAcknowledged = false;
  const sent = client.send("first").then(() => (isAcknowledged = true));
  await far.frame(Type.TEXT);
  far.cut();
  const again = await server.accept();
  again.welcome({ session: NAME, received: 1 });
  await again.frame(Type.ACK);
  assert.equal(isAcknowledged, false);
  again.cut();
  const third = await server.accept();
  third.welcome({ session: NAME, received: 0 }); // killed before it had written that down
  assert.equal(data(await third.frame(Type.TEXT)), "first");
  third.send(encodeAck(1, 1 << 24));
  await sent;
  await closeBy(client, third);
});

test("of a message that the server holds in part the rest is sent, ahead of all else", async () => {
  const { client, far, server } = await open();
  void client.send("0123456789");
  void client.send("next");
  await far.frame(Type.BATCH);
  far.cut();
  const again = await server.accept();
  const body = toUTF8("0123------");
  again.reader = new FrameReader(1000, { type: Type.TEXT, body, held: 4 });
  again.welcome({ session: NAME, received: 0, partial: 4 });
  assert.equal(data(await again.frame(Type.TEXT)), "0123456789");
  assert.equal(data(await again.frame(Type.TEXT, 1)), "next");
  await closeBy(client, again);
});

test("what a cut left of a message is named in the hello, and goes on with a REST", async () => {
  const { client, far, server } = await open();
  far.sendRaw(encodeFrame(Type.TEXT, toUTF8("0123456789")).subarray(0, 13 + 4));
  far.cut();
  const again = await server.accept();
  assert.equal(again.hello["partial"], 4);
  again.welcome({ session: NAME });
  again.send(encodeFrame(Type.REST, toUTF8("456789")));
  assert.equal((await client.receive())?.data, "0123456789");
  await closeBy(client, again);
});

test("when the session is lost, what had left fails, and what had not goes into the next", async () => {
  const { client, far, server } = await open({}, { window: 1 });
  const left = client.send("left");
  const asked = client.request("asked");
  const waits = client.send("waits");
  await far.frame(Type.TEXT);
  far.cut();
  const again = await server.accept();
  again.welcome({ session: OTHER });
  await assert.rejects(left, SessionLost);
  const batch = decodeBatch((await again.frame(Type.BATCH)).body);
  assert.deepEqual(batch.map(({ type }) => type), [Type.REQUEST, Type.TEXT]);
  again.send(encodeAck(2, 1 << 24), encodeFrame(Type.RESPONSE, encodeResponse(0, "answer").body));
  assert.equal(await asked, "answer");
  await waits;
  await closeBy(client, again);
});

test("a WELCOME that goes on at an impossible place is a protocol error", async () => {
  for (const fields of [{ received: 2 }, { received: 1, partial: 1 }, { partial: 4 }, { maxMessage: 3 }]) {
    const { client, far, server } = await open();
    void client.send("text");
    await far.frame(Type.TEXT);
    far.cut();
    const again = await server.accept();
    again.welcome({ session: NAME, ...fields });
    assert.equal(decodeReason((await again.frame(Type.CLOSE)).body).code, 1002);
    await client.close();
  }
});

test("the session goes on after 1001, and not after another code or none", async () => {
  for (const [code, isKept] of [
    [1001, true],
    [1000, false],
    [1011, false],
    [4000, false],
    [undefined, false],
  ] as const) {
    const { client, far, server } = await open();
    const sent = client.send("text");
    await far.frame(Type.TEXT);
    if (code === undefined) {
      far.sendRaw(new Uint8Array(0));
      await far.ended();
    } else {
      await closeFrom(far, code);
    }
    assert.equal(decodeReason((await far.frame(Type.CLOSE)).body).code, 1000);
    const again = await server.accept();
    assert.equal(again.hello["session"], isKept ? NAME : undefined);
    if (!isKept) {
      await assert.rejects(sent, ConnectionClosed);
    }
    await client.close();
  }
});

test("a CLOSE instead of the WELCOME ends nothing, and is answered without a frame", async () => {
  const { client, far, server } = await open();
  const sent = client.send("text");
  await far.frame(Type.TEXT);
  far.cut();
  const refused = await server.accept();
  await closeFrom(refused, 1013, "too often");
  assert.deepEqual(refused.frames, [undefined]);
  const again = await server.accept();
  assert.equal(again.hello["session"], NAME);
  again.welcome({ session: NAME, received: 0 });
  await again.frame(Type.TEXT);
  again.send(encodeAck(1, 1 << 24));
  await sent;
  await closeBy(client, again);
});

test("what waits when the server closes leaves before our CLOSE, as far as the limit lets it", async () => {
  const { client, far } = await open({ reconnect: false }, { window: 1 });
  void client.send("one");
  void client.send("two");
  await far.frame(Type.TEXT);
  far.send(encodeFrame(Type.TEXT, toUTF8("last")), close(1000));
  far.sendRaw(new Uint8Array(0));
  await far.ended();
  assert.deepEqual(
    far.frames.map((each) => each?.type),
    [Type.TEXT, Type.ACK, Type.CLOSE, undefined],
  );
  assert.equal((await client.receive())?.data, "last");
  assert.equal(await client.receive(), undefined);
});

test("a server that goes away says over how long its clients are to come back", async (t) => {
  t.mock.method(Math, "random", () => 0.5);
  const delays: number[] = [];
  const reasons: string[] = [];
  const onWaiting = (delay: number, reason: Error): void => {
    delays.push(delay);
    reasons.push(reason.message);
  };
  const server = new ScriptedServer();
  const client = new Client(server, {
    key: PrivateKey.generate(),
    trust: new AnyServer(),
    suite: server.suite,
    observer: { onWaiting },
  });
  const far = await server.accept();
  far.welcome();
  await closeFrom(far, 1001, "back soon\0" + "3600000");
  await far.until(() => far.isClosed);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(delays, [1800]); // at random, and at most an hour
  assert.match(reasons[0] ?? "", /"back soon"$/);
  await client.close();
});

test("who is not let in, or was taken over, does not come back", async () => {
  const server = new ScriptedServer();
  const client = clientOf(server);
  await closeFrom(await server.accept(), 1008, "not authorized");
  await assert.rejects(client.connected, NotAuthorized);
  await client.stopped;
  const { client: other, far } = await open();
  await closeFrom(far, 4001);
  assert.match(String(await other.stopped), /4001/);
  await assert.rejects(other.receive(), ConnectionClosed);
  await assert.rejects(other.send("late"), ConnectionClosed);
});

// Early messages

test("what is sent at once leaves behind the handshake, and is acknowledged with the WELCOME", async () => {
  const server = new ScriptedServer();
  const client = clientOf(server);
  const sent = [client.send("one"), client.send("two")];
  const far = await server.accept();
  const batch = await far.frame(Type.BATCH);
  assert.equal(far.hello["early"], 13 + batch.body.length);
  assert.equal(far.hello["received"], undefined);
  const { session, early } = far.hello;
  far.welcome({ session, early });
  far.send(encodeAck(2, 1 << 24));
  await Promise.all(sent);
  await closeBy(client, far);
});

test("early messages that are not taken are sent again, in the new session", async () => {
  const server = new ScriptedServer();
  const client = clientOf(server);
  const sent = client.send("one");
  const far = await server.accept();
  await far.frame(Type.TEXT);
  far.welcome({ session: OTHER });
  assert.equal(data(await far.frame(Type.TEXT, 1)), "one");
  far.send(encodeAck(1, 1 << 24));
  await sent;
  await closeBy(client, far);
});

test("early messages count at most 65,536 bytes, and no request is among them", async () => {
  const server = new ScriptedServer();
  const client = clientOf(server);
  const size = 65_536 / 4 - 64;
  for (let count = 0; count < 5; count++) {
    void client.send(new Uint8Array(size));
  }
  void client.request("x");
  const far = await server.accept();
  await far.frame(Type.BINARY); // three in a BATCH, the fourth alone
  assert.equal(decodeBatch((await far.frame(Type.BATCH)).body).length, 3);
  assert.equal(far.frames.length, 2);
  await client.close();
});

test("a client that is cut before the WELCOME comes back to the session that it has named", async () => {
  for (const isHeld of [true, false]) {
    const server = new ScriptedServer();
    const client = clientOf(server);
    const sent = client.send("one");
    const far = await server.accept();
    await far.frame(Type.TEXT);
    far.cut();
    const again = await server.accept();
    const { session, received, early } = again.hello;
    assert.deepEqual([session, received, early], [far.hello["session"], 0, undefined]);
    again.welcome({ session: isHeld ? session : OTHER });
    if (isHeld) {
      await again.frame(Type.TEXT);
      again.send(encodeAck(1, 1 << 24));
      await sent;
    } else {
      await assert.rejects(sent, SessionLost);
    }
    await closeBy(client, again);
  }
});

test("after a CLOSE instead of the WELCOME early messages are sent as if they had not been", async () => {
  const server = new ScriptedServer();
  const client = clientOf(server);
  const sent = client.send("one");
  const far = await server.accept();
  await closeFrom(far, 1013);
  const again = await server.accept();
  assert.notEqual(again.hello["session"], far.hello["session"]);
  assert.equal(again.hello["early"], far.hello["early"]);
  const { session, early } = again.hello;
  again.welcome({ session, early });
  again.send(encodeAck(1, 1 << 24));
  await sent;
  await closeBy(client, again);
});

// Requests

test("requests are answered, refused, or late", async () => {
  const { client, far } = await open();
  const asked = [client.request("a"), client.request("b"), client.request("c", { timeout: 0.01 })];
  const [one, two, late] = asked.map((each) => each.catch((error: unknown) => error));
  await far.frame(Type.BATCH);
  assert((await late) instanceof RequestTimeout);
  const withdrawal = await far.frame(Type.RESPONSE);
  assert.deepEqual(decodeResponse(withdrawal.body), { number: 2, status: 4 });
  far.send(
    encodeFrame(Type.RESPONSE, encodeResponse(1, { code: 404, reason: "no" }).body),
    encodeFrame(Type.RESPONSE, encodeResponse(0, Uint8Array.of(1)).body),
    encodeFrame(Type.RESPONSE, encodeResponse(2, "crossed").body),
  );
  assert.deepEqual(await one, Uint8Array.of(1));
  const refused = await two;
  assert(refused instanceof RequestFailed && refused.code === 404);
  await far.frame(Type.ACK);
  await closeBy(client, far);
});

test("a request whose signal aborts is withdrawn, or never sent", async () => {
  const { client, far } = await open({}, { window: 1 });
  const [one, two] = [new AbortController(), new AbortController()];
  const left = client.request("left", { signal: one.signal });
  const waits = client.request("waits", { signal: two.signal });
  await far.frame(Type.REQUEST);
  one.abort(new Error("one"));
  two.abort(new Error("two"));
  await assert.rejects(left, /one/);
  await assert.rejects(waits, /two/);
  await assert.rejects(client.request("x", { signal: AbortSignal.abort() }));
  far.send(encodeAck(1, 1 << 24));
  assert.deepEqual(decodeResponse((await far.frame(Type.RESPONSE)).body), { number: 0, status: 4 });
  assert.equal(far.frames.filter((each) => each?.type === Type.REQUEST).length, 1);
  far.send(encodeFrame(Type.RESPONSE, encodeResponse(0, { code: 4002, reason: "" }).body));
  await closeBy(client, far);
});

test("requests of the server are answered by onRequest, in any order", async () => {
  const answers = new Map<unknown, (answer: string) => void>();
  const { client, far } = await open({
    onRequest: async ({ data }) => new Promise<string>((resolve) => answers.set(data, resolve)),
  });
  far.send(encodeFrame(Type.REQUEST, encodeRequest("one").body), encodeFrame(Type.REQUEST, encodeRequest("two").body));
  await far.frame(Type.ACK);
  await new Promise((resolve) => setTimeout(resolve, 0));
  answers.get("two")?.("second");
  const first = decodeResponse((await far.frame(Type.RESPONSE)).body);
  assert.deepEqual(first, { number: 1, status: 1, data: "second" });
  answers.get("one")?.("first");
  const second = decodeResponse((await far.frame(Type.RESPONSE, 1)).body);
  assert.deepEqual(second, { number: 0, status: 1, data: "first" });
  await closeBy(client, far);
});

test("a request is refused if nobody, a failure or too big an answer is there", async () => {
  const { client, far } = await open({}, { maxMessage: 1100 });
  const expected: [Client["onRequest"], number][] = [
    [undefined, 1003],
    [() => new Uint8Array(1101), 1009],
    [
      () => {
        throw new RequestFailed(7, "seven");
      },
      7,
    ],
  ];
  for (const [index, [onRequest, code]] of expected.entries()) {
    client.onRequest = onRequest;
    far.send(encodeFrame(Type.REQUEST, encodeRequest("x").body));
    const response = decodeResponse((await far.frame(Type.RESPONSE, index)).body);
    assert.equal(response.status === 3 && response.code, code);
  }
  await closeBy(client, far);
});

test("a handler is told when nobody wants its answer any more, and 4002 ends the request", async () => {
  let signal: AbortSignal | undefined;
  const { client, far } = await open({
    onRequest: (request) => {
      signal = request.signal;
      return new Promise(() => {});
    },
  });
  far.send(encodeFrame(Type.REQUEST, encodeRequest("x").body));
  await far.frame(Type.ACK);
  await new Promise((resolve) => setTimeout(resolve, 0));
  far.send(encodeFrame(Type.RESPONSE, encodeResponse(0).body));
  const response = decodeResponse((await far.frame(Type.RESPONSE)).body);
  assert.equal(response.status === 3 && response.code, 4002);
  assert.equal(signal?.aborted, true);
  far.send(encodeFrame(Type.RESPONSE, encodeResponse(0).body)); // again, which crosses nothing
  await far.frame(Type.ACK, 2);
  await closeBy(client, far);
});

test("a server that does not know of requests is asked nothing", async () => {
  const { client, far } = await open({}, { requests: false });
  await assert.rejects(client.request("x"), RequestFailed);
  await closeBy(client, far);
});

// Time

test("after a heartbeat of silence comes a PING, and after another one the end", async () => {
  const { client, far, server } = await open({ heartbeat: 0.05 });
  await far.frame(Type.PING);
  await far.until(() => far.isClosed);
  const again = await server.accept();
  assert.equal(again.hello["session"], NAME);
  await client.close();
});

test("who only hears says that it is there, sooner while a frame is not whole", async () => {
  const { client, far } = await open({ heartbeat: 600 }, { heartbeat: 0.1 });
  far.sendRaw(encodeFrame(Type.TEXT, toUTF8("0123")).subarray(0, 15));
  assert.equal((await far.frame(Type.PONG)).body.length, 0);
  far.sendRaw(toUTF8("23"));
  await closeBy(client, far);
});

test("a PING is answered with its body, and of several the newest", async () => {
  const { client, far } = await open();
  far.send(encodeFrame(Type.PING, toUTF8("one")), encodeFrame(Type.PING, toUTF8("two")));
  assert.equal(data(await far.frame(Type.PONG)), "two");
  await closeBy(client, far);
});

test("a client may be closed while it waits, by its observer too, and connects no more", async () => {
  const server = new ScriptedServer();
  const closed: Promise<void>[] = [];
  const client: Client = clientOf(server, {
    retryPolicy: () => 1_000_000,
    observer: { onWaiting: () => closed.push(client.close()) },
  });
  const far = await server.accept();
  far.welcome();
  await client.connected;
  far.cut();
  assert.equal(await client.stopped, undefined);
  await Promise.all(closed);
});

test("a server that never lets us in is given up", async () => {
  const server = new ScriptedServer();
  const client = clientOf(server, { handshakeTimeout: 0.05, reconnect: false });
  await assert.rejects(client.connected, HandshakeTimeout);
});

test("a close that the server does not answer ends in time", async () => {
  const { client, far } = await open({ closeTimeout: 0.05 });
  const closed = client.close();
  await far.ended();
  await closed;
  assert(far.isClosed);
});

test("what the transport does not take is not sealed, and goes on when it does", async () => {
  const { client, far } = await open();
  far.isTaking = false;
  const sent = [client.send("one")];
  await far.frame(Type.TEXT);
  sent.push(client.send("two"));
  await Promise.resolve();
  assert.equal(far.frames.length, 1);
  far.drain();
  await far.frame(Type.TEXT, 1);
  far.send(encodeAck(2, 1 << 24));
  await Promise.all(sent);
  await closeBy(client, far);
});

// Bounds, keys and faults of the caller

test("what is too big, or too much, is refused before anything is sent", async () => {
  const { client, far } = await open({ sendBuffer: 200 }, { maxMessage: 100 });
  await assert.rejects(client.send("x".repeat(101)), MessageTooBig);
  const first = client.send("x".repeat(100));
  await assert.rejects(client.send("x"), SendBufferFull);
  const drained = client.drain();
  await far.frame(Type.TEXT);
  far.send(encodeAck(1, 1 << 24));
  await Promise.all([first, drained]);
  await closeBy(client, far);
});

test("what waits for the first WELCOME and is too big for that server fails then", async () => {
  const server = new ScriptedServer();
  const client = clientOf(server);
  const big = client.send(new Uint8Array(70_000));
  const small = client.send("x");
  const far = await server.accept();
  far.welcome({ maxMessage: 1000 });
  await assert.rejects(big, MessageTooBig);
  await far.frame(Type.TEXT);
  far.send(encodeAck(1, 1 << 24));
  await small;
  await closeBy(client, far);
});

test("faults of the caller are told at once", async () => {
  const { client, far } = await open();
  await assert.rejects(client.send("\ud800"), TypeError);
  await assert.rejects(client.send(7 as unknown as string), TypeError);
  await assert.rejects(client.request("x", { timeout: 0 }), RangeError);
  await closeBy(client, far);
  const options = { key: PrivateKey.generate(), trust: new AnyServer() };
  const server = new ScriptedServer();
  assert.throws(() => new Client(server, { ...options, heartbeat: 0 }), RangeError);
  assert.throws(() => new Client(server, { ...options, maxMessage: 2 ** 31 }), RangeError);
  assert.throws(() => new Client(server, { ...options, psk: new Uint8Array(31) }), TypeError);
  assert.throws(() => new Client(server, { ...options, name: "x".repeat(256) }), RangeError);
  assert.throws(() => new Pinned("x"), TypeError);
  assert.throws(() => new Pinned(), TypeError);
});

test("another name, or a server with our own key, is told", async () => {
  const server = new ScriptedServer();
  await assert.rejects(clientOf(server, { name: "other" }).connected, NameOrKeyMismatch);
  await assert.rejects(clientOf(server, { key: server.key }).connected, UntrustedServer);
});

test("known servers: the first key stays, an announced one may follow, no other", async () => {
  const server = new ScriptedServer();
  const trust = new KnownServers();
  const next = PrivateKey.generate().publicKey;
  const client = clientOf(server, { trust });
  const far = await server.accept();
  far.welcome({ nextKey: next });
  await client.connected;
  await closeBy(client, far);
  await assert.rejects(async () => trust.check(server.place, PrivateKey.generate().publicKey), ServerKeyChanged);
  await trust.check(server.place, next);
  await assert.rejects(async () => trust.check(server.place, server.key.publicKey), ServerKeyChanged);
  await assert.rejects(async () => new KnownServers(undefined, true).check("x", next), UntrustedServer);
});

test("a client that does not come back says so, and ends with its connection", async () => {
  const { client, far } = await open({ reconnect: false });
  assert.equal(far.hello["resume"], false);
  far.cut();
  assert.match(String(await client.stopped), /cut off/);
  await assert.rejects(client.receive());
});

test("for await ends when the client is closed, after what had come", async () => {
  const { client, far } = await open();
  far.send(encodeMessages([encodeData("one"), encodeData("two")], 1_000_000n));
  await far.frame(Type.ACK);
  await closeBy(client, far);
  const seen = [];
  for await (const packet of client) {
    seen.push(packet);
  }
  assert.deepEqual(seen, [
    { data: "one", time: new Date(1000) },
    { data: "two", time: new Date(1000) },
  ]);
});
