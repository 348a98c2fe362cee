/** What a client needs of its transport: a duplex of bytes. */

/** What a transport tells. */
export interface TransportEvents {
  /** These bytes came. */
  data(data: Uint8Array): void;
  /** After a `write` that was false: there is room again, what had to wait was taken. */
  drain(): void;
  /** Nothing comes any more, and nothing goes. Once. */
  close(): void;
}

/** A connection that is made. */
export interface Transport {
  /** Tell these from now on; what came before that has waited. */
  start(events: TransportEvents): void;
  /** Write bytes; false asks to wait for `drain` before more. */
  write(data: Uint8Array): boolean;
  /** Close once all that was written is gone. */
  close(): void;
  /** Close at once. */
  abort(): void;
}

/** Makes connections to one server. */
export interface Dialer {
  /** The server's place as it was typed, by which its key is known: `example.org:8765`. */
  readonly place: string;
  /** Rejects with ConnectFailed; when the signal aborts, with whatever. */
  dial(signal: AbortSignal): Promise<Transport>;
}
