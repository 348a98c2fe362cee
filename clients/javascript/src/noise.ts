/**
 * Noise, revision 34, the initiator's side of XX and XXhfs with and without psk0;
 * docs/protocol.md, section 3. Names are those of the specification.
 */

import { gcm } from "@noble/ciphers/aes.js";
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { x25519 } from "@noble/curves/ed25519.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { ml_kem768 } from "@noble/post-quantum/ml-kem.js";

import { EMPTY, join, random, toUTF8, view } from "./bytes.js";

export const TAG = 16; // bytes
export const KEY = 32; // bytes, of any key but those of ML-KEM
const KEM_CIPHERTEXT = 1088; // bytes
const KEM_SEED = 64; // bytes

/** The names of Noise protocols in the order in which clients prefer them here. */
export const SUITES = [
  "Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256",
  "Noise_XXhfs_25519+MLKEM768_AESGCM_SHA256",
  "Noise_XX_25519_ChaChaPoly_SHA256",
  "Noise_XX_25519_AESGCM_SHA256",
] as const;

/** The name of a Noise protocol, without `psk0`. */
export type Suite = (typeof SUITES)[number];

/** The name of a suite with a pre-shared key. */
export function withPSK(suite: Suite): string {
  return suite.replace("_XXhfs_", "_XXhfs+psk0_").replace("_XX_", "_XXpsk0_");
}

/** Some Noise message is not what it should be: the peer has another prologue or other keys. */
export class NoiseError extends Error {}

type AEAD = (key: Uint8Array, nonce: Uint8Array, ad: Uint8Array) => {
  encrypt(plaintext: Uint8Array): Uint8Array;
  decrypt(ciphertext: Uint8Array): Uint8Array;
};

const REKEY = (1n << 64n) - 1n; // the nonce that is for Rekey alone

/** A key, and the nonce of the next message. */
export class CipherState {
  #nonce: bigint;

  constructor(
    readonly suite: Suite,
    private key: Uint8Array,
    nonce = 0n,
  ) {
    this.#nonce = nonce;
  }

  #aead(nonce: bigint, ad: Uint8Array): ReturnType<AEAD> {
    const bytes = new Uint8Array(12);
    const isAES = this.suite.includes("_AESGCM_");
    view(bytes).setBigUint64(4, nonce, !isAES); // big-endian with AES, little-endian else
    return (isAES ? gcm : chacha20poly1305)(this.key, bytes, ad);
  }

  encryptWithAd(ad: Uint8Array, plaintext: Uint8Array): Uint8Array {
    if (this.#nonce === REKEY) {
      throw new NoiseError("there are no nonces left");
    }
    return this.#aead(this.#nonce++, ad).encrypt(plaintext);
  }

  /** The nonce goes on only if the message authenticates. */
  decryptWithAd(ad: Uint8Array, ciphertext: Uint8Array): Uint8Array {
    if (this.#nonce === REKEY || ciphertext.length < TAG) {
      throw new NoiseError("too short for a message, or there are no nonces left");
    }
    let plaintext: Uint8Array;
    try {
      plaintext = this.#aead(this.#nonce, ad).decrypt(ciphertext);
    } catch {
      throw new NoiseError("the message does not authenticate");
    }
    this.#nonce++;
    return plaintext;
  }

  /** Another key; the nonce stays. */
  rekey(): void {
    this.key = this.#aead(REKEY, EMPTY).encrypt(new Uint8Array(KEY)).slice(0, KEY);
  }
}

function hkdf(chainingKey: Uint8Array, input: Uint8Array): [Uint8Array, Uint8Array, Uint8Array] {
  const secret = hmac(sha256, chainingKey, input);
  const one = hmac(sha256, secret, Uint8Array.of(1));
  const two = hmac(sha256, secret, join(one, Uint8Array.of(2)));
  return [one, two, hmac(sha256, secret, join(two, Uint8Array.of(3)))];
}

/** A Diffie-Hellman operation. */
export function dh(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array {
  try {
    return x25519.getSharedSecret(privateKey, publicKey); // throws where all is zeroes
  } catch {
    throw new NoiseError("a Diffie-Hellman operation gave nothing but zeroes");
  }
}

/** What both sides of a handshake have mixed so far. */
export class SymmetricState {
  #chainingKey: Uint8Array;
  #cipher: CipherState | undefined;
  h: Uint8Array;

  constructor(
    readonly suite: Suite,
    protocolName: string,
  ) {
    const name = toUTF8(protocolName);
    this.h = name.length <= 32 ? join(name, new Uint8Array(32 - name.length)) : sha256(name);
    this.#chainingKey = this.h;
  }

  mixHash(data: Uint8Array): void {
    this.h = sha256(join(this.h, data));
  }

  mixKey(input: Uint8Array): void {
    const [chainingKey, key] = hkdf(this.#chainingKey, input);
    this.#chainingKey = chainingKey;
    this.#cipher = new CipherState(this.suite, key);
  }

  mixKeyAndHash(input: Uint8Array): void {
    const [chainingKey, hash, key] = hkdf(this.#chainingKey, input);
    this.#chainingKey = chainingKey;
    this.mixHash(hash);
    this.#cipher = new CipherState(this.suite, key);
  }

  encryptAndHash(plaintext: Uint8Array): Uint8Array {
    const ciphertext = this.#cipher?.encryptWithAd(this.h, plaintext) ?? plaintext;
    this.mixHash(ciphertext);
    return ciphertext;
  }

  decryptAndHash(ciphertext: Uint8Array): Uint8Array {
    const plaintext = this.#cipher?.decryptWithAd(this.h, ciphertext) ?? ciphertext;
    this.mixHash(ciphertext);
    return plaintext;
  }

  split(): [CipherState, CipherState] {
    const [one, two] = hkdf(this.#chainingKey, EMPTY);
    return [new CipherState(this.suite, one), new CipherState(this.suite, two)];
  }
}

/** A pair of X25519 keys. */
export interface KeyPair {
  readonly privateKey: Uint8Array;
  readonly publicKey: Uint8Array;
}

/** The public key of a private one. */
export function publicKeyOf(privateKey: Uint8Array): Uint8Array {
  return x25519.getPublicKey(privateKey);
}

/** What is fresh in each handshake; tests give it. */
export interface Ephemerals {
  readonly x25519: Uint8Array;
  readonly kemSeed: Uint8Array;
}

/** A handshake: writeFirst, readSecond, writeThird, split, each once and in this order. */
export class Initiator {
  readonly isHybrid: boolean;
  /** Bytes of message 2 whose payload is empty. */
  readonly secondSize: number;
  /** The responder's static public key, once message 2 is read. */
  remoteStatic: Uint8Array = EMPTY;
  #state: SymmetricState;
  #e: Uint8Array;
  #kemSeed: Uint8Array;
  #kemSecret: Uint8Array = EMPTY;
  #remoteEphemeral: Uint8Array = EMPTY;

  constructor(
    suite: Suite,
    prologue: Uint8Array,
    private readonly s: KeyPair,
    private readonly psk?: Uint8Array,
    ephemerals?: Ephemerals,
  ) {
    this.isHybrid = suite.includes("_XXhfs_");
    this.secondSize = KEY + (this.isHybrid ? KEM_CIPHERTEXT + TAG : 0) + KEY + TAG + TAG;
    this.#e = ephemerals?.x25519 ?? random(KEY);
    this.#kemSeed = ephemerals?.kemSeed ?? random(KEM_SEED);
    this.#state = new SymmetricState(suite, psk === undefined ? suite : withPSK(suite));
    this.#state.mixHash(prologue);
  }

  get handshakeHash(): Uint8Array {
    return this.#state.h;
  }

  /** `-> e`, with `psk` before it and `e1` behind it where the suite has them. */
  writeFirst(payload: Uint8Array = EMPTY): Uint8Array {
    const state = this.#state;
    const message: Uint8Array[] = [];
    if (this.psk !== undefined) {
      state.mixKeyAndHash(this.psk);
    }
    message.push(this.#mixEphemeral(publicKeyOf(this.#e)));
    if (this.isHybrid) {
      const kem = ml_kem768.keygen(this.#kemSeed);
      this.#kemSecret = kem.secretKey;
      message.push(state.encryptAndHash(kem.publicKey));
    }
    message.push(state.encryptAndHash(payload));
    return join(...message);
  }

  /** `<- e, ee, s, es`, with `ekem1` behind `ee` in hybrid suites; returns the payload. */
  readSecond(message: Uint8Array): Uint8Array {
    const state = this.#state;
    let at = 0;
    const next = (size: number): Uint8Array => message.subarray(at, (at += size));
    this.#remoteEphemeral = this.#mixEphemeral(next(KEY));
    state.mixKey(dh(this.#e, this.#remoteEphemeral));
    if (this.isHybrid) {
      const ciphertext = state.decryptAndHash(next(KEM_CIPHERTEXT + TAG));
      state.mixKey(ml_kem768.decapsulate(ciphertext, this.#kemSecret));
    }
    this.remoteStatic = state.decryptAndHash(next(KEY + TAG));
    state.mixKey(dh(this.#e, this.remoteStatic));
    return state.decryptAndHash(message.subarray(at));
  }

  /** `-> s, se`. */
  writeThird(payload: Uint8Array): Uint8Array {
    const state = this.#state;
    const s = state.encryptAndHash(this.s.publicKey);
    state.mixKey(dh(this.s.privateKey, this.#remoteEphemeral));
    return join(s, state.encryptAndHash(payload));
  }

  /** The ciphers of what we send, and of what we receive. */
  split(): [CipherState, CipherState] {
    return this.#state.split();
  }

  #mixEphemeral(publicKey: Uint8Array): Uint8Array {
    this.#state.mixHash(publicKey);
    if (this.psk !== undefined) {
      this.#state.mixKey(publicKey);
    }
    return publicKey;
  }
}
