"""
A client of AESM/1 that has nothing of aesm in it: written from the protocol's
text alone, on the C{noiseprotocol} package and blocking sockets.  It is also
how small a foreign implementation can be.

As a program it sends messages to a server that echoes, and prints what came
back::

    python foreign.py PORT NOISE-NAME [PSK-IN-HEX]
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from noise.backends.default import noise_backend
from noise.connection import Keypair, NoiseConnection
from noise.noise_protocol import NoiseProtocol
from noise.state import CipherState, SymmetricState

TEXT, BINARY, WELCOME, BATCH, REST, CLOSE, PING, PONG, ACK = 1, 2, 3, 4, 5, 8, 9, 10, 11
REQUEST, RESPONSE = 6, 7
ERROR, WITHDRAWN = 3, 4  # how a request ends; TEXT and BINARY are answers
MAX_PLAINTEXT = 65519
REKEY = 65536  # records (section 4)
TIMEOUT = 60.0  # seconds for any one read


def frame(body: bytes) -> bytes:
    """Put its length before a body (section 1)."""
    return struct.pack(">H", len(body)) + body


class Classical:
    """C{XX} and C{XXpsk0}, as any Noise library does them."""

    def __init__(
        self,
        name: str,
        prologue: bytes,
        psk: bytes | None,
        key: bytes,
        ephemeral: bytes | None = None,
    ) -> None:
        """
        @param name: the Noise protocol name.
        @param prologue: section 3.
        @param psk: the pre-shared key, or None.
        @param key: our static private key.
        @param ephemeral: the ephemeral private key, of a worked example; None makes
            one.
        """
        self.noise = NoiseConnection.from_name(name.encode())
        self.noise.set_as_initiator()
        self.noise.set_prologue(prologue)
        if psk is not None:
            self.noise.set_psks(psk)
        self.noise.set_keypair_from_private_bytes(Keypair.STATIC, key)
        if ephemeral is not None:
            self.noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
        self.noise.start_handshake()

    def first(self) -> bytes:
        """Make message 1."""
        return bytes(self.noise.write_message())

    def third(self, second: bytes, payload: bytes) -> bytes:
        """Read message 2 and make message 3."""
        assert bytes(self.noise.read_message(second)) == b""
        return bytes(self.noise.write_message(payload))

    def seal(self, plaintext: bytes) -> bytes:
        """Encrypt one record."""
        return bytes(self.noise.encrypt(plaintext))

    def open(self, ciphertext: bytes) -> bytes:
        """Decrypt one record."""
        return bytes(self.noise.decrypt(ciphertext))

    @property
    def ciphers(self) -> tuple[Any, Any]:
        """For what we send, and what we receive."""
        states = self.noise.noise_protocol
        return states.cipher_state_encrypt, states.cipher_state_decrypt

    def rekeySending(self) -> None:
        """Change the key of what we send."""
        self.noise.rekey_outbound_cipher()

    def rekeyReceiving(self) -> None:
        """Change the key of what we receive."""
        self.noise.rekey_inbound_cipher()


class Hybrid:
    """
    C{XXhfs} and C{XXhfs+psk0}, token by token (section 3): the package has no
    C{hfs}, but all that is needed to write it down.
    """

    def __init__(
        self, name: str, prologue: bytes, psk: bytes | None, key: bytes
    ) -> None:
        """
        @param name: the Noise protocol name.
        @param prologue: section 3.
        @param psk: the pre-shared key, or None.
        @param key: our static private key.
        """
        plain = name.replace("XXhfs+psk0", "XXpsk0").replace("XXhfs", "XX")
        protocol = self.protocol = NoiseProtocol(
            plain.replace("+MLKEM768", "").encode(), noise_backend
        )
        protocol.name = name.encode()
        self.state: Any = SymmetricState.initialize_symmetric(protocol)
        self.state.mix_hash(prologue)
        self.psk = psk
        self.s = X25519PrivateKey.from_private_bytes(key)
        self.e = X25519PrivateKey.generate()
        self.kem = MLKEM768PrivateKey.generate()

    def first(self) -> bytes:
        """C{-> psk, e, e1}"""
        if self.psk is not None:
            self.state.mix_key_and_hash(self.psk)
        ephemeral = self.e.public_key().public_bytes_raw()
        self.state.mix_hash(ephemeral)
        if self.psk is not None:
            self.state.mix_key(ephemeral)
        e1 = self.state.encrypt_and_hash(self.kem.public_key().public_bytes_raw())
        return ephemeral + bytes(e1) + bytes(self.state.encrypt_and_hash(b""))

    def third(self, second: bytes, payload: bytes) -> bytes:
        """C{<- e, ee, ekem1, s, es} and C{-> s, se}"""
        state = self.state
        re, rest = second[:32], second[32:]
        state.mix_hash(re)
        if self.psk is not None:
            state.mix_key(re)
        state.mix_key(self._dh(self.e, re))
        ciphertext = bytes(state.decrypt_and_hash(rest[: 1088 + 16]))
        state.mix_key(self.kem.decapsulate(ciphertext))
        rs = bytes(state.decrypt_and_hash(rest[1104 : 1104 + 48]))
        state.mix_key(self._dh(self.e, rs))
        assert bytes(state.decrypt_and_hash(rest[1152:])) == b""
        third = bytes(state.encrypt_and_hash(self.s.public_key().public_bytes_raw()))
        state.mix_key(self._dh(self.s, re))
        third += bytes(state.encrypt_and_hash(payload))
        keys = self.protocol.hkdf(state.ck, b"", 2)
        self.sending, self.receiving = (CipherState(self.protocol) for _ in keys)
        self.sending.initialize_key(keys[0])
        self.receiving.initialize_key(keys[1])
        return third

    def _dh(self, private: X25519PrivateKey, public: bytes) -> bytes:
        """X25519."""
        return private.exchange(X25519PublicKey.from_public_bytes(public))

    def seal(self, plaintext: bytes) -> bytes:
        """Encrypt one record."""
        return bytes(self.sending.encrypt_with_ad(b"", plaintext))

    def open(self, ciphertext: bytes) -> bytes:
        """Decrypt one record."""
        return bytes(self.receiving.decrypt_with_ad(b"", ciphertext))

    @property
    def ciphers(self) -> tuple[Any, Any]:
        """For what we send, and what we receive."""
        return self.sending, self.receiving

    def rekeySending(self) -> None:
        """Change the key of what we send."""
        self.sending.rekey()

    def rekeyReceiving(self) -> None:
        """Change the key of what we receive."""
        self.receiving.rekey()


class Refused(Exception):
    """The server refused the offer, or said CLOSE instead of WELCOME; says why."""


class Stream:
    """A blocking client of a byte stream, sections 2 to 5."""

    offer = b"AESM/1 stream "

    def __init__(
        self,
        port: int,
        name: str,
        psk: bytes | None = None,
        application: str = "aesm",
        key: bytes | None = None,
        payload: bytes = b"",
        connected: socket.socket | None = None,
    ) -> None:
        """
        @param port: of 127.0.0.1.
        @param name: the Noise protocol name.
        @param psk: the pre-shared key, or None.
        @param application: the application name.
        @param key: our static private key; None makes one.
        @param payload: of message 3.
        @param connected: to the port, from wherever it likes; None makes one.
        """
        self.key = key or X25519PrivateKey.generate().private_bytes_raw()
        self.socket = connected or socket.create_connection(
            ("127.0.0.1", port), TIMEOUT
        )
        self.sealed = self.opened = 0
        offer = frame(self.offer + name.encode())
        kind = Hybrid if "hfs" in name else Classical
        self.noise = kind(name, offer + frame(application.encode()), psk, self.key)
        self.socket.sendall(offer + frame(self.noise.first()))
        second = self._readFramed()
        if not second:
            raise Refused(self._readFramed().decode("ascii"))
        self.socket.sendall(frame(self.noise.third(second, payload)))

    def write(self, stream: bytes) -> None:
        """Send bytes of the stream, in as many records as they need."""
        for start in range(0, len(stream), MAX_PLAINTEXT):
            self.socket.sendall(self.record(stream[start : start + MAX_PLAINTEXT]))

    def end(self) -> None:
        """End our direction (section 5)."""
        self.socket.sendall(self.record(b""))

    def record(self, plaintext: bytes) -> bytes:
        """Make the next record that is to be sent (section 4)."""
        sealed = self.noise.seal(plaintext)
        self.sealed += 1
        if self.sealed % REKEY == 0:
            self.noise.rekeySending()
        return frame(sealed)

    def readRecord(self) -> bytes:
        """Read one record (section 4)."""
        plaintext = self.noise.open(self._readFramed())
        self.opened += 1
        if self.opened % REKEY == 0:
            self.noise.rekeyReceiving()
        return plaintext

    def _readFramed(self) -> bytes:
        """Read what has its length before it."""
        return self._read(struct.unpack(">H", self._read(2))[0])

    def _read(self, size: int) -> bytes:
        """Read bytes of the transport."""
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return data


class Client(Stream):
    """A blocking client of messages."""

    offer = b"AESM/1 "

    def __init__(
        self,
        port: int,
        name: str,
        psk: bytes | None = None,
        application: str = "aesm",
        hello: dict[str, Any] | None = None,
        key: bytes | None = None,
        connected: socket.socket | None = None,
    ) -> None:
        """
        @param hello: what to say of ourselves.
        """
        hello = hello or {"agent": "foreign"}
        self.hello = hello
        said = json.dumps(hello).encode()
        super().__init__(port, name, psk, application, key, said, connected)
        self.stream = b""
        self.sent = self.received = 0  # messages
        kind, _, body = self.readFrame()
        if kind == CLOSE:
            raise Refused(f"CLOSE {int.from_bytes(body[:2], 'big')}")
        assert kind == WELCOME, kind
        self.welcome = json.loads(body)

    def encode(self, kind: int, body: bytes) -> bytes:
        """Make one frame (section 6)."""
        return struct.pack(">IBQ", len(body), kind, int(time.time() * 1e6)) + body

    def send(self, kind: int, body: bytes) -> None:
        """Send one frame."""
        self.sent += kind in (TEXT, BINARY, REQUEST, RESPONSE)
        self.write(self.encode(kind, body))

    def request(self, kind: int, data: bytes) -> int:
        """Send a request; return its number (section 6)."""
        self.send(REQUEST, bytes([kind]) + data)
        return self.sent - 1

    def respond(self, number: int, status: int, data: bytes = b"") -> None:
        """End a request (section 6)."""
        self.send(RESPONSE, struct.pack(">QB", number, status) + data)

    def readFrame(self) -> tuple[int, int, bytes]:
        """Read one frame: type, time, body."""
        length, kind, micros = struct.unpack(">IBQ", self._readStream(13))
        return kind, micros, self._readStream(length)

    def readMessage(self) -> str | bytes:
        """Read frames up to a message; acknowledge it."""
        kind, body = self.readAnyMessage()
        assert kind in (TEXT, BINARY), kind
        return body.decode() if kind == TEXT else body

    def readAnyMessage(self) -> tuple[int, bytes]:
        """Read frames up to a message, request or response; acknowledge it."""
        while True:
            kind, _, body = self.readFrame()
            if kind in (TEXT, BINARY, REQUEST, RESPONSE):
                self.received += 1
                self.send(ACK, struct.pack(">QQ", self.received, 2**32))
                return kind, body
            if kind == PING:
                self.send(PONG, body)
            else:
                assert kind in (ACK, PONG), kind  # a PONG may come unasked (section 8)

    def close(self) -> tuple[int, str]:
        """Close in order (section 9), and return the server's code and reason."""
        self.send(CLOSE, struct.pack(">H", 1000))
        self.end()
        while True:
            kind, _, body = self.readFrame()
            if kind == CLOSE:
                break
        assert self.readRecord() == b"", "an authenticated end of stream"
        assert self.socket.recv(1) == b""
        self.socket.close()
        return struct.unpack(">H", body[:2])[0], body[2:].decode()

    def _readStream(self, size: int) -> bytes:
        """Read bytes of the stream."""
        while len(self.stream) < size:
            record = self.readRecord()
            if not record:
                raise ConnectionError("the server ended the stream")
            self.stream += record
        taken, self.stream = self.stream[:size], self.stream[size:]
        return taken


def main(port: int, name: str, psk: bytes | None) -> None:
    """Talk to a server that echoes."""
    client = Client(port, name, psk)
    for message in ("hello", "Grüße, 世界 🌍" * 5000, ""):
        client.send(TEXT, message.encode())
        assert client.readMessage() == message
    client.send(BINARY, bytes(range(256)) * 1000)
    assert client.readMessage() == bytes(range(256)) * 1000
    code, _ = client.close()
    print(json.dumps({"code": code, "session": client.welcome["session"]}))


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        sys.argv[2],
        bytes.fromhex(sys.argv[3]) if len(sys.argv) > 3 else None,
    )
