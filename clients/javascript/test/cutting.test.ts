/**
 * Random schedules of cuts, over TCP, against one real server that sends back what comes:
 * nothing is lost, doubled or out of order, in either direction, or its sender is told.
 *
 * AESM_SCHEDULES is how many, 10,000 by default; AESM_SEED begins with another one. A
 * schedule that fails prints its seed: `AESM_SEED=n AESM_SCHEDULES=1` is that one alone.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, dialer, Pinned, PrivateKey, SessionLost, SUITES } from "../src/node/index.js";
import { CuttingDialer, type Cut } from "./support/cutting.js";
import { makeFolder, Server, type Place } from "./support/server.js";

const SCHEDULES = Number(process.env["AESM_SCHEDULES"] ?? 10_000);
const SEED = Number(process.env["AESM_SEED"] ?? Date.now() % 1_000_000_000);
const AT_ONCE = 40; // schedules
const LONGEST = 600; // seconds for one of them
const HYBRID = 0.15; // of all schedules
const KEYS = Array.from({ length: 2 * AT_ONCE }, () => PrivateKey.generate());

type Data = string | Uint8Array;

/** What was seen, over all schedules. */
const totals = { cuts: 0, messages: 0, requests: 0, asked: 0, told: 0, resumed: 0, connections: 0 };

/** Numbers at random, the same for the same seed: mulberry32. */
class Chance {
  constructor(private state: number) {}

  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  }

  below(bound: number): number {
    return Math.floor(this.next() * bound);
  }

  is(probability: number): boolean {
    return this.next() < probability;
  }
}

/** Where the connection is cut: anywhere from the first byte to behind all that is sent. */
function cutOf(chance: Chance, handshake: number, size: number): Cut {
  // One in four falls into the handshake, hello or WELCOME, where much can go wrong.
  const bytes = chance.is(0.25) ? handshake + 200 : handshake + 300 + size;
  return {
    direction: chance.is(0.5) ? "toServer" : "toClient",
    at: 1 + chance.below(bytes),
    isHalfOpen: chance.is(0.2),
  };
}

function dataOf(chance: Chance, number: number): Data {
  const size = chance.is(0.05) ? chance.below(100_000) : chance.below(300);
  const filler = "x".repeat(size);
  return chance.is(0.5) ? `${number} ${filler}` : new TextEncoder().encode(`${number} ${filler}`);
}

/** One client, its messages and its cuts. */
async function schedule(place: Place, seed: number): Promise<void> {
  const chance = new Chance(seed);
  const delays = new Chance(~seed); // how often it is asked is a matter of time
  const suite = SUITES[chance.below(2) + (chance.is(HYBRID) ? 0 : 2)] ?? SUITES[0];
  const messages = Array.from({ length: 1 + chance.below(8) }, (_, at) => dataOf(chance, at));
  const size = messages.reduce((sum, message) => sum + message.length + 40, 0);
  const handshake = suite.includes("hfs") ? 1_400 : 250;
  const cuts = Array.from({ length: 1 + chance.below(3) }, () => cutOf(chance, handshake, size));
  const cutting = new CuttingDialer(dialer(place.endpoint), cuts);
  const asked: unknown[] = [];
  // Only what left before the first WELCOME can be in a session that the server never had.
  let isIn = false;
  const client = new Client(cutting, {
    key: KEYS[seed % KEYS.length] ?? PrivateKey.generate(),
    trust: new Pinned(place.publicKey),
    suite,
    handshakeTimeout: 300,
    closeTimeout: 300,
    heartbeat: 300,
    retryPolicy: () => delays.next() * 0.01,
    onRequest: ({ data }) => {
      asked.push(data);
      return "me";
    },
    observer: {
      onConnected: (isResumed) => {
        isIn = true;
        totals.connections++;
        totals.resumed += isResumed ? 1 : 0;
      },
    },
  });
  if (chance.is(0.5)) {
    await client.connected.catch(() => {}); // else what is sent leaves early
  }
  const outcomes: Promise<"kept" | "told">[] = [];
  const requests: Promise<void>[] = [];
  for (const message of messages) {
    const isEarly = !isIn;
    outcomes.push(client.send(message).then(() => "kept" as const, (error) => told(error, isEarly)));
    if (chance.is(0.3)) {
      const data = chance.is(0.3) ? "ask back" : `request ${requests.length}`;
      requests.push(ask(client, data, isEarly));
    }
    if (chance.is(0.3)) {
      await new Promise((resolve) => setTimeout(resolve, chance.below(5)));
    }
  }
  // What the sender was told may be lost arrives once, too, or not at all.
  const kept = [];
  for (const [at, outcome] of (await Promise.all(outcomes)).entries()) {
    if (outcome === "kept") {
      kept.push(messages[at]);
    }
  }
  await Promise.all(requests);
  const seen: Data[] = [];
  while (seen.length < kept.length) {
    const packet = await client.receive();
    assert(packet !== undefined);
    seen.push(packet.data);
  }
  await client.close();
  for await (const { data } of client) {
    seen.push(data);
  }
  cutting.end();
  assert.deepEqual(seen, kept);
  totals.cuts += cutting.happened;
  totals.messages += messages.length;
  totals.requests += requests.length;
  totals.asked += asked.length;
}

function told(error: unknown, isEarly: boolean): "told" {
  assert(error instanceof SessionLost && isEarly, String(error));
  totals.told++;
  return "told";
}

async function ask(client: Client, data: string, isEarly: boolean): Promise<void> {
  try {
    assert.equal(await client.request(data), data === "ask back" ? "me" : data);
  } catch (error) {
    told(error, isEarly);
  }
}

/** What waits for something that never comes is to fail, and not to wait for ever. */
async function inTime(done: Promise<void>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("something never came")), LONGEST * 1000);
  });
  try {
    await Promise.race([done, late]);
  } finally {
    clearTimeout(timer);
  }
}

test(`${SCHEDULES} schedules of cuts from seed ${SEED} on`, async (t) => {
  const server = await Server.serve(makeFolder(), { sessionGrace: 600 });
  const begun = performance.now();
  let next = 0;
  const failed: string[] = [];
  const worker = async (): Promise<void> => {
    while (next < SCHEDULES && failed.length === 0) {
      const seed = SEED + next++;
      try {
        await inTime(schedule(server.place, seed));
      } catch (error) {
        failed.push(`AESM_SEED=${seed}: ${error instanceof Error ? error.stack : String(error)}`);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  const seconds = Math.round((performance.now() - begun) / 1000);
  t.diagnostic(`${JSON.stringify(totals)} in ${seconds} s`);
  await server.stop();
  assert.deepEqual(failed, []);
  assert(totals.cuts > 0);
});
