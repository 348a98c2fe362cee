/** Frames, docs/protocol.md, section 6: bytes in, frames out. */

import { EMPTY, fromUTF8, toUTF8, view } from "./bytes.js";
import { Code, ProtocolError } from "./errors.js";

export const Type = {
  TEXT: 1,
  BINARY: 2,
  WELCOME: 3,
  BATCH: 4,
  REST: 5,
  REQUEST: 6,
  RESPONSE: 7,
  CLOSE: 8,
  PING: 9,
  PONG: 10,
  ACK: 11,
} as const;

/** How a request ends. */
export const Status = { TEXT: 1, BINARY: 2, ERROR: 3, WITHDRAWN: 4 } as const;

export const HEADER = 13; // bytes
export const COUNTED = 64; // bytes that a message counts beside its body
export const MAX_BATCH = 65_506; // bytes that the messages of a BATCH count
export const MAX_REASON = 1_024; // bytes
const MAX_BATCH_BODY = 4 + 4 + MAX_BATCH - COUNTED; // bytes, with one message
const MAX_WELCOME = 2_048; // bytes
const MAX_PING = 64; // bytes
const ACK = 16; // bytes
const FORM = 1; // byte before the data of a REQUEST
const ANSWER = 9; // bytes before the answer in a RESPONSE

// The two highest bits of a length in a BATCH say of which type the message is.
const BATCHED = [Type.TEXT, Type.REQUEST, Type.BINARY, Type.RESPONSE] as const;
const TYPE_SHIFT = 30;
const LENGTH_MASK = 0x3fff_ffff;

/** The type of a message. */
export type MessageType = (typeof BATCHED)[number];

/** A message as it crosses the wire. */
export interface Message {
  readonly type: MessageType;
  readonly body: Uint8Array;
}

/** A frame that came. */
export interface Frame {
  readonly type: number;
  /** Microseconds since the Unix epoch. */
  readonly time: bigint;
  readonly body: Uint8Array;
}

/** The beginning of a message, which a cut connection left unfinished. */
export interface Unfinished {
  readonly type: MessageType;
  /** As long as it is to become. */
  readonly body: Uint8Array;
  /** Bytes of it that are there. */
  readonly held: number;
}

/** What a RESPONSE says. */
export type Response =
  | { readonly number: number; readonly status: 1 | 2; readonly data: string | Uint8Array }
  | { readonly number: number; readonly status: 3; readonly code: number; readonly reason: string }
  | { readonly number: number; readonly status: 4 };

/** Whether frames of this type are messages by themselves. */
export function isMessage(type: number): type is MessageType {
  return (BATCHED as readonly number[]).includes(type);
}

/** What a message counts for flow control. */
export function counted(message: Message): number {
  return message.body.length + COUNTED;
}

/** Now, in microseconds since the Unix epoch. */
export function micros(): bigint {
  return BigInt(Date.now()) * 1000n;
}

/** A frame. */
export function encodeFrame(type: number, body: Uint8Array, time = micros()): Uint8Array {
  const encoded = new Uint8Array(HEADER + body.length);
  const fields = view(encoded);
  fields.setUint32(0, body.length);
  fields.setUint8(4, type);
  fields.setBigUint64(5, time);
  encoded.set(body, HEADER);
  return encoded;
}

/** One message as it is, or a BATCH of several that count at most MAX_BATCH together. */
export function encodeMessages(messages: readonly Message[], time: bigint): Uint8Array {
  const [first] = messages;
  if (messages.length === 1 && first !== undefined) {
    return encodeFrame(first.type, first.body, time);
  }
  const sizes = messages.reduce((size, message) => size + message.body.length, 0);
  const body = new Uint8Array(4 + 4 * messages.length + sizes);
  const fields = view(body);
  fields.setUint32(0, messages.length);
  let at = 4 + 4 * messages.length;
  messages.forEach((message, index) => {
    const type = BATCHED.indexOf(message.type);
    fields.setUint32(4 + 4 * index, ((type << TYPE_SHIFT) | message.body.length) >>> 0);
    body.set(message.body, at);
    at += message.body.length;
  });
  return encodeFrame(Type.BATCH, body, time);
}

/** The messages of a BATCH. */
export function decodeBatch(body: Uint8Array): Message[] {
  const fields = view(body);
  const count = body.length < 4 ? 0 : fields.getUint32(0);
  let at = 4 + 4 * count;
  if (count === 0 || body.length < at) {
    throw new ProtocolError("a BATCH is not of its form");
  }
  const messages: Message[] = [];
  for (let index = 0; index < count; index++) {
    const field = fields.getUint32(4 + 4 * index);
    const end = at + (field & LENGTH_MASK);
    messages.push({
      type: BATCHED[field >>> TYPE_SHIFT] ?? Type.TEXT,
      body: body.slice(at, end), // so that whoever keeps one does not keep all
    });
    at = end;
  }
  const sizes = messages.reduce((size, message) => size + counted(message), 0);
  if (at !== body.length || sizes > MAX_BATCH) {
    throw new ProtocolError("a BATCH is not of its form");
  }
  return messages;
}

/** A message of the application's. */
export function encodeData(data: string | Uint8Array): Message {
  return typeof data === "string"
    ? { type: Type.TEXT, body: toUTF8(data) }
    : { type: Type.BINARY, body: data };
}

/** What a TEXT or BINARY says. */
export function decodeData(type: number, body: Uint8Array): string | Uint8Array {
  return type === Type.TEXT ? text(body) : body;
}

/** A REQUEST. */
export function encodeRequest(data: string | Uint8Array): Message {
  const { type, body } = encodeData(data);
  return { type: Type.REQUEST, body: prefixed(FORM, body, (fields) => fields.setUint8(0, type)) };
}

/** What a REQUEST asks. */
export function decodeRequest(body: Uint8Array): string | Uint8Array {
  const form = body[0];
  if (form !== Type.TEXT && form !== Type.BINARY) {
    throw new ProtocolError("a REQUEST is not of its form");
  }
  return decodeData(form, body.subarray(FORM));
}

/** A RESPONSE; without data one that withdraws a request. */
export function encodeResponse(
  number: number,
  answer?: string | Uint8Array | { code: number; reason: string },
): Message {
  let status: number = Status.WITHDRAWN;
  let rest: Uint8Array = EMPTY;
  if (typeof answer === "string" || answer instanceof Uint8Array) {
    ({ type: status, body: rest } = encodeData(answer)); // the statuses have the same numbers
  } else if (answer !== undefined) {
    status = Status.ERROR;
    rest = encodeReason(answer.code, answer.reason);
  }
  const body = prefixed(ANSWER, rest, (fields) => {
    fields.setBigUint64(0, BigInt(number));
    fields.setUint8(8, status);
  });
  return { type: Type.RESPONSE, body };
}

/** What a RESPONSE says. */
export function decodeResponse(body: Uint8Array): Response {
  if (body.length < ANSWER) {
    throw new ProtocolError("a RESPONSE is not of its form");
  }
  const number = Number(view(body).getBigUint64(0));
  const status = body[8];
  const rest = body.subarray(ANSWER);
  switch (status) {
    case Status.TEXT:
    case Status.BINARY:
      return { number, status, data: decodeData(status, rest) };
    case Status.ERROR:
      return { number, status, ...decodeReason(rest) };
    case Status.WITHDRAWN:
      if (rest.length === 0) {
        return { number, status };
      }
  }
  throw new ProtocolError("a RESPONSE is not of its form");
}

/** A code and a reason, which is cut where it is too long. */
export function encodeReason(code: number, reason: string): Uint8Array {
  let bytes = toUTF8(reason);
  if (bytes.length > MAX_REASON) {
    let end = MAX_REASON;
    while (((bytes[end] ?? 0) & 0xc0) === 0x80) {
      end--; // not within a character
    }
    bytes = bytes.subarray(0, end);
  }
  return prefixed(2, bytes, (fields) => fields.setUint16(0, code));
}

/** The same the other way. */
export function decodeReason(body: Uint8Array): { code: number; reason: string } {
  if (body.length < 2 || body.length > 2 + MAX_REASON) {
    throw new ProtocolError("a code and reason are not of their form");
  }
  return { code: view(body).getUint16(0), reason: text(body.subarray(2)) };
}

/** An ACK. */
export function encodeAck(count: number, limit: number): Uint8Array {
  const body = new Uint8Array(ACK);
  view(body).setBigUint64(0, BigInt(count));
  view(body).setBigUint64(8, BigInt(limit));
  return encodeFrame(Type.ACK, body);
}

/** What an ACK says. Numbers that are too large to be exact are as good as endless. */
export function decodeAck(body: Uint8Array): { count: number; limit: number } {
  const fields = view(body);
  return { count: Number(fields.getBigUint64(0)), limit: Number(fields.getBigUint64(8)) };
}

function prefixed(
  size: number,
  body: Uint8Array,
  write: (fields: DataView) => void,
): Uint8Array {
  const whole = new Uint8Array(size + body.length);
  write(view(whole));
  whole.set(body, size);
  return whole;
}

function text(body: Uint8Array): string {
  const decoded = fromUTF8(body);
  if (decoded === undefined) {
    throw new ProtocolError("a text is not UTF-8", Code.INVALID_UTF8);
  }
  return decoded;
}

/** Whether the body of a message has more than who takes `maxMessage` bytes takes. */
export function isTooBig(type: number, length: number, maxMessage: number): boolean {
  switch (type) {
    case Type.REQUEST:
      return length - FORM > maxMessage;
    case Type.RESPONSE: // a refusal's reason may be longer
      return length - ANSWER > Math.max(maxMessage, 2 + MAX_REASON);
    default:
      return length > maxMessage;
  }
}

/** Throws if a message that comes is too big. */
export function checkSize(type: number, length: number, maxMessage: number): void {
  if (isTooBig(type, length, maxMessage)) {
    throw new ProtocolError(
      `the server sends a message of ${length} bytes, and we take ${maxMessage}`,
      Code.TOO_BIG,
    );
  }
}

/** Cuts a stream into frames. Whatever is too long is refused by its header. */
export class FrameReader {
  #header = new Uint8Array(HEADER);
  #headerHeld = 0;
  #current: { type: number; time: bigint; body: Uint8Array; held: number } | undefined;

  /** With what a cut connection left unfinished of the next message, if that was said. */
  constructor(
    private readonly maxMessage: number,
    public rest?: Unfinished,
  ) {}

  /** Whether a frame has begun that is not whole. */
  get isWithin(): boolean {
    return this.#headerHeld > 0 || this.#current !== undefined;
  }

  /** What there is of the message that is not whole. */
  get unfinished(): Unfinished | undefined {
    const current = this.#current;
    return current !== undefined && isMessage(current.type) && current.held > 0
      ? { type: current.type, body: current.body, held: current.held }
      : this.rest;
  }

  /** Take more of the stream; the frames that are whole now are made one after the other. */
  *read(data: Uint8Array): Generator<Frame> {
    let at = 0;
    while (at < data.length) {
      if (this.#current === undefined) {
        const piece = data.subarray(at, at + HEADER - this.#headerHeld);
        this.#header.set(piece, this.#headerHeld);
        this.#headerHeld += piece.length;
        at += piece.length;
        if (this.#headerHeld < HEADER) {
          return;
        }
        this.#headerHeld = 0;
        this.#current = this.#begin();
      }
      const { body, held } = this.#current;
      const piece = data.subarray(at, at + body.length - held);
      body.set(piece, held);
      this.#current.held += piece.length;
      at += piece.length;
      if (this.#current.held === body.length) {
        const { type, time } = this.#current;
        this.#current = undefined;
        yield { type, time, body };
      }
    }
  }

  #begin(): { type: number; time: bigint; body: Uint8Array; held: number } {
    const fields = view(this.#header);
    const length = fields.getUint32(0);
    const type = fields.getUint8(4);
    const time = fields.getBigUint64(5);
    if (type === Type.REST) {
      if (this.rest === undefined || length !== this.rest.body.length - this.rest.held) {
        throw new ProtocolError("a REST is of no message that we have a part of");
      }
      const rest = this.rest;
      this.rest = undefined;
      return { ...rest, time };
    }
    if (isMessage(type) || type === Type.BATCH) {
      this.rest = undefined; // the message comes anew
    }
    checkLength(type, length, this.maxMessage);
    return { type, time, body: new Uint8Array(length), held: 0 };
  }
}

function checkLength(type: number, length: number, maxMessage: number): void {
  if (isMessage(type)) {
    checkSize(type, length, maxMessage);
    return;
  }
  const [least, most] = BOUNDS[type] ?? [1, 0];
  if (length < least || length > most) {
    throw new ProtocolError(`a frame of type ${type} has ${length} bytes`);
  }
}

const BOUNDS: Readonly<Record<number, readonly [number, number]>> = {
  [Type.WELCOME]: [2, MAX_WELCOME],
  [Type.BATCH]: [4, MAX_BATCH_BODY],
  [Type.CLOSE]: [2, 2 + MAX_REASON],
  [Type.PING]: [0, MAX_PING],
  [Type.PONG]: [0, MAX_PING],
  [Type.ACK]: [ACK, ACK],
};
