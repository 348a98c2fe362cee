/**
 * A chat in a page, for `aesm serve --handler chat`, whose lines docs/chat.md describes. Where
 * the server is, and which key it has, stands in the page or behind the # of its address:
 *
 *     https://chat.example/#wss://chat.example/aesm,rVgGvzYkFvfbyY2qU6Bm1WzqNrZ0k3XQ4wVtJt5xH0c=
 *     https://chat.example/#rVgGvzYkFvfbyY2qU6Bm1WzqNrZ0k3XQ4wVtJt5xH0c=
 *
 * The second form is for the server at /aesm of the page's own host.
 */

import { type AESMError, Client, loadKey, NotAuthorized, Pinned, websocket } from "../../src/browser/index.js";

const NAME = "chat.name"; // in the storage
const MOST = 1_000; // lines that are shown
const DEFAULT_ROOM = "lobby";
// What shows as nothing or moves other text, of which the server lets nothing pass.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

const find = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const stateLine = find("state");
const log = find<HTMLOListElement>("log");
const presentList = find<HTMLUListElement>("present");
const naming = find<HTMLFormElement>("naming");
const nameInput = find<HTMLInputElement>("name");
const saying = find<HTMLFormElement>("saying");
const textInput = find<HTMLInputElement>("text");

type Kind = "said" | "own" | "told" | "note" | "error";

let name = "";
let room = "";
let wanted = localStorage.getItem(NAME) ?? "";
let hasJoined = false;
let present = new Set<string>();
let waiting = 0; // lines that the server does not have yet
let state = "Starting";
let trouble = ""; // why there is no connection, as people know it
let timer: ReturnType<typeof setInterval> | undefined;

/** Show a line; what it is made of is text to the browser, whatever it says. */
function show(kind: Kind, text: string, speaker = "", when = new Date()): void {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const item = document.createElement("li");
  item.className = kind;
  const time = document.createElement("time");
  time.dateTime = when.toISOString();
  time.textContent = when.toTimeString().slice(0, 5);
  item.append(time, " ");
  if (speaker !== "") {
    const who = document.createElement("b");
    const isolated = document.createElement("bdi");
    isolated.textContent = speaker;
    who.append(isolated, ":");
    item.append(who, " ");
  }
  const words = document.createElement("bdi");
  words.textContent = text.replace(HIDDEN, "\u{fffd}");
  item.append(words);
  log.append(item);
  while (log.childElementCount > MOST) {
    log.firstElementChild?.remove();
  }
  if (isAtEnd) {
    log.scrollTop = log.scrollHeight;
  }
}

function showState(): void {
  const held = waiting === 0 ? "" : ` Not sent yet: ${waiting}.`;
  stateLine.textContent = `${state}.${held}`;
}

function showPresent(): void {
  const sorted = [...present].sort((one, other) => one.localeCompare(other));
  presentList.replaceChildren(
    ...sorted.map((each) => {
      const item = document.createElement("li");
      const isolated = document.createElement("bdi");
      isolated.textContent = each.replace(HIDDEN, "\u{fffd}");
      item.append(isolated);
      return item;
    }),
  );
}

/** Be in another state, which is said in words; a new second may have new ones. */
function enter(words: () => string): void {
  clearInterval(timer);
  const tell = (): void => {
    state = words();
    showState();
  };
  tell();
  timer = setInterval(tell, 1000);
}

/** Act on a line of the server. */
function received(line: string, when: Date): void {
  const colon = line.indexOf(": ");
  const head = (colon < 0 ? line : line.slice(0, colon)).split(" ");
  const text = colon < 0 ? "" : line.slice(colon + 2);
  const [kind = "", one = "", two = "", three = ""] = head;
  switch (`${kind} ${head.length}`) {
    case "say 3":
      show(two === name ? "own" : "said", text, two, when);
      break;
    case "old 4":
      show(three === name ? "own" : "said", text, three, new Date(two));
      break;
    case "tell 3":
      show("told", text, `${one} to ${two}`, when);
      break;
    case "join 3":
      present.add(two);
      show("note", `${two} has come into ${one}`);
      break;
    case "leave 3":
      present.delete(two);
      show("note", `${two} has left ${one}`);
      break;
    case "name 3":
      present.delete(one);
      present.add(two);
      show("note", `${one} is now called ${two}`);
      break;
    case "you 5":
      named(two, head[4] ?? "");
      break;
    case "who 3":
      if (one === room) {
        present = new Set(text.split(" "));
      }
      show("note", `in ${one}, ${two}: ${text}`);
      break;
    case "error 1":
      show("error", text);
      break;
    default:
      show("note", kind === "note" ? text : line);
  }
  showPresent();
}

function named(newName: string, newRoom: string): void {
  [name, room] = [newName, newRoom];
  wanted = name;
  localStorage.setItem(NAME, name);
  naming.hidden = true;
  if (saying.hidden) {
    saying.hidden = false;
    textInput.focus();
  }
  show("note", `you are ${name} in ${room}`);
}

/** Where the server is, and its key; throws words for people. */
function place(): { url: URL; key: string } {
  const meta = (each: string): string =>
    document.querySelector<HTMLMetaElement>(`meta[name="${each}"]`)?.content ?? "";
  const typed = decodeURIComponent(location.hash.slice(1));
  const comma = typed.lastIndexOf(",");
  const key = typed.slice(comma + 1) || meta("aesm-key");
  const url = typed.slice(0, Math.max(comma, 0)) || meta("aesm-server") || "/aesm";
  if (key === "") {
    throw new Error("The server's public key is missing: the page's address ends with #KEY, or with #wss://HOST/PATH,KEY");
  }
  const absolute = new URL(url, location.href);
  absolute.protocol = absolute.protocol.replace("http", "ws");
  return { url: absolute, key };
}

function begin(): Client {
  const { url, key } = place();
  const client = new Client(websocket(url), {
    key: loadKey(),
    trust: new Pinned(key),
    observer: {
      onConnected(isResumed): void {
        trouble = "";
        enter(() => "Connected");
        if (!isResumed) {
          join();
        }
      },
      onWaiting(delay, reason): void {
        if (reason.message !== trouble) {
          trouble = reason.message;
          show("error", trouble);
        }
        const until = Date.now() + delay * 1000;
        enter(() => {
          const seconds = Math.ceil((until - Date.now()) / 1000);
          return seconds > 0 ? `Not connected, trying again in ${seconds} s` : "Not connected, trying";
        });
      },
      onStopped(reason): void {
        enter(() => (reason === undefined ? "You have left" : "Over: reload the page to try again"));
        if (reason !== undefined) {
          show("error", reason.message);
        }
        if (reason instanceof NotAuthorized) {
          show("note", `this page has the public key ${client.publicKey}`);
        }
      },
    },
  });
  enter(() => `Connecting to ${url.host}`);

  /** Begin a session: go where the last one was. */
  function join(): void {
    present.clear();
    if (wanted !== "") {
      say(`${hasJoined ? "/regain" : "/nick"} ${wanted}`);
    }
    if (room !== "" && room !== DEFAULT_ROOM) {
      say(`/join ${room}`);
    }
    hasJoined = true;
  }

  function say(line: string): void {
    waiting += 1;
    showState();
    client
      .send(line)
      .catch((error: AESMError) => show("error", `This may not have arrived: ${line} (${error.message})`))
      .finally(() => {
        waiting -= 1;
        showState();
      });
  }

  naming.addEventListener("submit", (event) => {
    event.preventDefault();
    wanted = nameInput.value.trim();
    say(`/nick ${wanted}`);
  });
  saying.addEventListener("submit", (event) => {
    event.preventDefault();
    const line = textInput.value.trim();
    textInput.value = "";
    if (line === "/quit") {
      void client.close();
    } else if (line !== "") {
      say(line);
    }
  });
  addEventListener("pagehide", () => void client.close());
  // A page that comes back out of the browser's cache has left.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  return client;
}

async function run(): Promise<void> {
  nameInput.value = wanted;
  try {
    for await (const { data, time } of begin()) {
      if (typeof data === "string") {
        received(data, time);
      }
    }
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    if (stateLine.textContent === "Starting.") {
      enter(() => words.replace(/\.$/, ""));
    }
  }
}

addEventListener("hashchange", () => location.reload());
void run();
