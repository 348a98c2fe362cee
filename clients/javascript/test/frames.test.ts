/** Frames: any chunking gives the same, and what is not of its form is refused by its header. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { join } from "../src/bytes.js";
import { ProtocolError } from "../src/errors.js";
import {
  decodeBatch,
  decodeData,
  decodeRequest,
  decodeResponse,
  encodeAck,
  encodeData,
  encodeFrame,
  encodeMessages,
  encodeReason,
  encodeRequest,
  encodeResponse,
  FrameReader,
  HEADER,
  MAX_BATCH,
  Type,
  type Frame,
} from "../src/frames.js";

const MOST = 1000;

function frameOf(type: number, size: number): Uint8Array {
  return encodeFrame(type, new Uint8Array(size));
}

test("frames come out of a stream however it is cut", () => {
  const frames = [
    encodeFrame(Type.TEXT, encodeData("täxt").body),
    frameOf(Type.BINARY, 0),
    encodeAck(1, 2),
    frameOf(Type.PING, 64),
    encodeMessages([encodeData("a"), encodeData(Uint8Array.of(1, 2))], 7n),
  ];
  const stream = join(...frames);
  for (const step of [1, 2, 7, 13, 14, stream.length]) {
    const reader = new FrameReader(MOST);
    const seen: Frame[] = [];
    for (let at = 0; at < stream.length; at += step) {
      seen.push(...reader.read(stream.subarray(at, at + step)));
    }
    const again = seen.map(({ type, body, time }) => encodeFrame(type, body, time));
    assert.deepEqual(join(...again), stream);
    assert.equal(reader.isWithin, false);
  }
});

const bounds: [string, number, number, number][] = [
  ["TEXT", Type.TEXT, 0, MOST],
  ["BINARY", Type.BINARY, 0, MOST],
  ["REQUEST", Type.REQUEST, 0, MOST + 1],
  ["RESPONSE", Type.RESPONSE, 0, 1026 + 9],
  ["WELCOME", Type.WELCOME, 2, 2048],
  ["CLOSE", Type.CLOSE, 2, 1026],
  ["PING", Type.PING, 0, 64],
  ["PONG", Type.PONG, 0, 64],
  ["ACK", Type.ACK, 16, 16],
];
for (const [name, type, least, most] of bounds) {
  test(`a ${name} is taken within its bounds, and refused by its header beyond them`, () => {
    for (const size of [least, most]) {
      assert.equal([...new FrameReader(MOST).read(frameOf(type, size))].length, 1);
    }
    for (const size of least === 0 ? [most + 1] : [least - 1, most + 1]) {
      const header = frameOf(type, size).subarray(0, HEADER);
      assert.throws(() => [...new FrameReader(MOST).read(header)], ProtocolError);
    }
  });
}

test("a type that there is not, and a REST where none belongs, are refused", () => {
  for (const type of [0, 12, 255, Type.REST]) {
    assert.throws(() => [...new FrameReader(MOST).read(frameOf(type, 1))], ProtocolError);
  }
});

test("a BATCH says of each message which type it has", () => {
  const messages = [
    encodeData("text"),
    encodeData(Uint8Array.of(1)),
    encodeRequest("who?"),
    encodeResponse(7, "I"),
  ];
  const [frame] = new FrameReader(MOST).read(encodeMessages(messages, 1n));
  assert(frame);
  assert.deepEqual(decodeBatch(frame.body), messages);
});

test("the messages of a BATCH count at most 65,506 bytes, and fill it exactly", () => {
  const fits = [encodeData(new Uint8Array(100)), encodeData(new Uint8Array(MAX_BATCH - 228))];
  const [frame] = new FrameReader(1 << 20).read(encodeMessages(fits, 1n));
  assert(frame);
  assert.equal(decodeBatch(frame.body).length, 2);
  const longer = [encodeData(new Uint8Array(101)), encodeData(new Uint8Array(MAX_BATCH - 228))];
  assert.throws(() => decodeBatch(encodeMessages(longer, 1n).subarray(HEADER)), ProtocolError);
  const good = encodeMessages([encodeData("a"), encodeData("b")], 1n).subarray(HEADER);
  for (const bad of [
    good.subarray(0, -1),
    join(good, Uint8Array.of(0)),
    good.subarray(0, 3),
    new Uint8Array(4),
    new Uint8Array(4).fill(255),
  ]) {
    assert.throws(() => decodeBatch(bad), ProtocolError);
  }
});

test("a text that is not UTF-8 is refused with 1007, and a byte order mark stays", () => {
  const code = { code: 1007 };
  assert.throws(() => decodeData(Type.TEXT, Uint8Array.of(0xff)), code);
  assert.throws(() => decodeRequest(Uint8Array.of(1, 0xff)), code);
  assert.throws(() => decodeResponse(join(new Uint8Array(8), Uint8Array.of(1, 0xff))), code);
  assert.equal(decodeData(Type.TEXT, encodeData("\ufeffa").body), "\ufeffa");
});

test("requests and responses are those of the document's examples", () => {
  assert.deepEqual(Buffer.from(encodeRequest("who?").body).toString("hex"), "0177686f3f");
  assert.deepEqual(Buffer.from(encodeResponse(7, "I").body).toString("hex"), "00000000000000070149");
  assert.deepEqual(decodeResponse(encodeResponse(3).body), { number: 3, status: 4 });
  const refused = encodeResponse(3, { code: 404, reason: "no" });
  assert.deepEqual(decodeResponse(refused.body), { number: 3, status: 3, code: 404, reason: "no" });
  for (const body of [new Uint8Array(8), new Uint8Array(9), Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 4, 1)]) {
    assert.throws(() => decodeResponse(body), ProtocolError);
  }
  for (const body of [new Uint8Array(0), Uint8Array.of(3)]) {
    assert.throws(() => decodeRequest(body), ProtocolError);
  }
});

test("a reason that is too long is cut at a character", () => {
  const reason = encodeReason(1000, `a${"é".repeat(600)}`);
  assert.equal(reason.length, 2 + 1023);
});

test("what a cut left of a message goes on with a REST, over several connections", () => {
  const whole = Uint8Array.from({ length: 100 }, (_, at) => at);
  const first = new FrameReader(MOST);
  assert.deepEqual([...first.read(encodeFrame(Type.BINARY, whole, 1n).subarray(0, HEADER + 10))], []);
  assert.equal(first.unfinished?.held, 10);
  const second = new FrameReader(MOST, first.unfinished);
  const rest = encodeFrame(Type.REST, whole.subarray(10), 2n);
  assert.deepEqual([...second.read(rest.subarray(0, HEADER + 30))], []);
  assert.equal(second.unfinished?.held, 40);
  const third = new FrameReader(MOST, second.unfinished);
  const [frame] = third.read(encodeFrame(Type.REST, whole.subarray(40), 3n));
  assert.deepEqual(frame, { type: Type.BINARY, time: 3n, body: whole });
  assert.equal(third.unfinished, undefined);
});

test("a REST of another length, or behind a message, is refused; the message may come anew", () => {
  const cut = new FrameReader(MOST);
  assert.deepEqual([...cut.read(encodeFrame(Type.BINARY, new Uint8Array(100)).subarray(0, 50))], []);
  const missing = 100 - (50 - HEADER);
  for (const size of [missing - 1, missing + 1]) {
    const reader = new FrameReader(MOST, cut.unfinished);
    assert.throws(() => [...reader.read(frameOf(Type.REST, size))], ProtocolError);
  }
  const reader = new FrameReader(MOST, cut.unfinished);
  assert.equal([...reader.read(frameOf(Type.BINARY, 100))].length, 1);
  assert.throws(() => [...reader.read(frameOf(Type.REST, missing))], ProtocolError);
});

test("of a BATCH nothing is held, and what was held before stays", () => {
  const batch = encodeMessages([encodeData("a"), encodeData("b")], 1n);
  const reader = new FrameReader(MOST);
  assert.deepEqual([...reader.read(batch.subarray(0, batch.length - 1))], []);
  assert.equal(reader.unfinished, undefined);
});
