/**
 * What users hold: a client that keeps one session with a server, over as many connections as
 * it takes.
 *
 *     const client = new Client(dialer, { key, trust: new Pinned("...") });
 *     await client.send("hello"); // resolves once the server has it
 *     for await (const { data } of client) ...
 */

import { Answering, type Answer, type RequestHandler } from "./answering.js";
import { Connection, type ConnectionHost } from "./connection.js";
import {
  AESMError,
  Code,
  ConnectFailed,
  ConnectionClosed,
  HandshakeTimeout,
  MessageTooBig,
  ProtocolError,
  RequestFailed,
  RequestTimeout,
  SendBufferFull,
  SessionLost,
} from "./errors.js";
import {
  checkSize,
  counted,
  decodeBatch,
  decodeData,
  decodeRequest,
  decodeResponse,
  encodeData,
  encodeRequest,
  encodeResponse,
  isTooBig,
  Type,
  type Frame,
  type Message,
} from "./frames.js";
import { encodeHello, type Welcome } from "./hello.js";
import {
  milliseconds,
  settle,
  type ClientOptions,
  type Observer,
  type RequestOptions,
  type Settings,
} from "./options.js";
import { Inbox, type Packet } from "./packet.js";
import { Asked, Session } from "./session.js";
import type { Dialer, Transport } from "./transport.js";

const AGENT = "aesm-javascript/0.1.0";
const QUICK = 3; // seconds: a connection that lasts no longer counts as a failed attempt
const AT_ONCE = 0.3; // seconds until a connection that was lost is made again
const MOST_QUICK = 10; // times in a row that a connection is made again at once
const LONGEST = 15; // seconds between attempts

type State = "connecting" | "open" | "waiting" | "closing" | "stopped";

/** A client; it connects as soon as it is made. */
export class Client implements AsyncIterable<Packet> {
  /**
   * How the first attempt goes: resolves when the server has let us in, rejects if it fails.
   * The client tries again all the same, unless that would fail alike.
   */
  readonly connected: Promise<void>;
  /** Resolves when nothing is open any more: with the reason, unless we closed. */
  readonly stopped: Promise<AESMError | undefined>;
  /** Answers requests of the server; without it they are refused. */
  onRequest: RequestHandler | undefined;

  readonly #options: Settings;
  readonly #inbox: Inbox;
  #state: State = "connecting";
  #session = new Session();
  #answering: Answering;
  #connection: Connection | undefined;
  #peer: Welcome | undefined; // the last that we know of
  #window = 0; // what the last hello said
  #early = 0; // bytes
  #failures = 0;
  #isFlushing = false;
  #drained: (() => void)[] = [];
  #interrupt = new AbortController();
  #first!: { resolve(): void; reject(error: AESMError): void };

  constructor(
    private readonly dialer: Dialer,
    options: ClientOptions,
  ) {
    this.#options = settle(options);
    this.onRequest = options.onRequest;
    this.#inbox = new Inbox(() => this.#taken());
    this.#answering = this.#answer();
    this.connected = new Promise((resolve, reject) => (this.#first = { resolve, reject }));
    this.connected.catch(() => {}); // who does not ask is told by what it sends
    this.stopped = this.#run();
  }

  get isConnected(): boolean {
    return this.#state === "open";
  }

  /** Our own public key. */
  get publicKey(): string {
    return this.#options.key.publicKey;
  }

  /** What both sides know of the present handshake, 32 bytes. */
  get handshakeHash(): Uint8Array | undefined {
    return this.#connection?.handshakeHash;
  }

  /**
   * Send a message. Resolves once the server has it; rejects with MessageTooBig or
   * SendBufferFull before anything is sent, with ConnectionClosed or SessionLost if it may or
   * may not have it. Messages arrive in order whether one waits for this or not.
   */
  send(data: string | Uint8Array): Promise<void> {
    const sent = new Promise<void>((resolve, reject) => {
      this.#push({ message: encodeData(checked(data)), acknowledged: resolve, failed: reject });
    });
    sent.catch(() => {}); // may be ignored
    return sent;
  }

  /**
   * Ask the server. Rejects with RequestFailed if it refuses, RequestTimeout, the signal's
   * reason, or what `send` rejects with.
   */
  request(
    data: string | Uint8Array,
    options: RequestOptions = {},
  ): Promise<string | Uint8Array> {
    const { timeout, signal } = options;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let aborted: (() => void) | undefined;
    const answered = new Promise<string | Uint8Array>((resolve, reject) => {
      signal?.throwIfAborted();
      if (timeout !== undefined && !(timeout > 0)) {
        throw new RangeError(`timeout is a number of seconds above 0, and not ${timeout}`);
      }
      const asked = new Asked(resolve, reject, (code, reason) =>
        reject(new RequestFailed(code, reason)),
      );
      this.#push({ message: encodeRequest(checked(data)), asked });
      const withdraw = (error: unknown): void => {
        reject(error);
        this.#session.withdraw(asked);
        this.#flushSoon();
      };
      aborted = () => withdraw(signal?.reason);
      signal?.addEventListener("abort", aborted);
      if (timeout !== undefined) {
        const late = new RequestTimeout(`no answer came within ${timeout} seconds`);
        timer = setTimeout(() => withdraw(late), milliseconds(timeout));
      }
    });
    const done = answered.finally(() => {
      clearTimeout(timer);
      if (aborted !== undefined) {
        signal?.removeEventListener("abort", aborted);
      }
    });
    done.catch(() => {});
    return done;
  }

  /** Take the oldest packet, once there is one; undefined once the client is closed in order. */
  receive(): Promise<Packet | undefined> {
    return this.#inbox.take();
  }

  /** Packets as they come, until the client is closed; any other end is thrown. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Packet> {
    for (let packet = await this.receive(); packet !== undefined; packet = await this.receive()) {
      yield packet;
    }
  }

  /** Resolves when less than half of `sendBuffer` waits or is unacknowledged. */
  async drain(): Promise<void> {
    while (this.#session.waiting >= this.#options.sendBuffer / 2) {
      await new Promise<void>((resolve) => this.#drained.push(resolve));
    }
  }

  /**
   * Send what is queued, if there is a connection, and close in order. What is not
   * acknowledged then rejects.
   */
  async close(reason = ""): Promise<void> {
    if (this.#state === "open") {
      this.#state = "closing";
      this.#connection?.close(reason);
    } else if (this.#state !== "stopped") {
      this.#state = "closing";
      this.#connection?.abort(new ConnectionClosed("the client was closed"));
      this.#interrupt.abort();
    }
    await this.stopped;
  }

  // What is sent.

  #push(outgoing: Parameters<Session["push"]>[0]): void {
    const { message } = outgoing;
    if (this.#state === "closing" || this.#state === "stopped") {
      throw new ConnectionClosed("the client was closed, and sends nothing more");
    }
    const problem = this.#peer && this.#problem(message, this.#peer);
    if (problem !== undefined) {
      throw problem;
    }
    if (this.#session.waiting + counted(message) > this.#options.sendBuffer) {
      throw new SendBufferFull(
        `more than ${this.#options.sendBuffer} bytes would wait or be unacknowledged; ` +
          "await drain() before sending more",
      );
    }
    this.#session.push(outgoing);
    this.#flushSoon();
  }

  #problem(message: Message, peer: Welcome): AESMError | undefined {
    if (message.type === Type.REQUEST && !peer.requests) {
      return new RequestFailed(Code.NO_REQUESTS, "the server does not know of requests");
    }
    return isTooBig(message.type, message.body.length, peer.maxMessage)
      ? new MessageTooBig(`the server takes messages of up to ${peer.maxMessage} bytes`)
      : undefined;
  }

  /** What is sent in one turn goes together. */
  #flushSoon(): void {
    if (!this.#isFlushing) {
      this.#isFlushing = true;
      queueMicrotask(() => {
        this.#isFlushing = false;
        this.#connection?.flush();
      });
    }
  }

  // What comes.

  #received(frame: Frame): void {
    const { type, body } = frame;
    const time = new Date(Number(frame.time / 1000n));
    const messages = type === Type.BATCH ? decodeBatch(body) : [{ type, body } as Message];
    for (const message of messages) {
      checkSize(message.type, message.body.length, this.#options.maxMessage);
      const number = this.#session.receive(message);
      if (message.type === Type.REQUEST) {
        const packet = { data: decodeRequest(message.body), time };
        this.#answering.add(number, packet, counted(message));
      } else if (message.type === Type.RESPONSE) {
        this.#responded(number, message.body);
      } else {
        const packet = { data: decodeData(message.type, message.body), time };
        this.#inbox.put(packet, counted(message));
      }
    }
  }

  #responded(number: number, body: Uint8Array): void {
    const response = decodeResponse(body);
    if (response.status !== 4) {
      this.#session.answered(response);
    } else if (response.number < number) {
      this.#answering.withdraw(response.number);
    } else {
      throw new ProtocolError("a request is withdrawn before it is sent");
    }
  }

  #taken(): void {
    this.#connection?.noteTaken(this.#options.receiveBuffer / 4);
  }

  /** Up to where the server may send: what nobody has taken holds it back. */
  #limit(): number {
    const room = this.#options.receiveBuffer - this.#held;
    return Math.max(this.#session.announced, this.#session.receivedBytes + room);
  }

  get #held(): number {
    return this.#inbox.held + this.#answering.held;
  }

  #answer(): Answering {
    const client = this;
    const session = this.#session;
    return new Answering({
      get onRequest() {
        return client.onRequest;
      },
      get isHeldBack() {
        return session.waiting >= client.#options.sendBuffer / 2;
      },
      answer(number: number, answer: Answer): void {
        if (session !== client.#session) {
          return;
        }
        const response = encodeResponse(number, answer);
        const peer = client.#peer;
        const isFailed = peer && client.#problem(response, peer) !== undefined;
        const tooBig = { code: Code.TOO_BIG, reason: "the answer is too big" };
        session.push({ message: isFailed ? encodeResponse(number, tooBig) : response });
        client.#taken();
        client.#flushSoon();
      },
    });
  }

  // Connections.

  async #run(): Promise<AESMError | undefined> {
    await undefined; // what is sent in the turn in which the client is made may leave early
    for (;;) {
      const begun = performance.now();
      const { error, connection } = await this.#connectOnce();
      const isClosing = (this.#state as State) === "closing";
      const isOpened = connection?.welcome !== undefined;
      this.#settle(error, connection);
      this.#first.reject(error); // of no effect if it was resolved
      if (isClosing || error.isFinal || !this.#options.reconnect) {
        return this.#stop(error, isClosing, connection?.closedWith?.code);
      }
      const seconds = (performance.now() - begun) / 1000;
      this.#failures = isOpened && seconds >= QUICK ? 1 : this.#failures + 1;
      const delay = this.#delay(isOpened, connection?.closedWith?.after);
      this.#state = "waiting";
      this.#observe((observer) => observer.onWaiting?.(delay, error));
      await this.#sleep(delay);
      if ((this.#state as State) === "closing") {
        return this.#stop(error, true, undefined);
      }
      this.#state = "connecting";
    }
  }

  async #connectOnce(): Promise<{ error: AESMError; connection?: Connection }> {
    const { handshakeTimeout } = this.#options;
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), milliseconds(handshakeTimeout));
    let transport: Transport;
    try {
      transport = await this.dialer.dial(AbortSignal.any([late.signal, this.#interrupt.signal]));
    } catch (error) {
      if (late.signal.aborted) {
        const place = this.dialer.place;
        return { error: new HandshakeTimeout(`no connection to ${place} in time`) };
      }
      return { error: asAESM(error) };
    } finally {
      clearTimeout(timer);
    }
    return new Promise((resolve) => {
      const { key, suite, name, psk } = this.#options;
      const channel = {
        place: this.dialer.place,
        suite,
        name,
        key: key.toPair(),
        ...(psk === undefined ? {} : { psk }),
      };
      const connection: Connection = new Connection(
        transport,
        channel,
        this.#host((error) => resolve({ error, connection })),
      );
      this.#connection = connection;
      if (this.#interrupt.signal.aborted) {
        connection.abort(new ConnectionClosed("the client was closed"));
      } else {
        connection.start();
      }
    });
  }

  #host(ended: (error: AESMError) => void): ConnectionHost {
    const client = this;
    return {
      get session() {
        return client.#session;
      },
      maxMessage: this.#options.maxMessage,
      heartbeat: this.#options.heartbeat,
      handshakeTimeout: this.#options.handshakeTimeout,
      closeTimeout: this.#options.closeTimeout,
      check: async (publicKey) => this.#options.trust.check(this.dialer.place, publicKey),
      hello: () => this.#hello(),
      welcomed: (welcome) => this.#welcomed(welcome),
      received: (frame) => this.#received(frame),
      acknowledged: () => this.#acknowledged(),
      limit: () => this.#limit(),
      ended,
    };
  }

  #hello(): { hello: Uint8Array; early: Uint8Array[] } {
    const session = this.#session;
    const { maxMessage, heartbeat, receiveBuffer, reconnect } = this.#options;
    const former = session.id;
    const early = former === undefined ? session.takeEarly() : [];
    this.#early = early.reduce((size, frame) => size + frame.length, 0);
    this.#window = Math.max(1, receiveBuffer - this.#held);
    if (this.#early > 0) {
      session.announced = this.#window; // the session begins now, if the server takes them
    }
    const hello = encodeHello({
      agent: AGENT,
      maxMessage,
      heartbeat,
      batch: true,
      requests: true,
      window: this.#window,
      ...(session.id === undefined ? {} : { session: session.id }),
      ...(former === undefined ? {} : { received: session.received }),
      ...(session.unfinished === undefined ? {} : { partial: session.unfinished.held }),
      ...(this.#early === 0 ? {} : { early: this.#early }),
      ...(reconnect ? {} : { resume: false }),
    });
    return { hello, early };
  }

  #welcomed(welcome: Welcome): boolean {
    const isSame = welcome.session === this.#session.id;
    const isResumed = isSame && this.#early === 0;
    if (isSame ? welcome.early !== this.#early : welcome.early !== 0) {
      throw new ProtocolError("the WELCOME is not clear about early messages");
    }
    this.#peer = welcome;
    const problem = (message: Message): AESMError | undefined => this.#problem(message, welcome);
    if (isResumed) {
      this.#session.resume(welcome.received, welcome.partial);
      if (this.#session.has(problem)) {
        throw new ProtocolError("the server goes on with a session whose messages it does not take");
      }
    } else {
      if (!isSame && this.#early > 0) {
        this.#session.untakeEarly();
      } else if (!isSame && this.#session.id !== undefined) {
        this.#lose(
          new SessionLost(
            "the server has not the session any more: what was sent in it may or may not have " +
              "arrived, and is not sent again",
          ),
        );
      }
      this.#session.begin(welcome.session, welcome.window);
      this.#session.announced = this.#window;
      this.#session.sift(problem);
    }
    this.#early = 0;
    this.#state = "open";
    this.#first.resolve();
    void this.#announce(welcome, this.#connection?.serverKey ?? "");
    this.#observe((observer) => observer.onConnected?.(isResumed));
    return isResumed;
  }

  #acknowledged(): void {
    this.#answering.begin();
    if (this.#session.waiting < this.#options.sendBuffer / 2) {
      for (const drained of this.#drained.splice(0)) {
        drained();
      }
    }
  }

  async #announce(welcome: Welcome, serverKey: string): Promise<void> {
    if (welcome.nextKey !== undefined) {
      const { place } = this.dialer;
      try {
        await this.#options.trust.announced?.(place, serverKey, welcome.nextKey);
      } catch (error) {
        console.error(`aesm: the next key of ${place} cannot be remembered:`, error);
      }
    }
  }

  /** What the end of a connection means for the session. */
  #settle(error: AESMError, connection: Connection | undefined): void {
    const early = this.#early;
    this.#early = 0;
    this.#connection = undefined;
    if (connection === undefined) {
      return;
    }
    const { welcome, closedWith, hasClosedSession } = connection;
    if (welcome === undefined) {
      if (closedWith !== undefined && early > 0) {
        this.#session.untakeEarly();
      }
    } else if (hasClosedSession || (closedWith && closedWith.code !== Code.GOING_AWAY)) {
      this.#lose(error);
    }
  }

  #lose(error: AESMError): void {
    this.#answering.abandon();
    this.#session = this.#session.lose(error);
    this.#answering = this.#answer();
  }

  #stop(error: AESMError, isClosing: boolean, code: number | undefined): AESMError | undefined {
    this.#state = "stopped";
    const reason = isClosing ? undefined : error;
    const isInOrder = code === Code.NORMAL || code === Code.GOING_AWAY;
    this.#answering.abandon();
    this.#session.end(
      reason ?? new ConnectionClosed("the client was closed before the server had acknowledged this"),
    );
    this.#inbox.end(isInOrder ? undefined : reason);
    for (const drained of this.#drained.splice(0)) {
      drained();
    }
    this.#observe((observer) => observer.onStopped?.(reason));
    return reason;
  }

  #delay(wasOpen: boolean, after: number | undefined): number {
    const { retryPolicy } = this.#options;
    if (retryPolicy !== undefined) {
      return retryPolicy(this.#failures);
    }
    if (after !== undefined) {
      return (Math.random() * after) / 1000;
    }
    if (wasOpen && this.#failures <= MOST_QUICK) {
      return Math.random() * AT_ONCE;
    }
    return Math.min(LONGEST, 1.5 ** Math.min(this.#failures, 20)) * (0.5 + Math.random() / 2);
  }

  #sleep(seconds: number): Promise<void> {
    const { signal } = this.#interrupt;
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      const timer = setTimeout(wake, signal.aborted ? 0 : milliseconds(seconds));
      signal.addEventListener("abort", wake);
    });
  }

  #observe(tell: (observer: Observer) => void): void {
    try {
      tell(this.#options.observer ?? {});
    } catch (error) {
      console.error("aesm: an observer failed:", error);
    }
  }
}

function checked(data: string | Uint8Array): string | Uint8Array {
  if (typeof data === "string") {
    if (!data.isWellFormed()) {
      throw new TypeError("a text with half of a surrogate pair has no UTF-8");
    }
    return data;
  }
  if (data instanceof Uint8Array) {
    return data.slice(); // what is sent may have to be sent again
  }
  throw new TypeError("a message is a string or Uint8Array");
}

function asAESM(error: unknown): AESMError {
  return error instanceof AESMError ? error : new ConnectFailed(String(error));
}
