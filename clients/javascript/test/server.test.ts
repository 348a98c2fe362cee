/** The client and real servers, over TCP. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";

import {
  AnyServer,
  type Client,
  type ClientOptions,
  connect,
  ConnectFailed,
  dialer,
  FileStore,
  KnownServers,
  loadKey,
  NameOrKeyMismatch,
  NoAnswer,
  NotAnAESMPeer,
  NotAuthorized,
  OfferRefused,
  Pinned,
  PrivateKey,
  RequestFailed,
  RequestTimeout,
  ServerKeyChanged,
  SUITES,
  UntrustedServer,
} from "../src/node/index.js";
import { makeFolder, PACKAGE, Server, type Place } from "./support/server.js";

const PSK = new Uint8Array(32).fill(7);
const CLASSICAL = SUITES[3];

let twistd: Server;
let serving: Server;
let plain: Place;
let withPSK: Place;
let classical: Place;
let closed: Place;

before(async () => {
  const folder = makeFolder();
  const authorizedKeys = join(folder, "authorized_keys");
  writeFileSync(authorizedKeys, "", { mode: 0o600 });
  [twistd, serving] = await Promise.all([
    Server.twistd(makeFolder(), "--handler", "echo", "--listen", "tcp:0:interface=127.0.0.1"),
    Server.serve(
      folder,
      {},
      { psk: Buffer.from(PSK).toString("hex") },
      { suites: [CLASSICAL] },
      { authorizedKeys },
    ),
  ]);
  [plain, withPSK, classical, closed] = serving.places as [Place, Place, Place, Place];
});

after(async () => {
  await Promise.all([twistd?.stop(), serving?.stop()]);
});

function connectTo(place: Place, options: Partial<ClientOptions> = {}): Promise<Client> {
  return connect(place.endpoint, {
    key: PrivateKey.generate(),
    trust: new Pinned(place.publicKey),
    handshakeTimeout: 60,
    closeTimeout: 60,
    heartbeat: 120,
    ...options,
  });
}

for (const suite of SUITES) {
  test(`\`twistd aesm\` sends messages of all kinds back: ${suite}`, async () => {
    const client = await connectTo(twistd.place, { suite });
    const messages = [
      "text",
      "",
      "ünï ☃ \u0000 \ufeff",
      new Uint8Array(0),
      Uint8Array.from({ length: 256 }, (_, at) => at),
      new Uint8Array(65_519).fill(1),
      new Uint8Array(1_048_576).fill(2),
      "x".repeat(200_000),
      ...Array.from({ length: 500 }, (_, at) => `message ${at}`),
    ];
    const sent = messages.map((message) => client.send(message));
    for (const message of messages) {
      assert.deepEqual((await client.receive())?.data, message);
    }
    await Promise.all(sent);
    const before = Date.now();
    await client.send("one more");
    const packet = await client.receive();
    assert(packet !== undefined && Math.abs(packet.time.getTime() - before) < 600_000);
    assert.equal(await client.request("who?"), "who?");
    await client.close();
    assert.equal(await client.receive(), undefined);
  });
}

test("a pre-shared key is needed where there is one, with either suite", async () => {
  for (const suite of SUITES) {
    const client = await connectTo(withPSK, { psk: PSK, suite });
    assert.equal(await client.request("in"), "in");
    await client.close();
  }
  await assert.rejects(connectTo(withPSK), NoAnswer);
  await assert.rejects(connectTo(withPSK, { psk: new Uint8Array(32) }), NoAnswer);
  await assert.rejects(connectTo(plain, { psk: PSK }), OfferRefused);
});

test("a server that takes other suites says which", async () => {
  await assert.rejects(connectTo(classical), (error: Error) => {
    assert(error instanceof OfferRefused);
    assert.match(error.reason, new RegExp(CLASSICAL.replace("+", "\\+")));
    return true;
  });
  await (await connectTo(classical, { suite: CLASSICAL })).close();
});

test("another name does not authenticate", async () => {
  await assert.rejects(connectTo(plain, { name: "other" }), NameOrKeyMismatch);
});

test("a server with another key than is pinned is not told who we are", async () => {
  const pinned = PrivateKey.generate().publicKey;
  await assert.rejects(connectTo(plain, { trust: new Pinned(pinned) }), (error: Error) => {
    assert(error instanceof UntrustedServer);
    assert(error.message.includes(plain.publicKey) && error.message.includes(pinned));
    return true;
  });
  await (await connectTo(plain, { trust: new Pinned(pinned, plain.publicKey) })).close();
});

test("known servers are kept in a file, as `aesm connect` has it", async () => {
  const folder = makeFolder();
  const path = join(folder, "known_servers");
  const strict = new KnownServers(new FileStore(path), true);
  await assert.rejects(connectTo(plain, { trust: strict }), UntrustedServer);
  await (await connectTo(plain, { trust: new KnownServers(new FileStore(path)) })).close();
  await (await connectTo(plain, { trust: strict })).close();
  const place = `127.0.0.1:${plain.port}`;
  const store = new FileStore(path);
  assert.deepEqual(await store.load(place), { key: plain.publicKey });
  const [other, next] = [PrivateKey.generate().publicKey, PrivateKey.generate().publicKey];
  await store.save("another:1", { key: other, next });
  await store.save(place, { key: other, next });
  await store.save(place, { key: other });
  assert.deepEqual(await store.load("another:1"), { key: other, next });
  assert.deepEqual(await store.load(place), { key: other });
  await assert.rejects(connectTo(plain, { trust: strict }), ServerKeyChanged);
});

test("who is not authorized is told so", async () => {
  await assert.rejects(connectTo(closed), NotAuthorized);
});

test("a key is made once, in a file as `aesm keygen` makes it", async () => {
  const path = join(makeFolder(), "state", "client.key");
  const key = await loadKey(path);
  assert.equal((await loadKey(path)).publicKey, key.publicKey);
  assert.equal(PrivateKey.fromPEM(key.toPEM()).publicKey, key.publicKey);
  assert.throws(() => PrivateKey.fromPEM("-----BEGIN NOTHING-----"), TypeError);
});

test("where nothing listens, or something else, that is said", async () => {
  const other = createServer((socket) => socket.resume().end("HTTP/1.1 400 Bad Request\r\n\r\n"));
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  const { port } = other.address() as AddressInfo;
  const options = { key: PrivateKey.generate(), trust: new AnyServer() };
  await assert.rejects(connect({ host: "127.0.0.1", port }, options), NotAnAESMPeer);
  await new Promise((resolve) => other.close(resolve));
  await assert.rejects(connect(`127.0.0.1:${port}`, options), ConnectFailed);
});

test("endpoints may be typed in several ways, and wrong ones say so", () => {
  for (const [typed, place] of [
    ["example.org", "example.org:8765"],
    ["Example.org:1", "example.org:1"],
    ["[::1]:2", "[::1]:2"],
    ["tcp:host=example.org:port=3", "example.org:3"],
    ["unix:/run/aesm", "unix:/run/aesm"],
  ] as const) {
    assert.equal(dialer(typed).place, place);
  }
  for (const typed of ["", "tcp:", "a:b", "a:1:2", "a:0", "a:70000"]) {
    assert.throws(() => dialer(typed), TypeError);
  }
});

test("requests go both ways, and may be refused, late or withdrawn", async () => {
  const asked: unknown[] = [];
  const client = await connectTo(plain, {
    onRequest: async ({ data }) => {
      asked.push(data);
      return "it is me";
    },
  });
  const bytes = new Uint8Array(100_000).fill(3);
  assert.deepEqual(await client.request(bytes), bytes);
  assert.equal(await client.request("ask back"), "it is me");
  assert.deepEqual(asked, ["who?"]);
  await assert.rejects(client.request("refuse"), (error: Error) => {
    assert(error instanceof RequestFailed);
    assert.deepEqual([error.code, error.reason], [404, "no such thing"]);
    return true;
  });
  await assert.rejects(client.request("never", { timeout: 0.01 }), RequestTimeout);
  const controller = new AbortController();
  const never = client.request("never", { signal: controller.signal });
  await client.request("begun");
  controller.abort(new Error("enough"));
  await assert.rejects(never, /enough/);
  assert.equal(await client.request("withdrawn"), "2");
  const many = Array.from({ length: 2_000 }, (_, at) => client.request(`request ${at}`));
  assert.deepEqual(await Promise.all(many), Array.from(many, (_, at) => `request ${at}`));
  await client.close();
});

test("a server that is killed and started again with its spool goes on with the session", async () => {
  const folder = makeFolder();
  const options = ["--handler", "echo", "--spool", join(folder, "spool"), "--listen"];
  const first = await Server.twistd(folder, ...options, "tcp:0:interface=127.0.0.1");
  const resumed: boolean[] = [];
  const client = await connectTo(first.place, {
    retryPolicy: () => 0.1,
    observer: { onConnected: (isResumed) => resumed.push(isResumed) },
  });
  await client.send("before");
  await first.stop("SIGKILL");
  const sent = client.send("meanwhile");
  const listen = `tcp:${first.place.port}:interface=127.0.0.1`;
  const second = await Server.twistd(folder, ...options, listen);
  await sent;
  assert.deepEqual(
    [(await client.receive())?.data, (await client.receive())?.data],
    ["before", "meanwhile"],
  );
  assert.deepEqual(resumed, [false, true]);
  await client.close();
  await second.stop();
});

test("the program in the README runs as it is", async () => {
  const readme = readFileSync(join(PACKAGE, "README.md"), "utf8");
  const [, program = ""] = /```js\n(.*?)```/s.exec(readme) ?? [];
  const path = join(PACKAGE, "dist", "readme.mjs"); // where "aesm" is this package
  writeFileSync(path, program.replace("tcp:127.0.0.1:8765", twistd.place.endpoint));
  const env = { ...process.env, AESM_HOME: join(makeFolder(), "state") };
  const { stdout } = await promisify(execFile)(process.execPath, [path], { env });
  assert.equal(stdout, "hello\n");
});
