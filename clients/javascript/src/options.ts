/** What a client may be told, and what holds if it is not. */

import type { RequestHandler } from "./answering.js";
import { toUTF8 } from "./bytes.js";
import type { AESMError } from "./errors.js";
import { PrivateKey } from "./keys.js";
import { KEY, SUITES, type Suite } from "./noise.js";
import type { Trust } from "./trust.js";

const MAX_NAME = 255; // bytes
const MAX_SIZE = 2 ** 31 - 1; // bytes
const MAX_SECONDS = 1_000_000; // setTimeout takes little more

/** Tells of what becomes of the connection. */
export interface Observer {
  /** The server has let us in; the session is a former one or new. */
  onConnected?(isResumed: boolean): void;
  /** Not connected; the next attempt is in so many seconds. */
  onWaiting?(delay: number, reason: AESMError): void;
  /** Nothing is open any more; without a reason if we closed. */
  onStopped?(reason: AESMError | undefined): void;
}

/** The names are those of the options of aesm everywhere. */
export interface ClientOptions {
  /** Who we are. */
  readonly key: PrivateKey;
  /** Which servers are the right ones. */
  readonly trust: Trust;
  /** The application's name, the same at both sides. */
  readonly name?: string;
  /** A pre-shared key of 32 bytes that the server has, too. */
  readonly psk?: Uint8Array;
  /** The Noise protocol to offer. */
  readonly suite?: Suite;
  /** Bytes of the largest message to take. */
  readonly maxMessage?: number;
  /** Seconds of silence before a PING; the server is given up after twice that. */
  readonly heartbeat?: number;
  /** Seconds from a connection's start until it is accepted. */
  readonly handshakeTimeout?: number;
  /** Seconds that a close may take from when the server last took anything. */
  readonly closeTimeout?: number;
  /** Bytes of messages that may wait or be unacknowledged. */
  readonly sendBuffer?: number;
  /** Bytes of messages that may wait to be taken. */
  readonly receiveBuffer?: number;
  /** Whether to connect again when the connection is lost. */
  readonly reconnect?: boolean;
  /** Seconds to wait before the next attempt, after so many that failed or were lost. */
  readonly retryPolicy?: (failures: number) => number;
  /** Answers requests of the server. */
  readonly onRequest?: RequestHandler;
  readonly observer?: Observer;
}

const DEFAULTS = {
  name: "aesm",
  suite: SUITES[0],
  maxMessage: 1_048_576,
  heartbeat: 30,
  handshakeTimeout: 10,
  closeTimeout: 5,
  sendBuffer: 67_108_864,
  receiveBuffer: 16_777_216,
  reconnect: true,
} as const;

/** How a request may end without an answer. */
export interface RequestOptions {
  /** Seconds. */
  readonly timeout?: number;
  readonly signal?: AbortSignal;
}

/** The options, complete. */
export type Settings = ClientOptions & {
  -readonly [key in keyof typeof DEFAULTS]-?: NonNullable<ClientOptions[key]>;
};

/** Complete the options; throws if one of them cannot be. */
export function settle(options: ClientOptions): Settings {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const settings = { ...DEFAULTS, ...Object.fromEntries(given) } as Settings;
  check(settings);
  return settings;
}

/** Milliseconds of a number of seconds, as many as a timer takes. */
export function milliseconds(seconds: number): number {
  return Math.min(seconds, MAX_SECONDS) * 1000;
}

function check(options: Settings): void {
  if (!(options.key instanceof PrivateKey)) {
    throw new TypeError("key is a PrivateKey, such as PrivateKey.generate()");
  }
  if (typeof options.trust?.check !== "function") {
    throw new TypeError("trust says which servers are the right ones, such as new Pinned(KEY)");
  }
  if (options.psk !== undefined && options.psk.length !== KEY) {
    throw new TypeError(`a pre-shared key has ${KEY} bytes`);
  }
  if (toUTF8(options.name).length > MAX_NAME) {
    throw new RangeError(`a name has at most ${MAX_NAME} bytes`);
  }
  if (!SUITES.includes(options.suite)) {
    throw new RangeError(`${options.suite} is none of ${SUITES.join(", ")}`);
  }
  for (const key of ["maxMessage", "sendBuffer", "receiveBuffer"] as const) {
    if (!Number.isInteger(options[key]) || options[key] < 1 || options[key] > MAX_SIZE) {
      throw new RangeError(`${key} is a number of bytes from 1 to ${MAX_SIZE}`);
    }
  }
  for (const key of ["heartbeat", "handshakeTimeout", "closeTimeout"] as const) {
    if (!(options[key] > 0) || options[key] > MAX_SECONDS) {
      throw new RangeError(`${key} is a number of seconds above 0, up to ${MAX_SECONDS}`);
    }
  }
}
