/** Keys and known servers in files, where and as `aesm connect` has them. */

import { mkdir, open, readFile, rename, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

import { PrivateKey } from "../keys.js";
import type { KnownServer, KnownServersStore } from "../trust.js";

/** Where aesm keeps what it has to remember. */
export function stateDirectory(): string {
  const { AESM_HOME, XDG_STATE_HOME } = process.env;
  return AESM_HOME || join(XDG_STATE_HOME || join(homedir(), ".local", "state"), "aesm");
}

/** The key in a file, which is made if it is not there. */
export async function loadKey(path = join(stateDirectory(), "client.key")): Promise<PrivateKey> {
  const there = await readIfThere(path);
  if (there !== undefined) {
    return PrivateKey.fromPEM(there);
  }
  const key = PrivateKey.generate();
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  try {
    await writeFile(path, key.toPEM(), { mode: 0o600, flag: "wx" });
  } catch (error) {
    if (isCode(error, "EEXIST")) {
      return loadKey(path); // somebody was faster
    }
    throw error;
  }
  return key;
}

/** Known servers in a file with lines `PLACE KEY`, and what they announced in FILE.next. */
export class FileStore implements KnownServersStore {
  constructor(private readonly path = join(stateDirectory(), "known_servers")) {}

  async load(place: string): Promise<KnownServer | undefined> {
    const key = find(await readIfThere(this.path), place);
    const next = find(await readIfThere(`${this.path}.next`), place);
    return key === undefined ? undefined : next === undefined ? { key } : { key, next };
  }

  async save(place: string, server: KnownServer): Promise<void> {
    await mkdir(dirname(this.path), { recursive: true, mode: 0o700 });
    await put(this.path, place, server.key);
    await put(`${this.path}.next`, place, server.next);
  }
}

function find(text: string | undefined, place: string): string | undefined {
  for (const line of text?.split("\n") ?? []) {
    const [where, key] = line.trim().split(/\s+/);
    if (where === place) {
      return key;
    }
  }
  return undefined;
}

/** Have one line for the place, or none; others stay as they are. */
async function put(path: string, place: string, key: string | undefined): Promise<void> {
  const text = await readIfThere(path);
  const former = find(text, place);
  if (former === key) {
    return;
  }
  if (former === undefined) {
    const file = await open(path, "a", 0o600); // what others add meanwhile is not lost
    await file.write(`${place} ${key}\n`);
    await file.close();
    return;
  }
  const lines = (text ?? "").split("\n").filter((line) => line.trim().split(/\s+/)[0] !== place);
  const others = lines.filter((line) => line !== "").concat(key === undefined ? [] : `${place} ${key}`);
  await writeFile(`${path}.new`, others.map((line) => `${line}\n`).join(""), { mode: 0o600 });
  await rename(`${path}.new`, path);
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (isCode(error, "ENOENT")) {
      return undefined;
    }
    throw error;
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
