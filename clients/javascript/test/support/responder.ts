/**
 * The other side, for tests of what no real server does: a responder of classical suites, and
 * a transport in memory to a server that says what a test has it say.
 */

import { EMPTY, frame, join, random, toUTF8, view } from "../../src/bytes.js";
import { encodeFrame, FrameReader, Type, type Frame } from "../../src/frames.js";
import { PrivateKey } from "../../src/keys.js";
import { CipherState, dh, publicKeyOf, SymmetricState, type Suite } from "../../src/noise.js";
import type { Dialer, Transport, TransportEvents } from "../../src/transport.js";

/** The responder's side of `Noise_XX`, without a pre-shared key. */
export class Responder {
  readonly #state: SymmetricState;
  readonly #e = random(32);
  #remoteEphemeral: Uint8Array = EMPTY;

  constructor(
    suite: Suite,
    private readonly s: Uint8Array,
    name = "aesm",
  ) {
    this.#state = new SymmetricState(suite, suite);
    this.#state.mixHash(join(frame(toUTF8(`AESM/1 ${suite}`)), frame(toUTF8(name))));
  }

  readFirst(message: Uint8Array): void {
    this.#remoteEphemeral = message.slice(0, 32);
    this.#state.mixHash(this.#remoteEphemeral);
    this.#state.decryptAndHash(message.subarray(32));
  }

  writeSecond(): Uint8Array {
    const state = this.#state;
    const e = publicKeyOf(this.#e);
    state.mixHash(e);
    state.mixKey(dh(this.#e, this.#remoteEphemeral));
    const s = state.encryptAndHash(publicKeyOf(this.s));
    state.mixKey(dh(this.s, this.#remoteEphemeral));
    return join(e, s, state.encryptAndHash(EMPTY));
  }

  /** Returns the payload, and the ciphers of what comes and of what goes. */
  readThird(message: Uint8Array): { payload: Uint8Array; ciphers: [CipherState, CipherState] } {
    const remote = this.#state.decryptAndHash(message.subarray(0, 48));
    this.#state.mixKey(dh(this.#e, remote));
    const payload = this.#state.decryptAndHash(message.subarray(48));
    return { payload, ciphers: this.#state.split() };
  }
}

/** One connection to a server that a test plays; a Transport to the client. */
export class ScriptedConnection implements Transport {
  /** What the hello said. */
  hello: Record<string, unknown> = {};
  /** All frames that came, and undefined for the end of the stream. */
  readonly frames: (Frame | undefined)[] = [];
  isClosed = false;
  /** Whether the client's writes are taken. */
  isTaking = true;
  reader = new FrameReader(1 << 20);
  #events: TransportEvents | undefined;
  #input: Uint8Array = EMPTY;
  #responder: Responder;
  #stage: "offer" | "first" | "third" | "open" = "offer";
  #ciphers: [CipherState, CipherState] | undefined;

  #waiters: (() => void)[] = [];

  constructor(private readonly server: ScriptedServer) {
    this.#responder = new Responder(server.suite, server.key.toBytes(), server.name);
  }

  // Transport

  start(events: TransportEvents): void {
    this.#events = events;
  }

  write(data: Uint8Array): boolean {
    this.#input = join(this.#input, data);
    for (;;) {
      const length = this.#input.length < 2 ? Infinity : 2 + view(this.#input).getUint16(0);
      if (this.#input.length < length) {
        break;
      }
      const message = this.#input.slice(2, length);
      this.#input = this.#input.subarray(length);
      this.#take(message);
    }
    this.#wake();
    return this.isTaking;
  }

  close(): void {
    this.abort();
  }

  abort(): void {
    if (!this.isClosed) {
      this.isClosed = true;
      queueMicrotask(() => this.#events?.close());
      this.#wake();
    }
  }

  // The server

  /** Cut it off. */
  cut(): void {
    this.abort();
  }

  /** The client's writes that had to wait are taken. */
  drain(): void {
    this.isTaking = true;
    this.#events?.drain();
  }

  /** Send frames in one record. */
  send(...frames: Uint8Array[]): void {
    this.sendRaw(join(...frames));
  }

  /** Send a record with any plaintext; with none, the end of the stream. */
  sendRaw(plaintext: Uint8Array): void {
    const record = this.#ciphers?.[1].encryptWithAd(EMPTY, plaintext) ?? EMPTY;
    this.sendBytes(frame(record));
  }

  /** Send records at once, the last of which is altered on its way. */
  sendTogether(...plaintexts: Uint8Array[]): void {
    const records = plaintexts.map((each) =>
      frame(this.#ciphers?.[1].encryptWithAd(EMPTY, each) ?? EMPTY),
    );
    const data = join(...records);
    data[data.length - 1] = (data[data.length - 1] ?? 0) ^ 1;
    this.sendBytes(data);
  }

  sendBytes(data: Uint8Array): void {
    if (!this.isClosed) {
      this.#events?.data(data);
    }
  }

  /** Let the client in. */
  welcome(fields: Record<string, unknown> = {}): void {
    const all = { session: "0".repeat(32), batch: true, requests: true, ...fields };
    this.send(encodeFrame(Type.WELCOME, toUTF8(JSON.stringify(all))));
  }

  /** Wait until something is so. */
  async until(isSo: () => boolean): Promise<void> {
    while (!isSo()) {
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
  }

  /** Wait for the first frame of a type. */
  async frame(type: number, index = 0): Promise<Frame> {
    const found = (): Frame | undefined => this.frames.filter((each) => each?.type === type)[index];
    await this.until(() => found() !== undefined);
    return found() as Frame;
  }

  /** Wait for the end of the client's stream. */
  async ended(): Promise<void> {
    await this.until(() => this.frames.includes(undefined));
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) {
      wake();
    }
  }

  #take(message: Uint8Array): void {
    switch (this.#stage) {
      case "offer":
        this.#stage = "first";
        break;
      case "first":
        this.#responder.readFirst(message);
        this.#stage = "third";
        queueMicrotask(() => this.sendBytes(frame(this.#responder.writeSecond())));
        break;
      case "third": {
        const { payload, ciphers } = this.#responder.readThird(message);
        this.#ciphers = ciphers;
        this.hello = JSON.parse(new TextDecoder().decode(payload)) as Record<string, unknown>;
        this.#stage = "open";
        this.server.said(this);
        break;
      }
      case "open": {
        const plaintext = this.#ciphers?.[0].decryptWithAd(EMPTY, message) ?? EMPTY;
        this.frames.push(...(plaintext.length === 0 ? [undefined] : this.reader.read(plaintext)));
      }
    }
  }
}

/** A server that a test plays: it gives the test each connection once its hello has come. */
export class ScriptedServer implements Dialer {
  readonly place = "scripted:1";
  readonly key = PrivateKey.generate();
  readonly suite: Suite = "Noise_XX_25519_ChaChaPoly_SHA256";
  #connections: ScriptedConnection[] = [];
  #waiters: ((connection: ScriptedConnection) => void)[] = [];

  constructor(readonly name = "aesm") {}

  async dial(): Promise<Transport> {
    return new ScriptedConnection(this);
  }

  /** A client has said hello. */
  said(connection: ScriptedConnection): void {
    const waiter = this.#waiters.shift();
    if (waiter === undefined) {
      this.#connections.push(connection);
    } else {
      waiter(connection);
    }
  }

  /** The next connection whose hello has come. */
  async accept(): Promise<ScriptedConnection> {
    const connection = this.#connections.shift();
    return connection ?? new Promise((resolve) => this.#waiters.push(resolve));
  }
}
