/** The client without what is Node's: for transports of your own, and for browsers. */

export type { Request, RequestHandler } from "./answering.js";
export { Client } from "./client.js";
export {
  AESMError,
  Code,
  ConnectFailed,
  ConnectionClosed,
  HandshakeTimeout,
  HeartbeatLost,
  MessageTooBig,
  NameOrKeyMismatch,
  NoAnswer,
  NotAnAESMPeer,
  NotAuthorized,
  OfferRefused,
  ProtocolError,
  RequestFailed,
  RequestTimeout,
  SendBufferFull,
  ServerKeyChanged,
  SessionLost,
  TamperedRecord,
  Truncated,
  UntrustedServer,
} from "./errors.js";
export { PrivateKey } from "./keys.js";
export { SUITES, type Suite } from "./noise.js";
export type { ClientOptions, Observer, RequestOptions } from "./options.js";
export type { Packet } from "./packet.js";
export type { Dialer, Transport, TransportEvents } from "./transport.js";
export {
  AnyServer,
  KnownServers,
  MemoryStore,
  Pinned,
  type KnownServer,
  type KnownServersStore,
  type Trust,
} from "./trust.js";
