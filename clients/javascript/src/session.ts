/**
 * A session, docs/protocol.md, sections 7 and 8: messages of each direction, numbered from 0,
 * over any number of connections. It knows nothing of transports or time.
 *
 * What we send waits in one queue, from the first message that is not acknowledged on. Three
 * numbers say where we are in it: `#acknowledged`, the first in the queue; `#next`, the next
 * to leave over the present connection; `#left`, the first that never left over any. What has
 * left is in doubt when the session is lost, what has not goes into the next one.
 */

import { EMPTY, random, toHex } from "./bytes.js";
import { AESMError, ProtocolError } from "./errors.js";
import {
  counted,
  encodeFrame,
  encodeMessages,
  encodeResponse,
  MAX_BATCH,
  micros,
  Type,
  type Message,
  type Response,
  type Unfinished,
} from "./frames.js";
import { MAX_EARLY } from "./hello.js";

/** A request of ours, until it is answered. */
export class Asked {
  number: number | undefined;
  isWithdrawn = false;

  constructor(
    readonly answered: (data: string | Uint8Array) => void,
    readonly failed: (error: AESMError) => void,
    readonly refused: (code: number, reason: string) => void,
  ) {}
}

/** A message that is not acknowledged, and who is to be told of it. */
export interface Outgoing {
  readonly message: Message;
  readonly acknowledged?: () => void;
  readonly failed?: (error: AESMError) => void;
  readonly asked?: Asked;
  /** When it left first, which it says each time. */
  time?: bigint;
}

/** Both directions' messages, of one client with one server. */
export class Session {
  /** The session's name, once it has one. */
  id: string | undefined;
  /** The messages that came. */
  received = 0;
  /** What they count. */
  receivedBytes = 0;
  /** What the last connection left unfinished of the next message. */
  unfinished: Unfinished | undefined;
  /** Up to where the server may send. */
  announced = 0;

  #queue: Outgoing[] = [];
  #queueBytes = 0;
  #acknowledged = 0;
  #next = 0;
  #nextBytes = 0; // what the messages before #next count
  #left = 0;
  #limit = 0;
  #partial = 0; // bytes of message #next that the server holds
  #open = new Map<number, Asked>();

  /** What the messages in the queue count. */
  get waiting(): number {
    return this.#queueBytes;
  }

  /** Whether all has left over the present connection. */
  get isAllSent(): boolean {
    return this.#next - this.#acknowledged === this.#queue.length;
  }

  /** Add a message to the queue. */
  push(outgoing: Outgoing): void {
    this.#queue.push(outgoing);
    this.#queueBytes += counted(outgoing.message);
  }

  // What we send.

  /** Name the session, and let its first messages leave before the server knows of it. */
  takeEarly(): Uint8Array[] {
    const frames: Uint8Array[] = [];
    this.#limit = MAX_EARLY;
    for (;;) {
      const { messages, time } = this.#takeMessages(true, (message) => {
        const isEarly = message.type === Type.TEXT || message.type === Type.BINARY;
        return isEarly && this.#nextBytes + counted(message) <= MAX_EARLY;
      });
      if (messages.length === 0) {
        break;
      }
      frames.push(encodeMessages(messages, time));
    }
    if (frames.length > 0) {
      this.id = toHex(random(16));
    }
    return frames;
  }

  /** The server has not taken what left early, and never will as what it was. */
  untakeEarly(): void {
    this.id = undefined;
    this.#next = this.#nextBytes = this.#left = 0;
  }

  /** The session begins: the server lets so many bytes come. */
  begin(id: string, window: number): void {
    this.id = id;
    this.#limit = window;
  }

  /** The session goes on: the server has so many messages, and a part of the next. */
  resume(received: number, partial: number): void {
    if (received < this.#acknowledged || received > this.#left) {
      throw new ProtocolError("the server goes on with the session at a wrong place");
    }
    const kept = received - this.#acknowledged;
    for (const { message } of this.#queue.slice(kept, this.#next - this.#acknowledged)) {
      this.#nextBytes -= counted(message);
    }
    for (const { message } of this.#queue.slice(this.#next - this.#acknowledged, kept)) {
      this.#nextBytes += counted(message);
    }
    this.#next = received;
    const first = received < this.#left ? this.#queue[kept] : undefined;
    if (partial > 0 && partial >= (first?.message.body.length ?? 0)) {
      throw new ProtocolError("the server holds more of a message than there is");
    }
    this.#partial = partial;
  }

  /** The next frame that may leave. */
  takeFrame(isBatching: boolean): Uint8Array | undefined {
    const partial = this.#partial;
    this.#partial = 0;
    const { messages, time } = this.#takeMessages(isBatching && partial === 0, () => true);
    if (messages.length === 0) {
      return undefined;
    }
    return partial > 0
      ? encodeFrame(Type.REST, messages[0]?.body.subarray(partial) ?? EMPTY, time)
      : encodeMessages(messages, time);
  }

  /** The server has the first `count` messages, and lets `limit` bytes come. */
  acknowledge(count: number, limit: number): boolean {
    if (count < this.#acknowledged || count > this.#next || limit < this.#limit) {
      throw new ProtocolError("an ACK takes back what was said, or counts what was not sent");
    }
    const isNews = count > this.#acknowledged || limit > this.#limit;
    this.#limit = limit;
    const done = this.#queue.splice(0, count - this.#acknowledged);
    this.#acknowledged = count;
    for (const { message, acknowledged } of done) {
      this.#queueBytes -= counted(message);
      acknowledged?.();
    }
    return isNews;
  }

  /** Give up what has not left and, as it turns out, the server does not take. */
  sift(problem: (message: Message) => AESMError | undefined): void {
    for (const outgoing of this.#queue.splice(this.#left - this.#acknowledged)) {
      this.#queueBytes -= counted(outgoing.message);
      const error = problem(outgoing.message);
      if (error === undefined) {
        this.push(outgoing);
      } else {
        fail(outgoing, error);
      }
    }
  }

  /** Whether any message that waits is a problem. */
  has(problem: (message: Message) => AESMError | undefined): boolean {
    return this.#queue.some((outgoing) => problem(outgoing.message) !== undefined);
  }

  // Requests of ours.

  /** The answer to a request is not wanted any more. */
  withdraw(asked: Asked): void {
    if (asked.isWithdrawn) {
      return;
    }
    asked.isWithdrawn = true;
    if (asked.number !== undefined) {
      if (this.#open.get(asked.number) === asked) {
        this.push({ message: encodeResponse(asked.number) });
      }
      return;
    }
    const at = this.#queue.findIndex((outgoing) => outgoing.asked === asked);
    for (const outgoing of at < 0 ? [] : this.#queue.splice(at, 1)) {
      this.#queueBytes -= counted(outgoing.message);
    }
  }

  /** A request is answered or refused. */
  answered(response: Exclude<Response, { status: 4 }>): void {
    const asked = this.#open.get(response.number);
    if (asked === undefined) {
      throw new ProtocolError("a RESPONSE is for no open request");
    }
    this.#open.delete(response.number);
    if (asked.isWithdrawn) {
      return;
    }
    if (response.status === 3) {
      asked.refused(response.code, response.reason);
    } else {
      asked.answered(response.data);
    }
  }

  // What we receive.

  /** A message has come: returns its number. */
  receive(message: Message): number {
    if (this.receivedBytes >= this.announced) {
      throw new ProtocolError("a message is past the limit");
    }
    this.receivedBytes += counted(message);
    this.unfinished = undefined;
    return this.received++;
  }

  // The end.

  /** The session is lost, for one reason or another: what has not left goes on in a new one. */
  lose(error: AESMError): Session {
    const next = new Session();
    this.#queue.forEach((outgoing, at) => {
      if (this.#acknowledged + at < this.#left) {
        fail(outgoing, error);
      } else if (outgoing.message.type !== Type.RESPONSE) {
        next.push(outgoing);
      }
    });
    this.#failOpen(error);
    return next;
  }

  /** Nothing goes on. */
  end(error: AESMError): void {
    for (const outgoing of this.#queue) {
      fail(outgoing, error);
    }
    this.#failOpen(error);
  }

  #failOpen(error: AESMError): void {
    this.#queue = [];
    this.#queueBytes = 0;
    for (const asked of this.#open.values()) {
      asked.failed(error);
    }
    this.#open.clear();
  }

  /** The next message that may leave; several of one time, if they may join in a BATCH. */
  #takeMessages(
    isJoining: boolean,
    mayLeave: (message: Message) => boolean,
  ): { messages: Message[]; time: bigint } {
    const now = micros();
    const messages: Message[] = [];
    let time = now;
    let bytes = 0;
    while (this.#nextBytes < this.#limit && (isJoining || messages.length === 0)) {
      const outgoing = this.#queue[this.#next - this.#acknowledged];
      if (outgoing === undefined || !mayLeave(outgoing.message)) {
        break;
      }
      outgoing.time ??= now;
      const size = counted(outgoing.message);
      if (messages.length === 0) {
        time = outgoing.time;
      } else if (bytes + size > MAX_BATCH || outgoing.time !== time) {
        break;
      }
      messages.push(outgoing.message);
      bytes += size;
      this.#leave(outgoing, size);
    }
    return { messages, time };
  }

  #leave(outgoing: Outgoing, size: number): void {
    const number = this.#next++;
    this.#nextBytes += size;
    if (number < this.#left) {
      return;
    }
    this.#left = this.#next;
    if (outgoing.asked !== undefined) {
      outgoing.asked.number = number;
      this.#open.set(number, outgoing.asked);
    }
  }
}

function fail(outgoing: Outgoing, error: AESMError): void {
  outgoing.failed?.(error);
  outgoing.asked?.failed(error);
}
