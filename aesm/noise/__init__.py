"""
The Noise Protocol Framework, revision 34, with hybrid post-quantum forward secrecy:
no I/O, and nothing of aesm's own protocol.

Two programs that want to talk privately run a I{handshake}: a few messages in which
they exchange Diffie-Hellman public keys, prove that they own them, and hash every
byte and every shared secret into one state.  It leaves them with two keys, one for
each direction, and a hash that names the conversation.  Which keys are exchanged
when is the handshake's I{pattern}; a I{protocol name} says the pattern and the
functions::

    Noise_XXhfs_25519+MLKEM768_AESGCM_SHA256

    XXhfs:
      -> e, e1                        my fresh keys, for X25519 and for ML-KEM
      <- e, ee, ekem1, s, es          mine; both secrets; who I am, encrypted
      -> s, se                        who I am, encrypted

    initiator = HandshakeState(name, initiator=True, s=privateKey)
    send(initiator.writeMessage())
    initiator.readMessage(receive())
    send(initiator.writeMessage(b"payload"))
    toResponder, toInitiator = initiator.split()      # initiator.rs is the peer
    send(toResponder.encryptWithAd(b"", b"data"))

What there is:

  - patterns: all of revision 34, one-way, fundamental and deferred, with C{psk0} to
    C{psk4}, C{fallback} and C{hfs} (L{aesm.noise.patterns}, where the table is);
  - functions: 25519, MLKEM768 for C{hfs}; AESGCM, ChaChaPoly; SHA256, SHA512,
    BLAKE2s, BLAKE2b (L{aesm.noise.functions});
  - the objects of the specification (L{aesm.noise.handshakestate}).

What the caller does wrong is a C{ValueError}, C{TypeError} or C{RuntimeError}; what the
peer does wrong is an L{aesm.errors.AESMError}.

@see: U{https://noiseprotocol.org/noise.html} and
    U{https://github.com/noiseprotocol/noise_hfs_spec}
"""

from __future__ import annotations

from aesm.noise.functions import DHLEN, KEYLEN, TAGLEN, KeyPair, hybridSupported
from aesm.noise.handshakestate import (
    MAX_MESSAGE,
    MAX_NONCE,
    CipherState,
    HandshakeState,
)
from aesm.noise.patterns import PATTERNS, Pattern, Protocol, parseProtocolName

__all__ = [
    "DHLEN",
    "KEYLEN",
    "MAX_MESSAGE",
    "MAX_NONCE",
    "PATTERNS",
    "TAGLEN",
    "CipherState",
    "HandshakeState",
    "KeyPair",
    "Pattern",
    "Protocol",
    "hybridSupported",
    "parseProtocolName",
]
