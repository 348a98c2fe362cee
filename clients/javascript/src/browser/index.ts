/**
 * The client for browsers.
 *
 *     const client = await connect("wss://example.org/aesm", { trust: new Pinned("...") });
 *     await client.send("hello");
 */

import { Client } from "../client.js";
import type { ClientOptions } from "../options.js";
import { KnownServers } from "../trust.js";
import { loadKey, PageStore } from "./storage.js";
import { websocket } from "./websocket.js";

export * from "../index.js";
export { loadKey, PageStore } from "./storage.js";
export { websocket } from "./websocket.js";

/**
 * Connect: resolves when the server has let us in, rejects with the error that says why not.
 * Without `key` and `trust` they are those of the page's origin, which are made if they are
 * not there.
 */
export async function connect(
  url: string | URL,
  options: Partial<ClientOptions> = {},
): Promise<Client> {
  const client = new Client(websocket(url), {
    key: options.key ?? loadKey(),
    trust: options.trust ?? new KnownServers(new PageStore()),
    ...options,
  });
  await client.connected;
  return client;
}
