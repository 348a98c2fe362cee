/** TCP and UNIX sockets of Node. */

import { connect, type NetConnectOpts, type Socket } from "node:net";

import { ConnectFailed } from "../errors.js";
import type { Dialer, Transport, TransportEvents } from "../transport.js";

const DEFAULT_PORT = 8765;
const CLOSE_TIMEOUT = 5_000; // milliseconds for what was written to be taken

class SocketTransport implements Transport {
  constructor(private readonly socket: Socket) {}

  start(events: TransportEvents): void {
    const { socket } = this;
    socket.on("drain", () => events.drain());
    socket.on("close", () => events.close());
    socket.on("data", (data) => events.data(data));
  }

  write(data: Uint8Array): boolean {
    return this.socket.write(data);
  }

  close(): void {
    const { socket } = this;
    const timer = setTimeout(() => socket.destroy(), CLOSE_TIMEOUT);
    socket.on("close", () => clearTimeout(timer));
    socket.end();
  }

  abort(): void {
    this.socket.destroy();
  }
}

class SocketDialer implements Dialer {
  constructor(
    readonly place: string,
    private readonly options: NetConnectOpts,
  ) {}

  dial(signal: AbortSignal): Promise<Transport> {
    return new Promise((resolve, reject) => {
      const socket = connect({ noDelay: true, ...this.options });
      const abort = (): void => {
        socket.destroy();
        reject(new ConnectFailed(`the attempt to connect to ${this.place} was given up`));
      };
      // Of a connection that was made, "close" tells.
      socket.on("error", (error) => {
        signal.removeEventListener("abort", abort);
        reject(
          new ConnectFailed(`cannot connect to ${this.place}: ${error.message}; does it run?`),
        );
      });
      socket.once("connect", () => {
        signal.removeEventListener("abort", abort);
        resolve(new SocketTransport(socket));
      });
      signal.addEventListener("abort", abort);
      if (signal.aborted) {
        abort();
      }
    });
  }
}

/**
 * A dialer for what users type: HOST, HOST:PORT, [::1]:PORT, tcp:HOST:PORT,
 * tcp:host=HOST:port=PORT, or unix:PATH.
 */
export function dialer(endpoint: string | { host: string; port?: number }): Dialer {
  const { host, port, path } = typeof endpoint === "string" ? parse(endpoint) : { ...endpoint, path: undefined };
  if (path !== undefined) {
    return new SocketDialer(`unix:${path}`, { path });
  }
  const number = port ?? DEFAULT_PORT;
  if (!Number.isInteger(number) || number < 1 || number > 65_535) {
    throw wrong(endpoint);
  }
  const place = `${host.includes(":") ? `[${host}]` : host.toLowerCase()}:${number}`;
  return new SocketDialer(place, { host, port: number });
}

function parse(endpoint: string): { host: string; port?: number; path?: string } {
  const unix = /^unix:(?:path=)?(.+)$/.exec(endpoint);
  if (unix?.[1] !== undefined) {
    return { host: "", path: unix[1] };
  }
  const typed = endpoint.replace(/^tcp:/, "").replace(/^host=/, "").replace(/:port=/, ":");
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^:=[\]]+))(?::(\d+))?$/.exec(typed) ?? [];
  const host = bracketed ?? plain;
  if (host === undefined) {
    throw wrong(endpoint);
  }
  return port === undefined ? { host } : { host, port: Number(port) };
}

function wrong(endpoint: unknown): TypeError {
  return new TypeError(
    `${JSON.stringify(endpoint)} is no endpoint; name one such as tcp:127.0.0.1:8765`,
  );
}
