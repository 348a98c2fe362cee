/** Noise against published vectors, those of hybrid suites, and the worked examples. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { frame, toHex } from "../src/bytes.js";
import { Channel, Direction, REKEY_AFTER } from "../src/channel.js";
import { TamperedRecord } from "../src/errors.js";
import { PrivateKey } from "../src/keys.js";
import {
  CipherState,
  Initiator,
  SUITES,
  withPSK,
  type KeyPair,
  type Suite,
} from "../src/noise.js";
import { PACKAGE } from "./support/server.js";

interface Vector {
  protocol_name: string;
  init_prologue: string;
  init_psks?: string[];
  init_static: string;
  init_ephemeral: string;
  init_kem_seed?: string;
  handshake_hash: string;
  messages: { payload: string; ciphertext: string }[];
}

interface Conversation {
  name: string;
  suite: Suite;
  client: { static: string; ephemeral: string; kem_seed?: string };
  h: string[];
  keys: { client: string; server: string };
  after_rekey: { client: string; server: string };
  wire: { from: string; what: string; bytes: string; plaintext: string }[];
}

function vectors<T>(name: string): T[] {
  const path = join(PACKAGE, "..", "..", "tests", "vectors", name);
  return (JSON.parse(readFileSync(path, "utf8")) as { vectors: T[] }).vectors;
}

function bytes(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex, "hex"));
}

function pair(hex: string): KeyPair {
  return PrivateKey.fromBytes(bytes(hex)).toPair();
}

function suiteOf(name: string): Suite | undefined {
  return SUITES.find((suite) => suite === name || withPSK(suite) === name);
}

let seen = 0;
for (const file of ["cacophony.txt", "hybrid.json"]) {
  for (const vector of vectors<Vector>(file)) {
    const suite = suiteOf(vector.protocol_name);
    if (suite === undefined) {
      continue;
    }
    seen++;
    test(`the initiator writes and reads what the vectors have: ${vector.protocol_name}`, () => {
      const psk = vector.init_psks?.[0];
      const handshake = new Initiator(
        suite,
        bytes(vector.init_prologue),
        pair(vector.init_static),
        psk === undefined ? undefined : bytes(psk),
        { x25519: bytes(vector.init_ephemeral), kemSeed: bytes(vector.init_kem_seed ?? "") },
      );
      const [first, second, third, ...rest] = vector.messages;
      assert(first && second && third);
      assert.equal(toHex(handshake.writeFirst(bytes(first.payload))), first.ciphertext);
      assert.equal(toHex(handshake.readSecond(bytes(second.ciphertext))), second.payload);
      assert.equal(toHex(handshake.writeThird(bytes(third.payload))), third.ciphertext);
      assert.equal(toHex(handshake.handshakeHash), vector.handshake_hash);
      const [sender, receiver] = handshake.split();
      const none = new Uint8Array(0);
      rest.forEach(({ payload, ciphertext }, at) => {
        if (at % 2 === 0) {
          assert.equal(toHex(receiver.decryptWithAd(none, bytes(ciphertext))), payload);
        } else {
          assert.equal(toHex(sender.encryptWithAd(none, bytes(payload))), ciphertext);
        }
      });
    });
  }
}

test("there are vectors for each suite, and for hybrid ones with a pre-shared key", () => {
  assert(seen >= 6);
});

for (const conversation of vectors<Conversation>("aesm1.json")) {
  if (conversation.name === "stream") {
    continue; // which is not for this client
  }
  for (const step of [1, 1000, Infinity]) {
    test(`the channel talks as the worked example does: ${conversation.name}, by ${step}`, () => {
      replay(conversation, step);
    });
  }
}

/** The client's side of a conversation; the server's bytes come in pieces. */
function replay({ suite, client, wire, h }: Conversation, step: number): void {
  const channel = new Channel({
    place: "here",
    suite,
    name: "aesm",
    key: pair(client.static),
    ephemerals: { x25519: bytes(client.ephemeral), kemSeed: bytes(client.kem_seed ?? "") },
  });
  const [offer, first, ...rest] = wire;
  assert.equal(toHex(channel.opening), `${offer?.bytes}${first?.bytes}`);
  const records = { client: 0, server: 0 };
  for (const { from, what, bytes: hex, plaintext } of rest) {
    if (what === "message 3") {
      assert.equal(toHex(channel.accept(bytes(plaintext))), hex);
      assert.equal(toHex(channel.handshakeHash), h[3]);
      continue;
    }
    if (from === "client") {
      records.client++;
      assert.equal(toHex(channel.seal(bytes(plaintext))), hex);
      continue;
    }
    const events = [];
    for (let at = 0; at < hex.length / 2; at += step) {
      events.push(...channel.receive(bytes(hex).subarray(at, at + step)));
    }
    const [event, ...more] = events;
    assert.equal(more.length, 0);
    if (what === "message 2") {
      assert.equal(event?.type, "server");
      continue;
    }
    records.server++;
    assert.equal(event?.type, plaintext === "" ? "end" : "data");
    assert.equal(event?.type === "data" ? toHex(event.data) : "", plaintext);
  }
}

test("a record that was altered ends the channel, wherever that is", () => {
  const [conversation] = vectors<Conversation>("aesm1.json");
  assert(conversation);
  const { suite, client, wire } = conversation;
  const [, , second, third, record] = wire;
  assert(second && third && record);
  const long = bytes(record.bytes + "00".repeat(65_536));
  for (let at = 0; at < record.bytes.length / 2; at += 5) {
    const channel = new Channel({
      place: "here",
      suite,
      name: "aesm",
      key: pair(client.static),
      ephemerals: { x25519: bytes(client.ephemeral), kemSeed: new Uint8Array(64) },
    });
    assert.equal([...channel.receive(bytes(second.bytes))].length, 1);
    channel.accept(bytes(third.plaintext));
    const altered = long.slice();
    altered[at] = (altered[at] ?? 0) ^ 1;
    assert.throws(() => [...channel.receive(altered)], TamperedRecord);
  }
});

test("a key that was changed is the one of the worked example, and the nonce goes on", () => {
  for (const { suite, keys, after_rekey } of vectors<Conversation>("aesm1.json")) {
    for (const side of ["client", "server"] as const) {
      const cipher = new CipherState(suite, bytes(keys[side]), 65_536n);
      cipher.rekey();
      const record = cipher.encryptWithAd(new Uint8Array(0), Uint8Array.of(0));
      assert.equal(toHex(frame(record)), after_rekey[side]);
    }
  }
});

test("the key is changed at each multiple of so many records, in each direction", () => {
  assert.equal(REKEY_AFTER, 65_536);
  const key = new Uint8Array(32).fill(9);
  const none = new Uint8Array(0);
  const [suite] = SUITES;
  const sender = new Direction(new CipherState(suite, key), 3);
  const receiver = new Direction(new CipherState(suite, key), 3);
  const cipher = new CipherState(suite, key);
  for (let record = 1; record <= 10; record++) {
    const sealed = sender.seal(Uint8Array.of(record)).subarray(2);
    assert.deepEqual(receiver.open(sealed), Uint8Array.of(record));
    assert.deepEqual(cipher.decryptWithAd(none, sealed), Uint8Array.of(record));
    if (record % 3 === 0) {
      cipher.rekey();
    }
  }
});
