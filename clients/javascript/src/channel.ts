/**
 * The secure channel, docs/protocol.md, sections 2 to 5: bytes in, events out. It knows
 * nothing of transports, frames or time.
 */

import { Buffered, EMPTY, equal, frame, join, toUTF8, view } from "./bytes.js";
import {
  AESMError,
  NameOrKeyMismatch,
  NoAnswer,
  NotAnAESMPeer,
  OfferRefused,
  ProtocolError,
  TamperedRecord,
  Truncated,
  UntrustedServer,
} from "./errors.js";
import {
  CipherState,
  Initiator,
  NoiseError,
  TAG,
  withPSK,
  type Ephemerals,
  type KeyPair,
  type Suite,
} from "./noise.js";

export const MAX_PLAINTEXT = 65_519; // bytes of a record
export const MAX_HELLO = 2_048; // bytes
const MAX_REASON = 255; // bytes of a refusal
export const REKEY_AFTER = 65_536; // records
const LENGTH = 2; // bytes

/** What both sides have to have alike, and our key. */
export interface ChannelOptions {
  /** Where the server is, for errors. */
  readonly place: string;
  readonly suite: Suite;
  /** The application's name, which is never sent: 0 to 255 bytes of UTF-8. */
  readonly name: string;
  /** Our static keys. */
  readonly key: KeyPair;
  /** The pre-shared key, 32 bytes. */
  readonly psk?: Uint8Array;
  /** What is else made for each channel. */
  readonly ephemerals?: Ephemerals;
}

/**
 * `server`: it has this static key; `accept` is to be called if that is the right one.
 * `data`: more of the stream. `end`: the stream has ended in order.
 */
export type ChannelEvent =
  | { readonly type: "server"; readonly publicKey: Uint8Array }
  | { readonly type: "data"; readonly data: Uint8Array }
  | { readonly type: "end" };

/** One direction's cipher, which changes its key when it is due. */
export class Direction {
  #records = 0;

  constructor(
    private readonly cipher: CipherState,
    private readonly rekeyAfter = REKEY_AFTER,
  ) {}

  seal(plaintext: Uint8Array): Uint8Array {
    const record = frame(this.cipher.encryptWithAd(EMPTY, plaintext));
    this.#count();
    return record;
  }

  open(ciphertext: Uint8Array): Uint8Array {
    const plaintext = this.cipher.decryptWithAd(EMPTY, ciphertext);
    this.#count();
    return plaintext;
  }

  #count(): void {
    this.#records++;
    if (this.#records % this.rekeyAfter === 0) {
      this.cipher.rekey();
    }
  }
}

/** The client's end of a channel. After an error that it throws it is of no more use. */
export class Channel {
  /** What goes first over the wire: the offer, and message 1. */
  readonly opening: Uint8Array;
  #state: "offered" | "deciding" | "open" | "ended" = "offered";
  #handshake: Initiator;
  #incoming = new Buffered();
  #sender: Direction | undefined;
  #receiver: Direction | undefined;

  constructor(private readonly options: ChannelOptions) {
    const { suite, psk, ephemerals } = options;
    const offer = frame(toUTF8(`AESM/1 ${psk === undefined ? suite : withPSK(suite)}`));
    const prologue = join(offer, frame(toUTF8(options.name)));
    this.#handshake = new Initiator(suite, prologue, options.key, psk, ephemerals);
    this.opening = join(offer, frame(this.#handshake.writeFirst()));
  }

  /** What both sides know of this handshake, 32 bytes, once it is done. */
  get handshakeHash(): Uint8Array {
    return this.#handshake.handshakeHash;
  }

  /** Take what came from the transport; what it means is found out one event after the other. */
  *receive(data: Uint8Array): Generator<ChannelEvent> {
    this.#incoming.push(data);
    for (let event = this.#next(); event !== undefined; event = this.#next()) {
      yield event;
    }
  }

  /** Why a transport that is closed now was closed too early. */
  lost(): AESMError {
    const { place } = this.options;
    if (this.#state === "offered" && this.#incoming.size === 0) {
      return new NoAnswer(
        `the server at ${place} hung up without a word: psk or name may differ from ours, ` +
          "or it is full or stopping",
      );
    }
    return new Truncated(`the connection to ${place} was cut off`);
  }

  /** The server's key is the right one: returns message 3. */
  accept(hello: Uint8Array): Uint8Array {
    const message = frame(this.#handshake.writeThird(hello));
    const [sender, receiver] = this.#handshake.split();
    this.#sender = new Direction(sender);
    this.#receiver = new Direction(receiver);
    this.#state = "open";
    return message;
  }

  /** A record with at most MAX_PLAINTEXT bytes of our stream; with none, its end. */
  seal(plaintext: Uint8Array): Uint8Array {
    if (this.#sender === undefined) {
      throw new Error("there is no channel before the handshake");
    }
    return this.#sender.seal(plaintext);
  }

  #next(): ChannelEvent | undefined {
    if (this.#state === "offered") {
      return this.#nextInHandshake();
    }
    if (this.#state === "open" && this.#receiver !== undefined) {
      return this.#nextRecord(this.#receiver);
    }
    if (this.#incoming.size > 0) {
      throw new ProtocolError("the server goes on where it has nothing to say");
    }
    return undefined;
  }

  #length(): number | undefined {
    const length = this.#incoming.peek(LENGTH);
    return length && view(length).getUint16(0);
  }

  #nextInHandshake(): ChannelEvent | undefined {
    const { place } = this.options;
    const length = this.#length();
    if (length === 0) {
      return this.#refused();
    }
    if (length !== undefined && length !== this.#handshake.secondSize) {
      throw new NotAnAESMPeer(`what listens at ${place} does not talk AESM/1`);
    }
    const message = length && this.#incoming.take(LENGTH + length);
    if (!message) {
      return undefined;
    }
    try {
      this.#handshake.readSecond(message.subarray(LENGTH));
    } catch (error) {
      if (error instanceof NoiseError) {
        throw new NameOrKeyMismatch(
          `the handshake with ${place} does not authenticate: the server has another name ` +
            "than ours, or somebody in between alters what we say",
        );
      }
      throw error;
    }
    const publicKey = this.#handshake.remoteStatic;
    if (equal(publicKey, this.options.key.publicKey)) {
      throw new UntrustedServer(`the server at ${place} has our own key: give each its own`);
    }
    this.#state = "deciding";
    return { type: "server", publicKey };
  }

  #refused(): undefined {
    const { place } = this.options;
    const lengths = this.#incoming.peek(2 * LENGTH);
    if (lengths === undefined) {
      return;
    }
    const length = view(lengths).getUint16(LENGTH);
    if (length > MAX_REASON) {
      throw new NotAnAESMPeer(`what listens at ${place} does not talk AESM/1`);
    }
    const reason = this.#incoming.peek(2 * LENGTH + length)?.subarray(2 * LENGTH);
    if (reason !== undefined) {
      const printable = String.fromCharCode(...reason).replace(/[^\x20-\x7e]/g, "?");
      throw new OfferRefused(place, printable);
    }
  }

  #nextRecord(receiver: Direction): ChannelEvent | undefined {
    const length = this.#length();
    if (length !== undefined && length < TAG) {
      throw new TamperedRecord("a record is shorter than its tag: it was altered on its way");
    }
    const record = length && this.#incoming.take(LENGTH + length);
    if (!record) {
      return undefined;
    }
    let data: Uint8Array;
    try {
      data = receiver.open(record.subarray(LENGTH));
    } catch {
      throw new TamperedRecord("a record does not authenticate: it was altered on its way");
    }
    if (data.length === 0) {
      this.#state = "ended";
      return { type: "end" };
    }
    return { type: "data", data };
  }
}
