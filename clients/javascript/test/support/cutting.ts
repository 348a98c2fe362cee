/** A dialer whose connections are cut at chosen bytes, as a network would cut them. */

import type { Dialer, Transport, TransportEvents } from "../../src/index.js";

/** What becomes of one connection. */
export interface Cut {
  /** Which direction is cut. */
  readonly direction: "toServer" | "toClient";
  /** Behind so many bytes of it. */
  readonly at: number;
  /** Whether the server is not told: it has to find out by itself. */
  readonly isHalfOpen: boolean;
}

class CuttingTransport implements Transport {
  #toServer = 0;
  #toClient = 0;
  #events: TransportEvents | undefined;
  #isCut = false;

  constructor(
    private readonly inner: Transport,
    private readonly cut: Cut,
    private readonly happened: () => void,
  ) {}

  start(events: TransportEvents): void {
    this.#events = events;
    this.inner.start({
      data: (data) => this.#came(data),
      drain: () => this.#isCut || events.drain(),
      close: () => this.#isCut || events.close(),
    });
  }

  write(data: Uint8Array): boolean {
    if (this.#isCut) {
      return true;
    }
    const room = this.cut.direction === "toServer" ? this.cut.at - this.#toServer : Infinity;
    this.#toServer += data.length;
    if (data.length < room) {
      return this.inner.write(data);
    }
    this.inner.write(data.subarray(0, room));
    this.#cutOff(() => this.inner.close());
    return true;
  }

  close(): void {
    this.inner.close();
  }

  abort(): void {
    if (!(this.#isCut && this.cut.isHalfOpen)) {
      this.inner.abort();
    }
  }

  #came(data: Uint8Array): void {
    if (this.#isCut) {
      return;
    }
    const room = this.cut.direction === "toClient" ? this.cut.at - this.#toClient : Infinity;
    this.#toClient += data.length;
    this.#events?.data(data.subarray(0, Math.min(room, data.length)));
    if (data.length >= room) {
      this.#cutOff(() => this.inner.abort());
    }
  }

  #cutOff(end: () => void): void {
    this.#isCut = true;
    this.happened();
    if (!this.cut.isHalfOpen) {
      end();
    }
    queueMicrotask(() => this.#events?.close());
  }
}

/** Cuts the first connections, one after the other; those after them are left alone. */
export class CuttingDialer implements Dialer {
  readonly place: string;
  /** How many cuts there were: a connection may end before it comes to its own. */
  happened = 0;
  #dialled = 0;
  readonly #left: (() => void)[] = [];

  constructor(
    private readonly inner: Dialer,
    private readonly cuts: readonly Cut[],
  ) {
    this.place = inner.place;
  }

  async dial(signal: AbortSignal): Promise<Transport> {
    const cut = this.cuts[this.#dialled++];
    const transport = await this.inner.dial(signal);
    if (cut === undefined) {
      return transport;
    }
    if (cut.isHalfOpen) {
      this.#left.push(() => transport.abort());
    }
    return new CuttingTransport(transport, cut, () => this.happened++);
  }

  /** Close what was left half open. */
  end(): void {
    for (const abort of this.#left) {
      abort();
    }
  }
}
