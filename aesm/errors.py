"""
Every error that aesm raises for what a peer or the network did.

::

    AESMError
     |- HandshakeError          no secure channel came about
     |   |- NameOrKeyMismatch   the two sides do not share name or pre-shared key
     |   |   `- NoAnswer        the server closed without a word
     |   |- NothingSaid         the client closed without a word
     |   |- OfferRefused        the server takes other suites, or has another layer
     |   |- HandshakeTimeout    the peer did not finish in time
     |   `- NotAnAESMPeer       something else listens there
     |- UntrustedServer         the server's key is not one that we accept
     |   `- ServerKeyChanged    it is not the key that we know for this server
     |- NotAuthorized           the server does not let our key in
     |- ConnectionClosed        the connection is over
     |   |- Truncated           without an authenticated end: cut off
     |   |- HeartbeatLost       the peer fell silent
     |   |- PeerAway            the peer is cut off, and may come back
     |   `- SessionMoved        the session goes on in another process of the server
     |- TamperedRecord          a ciphertext does not authenticate
     |- NonceExhausted          a cipher key has encrypted all that it may
     |- ProtocolError           the peer broke the rules of AESM
     |   |- MessageTooBig       a message is larger than its receiver takes
     |   `- InvalidText         a text message is not UTF-8
     |- SendBufferFull          too much is unacknowledged already
     |- RequestFailed           the other side has refused a request
     |- RequestTimeout          it has not answered in time (aesm.messages.requests)
     |- SessionLost             the server no longer holds our session
     |- SpoolError              a spool cannot be opened or written
     |- FileChanged             a file is no more what it was when it was offered
     |- DecryptionError         a token of Cipher is wrong, altered or malformed
     `- KeyFileError            a key file is missing, unsafe or malformed
         `- KeyFileUnavailable  it cannot be used at this moment

What the I{caller} does wrong is a C{TypeError}, C{ValueError} or
C{RuntimeError}, raised at once.  The text of each error says what happened,
with whom, and what to do; programs read the attributes instead.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "AESMError",
    "CloseCode",
    "ConnectionClosed",
    "DecryptionError",
    "FileChanged",
    "HandshakeError",
    "HandshakeTimeout",
    "HeartbeatLost",
    "InvalidText",
    "KeyFileError",
    "KeyFileUnavailable",
    "MessageTooBig",
    "NameOrKeyMismatch",
    "NoAnswer",
    "NonceExhausted",
    "NotAnAESMPeer",
    "NotAuthorized",
    "NothingSaid",
    "OfferRefused",
    "PeerAway",
    "ProtocolError",
    "RequestFailed",
    "SendBufferFull",
    "ServerKeyChanged",
    "SessionLost",
    "SessionMoved",
    "SpoolError",
    "TamperedRecord",
    "Truncated",
    "UntrustedServer",
]


class CloseCode(IntEnum):
    """
    Why a connection is closed, in a CLOSE or in the place of one.

    @see: section 9 of docs/protocol.md; RFC 6455 section 7.4.1, whose numbers these
        are
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_CODE = 1005  # never on the wire: the peer ended its direction without a CLOSE
    ABNORMAL = 1006  # never on the wire: the connection ended without one
    NOT_TAKEN = 1003  # of a request only: there is nothing that could answer it
    INVALID_TEXT = 1007
    NOT_ALLOWED = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013
    SLOW_CONSUMER = 4000
    TAKEN_OVER = 4001
    WITHDRAWN = 4002  # of a request only: nobody waits for its answer any more
    UNREAD = 4003


class AESMError(Exception):
    """The root of the tree: catch it to catch all that aesm reports."""


class HandshakeError(AESMError):
    """No secure channel came about."""


class NameOrKeyMismatch(HandshakeError):
    """
    The two sides do not share the application name or the pre-shared key;
    the mathematics cannot tell which.
    """


class NoAnswer(NameOrKeyMismatch):
    """
    The server closed without a word, as one does to which our handshake does not
    authenticate; but one that stops, or has no room, does so as well.
    """


class NothingSaid(HandshakeError):
    """The client closed without a word, as a health check or a scan does."""


class OfferRefused(HandshakeError):
    """
    The server does not take the Noise protocol that was offered, or has byte streams
    where the client brings messages, or messages where it brings a byte stream.  Its
    answer is not authenticated.

    @ivar reason: the server's own words, printable ASCII.
    @see: docs/protocol.md, section 2
    """

    def __init__(self, message: str, reason: str = "") -> None:
        """
        @param message: what happened and what to do.
        @param reason: the server's own words.
        """
        super().__init__(message)
        self.reason = reason


class HandshakeTimeout(HandshakeError, TimeoutError):
    """The peer did not finish the handshake before its deadline."""


class NotAnAESMPeer(HandshakeError):
    """What answered, or asked, speaks another protocol."""


class UntrustedServer(AESMError):
    """
    The server proved a key that the client's trust policy does not accept.

    @ivar publicKey: the key that was presented, in text form.
    """

    def __init__(self, message: str, publicKey: str = "") -> None:
        """
        @param message: what happened and what to do.
        @param publicKey: the key that was presented, in text form.
        """
        super().__init__(message)
        self.publicKey = publicKey


class ServerKeyChanged(UntrustedServer):
    """
    The server proved another key than the one remembered for it.

    @ivar known: the keys that are remembered, in text form.
    """

    def __init__(
        self, message: str, publicKey: str = "", known: tuple[str, ...] = ()
    ) -> None:
        """
        @param message: what happened and what to do.
        @param publicKey: the key that was presented, in text form.
        @param known: the keys that are remembered, in text form.
        """
        super().__init__(message, publicKey)
        self.known = known


class NotAuthorized(AESMError):
    """The server does not let this client's key in (close code 1008)."""


class ConnectionClosed(AESMError):
    """
    The connection is over.  As the failure of a send: the peer may not have
    the message.

    @ivar code: the close code, docs/protocol.md, section 9; 1006 (never on the wire,
        RFC 6455 section 7.4.1) where the connection ended without one.
    @ivar reason: why, in words.
    @ivar after: seconds over which a server that goes away wants its clients to come
        back; 0 if it did not say.
    """

    after: float = 0.0

    def __init__(
        self, message: str, code: int = CloseCode.ABNORMAL, reason: str = ""
    ) -> None:
        """
        @param message: what happened and what to do.
        @param code: the close code.
        @param reason: why, in words.
        """
        super().__init__(message)
        self.code = code
        self.reason = reason


class Truncated(ConnectionClosed):
    """
    The transport ended without the authenticated end of stream: cut off, by
    an accident or by somebody.

    @see: docs/protocol.md, section 5
    """


class HeartbeatLost(ConnectionClosed):
    """
    Nothing came from the peer for two heartbeats.

    @see: docs/protocol.md, section 8
    """


class PeerAway(ConnectionClosed):
    """
    A message is not waited for: its peer's connection is cut.  It is kept in the
    peer's session, and leaves once the peer is back.

    @see: docs/protocol.md, section 8
    """


class SessionMoved(ConnectionClosed):
    """
    The session goes on in another process of the server, with what it has of it: what
    was sent here and is not acknowledged is kept for the peer if it was stored by then.
    """

    def __init__(
        self, message: str, code: int = CloseCode.GOING_AWAY, reason: str = ""
    ) -> None:
        """
        @param message: as L{ConnectionClosed}.
        @param code: as L{ConnectionClosed}.
        @param reason: as L{ConnectionClosed}.
        """
        super().__init__(message, code, reason)


class TamperedRecord(AESMError):
    """
    A ciphertext does not authenticate: altered, replayed, reordered, or made
    with another key.
    """


class NonceExhausted(AESMError):
    """
    A cipher state has used every nonce that it has.

    @see: Noise rev. 34, section 5.1
    """


class ProtocolError(AESMError):
    """
    The peer broke the rules of AESM.

    @cvar code: the close code that the peer is told, docs/protocol.md, section 9.
    """

    code = CloseCode.PROTOCOL_ERROR


class MessageTooBig(ProtocolError):
    """
    A message is larger than its receiver takes.  Raised at the sender before
    anything is sent; from a peer that sends one all the same, a protocol error.
    """

    code = CloseCode.TOO_BIG


class InvalidText(ProtocolError):
    """A text message, or a close reason, is not UTF-8."""

    code = CloseCode.INVALID_TEXT


class SendBufferFull(AESMError):
    """
    So much is unacknowledged that nothing more is accepted; what was
    accepted before is not affected.  Wait for C{drain()}, then try again.
    """


class RequestFailed(AESMError):
    """
    A request was refused.  A handler raises it to refuse one.

    @ivar code: a number, 0 to 65535; where a close code fits, it is used
        (docs/protocol.md, section 9).
    @ivar reason: why, in the words of who refuses.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        """
        @param code: a number for the program that asks, 0 to 65535.
        @param reason: words for it, at most 1,024 bytes in UTF-8.
        """
        super().__init__(f"the request was refused (code {code}){quoted(reason)}")
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        """Make a copy of it elsewhere, as a process pool does."""
        return type(self), (self.code, self.reason)


class SessionLost(ConnectionClosed):
    """
    The server no longer holds the session that was to be resumed; messages
    that were not acknowledged may not have arrived.
    """


class SpoolError(AESMError):
    """
    A spool cannot be opened or written: its disk is full, another program uses
    it, or it is none.  Nothing is accepted until it can be written again.
    """


class FileChanged(AESMError):
    """A file was changed while it was sent: what has come of it is of no use."""


class DecryptionError(AESMError):
    """A token of L{aesm.cipher.Cipher} has the wrong key, was altered, or is none."""


class KeyFileError(AESMError):
    """
    A key file is missing, readable by others, not a regular file, or
    malformed.

    @ivar path: the file.
    """

    def __init__(self, message: str, path: str = "") -> None:
        """
        @param message: what is wrong and how to mend it.
        @param path: the file.
        """
        super().__init__(message)
        self.path = path


class KeyFileUnavailable(KeyFileError):
    """
    A key file cannot be used at this moment, for a reason that is not in the
    file and may pass: no descriptor is free, its disk does not answer, or
    somebody is just writing it.
    """


def closedError(reason: AESMError) -> ConnectionClosed:
    """
    Make the error that a user of an ended connection gets: one of its own for each,
    since a traceback is written into it.
    """
    if isinstance(reason, ConnectionClosed):
        return type(reason)(str(reason), reason.code, reason.reason)
    error = ConnectionClosed(str(reason), reason=str(reason))
    error.__cause__ = reason
    return error


def quoted(reason: str) -> str:
    """
    Show the words of a CLOSE, which may be a stranger's, with nothing in them that is
    not printable; empty if there are none.
    """
    return f": {reason!r}" if reason else ""


def closedByUs(code: int, reason: str) -> ConnectionClosed:
    """
    Say that it is we who close.

    @param code: docs/protocol.md, section 9.
    @param reason: words for the peer.
    """
    words = f"we closed the connection (code {code}){quoted(reason)}"
    return ConnectionClosed(words, code, reason)


def notAnswered(code: int, reason: str, timeout: float) -> ConnectionClosed:
    """
    Make the error for a peer that did not answer our CLOSE, or did not let us answer
    its own.

    @param code: our own.
    @param timeout: seconds that it had.
    """
    return ConnectionClosed(
        f"{closedByUs(code, reason)}; the peer did not answer within {timeout:g} "
        "seconds, and may not have what it did not acknowledge"
    )
