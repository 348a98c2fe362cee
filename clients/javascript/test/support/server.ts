/** Real servers, which the tests start and end. */

import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { PrivateKey } from "../../src/node/index.js";

/** The folder of this package. */
export const PACKAGE = fileURLToPath(new URL("../../../", import.meta.url));

const OURS = join(PACKAGE, "..", "..", ".venv", "bin", "python");
const PYTHON = process.env["AESM_PYTHON"] ?? (existsSync(OURS) ? OURS : "python3");
const TWISTD = "from twisted.scripts.twistd import run; run()";
const LISTENING = /listening on 127\.0\.0\.1:(\d+) with the public key (\S+)/g;

// No server outlives the tests, and nothing that they wrote, whatever ends them.
const folders: string[] = [];
const children = new Set<ChildProcess>();
process.on("exit", () => {
  children.forEach((child) => child.kill());
  folders.forEach((folder) => rmSync(folder, { recursive: true, force: true }));
});
process.once("SIGTERM", () => process.exit(1));

/** A folder of our own, for keys and what servers write. */
export function makeFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "aesm-"));
  folders.push(folder);
  return folder;
}

/** Where a server listens, and who it is. */
export interface Place {
  readonly endpoint: string;
  readonly port: number;
  readonly publicKey: string;
}

/** A process that listens at one place or several. */
export class Server {
  places: Place[] = [];

  private constructor(private readonly child: ChildProcess) {}

  /** The first place, or the only one. */
  get place(): Place {
    const [first] = this.places;
    if (first === undefined) {
      throw new Error("the server listens nowhere");
    }
    return first;
  }

  /** `twistd aesm` with these options, in this folder. */
  static async twistd(folder: string, ...options: string[]): Promise<Server> {
    const key = join(folder, "server.key");
    if (!existsSync(key)) {
      writeFileSync(key, PrivateKey.generate().toPEM(), { mode: 0o600 });
    }
    const twistd = ["-c", TWISTD, "-n", "--pidfile=", "--logfile=-", "aesm", "--no-control"];
    return Server.#start(folder, 1, [...twistd, "--key", key, ...options]);
  }

  /** serve.py with servers that have these options of `listen`. */
  static async serve(folder: string, ...options: Record<string, unknown>[]): Promise<Server> {
    const program = join(PACKAGE, "test", "support", "serve.py");
    const all = options.map((each) => JSON.stringify(each));
    return Server.#start(folder, options.length, [program, ...all]);
  }

  static #start(folder: string, count: number, options: string[]): Promise<Server> {
    const child = spawn(PYTHON, options, {
      cwd: folder,
      env: { ...process.env, AESM_HOME: join(folder, "state"), PYTHONUNBUFFERED: "1" },
      stdio: ["pipe", "pipe", "inherit"],
    });
    children.add(child);
    child.once("exit", () => children.delete(child));
    const server = new Server(child);
    let output = "";
    return new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code) => reject(new Error(`the server ended (${code}): ${output}`)));
      child.stdout.on("data", (data: Buffer) => {
        if (server.places.length === count) {
          return;
        }
        output += data.toString();
        server.places = Array.from(output.matchAll(LISTENING), ([, port = "", publicKey = ""]) => ({
          endpoint: `tcp:127.0.0.1:${port}`,
          port: Number(port),
          publicKey,
        }));
        if (server.places.length === count) {
          resolve(server);
        }
      });
    });
  }

  /** End it by its id, and wait for that. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const { child } = this;
    if (child.exitCode === null && child.signalCode === null) {
      await new Promise((resolve) => {
        child.once("exit", resolve);
        child.kill(signal);
      });
    }
  }
}
