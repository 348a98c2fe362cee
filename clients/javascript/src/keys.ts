/** Key pairs. A public key is a text everywhere: 44 characters of standard base64. */

import { equal, fromBase64, join, random, toBase64 } from "./bytes.js";
import { KEY, publicKeyOf, type KeyPair } from "./noise.js";

// PKCS #8 of an X25519 key is this and the key; RFC 8410.
const PREFIX = Uint8Array.of(48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 110, 4, 34, 4, 32);
const PEM = /^-----BEGIN PRIVATE KEY-----\s+([A-Za-z0-9+/=]+)\s+-----END PRIVATE KEY-----\s*$/;

/** Checks a public key that the caller gives. */
export function checkPublicKey(text: string): string {
  if (fromBase64(text)?.length !== KEY) {
    throw new TypeError(
      `${JSON.stringify(text)} is no public key: that is 44 characters of base64, as ` +
        "`aesm pubkey` prints them",
    );
  }
  return text;
}

/** Who we are. Its bytes appear in no log and no error. */
export class PrivateKey {
  readonly publicKey: string;
  readonly #pair: KeyPair;

  private constructor(privateKey: Uint8Array) {
    this.#pair = { privateKey, publicKey: publicKeyOf(privateKey) };
    this.publicKey = toBase64(this.#pair.publicKey);
  }

  /** A new one. */
  static generate(): PrivateKey {
    return new PrivateKey(random(KEY));
  }

  /** One of 32 bytes. */
  static fromBytes(bytes: Uint8Array): PrivateKey {
    if (bytes.length !== KEY) {
      throw new TypeError(`a private key has ${KEY} bytes, and not ${bytes.length}`);
    }
    return new PrivateKey(bytes.slice());
  }

  /** One as `aesm keygen` writes it: PKCS #8, PEM. */
  static fromPEM(text: string): PrivateKey {
    const der = fromBase64(PEM.exec(text)?.[1] ?? "");
    if (der?.length !== PREFIX.length + KEY || !equal(der.subarray(0, PREFIX.length), PREFIX)) {
      throw new TypeError("this is no private key as `aesm keygen` makes it");
    }
    return new PrivateKey(der.slice(PREFIX.length));
  }

  /** As `aesm keygen` writes it. Nobody else may see that. */
  toPEM(): string {
    const der = toBase64(join(PREFIX, this.#pair.privateKey));
    return `-----BEGIN PRIVATE KEY-----\n${der}\n-----END PRIVATE KEY-----\n`;
  }

  /** The 32 bytes. Nobody else may see them. */
  toBytes(): Uint8Array {
    return this.#pair.privateKey.slice();
  }

  /** For the handshake. */
  toPair(): KeyPair {
    return this.#pair;
  }
}
