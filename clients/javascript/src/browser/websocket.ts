/**
 * The WebSocket of a browser as a transport. A browser does not say when it has room again,
 * so that is looked after while something waits; nor can it be told to read more slowly: what
 * comes is bounded by `receiveBuffer`.
 */

import { ConnectFailed } from "../errors.js";
import type { Dialer, Transport, TransportEvents } from "../transport.js";

const FULL = 262_144; // bytes that may wait in the browser
const LOOK = 20; // milliseconds until it is looked whether there is room

class WebSocketTransport implements Transport {
  #events: TransportEvents | undefined;
  #looking: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly socket: WebSocket) {}

  start(events: TransportEvents): void {
    const { socket } = this;
    this.#events = events;
    socket.addEventListener("message", ({ data }) => {
      if (data instanceof ArrayBuffer) {
        events.data(new Uint8Array(data));
      } else {
        socket.close(); // a text is nothing that a server says
      }
    });
    const closed = (): void => {
      clearTimeout(this.#looking);
      events.close();
    };
    if (socket.readyState === WebSocket.OPEN) {
      socket.addEventListener("close", closed);
    } else {
      queueMicrotask(closed);
    }
  }

  write(data: Uint8Array): boolean {
    const { socket } = this;
    if (socket.readyState !== WebSocket.OPEN) {
      return false; // "close" is about to come
    }
    socket.send(data as Uint8Array<ArrayBuffer>);
    if (socket.bufferedAmount < FULL) {
      return true;
    }
    this.#looking ??= setTimeout(() => this.#look(), LOOK);
    return false;
  }

  #look(): void {
    const hasRoom = this.socket.bufferedAmount < FULL / 2;
    this.#looking = hasRoom ? undefined : setTimeout(() => this.#look(), LOOK);
    if (hasRoom) {
      this.#events?.drain();
    }
  }

  close(): void {
    this.socket.close();
  }

  abort(): void {
    this.socket.close(); // there is nothing harder
  }
}

class WebSocketDialer implements Dialer {
  constructor(readonly place: string) {}

  dial(signal: AbortSignal): Promise<Transport> {
    const { place } = this;
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(place);
      socket.binaryType = "arraybuffer";
      const fail = (): void => {
        socket.close();
        reject(
          new ConnectFailed(
            `cannot connect to ${place}, and browsers do not say why; does the server run, and ` +
              "does it let pages of this origin come?",
          ),
        );
      };
      socket.addEventListener("error", fail);
      signal.addEventListener("abort", fail);
      socket.addEventListener("open", () => {
        socket.removeEventListener("error", fail);
        signal.removeEventListener("abort", fail);
        resolve(new WebSocketTransport(socket));
      });
      if (signal.aborted) {
        fail();
      }
    });
  }
}

/** A dialer for `wss://HOST/PATH`, where a server listens on `websocket:`. */
export function websocket(url: string | URL): Dialer {
  const { protocol, href } = new URL(url);
  if (protocol !== "wss:" && protocol !== "ws:") {
    throw new TypeError(`${JSON.stringify(href)} begins with neither wss: nor ws:`);
  }
  return new WebSocketDialer(href);
}
