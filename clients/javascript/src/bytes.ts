/** Bytes, and what they are written as. */

const encoder = new TextEncoder();
// A byte order mark at the beginning is a character of the text like any other.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export const EMPTY = new Uint8Array(0);

/** The UTF-8 of a text. */
export function toUTF8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** The text of UTF-8, or undefined if that is none. */
export function fromUTF8(data: Uint8Array): string | undefined {
  try {
    return decoder.decode(data);
  } catch {
    return undefined;
  }
}

/** Several pieces in one. */
export function join(...pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** Whether two are the same. */
export function equal(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

/** A view to read and write numbers in. */
export function view(data: Uint8Array): DataView {
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}

/** `frame(x)`: a u16 with the length of x in bytes, and x. */
export function frame(data: Uint8Array): Uint8Array {
  const framed = new Uint8Array(2 + data.length);
  view(framed).setUint16(0, data.length);
  framed.set(data, 2);
  return framed;
}

/** Lower-case hexadecimal digits. */
export function toHex(data: Uint8Array): string {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Standard base64. */
export function toBase64(data: Uint8Array): string {
  return btoa(String.fromCharCode(...data));
}

/** The bytes of standard base64, or undefined if it is none. */
export function fromBase64(text: string): Uint8Array | undefined {
  try {
    const data = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return toBase64(data) === text ? data : undefined;
  } catch {
    return undefined;
  }
}

/** Fresh random bytes. */
export function random(size: number): Uint8Array {
  return globalThis.crypto.getRandomValues(new Uint8Array(size));
}

/** Bytes that came, until somebody has use for them. */
export class Buffered {
  #pieces: Uint8Array[] = [];
  size = 0;

  /** Keep more. */
  push(data: Uint8Array): void {
    this.#pieces.push(data);
    this.size += data.length;
  }

  /** The first so many bytes, which stay; undefined if there are not so many. */
  peek(size: number): Uint8Array | undefined {
    if (this.size < size) {
      return undefined;
    }
    if ((this.#pieces[0]?.length ?? 0) < size) {
      this.#pieces = [join(...this.#pieces)];
    }
    return (this.#pieces[0] ?? EMPTY).subarray(0, size);
  }

  /** Take the first so many bytes; undefined if there are not so many. */
  take(size: number): Uint8Array | undefined {
    const taken = this.peek(size);
    if (taken !== undefined && size > 0) {
      const first = this.#pieces[0] ?? EMPTY;
      if (first.length === size) {
        this.#pieces.shift();
      } else {
        this.#pieces[0] = first.subarray(size);
      }
      this.size -= size;
    }
    return taken;
  }

  /** Take all. */
  takeAll(): Uint8Array {
    return this.take(this.size) ?? EMPTY;
  }
}
