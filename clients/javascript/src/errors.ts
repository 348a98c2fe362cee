/**
 * What can go wrong. A fault of the caller is a TypeError or RangeError, at once; one of the
 * peer or the network an AESMError:
 *
 *     AESMError
 *       ConnectFailed         nothing listens there, or no route leads there
 *       HandshakeTimeout      it accepts connections and does not answer
 *       NotAnAESMPeer         something else listens there
 *       OfferRefused          the server takes other suites
 *       NameOrKeyMismatch     `name` or `psk` differ
 *         NoAnswer            it hung up without a word
 *       UntrustedServer       its key is not the one we trust
 *         ServerKeyChanged    it is another one than last time
 *       ConnectionClosed      `code`, `reason`
 *         NotAuthorized       it does not let our key in
 *         Truncated           cut off
 *         HeartbeatLost       silent
 *         SessionLost         the server does not have the session any more
 *       TamperedRecord        what came was altered on its way
 *       ProtocolError         the peer does not keep to the protocol
 *       MessageTooBig         nothing was sent
 *       SendBufferFull        nothing was sent
 *       RequestFailed         the other side refuses: `code`, `reason`
 *       RequestTimeout        no answer in time
 */

/** Codes of CLOSE, and of refused requests; docs/protocol.md, section 9. */
export const Code = {
  NORMAL: 1000,
  GOING_AWAY: 1001,
  PROTOCOL_ERROR: 1002,
  NO_REQUESTS: 1003,
  NO_CODE: 1005, // never on the wire: the server ended its stream without a CLOSE
  INVALID_UTF8: 1007,
  NOT_ALLOWED: 1008,
  TOO_BIG: 1009,
  INTERNAL_ERROR: 1011,
  TRY_AGAIN_LATER: 1013,
  SLOW_CONSUMER: 4000,
  TAKEN_OVER: 4001,
  WITHDRAWN: 4002,
  UNREAD: 4003,
} as const;

/** The base of all errors that are not the caller's own. */
export class AESMError extends Error {
  /** Whether another attempt would fail alike. */
  get isFinal(): boolean {
    return false;
  }

  override get name(): string {
    return this.constructor.name;
  }
}

/** Nothing listens there, or no route leads there. */
export class ConnectFailed extends AESMError {}

/** The server accepts connections and does not answer in time. */
export class HandshakeTimeout extends AESMError {}

/** A failure that another attempt would meet as well. */
class FinalError extends AESMError {
  override get isFinal(): boolean {
    return true;
  }
}

/** Something else listens there. */
export class NotAnAESMPeer extends FinalError {}

/** The server does not take our offer; anybody on the way could have said so. */
export class OfferRefused extends FinalError {
  constructor(
    place: string,
    readonly reason: string,
  ) {
    super(
      `the server at ${place} refused our offer, or somebody on the way did: ` +
        `${JSON.stringify(reason)}; choose another suite, or another port`,
    );
  }
}

/** The handshake does not authenticate: `name` or `psk` differ. */
export class NameOrKeyMismatch extends FinalError {}

/** The server hung up without a word: `psk` or `name` may differ, or it is full or stopping. */
export class NoAnswer extends NameOrKeyMismatch {
  override get isFinal(): boolean {
    return false;
  }
}

/** The server's key is not the one that we trust. */
export class UntrustedServer extends FinalError {}

/** The server's key is another one than last time. */
export class ServerKeyChanged extends UntrustedServer {}

/** The connection has ended. */
export class ConnectionClosed extends AESMError {
  constructor(
    message: string,
    readonly code?: number,
    readonly reason = "",
  ) {
    super(message);
  }

  override get isFinal(): boolean {
    return this.code === Code.TAKEN_OVER;
  }
}

/** The server does not let our key in. */
export class NotAuthorized extends ConnectionClosed {
  override get isFinal(): boolean {
    return true;
  }
}

/** The connection was cut off. */
export class Truncated extends ConnectionClosed {}

/** The peer fell silent. */
export class HeartbeatLost extends ConnectionClosed {}

/** The server has not the session any more: what was sent in it may or may not have arrived. */
export class SessionLost extends ConnectionClosed {}

/** What came is not what the peer sent. */
export class TamperedRecord extends AESMError {}

/** The peer does not keep to the protocol; `code` is what it is told. */
export class ProtocolError extends AESMError {
  constructor(
    message: string,
    readonly code: number = Code.PROTOCOL_ERROR,
  ) {
    super(message);
  }
}

/** The peer takes no messages of that size; nothing was sent. */
export class MessageTooBig extends AESMError {}

/** Too much waits, or is not acknowledged; nothing was sent. */
export class SendBufferFull extends AESMError {}

/** The other side refuses a request; also thrown by handlers, to refuse one. */
export class RequestFailed extends AESMError {
  constructor(
    readonly code: number,
    readonly reason = "",
  ) {
    super(`the request was refused (code ${code}): ${JSON.stringify(reason)}`);
  }
}

/** No answer came in time. */
export class RequestTimeout extends AESMError {}

/** The error for a CLOSE that came. */
export function closed(code: number, reason: string): ConnectionClosed {
  const said = `the server closed the connection (code ${code}): ${JSON.stringify(reason)}`;
  if (code === Code.NOT_ALLOWED) {
    const help = "it does not let our public key in, unless its operator authorizes that";
    return new NotAuthorized(`${said}; ${help}`, code, reason);
  }
  return new ConnectionClosed(said, code, reason);
}
