/** Messages that came, until the application takes them. */

import type { AESMError } from "./errors.js";

/** A message that came. */
export interface Packet {
  /** What: the type in which it was sent. */
  readonly data: string | Uint8Array;
  /** When the sender sent it, by its own clock. */
  readonly time: Date;
}

interface Waiter {
  resolve(packet: Packet | undefined): void;
  reject(error: AESMError): void;
}

/** A queue of packets that ends once, and then with an error or without. */
export class Inbox {
  #packets: ({ packet: Packet; counted: number } | undefined)[] = [];
  #first = 0; // of #packets: to take it from an array of many would move all others
  #waiters: Waiter[] = [];
  #end: { error: AESMError | undefined } | undefined;
  /** What the packets count that nobody has taken. */
  held = 0;

  constructor(private readonly taken: () => void) {}

  /** A packet has come, which counts so much. */
  put(packet: Packet, counted: number): void {
    this.#packets.push({ packet, counted });
    this.held += counted;
    this.#serve();
  }

  /** Nothing more comes. */
  end(error: AESMError | undefined): void {
    this.#end = { error };
    this.#serve();
  }

  /** The oldest packet, once there is one; undefined after an end without an error. */
  take(): Promise<Packet | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject });
      this.#serve();
    });
  }

  #serve(): void {
    let counted = 0;
    while (this.#waiters.length > 0) {
      const next = this.#shift();
      if (next !== undefined) {
        counted += next.counted;
        this.#waiters.shift()?.resolve(next.packet);
      } else if (this.#end?.error !== undefined) {
        this.#waiters.shift()?.reject(this.#end.error);
      } else if (this.#end !== undefined) {
        this.#waiters.shift()?.resolve(undefined);
      } else {
        break;
      }
    }
    if (counted > 0) {
      this.held -= counted;
      this.taken();
    }
  }

  #shift(): { packet: Packet; counted: number } | undefined {
    const next = this.#packets[this.#first];
    if (next !== undefined) {
      this.#packets[this.#first++] = undefined;
      if (this.#first * 2 > this.#packets.length) {
        this.#packets.splice(0, this.#first);
        this.#first = 0;
      }
    }
    return next;
  }
}
