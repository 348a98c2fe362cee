/** Which servers a client trusts. */

import { ServerKeyChanged, UntrustedServer } from "./errors.js";
import { checkPublicKey } from "./keys.js";

/** Decides whether a server's key is the right one. */
export interface Trust {
  /** Throws, or rejects with, an AESMError if it is not. */
  check(place: string, publicKey: string): void | Promise<void>;

  /** What the server that was accepted says will be its key after its present one. */
  announced?(place: string, publicKey: string, nextKey: string): void | Promise<void>;
}

/** Trusts servers with one of these public keys, wherever they are. */
export class Pinned implements Trust {
  readonly #keys: string[];

  constructor(...keys: string[]) {
    if (keys.length === 0) {
      throw new TypeError("name at least one public key");
    }
    this.#keys = keys.map(checkPublicKey);
  }

  check(place: string, publicKey: string): void {
    if (!this.#keys.includes(publicKey)) {
      throw new UntrustedServer(
        `the server at ${place} has the key ${publicKey}, and only ${this.#keys.join(", ")} ` +
          "is pinned; it is another server, or somebody is in between",
      );
    }
  }
}

/** Trusts any server, and so whoever is in between: for tests only. */
export class AnyServer implements Trust {
  check(): void {}
}

/** What is remembered of a place. */
export interface KnownServer {
  readonly key: string;
  /** What this server has announced. */
  readonly next?: string;
}

/** Where a KnownServers keeps what it knows. */
export interface KnownServersStore {
  load(place: string): KnownServer | undefined | Promise<KnownServer | undefined>;
  save(place: string, server: KnownServer): void | Promise<void>;
}

/** In memory: forgotten with the process. */
export class MemoryStore implements KnownServersStore {
  readonly #servers = new Map<string, KnownServer>();

  load(place: string): KnownServer | undefined {
    return this.#servers.get(place);
  }

  save(place: string, server: KnownServer): void {
    this.#servers.set(place, server);
  }
}

/** Remembers the first key at each place, as SSH does, and trusts no other there from then on. */
export class KnownServers implements Trust {
  /** With `isStrict` a place that is not known is not trusted. */
  constructor(
    private readonly store: KnownServersStore = new MemoryStore(),
    private readonly isStrict = false,
  ) {}

  async check(place: string, publicKey: string): Promise<void> {
    const known = await this.store.load(place);
    if (known === undefined) {
      if (this.isStrict) {
        throw new UntrustedServer(
          `the server at ${place} is not known, and has the key ${publicKey}; ` +
            "if its operator confirms that, add it to the known servers",
        );
      }
      await this.store.save(place, { key: publicKey });
    } else if (publicKey === known.next) {
      await this.store.save(place, { key: publicKey });
    } else if (publicKey !== known.key) {
      throw new ServerKeyChanged(
        `the server at ${place} now has the key ${publicKey}, and had ${known.key}: somebody ` +
          "may be in between; only if its operator confirms the new key, forget the old one",
      );
    }
  }

  async announced(place: string, publicKey: string, nextKey: string): Promise<void> {
    if ((await this.store.load(place))?.key === publicKey) {
      await this.store.save(place, { key: publicKey, next: nextKey });
    }
  }
}
