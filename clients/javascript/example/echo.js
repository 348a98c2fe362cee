/**
 * A client that sends everything back, for the conformance kit:
 *
 *     python -m aesm.conformance --listen tcp:0:interface=127.0.0.1 -- \
 *         node clients/javascript/example/echo.js {host} {port} {key}
 *
 * It connects again at once whenever it is cut off, and begins anew where its session is over.
 */

import { Client, dialer, Pinned, PrivateKey } from "../dist/src/node/index.js";

const [host, port, key] = process.argv.slice(2);
const options = {
  key: PrivateKey.generate(),
  trust: new Pinned(key),
  heartbeat: 2,
  retryPolicy: () => 0.1,
  onRequest: ({ data }) => data,
};

for (;;) {
  const client = new Client(dialer({ host, port: Number(port) }), options);
  try {
    for await (const { data } of client) {
      void client.send(data);
    }
  } catch {
    // what it is closed with is for the kit to say
  }
  await new Promise((resolve) => setTimeout(resolve, 100));
}
