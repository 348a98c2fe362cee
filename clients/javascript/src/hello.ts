/** The hello and the WELCOME, docs/protocol.md, section 8. */

import { fromBase64, fromUTF8, toUTF8 } from "./bytes.js";
import { ProtocolError } from "./errors.js";
import { KEY } from "./noise.js";

export const MAX_EARLY = 65_536; // bytes that early messages count, and have

/** What a client says of itself, in message 3. */
export interface Hello {
  readonly agent: string;
  readonly maxMessage: number;
  readonly heartbeat: number;
  readonly batch: true;
  readonly requests: true;
  readonly window: number;
  readonly session?: string;
  readonly received?: number;
  readonly partial?: number;
  readonly early?: number;
  readonly resume?: false;
}

/** What a server says of itself, first of all. */
export interface Welcome {
  readonly maxMessage: number;
  /** Seconds. */
  readonly heartbeat: number;
  readonly batch: boolean;
  readonly requests: boolean;
  readonly window: number;
  readonly session: string;
  readonly received: number;
  readonly partial: number;
  readonly early: number;
  readonly nextKey?: string;
}

/** The bytes of a hello. */
export function encodeHello(hello: Hello): Uint8Array {
  return toUTF8(JSON.stringify(hello));
}

/** What a WELCOME says; throws where a key has a value that it cannot have. */
export function decodeWelcome(body: Uint8Array): Welcome {
  const fields = parse(body);
  const field = <T>(key: string, otherwise: T, isValid: (value: T) => boolean): T => {
    const value = Object.hasOwn(fields, key) ? fields[key] : otherwise;
    if (typeof value !== typeof otherwise || !isValid(value as T)) {
      throw new ProtocolError(`the WELCOME has an impossible ${key}`);
    }
    return value as T;
  };
  const integer = (key: string, otherwise: number, most = 2 ** 64): number =>
    field(key, otherwise, (value) => Number.isInteger(value) && value >= 0 && value <= most);
  const flag = (key: string): boolean => field(key, false, () => true);
  const nextKey = field("nextKey", "", () => true);
  return {
    maxMessage: integer("maxMessage", 1_048_576),
    heartbeat: field("heartbeat", 30, (value) => value > 0 && value <= 1e9),
    batch: flag("batch"),
    requests: flag("requests"),
    window: integer("window", 16_777_216),
    session: field("session", "", (value) => /^[0-9a-fA-F]{32}$/.test(value)),
    received: integer("received", 0),
    partial: integer("partial", 0),
    early: integer("early", 0, MAX_EARLY),
    ...(isPublicKey(nextKey) ? { nextKey } : {}),
  };
}

function parse(body: Uint8Array): Record<string, unknown> {
  let fields: unknown;
  try {
    fields = JSON.parse(fromUTF8(body) ?? "");
  } catch {
    // as below
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    throw new ProtocolError("the WELCOME is no JSON object");
  }
  return fields as Record<string, unknown>;
}

function isPublicKey(text: string): boolean {
  return fromBase64(text)?.length === KEY;
}
