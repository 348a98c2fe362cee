/**
 * The client for Node.
 *
 *     const client = await connect("tcp:127.0.0.1:8765");
 *     await client.send("hello");
 */

import { Client } from "../client.js";
import type { ClientOptions } from "../options.js";
import { KnownServers } from "../trust.js";
import { FileStore, loadKey } from "./files.js";
import { dialer } from "./tcp.js";

export * from "../index.js";
export { FileStore, loadKey, stateDirectory } from "./files.js";
export { dialer } from "./tcp.js";

/**
 * Connect: resolves when the server has let us in, rejects with the error that says why not.
 * Without `key` and `trust` they are those of `aesm connect`: `client.key` and
 * `known_servers` in the state directory, which are made if they are not there.
 */
export async function connect(
  endpoint: string | { host: string; port?: number },
  options: Partial<ClientOptions> = {},
): Promise<Client> {
  const where = dialer(endpoint);
  const client = new Client(where, {
    ...options,
    key: options.key ?? (await loadKey()),
    trust: options.trust ?? new KnownServers(new FileStore()),
  });
  try {
    await client.connected;
  } catch (error) {
    await client.close();
    throw error;
  }
  return client;
}
