/**
 * One connection: a transport, the channel on it, frames, signs of life and the close;
 * docs/protocol.md, sections 6 to 9. It is over with its transport; the session that it
 * serves is not.
 */

import { Buffered, EMPTY, join, toBase64 } from "./bytes.js";
import { Channel, MAX_PLAINTEXT, type ChannelEvent, type ChannelOptions } from "./channel.js";
import {
  AESMError,
  closed,
  Code,
  ConnectionClosed,
  HandshakeTimeout,
  HeartbeatLost,
  ProtocolError,
} from "./errors.js";
import {
  decodeAck,
  decodeReason,
  encodeAck,
  encodeFrame,
  encodeReason,
  FrameReader,
  Type,
  type Frame,
} from "./frames.js";
import { decodeWelcome, type Welcome } from "./hello.js";
import type { Session } from "./session.js";
import type { Transport } from "./transport.js";

const FLOOD = 100; // frames that carry nothing, in advance
const MAX_RATE = 20; // of these a second, on the server's account
const MAX_AFTER = 3_600_000; // milliseconds

/** What a connection needs of its client. */
export interface ConnectionHost {
  readonly session: Session;
  readonly maxMessage: number;
  readonly heartbeat: number; // seconds
  readonly handshakeTimeout: number; // seconds
  readonly closeTimeout: number; // seconds
  /** Whether this is the server's key; rejects if not. */
  check(publicKey: string): Promise<void>;
  /** The hello, and the frames that follow it at once. */
  hello(): { hello: Uint8Array; early: Uint8Array[] };
  /** The server has let us in: returns whether the session goes on. */
  welcomed(welcome: Welcome): boolean;
  /** A message has come, alone or in a BATCH. */
  received(frame: Frame): void;
  /** Messages may have been acknowledged. */
  acknowledged(): void;
  /** Up to where the server may send. */
  limit(): number;
  /** It is over, for this reason. Once. */
  ended(error: AESMError): void;
}

/** What a CLOSE says; `after` is milliseconds over which clients are to come back. */
export interface CloseReason {
  readonly code: number;
  readonly reason: string;
  readonly after?: number;
}

function decodeClose(body: Uint8Array): CloseReason {
  const { code, reason } = decodeReason(body);
  const [end, digits] = /\0([1-9][0-9]{0,6})$/.exec(reason) ?? [];
  const after = Number(digits);
  return code === Code.GOING_AWAY && end !== undefined && after <= MAX_AFTER
    ? { code, reason: reason.slice(0, -end.length), after }
    : { code, reason };
}

function now(): number {
  return performance.now() / 1000;
}

/** From the first byte to the end. */
export class Connection {
  /** What the server said of itself, once it has let us in. */
  welcome: Welcome | undefined;
  /** The server's public key, once it has proved it. */
  serverKey = "";
  /** Whether the server has been told of a session or early messages. */
  hasSaidHello = false;
  /** What the server's CLOSE said. */
  closedWith: CloseReason | undefined;
  /** Whether we have closed the session, in order or for an error. */
  hasClosedSession = false;

  #channel: Channel;
  #reader: FrameReader | undefined;
  #pending = new Buffered(); // frames, or what is left of one, not sealed yet
  #canWrite = true;
  #closing: { code: number; reason: string; isUrgent: boolean } | undefined;
  #hasWrittenClose = false;
  #hasEnded = false; // our direction of the stream
  #isOver = false;

  #pong: Uint8Array | undefined;
  #hasToPing = false;
  #hasToAck = false;
  #ackedCount = 0;
  #heard = now();
  #sent = now();
  #hasHeardSinceSent = false;
  #hasPinged = false;
  #idle = FLOOD;
  #idleSince = now();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #timerAt = Infinity;
  #deadline: { at: number; error: AESMError } | undefined;

  constructor(
    private readonly transport: Transport,
    options: ChannelOptions,
    private readonly host: ConnectionHost,
  ) {
    this.#channel = new Channel(options);
    const slow = `the server at ${options.place} accepts connections and does not answer in time`;
    this.#deadline = { at: now() + host.handshakeTimeout, error: new HandshakeTimeout(slow) };
  }

  get handshakeHash(): Uint8Array {
    return this.#channel.handshakeHash;
  }

  /** Begin with the handshake. */
  start(): void {
    this.transport.start({
      data: (data) => this.#received(data),
      drain: () => {
        this.#heard = now(); // a peer that takes data is alive
        this.#hasPinged = false;
        this.#canWrite = true;
        this.#extendClose();
        this.flush();
      },
      close: () => this.#finish(this.#closeError() ?? this.#channel.lost()),
    });
    this.#canWrite = this.transport.write(this.#channel.opening);
    this.#arm();
  }

  /** Send what may be sent. */
  flush(): void {
    if (this.#isOver || !this.hasSaidHello) {
      return;
    }
    let hasSent = false;
    while (this.#canWrite && !this.#hasEnded) {
      this.#fill();
      if (this.#pending.size === 0) {
        break;
      }
      this.#write(this.#pending.take(Math.min(this.#pending.size, MAX_PLAINTEXT)) ?? EMPTY);
      hasSent = true;
    }
    if (this.#hasWrittenClose && !this.#hasEnded && this.#pending.size === 0 && this.#canWrite) {
      this.#hasEnded = true;
      this.#write(EMPTY);
      this.#extendClose();
    }
    if (hasSent) {
      this.#sent = now();
      this.#hasHeardSinceSent = false;
    }
    this.#arm();
  }

  /** Close in order, for good: what is queued goes first. */
  close(reason: string): void {
    if (this.welcome === undefined) {
      this.abort(new ConnectionClosed("we have closed the connection"));
      return;
    }
    this.#closing ??= { code: Code.NORMAL, reason, isUrgent: false };
    this.hasClosedSession = true;
    this.#extendClose();
    this.flush();
  }

  /** While the peer takes what is queued, a close may take longer. */
  #extendClose(): void {
    if (this.#closing !== undefined) {
      const late = "the server has not ended the connection in time after a CLOSE";
      this.#deadline = {
        at: now() + this.host.closeTimeout,
        error: new ConnectionClosed(late),
      };
    }
  }

  /** End at once. */
  abort(error: AESMError): void {
    this.transport.abort();
    this.#finish(error);
  }

  // What comes.

  #received(data: Uint8Array): void {
    if (this.#isOver) {
      return;
    }
    this.#heard = now();
    this.#hasHeardSinceSent = true;
    this.#hasPinged = false;
    try {
      for (const event of this.#channel.receive(data)) {
        this.#happened(event);
        if (this.#isOver) {
          return;
        }
      }
      this.#noteAck();
    } catch (error) {
      this.#failed(error);
      return;
    }
    this.flush();
  }

  #happened(event: ChannelEvent): void {
    switch (event.type) {
      case "server":
        void this.#decide(event.publicKey);
        break;
      case "data":
        for (const frame of this.#reader?.read(event.data) ?? []) {
          this.#act(frame);
        }
        break;
      case "end":
        if (this.#reader?.isWithin === true) {
          throw new ProtocolError("the stream ended within a frame");
        }
        if (this.closedWith === undefined) {
          this.#closed({ code: Code.NO_CODE, reason: "" });
        }
        this.#noteAck();
        this.flush(); // our own CLOSE, if that has not left yet
        this.transport.close();
        this.#finish(this.#closeError() ?? this.#channel.lost());
    }
  }

  async #decide(publicKey: Uint8Array): Promise<void> {
    try {
      this.serverKey = toBase64(publicKey);
      await this.host.check(this.serverKey);
      if (this.#isOver) {
        return;
      }
      this.#reader = new FrameReader(this.host.maxMessage, this.host.session.unfinished);
      const { hello, early } = this.host.hello();
      const message = this.#channel.accept(hello);
      const stream = join(...early);
      const records: Uint8Array[] = [];
      for (let at = 0; at < stream.length; at += MAX_PLAINTEXT) {
        records.push(this.#channel.seal(stream.subarray(at, at + MAX_PLAINTEXT)));
      }
      this.hasSaidHello = true;
      this.#canWrite = this.transport.write(join(message, ...records));
    } catch (error) {
      this.#failed(error);
    }
  }

  #act(frame: Frame): void {
    const { type, body } = frame;
    if (this.closedWith !== undefined) {
      throw new ProtocolError("a frame follows a CLOSE");
    }
    if (type === Type.CLOSE) {
      this.#closed(decodeClose(body));
      return;
    }
    if (this.welcome === undefined) {
      if (type !== Type.WELCOME) {
        throw new ProtocolError("the first frame is no WELCOME");
      }
      this.#welcomed(decodeWelcome(body));
      return;
    }
    switch (type) {
      case Type.WELCOME:
        throw new ProtocolError("a second WELCOME");
      case Type.PING:
        this.#countIdle();
        this.#pong = body.slice();
        break;
      case Type.PONG:
        this.#countIdle();
        break;
      case Type.ACK: {
        const { count, limit } = decodeAck(body);
        if (this.host.session.acknowledge(count, limit)) {
          this.#extendClose();
          this.host.acknowledged();
        } else {
          this.#countIdle();
        }
        break;
      }
      default:
        if (!this.#hasWrittenClose) {
          this.host.received(frame);
        }
    }
  }

  #welcomed(welcome: Welcome): void {
    this.welcome = welcome;
    this.#deadline = undefined;
    const isResumed = this.host.welcomed(welcome);
    if (!isResumed && this.#reader !== undefined) {
      this.#reader.rest = undefined;
    }
    this.#hasToAck = isResumed; // each side says what it has, news or not
  }

  #closed(said: CloseReason): void {
    this.closedWith = said;
    // Before the WELCOME we send no frame, and the end of the stream alone.
    this.#hasWrittenClose ||= this.welcome === undefined;
    this.#closing ??= { code: Code.NORMAL, reason: "", isUrgent: false };
    this.#extendClose();
  }

  /** PINGs, PONGs and ACKs without news: not too many of them. */
  #countIdle(): void {
    const at = now();
    const theirs = Math.min(MAX_RATE, 2 / (this.welcome?.heartbeat ?? Infinity));
    const rate = Math.max(1, theirs, 2 / this.host.heartbeat);
    this.#idle = Math.min(FLOOD, this.#idle + (at - this.#idleSince) * rate) - 1;
    this.#idleSince = at;
    if (this.#idle < 0) {
      throw new ProtocolError("the server sends too many frames that carry nothing");
    }
  }

  // What goes.

  #noteAck(): void {
    const { session } = this.host;
    if (this.welcome !== undefined && session.received !== this.#ackedCount) {
      this.#hasToAck = true;
    }
  }

  /** The application has taken something: more may come, which is said in large steps. */
  noteTaken(step: number): void {
    if (this.welcome !== undefined && this.host.limit() - this.host.session.announced >= step) {
      this.#hasToAck = true;
      this.flush();
    }
  }

  #write(plaintext: Uint8Array): void {
    this.#canWrite = this.transport.write(this.#channel.seal(plaintext));
  }

  #fill(): void {
    while (this.#pending.size < MAX_PLAINTEXT) {
      const frame = this.#nextFrame();
      if (frame === undefined) {
        return;
      }
      this.#pending.push(frame);
    }
  }

  #nextFrame(): Uint8Array | undefined {
    if (this.#hasWrittenClose) {
      return undefined;
    }
    const { session } = this.host;
    if (this.welcome !== undefined) {
      if (this.#hasToAck) {
        this.#hasToAck = false;
        this.#ackedCount = session.received;
        session.announced = this.host.limit();
        return encodeAck(session.received, session.announced);
      }
      if (this.#pong !== undefined) {
        const pong = encodeFrame(Type.PONG, this.#pong);
        this.#pong = undefined;
        return pong;
      }
      if (this.#hasToPing) {
        this.#hasToPing = false;
        return encodeFrame(Type.PING, EMPTY);
      }
      if (this.#closing?.isUrgent !== true) {
        const frame = session.takeFrame(this.welcome.batch);
        if (frame !== undefined) {
          return frame;
        }
      }
    }
    const closing = this.#closing;
    // Who has said CLOSE raises no limit any more: what had to wait for that never leaves.
    const isLast = closing?.isUrgent === true || this.closedWith !== undefined;
    if (closing !== undefined && (isLast || session.isAllSent)) {
      this.#hasWrittenClose = true;
      return encodeFrame(Type.CLOSE, encodeReason(closing.code, closing.reason));
    }
    return undefined;
  }

  // Time.

  /** When we have to do something about silence, and what. */
  #nextBeat(): { at: number; beat: () => void } {
    const { heartbeat } = this.host;
    const lost = `nothing was heard of the server for ${2 * heartbeat} seconds`;
    const beats = [
      this.#hasPinged
        ? { at: this.#heard + 2 * heartbeat, beat: () => this.abort(new HeartbeatLost(lost)) }
        : { at: this.#heard + heartbeat, beat: () => this.#sendPing() },
    ];
    if (this.#hasHeardSinceSent) {
      const half = Math.min(heartbeat, this.welcome?.heartbeat ?? heartbeat) / 2;
      const after = this.#reader?.isWithin === true ? Math.max(half, 1 / MAX_RATE) : heartbeat;
      beats.push({ at: this.#sent + after, beat: () => this.#sendPong() });
    }
    return beats.reduce((one, other) => (other.at < one.at ? other : one));
  }

  #sendPing(): void {
    this.#hasPinged = true;
    this.#hasToPing = true;
    this.flush();
  }

  #sendPong(): void {
    this.#pong ??= EMPTY;
    this.#hasHeardSinceSent = false; // if it cannot leave, it is enough that it waits
    this.flush();
  }

  #next(): { at: number; beat: () => void } {
    const deadline = this.#deadline;
    const beat = this.welcome === undefined ? { at: Infinity, beat: () => {} } : this.#nextBeat();
    if (deadline !== undefined && deadline.at <= beat.at) {
      return { at: deadline.at, beat: () => this.abort(this.#closeError() ?? deadline.error) };
    }
    return beat;
  }

  /** Have the one timer go off in time. That it may go off too early costs less than to set it. */
  #arm(): void {
    if (this.#isOver) {
      return;
    }
    const { at } = this.#next();
    if (at < this.#timerAt) {
      clearTimeout(this.#timer);
      this.#timerAt = at;
      this.#timer = setTimeout(() => this.#tick(), Math.min((at - now()) * 1000 + 1, 1e9));
    }
  }

  #tick(): void {
    this.#timerAt = Infinity;
    const { at, beat } = this.#next();
    if (at <= now()) {
      beat();
    }
    this.#arm();
  }

  // The end.

  #closeError(): AESMError | undefined {
    return this.closedWith && closed(this.closedWith.code, this.closedWith.reason);
  }

  #failed(error: unknown): void {
    if (this.#isOver) {
      return;
    }
    const failure =
      error instanceof AESMError ? error : new ConnectionClosed(`an internal error: ${String(error)}`);
    if (failure instanceof ProtocolError && this.welcome !== undefined && this.closedWith === undefined) {
      this.#closing = { code: failure.code, reason: failure.message, isUrgent: true };
      this.hasClosedSession = true;
      this.flush();
      this.transport.close();
      this.#finish(failure);
    } else {
      this.abort(failure);
    }
  }

  #finish(error: AESMError): void {
    if (this.#isOver) {
      return;
    }
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.host.session.unfinished = this.#reader?.unfinished ?? this.host.session.unfinished;
    this.host.ended(error);
  }
}
