/**
 * What a page keeps: its key, and the servers that it knows, in its origin's storage. All
 * pages of the origin can read that, and whoever serves them.
 */

import { fromBase64, toBase64 } from "../bytes.js";
import { PrivateKey } from "../keys.js";
import type { KnownServer, KnownServersStore } from "../trust.js";

const KEY = "aesm.client.key";
const KNOWN = "aesm.known.";

/** The page's key, which is made if it is not there. */
export function loadKey(storage: Storage = localStorage): PrivateKey {
  const text = storage.getItem(KEY);
  if (text !== null) {
    const bytes = fromBase64(text);
    if (bytes === undefined) {
      throw new TypeError(`what is stored as ${KEY} is no key`);
    }
    return PrivateKey.fromBytes(bytes);
  }
  const key = PrivateKey.generate();
  storage.setItem(KEY, toBase64(key.toBytes()));
  return key;
}

/** The servers that are known to the pages of this origin. */
export class PageStore implements KnownServersStore {
  constructor(private readonly storage: Storage = localStorage) {}

  load(place: string): KnownServer | undefined {
    const [key, next] = this.storage.getItem(KNOWN + place)?.split(" ") ?? [];
    return key === undefined ? undefined : next === undefined ? { key } : { key, next };
  }

  save(place: string, server: KnownServer): void {
    const keys = server.next === undefined ? [server.key] : [server.key, server.next];
    this.storage.setItem(KNOWN + place, keys.join(" "));
  }
}
