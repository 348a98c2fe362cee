/** Requests of the other side: begun in order, run beside each other, each answered once. */

import { Code, RequestFailed } from "./errors.js";
import type { Packet } from "./packet.js";

const MOST = 1_000; // requests that the handler has at a time

/** A request, for the handler. */
export interface Request extends Packet {
  /** Aborts when nobody wants the answer any more. */
  readonly signal: AbortSignal;
}

/** Gives the answer to a request; throws RequestFailed to refuse it. */
export type RequestHandler = (
  request: Request,
) => string | Uint8Array | Promise<string | Uint8Array>;

/** What becomes of a request. */
export type Answer = string | Uint8Array | { code: number; reason: string };

/** What answers need of whom they are for. */
export interface AnsweringHost {
  /** Who answers, if anybody does. */
  readonly onRequest: RequestHandler | undefined;
  /** Whether no more requests are to be begun for now. */
  readonly isHeldBack: boolean;
  /** A request is done with. */
  answer(number: number, answer: Answer): void;
}

interface Open {
  readonly number: number;
  readonly packet: Packet;
  readonly counted: number;
  readonly controller: AbortController;
}

/** The open requests of a session. */
export class Answering {
  #open = new Map<number, Open>();
  #waiting: Open[] = [];
  #running = 0;
  #isToBegin = false;
  /** What the open requests count. */
  held = 0;

  constructor(private readonly host: AnsweringHost) {}

  /** A request has come. */
  add(number: number, packet: Packet, counted: number): void {
    const open = { number, packet, counted, controller: new AbortController() };
    this.#open.set(number, open);
    this.held += counted;
    this.#waiting.push(open);
    if (!this.#isToBegin) {
      this.#isToBegin = true;
      // Later: who has just been told that we are connected may set onRequest first.
      setTimeout(() => {
        this.#isToBegin = false;
        this.begin();
      }, 0);
    }
  }

  /** Its sender does not want the answer any more. */
  withdraw(number: number): void {
    const open = this.#open.get(number);
    if (open !== undefined) {
      open.controller.abort();
      this.#done(open, { code: Code.WITHDRAWN, reason: "withdrawn" });
    }
  }

  /** The session is over. */
  abandon(): void {
    const open = [...this.#open.values()];
    this.#open.clear();
    this.#waiting = [];
    this.held = 0;
    for (const { controller } of open) {
      controller.abort();
    }
  }

  /** Begin with what may be begun. */
  begin(): void {
    while (this.#running < MOST && !this.host.isHeldBack) {
      const open = this.#waiting.shift();
      if (open === undefined) {
        return;
      }
      if (this.#open.get(open.number) === open) {
        this.#running++;
        void this.#run(open);
      }
    }
  }

  async #run(open: Open): Promise<void> {
    const answer = await this.#ask(open);
    this.#running--;
    this.#done(open, answer);
  }

  async #ask(open: Open): Promise<Answer> {
    const handler = this.host.onRequest;
    if (handler === undefined) {
      return { code: Code.NO_REQUESTS, reason: "there is nothing here that takes requests" };
    }
    try {
      const answer: unknown = await handler({ ...open.packet, signal: open.controller.signal });
      if (typeof answer === "string" || answer instanceof Uint8Array) {
        return answer;
      }
      throw new TypeError(`onRequest gave ${typeof answer}: an answer is a string or Uint8Array`);
    } catch (error) {
      if (error instanceof RequestFailed) {
        return { code: error.code, reason: error.reason };
      }
      console.error("aesm: onRequest failed, and the request is refused:", error);
      return { code: Code.INTERNAL_ERROR, reason: "internal error" };
    }
  }

  #done(open: Open, answer: Answer): void {
    if (this.#open.get(open.number) === open) {
      this.#open.delete(open.number);
      this.held -= open.counted;
      this.host.answer(open.number, answer);
    }
    this.begin();
  }
}
