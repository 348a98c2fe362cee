"""
Handshake patterns and protocol names: what is exchanged, in which order.

A Noise handshake is a short script.  Before it, the sides may know public keys of
each other: the I{pre-messages}, left of the C{...} in the table.  Then they send
messages in turn, the initiator (C{->}) first.  A message is its I{tokens}, in order,
and at last a payload:

  - C{e}: send a fresh ephemeral public key, in clear;
  - C{s}: send the static public key, encrypted if there is a key already;
  - C{ee}, C{es}, C{se}, C{ss}: send nothing; mix DH(the initiator's first letter,
    the responder's second letter) into the keys;
  - C{psk}: send nothing; mix a pre-shared key into the keys and the hash;
  - C{e1}, C{ekem1}: send a fresh KEM public key, or a KEM ciphertext for it,
    encrypted as C{s} is; the KEM's secret is mixed into the keys.

In a pattern's name the first letter says what becomes of the initiator's static
key, the second of the responder's: C{N} there is none, C{K} the other side knows it
before, C{X} it is transmitted, C{I} it is transmitted at once, at the price of less
privacy.  C{1} after a letter defers that side's authentication by one message.
One-way patterns have the sender's letter only.

I{Modifiers} rewrite a pattern, so that the table in the source has none of them:

  - C{psk0} begins the first message with C{psk}; C{psk1} to C{psk4} end the first to
    fourth message with it.
  - C{hfs} puts C{e1} after the first C{e}, or after that message's first DH if it
    has one, so that it is encrypted; and C{ekem1} after C{ee}.
  - C{fallback} makes the first message a pre-message, for a responder who could not
    read it and starts over as the initiator.  The specification draws the outcome
    from the old initiator's side, C{XXfallback} as C{-> e ... <- e, ee, s, es} and
    C{-> s, se}; here the new initiator has the right-hand arrows, as in any other
    pattern: C{<- e ... -> e, ee, s, se} and C{<- s, es}.

Modifiers are joined by C{+}, in alphabetical order.  A whole name has five parts, as
in C{Noise_XXhfs+psk0_25519+MLKEM768_AESGCM_SHA256}: prefix, pattern, DH (and KEM, if
and only if there is C{hfs}), cipher, hash.

@see: Noise rev. 34, sections 7 to 10 and 18.1; Noise HFS rev. 1, section 5
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass

from aesm.noise.functions import (
    CIPHERS,
    DHLEN,
    HASHES,
    KEMCIPHERTEXTLEN,
    KEMPUBLICKEYLEN,
    TAGLEN,
    CipherFunctions,
    HashFunctions,
)

# Sections 7.4 (one-way), 7.5 (fundamental) and 18.1 (deferred).  It is text, a pattern
# a line and in the specification's notation, so that each line can be read against what
# is printed there: a mistake here would be no error, but another protocol, with other
# properties.  What follows from a pattern (the lengths of its messages, which keys it
# needs, whether there is a KEM) is computed, so that it cannot disagree.
_TABLE = """
    N       <- s ...        -> e, es
    K       -> s <- s ...   -> e, es, ss
    X       <- s ...        -> e, es, s, ss

    NN                      -> e            <- e, ee
    NK      <- s ...        -> e, es        <- e, ee
    NX                      -> e            <- e, ee, s, es
    XN                      -> e            <- e, ee            -> s, se
    XK      <- s ...        -> e, es        <- e, ee            -> s, se
    XX                      -> e            <- e, ee, s, es     -> s, se
    KN      -> s ...        -> e            <- e, ee, se
    KK      -> s <- s ...   -> e, es, ss    <- e, ee, se
    KX      -> s ...        -> e            <- e, ee, se, s, es
    IN                      -> e, s         <- e, ee, se
    IK      <- s ...        -> e, es, s, ss <- e, ee, se
    IX                      -> e, s         <- e, ee, se, s, es

    NK1     <- s ...        -> e            <- e, ee, es
    NX1                     -> e            <- e, ee, s         -> es
    X1N                     -> e            <- e, ee            -> s        <- se
    X1K     <- s ...        -> e, es        <- e, ee            -> s        <- se
    XK1     <- s ...        -> e            <- e, ee, es        -> s, se
    X1K1    <- s ...        -> e            <- e, ee, es        -> s        <- se
    X1X                     -> e            <- e, ee, s, es     -> s        <- se
    XX1                     -> e            <- e, ee, s         -> es, s, se
    X1X1                    -> e            <- e, ee, s         -> es, s    <- se
    K1N     -> s ...        -> e            <- e, ee            -> se
    K1K     -> s <- s ...   -> e, es        <- e, ee            -> se
    KK1     -> s <- s ...   -> e            <- e, ee, se, es
    K1K1    -> s <- s ...   -> e            <- e, ee, es        -> se
    K1X     -> s ...        -> e            <- e, ee, s, es     -> se
    KX1     -> s ...        -> e            <- e, ee, se, s     -> es
    K1X1    -> s ...        -> e            <- e, ee, s         -> se, es
    I1N                     -> e, s         <- e, ee            -> se
    I1K     <- s ...        -> e, es, s     <- e, ee            -> se
    IK1     <- s ...        -> e, s         <- e, ee, se, es
    I1K1    <- s ...        -> e, s         <- e, ee, es        -> se
    I1X                     -> e, s         <- e, ee, s, es     -> se
    IX1                     -> e, s         <- e, ee, se, s     -> es
    I1X1                    -> e, s         <- e, ee, s         -> se, es
"""

_DH_TOKENS = ("ee", "es", "se", "ss")
_MODIFIERS = ("fallback", "hfs", "psk0", "psk1", "psk2", "psk3", "psk4")

_DH, _HYBRID_DH = "25519", "25519+MLKEM768"

_MAX_NAME = 255  # characters; section 8

# The tokens that send something which is encrypted once there is a key, and how
# many bytes it has before that.
FIELD_LENGTHS = {"s": DHLEN, "e1": KEMPUBLICKEYLEN, "ekem1": KEMCIPHERTEXTLEN}

# fallback swaps the sides, and with them the letters of a DH.
_SWAPPED = {"es": "se", "se": "es"}


@dataclass(frozen=True, slots=True)
class Pattern:
    """
    A handshake pattern.

    @ivar name: as in protocol names, with its modifiers.
    @ivar initiatorKeys: the initiator's pre-message: which of C{"e"} and C{"s"} the
        responder knows before, in the order in which they are hashed.
    @ivar responderKeys: the responder's pre-message.
    @ivar messages: the tokens of each message; the first is the initiator's, and
        they alternate.
    """

    name: str
    initiatorKeys: tuple[str, ...]
    responderKeys: tuple[str, ...]
    messages: tuple[tuple[str, ...], ...]

    def neededKeys(self, initiator: bool) -> frozenset[str]:
        """
        Which keys one side has to have at the start, under the names that
        L{aesm.noise.HandshakeState} has for them.
        """
        own, others = self.initiatorKeys, self.responderKeys
        if not initiator:
            own, others = others, own
        sends = any("s" in tokens for tokens in self.messages[not initiator :: 2])
        return frozenset((*own, *(f"r{key}" for key in others), *("s" * sends)))

    def withModifier(self, modifier: str) -> Pattern:
        """
        The pattern that one modifier makes of this one.

        @param modifier: one of those in the module's docstring.
        @raise ValueError: it cannot be applied to this pattern.
        @see: Noise rev. 34, sections 9.4 and 10.2; Noise HFS rev. 1, section 5
        """
        joint = "" if self.name in PATTERNS else "+"
        name = f"{self.name}{joint}{modifier}"
        if modifier == "fallback":
            return self._withFallback(name)
        if modifier == "hfs":
            return self._withHFS(name)
        return self._withPSK(name, int(modifier.removeprefix("psk")))

    def _withFallback(self, name: str) -> Pattern:
        """The first message, public keys only, becomes a pre-message; sides swap."""
        first, *rest = self.messages
        if not {"e", "s"}.issuperset(first):
            raise ValueError(
                f"modifier 'fallback' cannot be applied to {self.name}, whose first "
                f"message is {', '.join(first)!r}: only to e, s, or both"
            )
        messages = tuple(tuple(_SWAPPED.get(t, t) for t in tokens) for tokens in rest)
        return Pattern(name, self.responderKeys, self.initiatorKeys + first, messages)

    def _withHFS(self, name: str) -> Pattern:
        """C{e1} and C{ekem1} are inserted, if there is a reply with C{ee}."""
        messages = [list(tokens) for tokens in self.messages]
        first = messages[0]
        reply = next((tokens for tokens in messages[1:] if "ee" in tokens), None)
        if reply is None:
            raise ValueError(
                f"modifier 'hfs' cannot be applied to {self.name}: it needs 'ee' in a "
                "later message than the first 'e'"
            )
        reply.insert(reply.index("ee") + 1, "ekem1")
        # Behind the first DH, if there is one, the KEM's key is encrypted already.
        place = next((token for token in first if token in _DH_TOKENS), "e")
        first.insert(first.index(place) + 1, "e1")
        return Pattern(
            name, self.initiatorKeys, self.responderKeys, tuple(map(tuple, messages))
        )

    def _withPSK(self, name: str, number: int) -> Pattern:
        """One C{psk} is added at a message's end; for 0, where the first begins."""
        messages = list(self.messages)
        if number > len(messages):
            raise ValueError(
                f"modifier 'psk{number}' cannot be applied to {self.name}, which has "
                f"{len(messages)} message{'s' if len(messages) > 1 else ''}"
            )
        if number == 0:
            messages[0] = ("psk", *messages[0])
        else:
            messages[number - 1] = (*messages[number - 1], "psk")
        return Pattern(name, self.initiatorKeys, self.responderKeys, tuple(messages))

    def __str__(self) -> str:
        """The pattern as the specification writes it."""
        lines = [f"{self.name}:"]
        for arrow, keys in (("->", self.initiatorKeys), ("<-", self.responderKeys)):
            if keys:
                lines.append(f"  {arrow} {', '.join(keys)}")
        if len(lines) > 1:
            lines.append("  ...")
        for number, tokens in enumerate(self.messages):
            lines.append(f"  {'<-' if number % 2 else '->'} {', '.join(tokens)}")
        return "\n".join(lines)


def _readTable(table: str) -> dict[str, Pattern]:
    """Read patterns that are written one a line."""
    patterns = {}
    for line in table.split("\n"):
        if line:
            name, script = line.split(maxsplit=1)
            before, _, messages = script.rpartition("...")
            known: dict[str, tuple[str, ...]] = dict(_readArrows(before))
            patterns[name] = Pattern(
                name,
                known.get("->", ()),
                known.get("<-", ()),
                tuple(tokens for _, tokens in _readArrows(messages)),
            )
    return patterns


def _readArrows(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Read C{-> e, es <- e, ee} as its arrows and their tokens."""
    return [
        (arrow, tuple(re.findall("[a-z]+", tokens)))
        for arrow, tokens in re.findall("(->|<-)([a-z, ]+)", text)
    ]


PATTERNS = _readTable(_TABLE)


@dataclass(frozen=True, slots=True)
class Protocol:
    """
    What a protocol name says.

    @ivar name: the whole name.
    @ivar pattern: the handshake pattern, modifiers applied.
    @ivar cipher: the AEAD.
    @ivar hash: the hash.
    @ivar hybrid: whether there is a KEM.
    @ivar psks: how many pre-shared keys it takes; if any, each C{e} is mixed into the
        keys.
    @ivar initiatorNeeds: which keys the initiator has to have at the start.
    @ivar responderNeeds: the same of the responder.
    @ivar messageLengths: the bytes of each handshake message with an empty payload,
        keys and tags included.  A payload adds its own length.
    @ivar initialHash: C{h} after C{InitializeSymmetric}.
    """

    name: str
    pattern: Pattern
    cipher: CipherFunctions
    hash: HashFunctions
    hybrid: bool
    psks: int
    initiatorNeeds: frozenset[str]
    responderNeeds: frozenset[str]
    messageLengths: tuple[int, ...]
    initialHash: bytes


@functools.lru_cache(maxsize=256)
def parseProtocolName(name: str) -> Protocol:
    """
    Find out what a protocol name means.  Whether C{MLKEM768} can be used here is
    another question: L{aesm.noise.hybridSupported}.

    @param name: such as C{"Noise_XX_25519_AESGCM_SHA256"}.
    @raise ValueError: a part of the name is unknown or does not fit the others; the
        text names it and says what is known.
    @raise TypeError: C{name} is not a C{str}.
    @see: Noise rev. 34, section 8
    """
    if not isinstance(name, str):
        raise TypeError(f"a protocol name is a str, not {type(name).__name__}")
    if len(name) > _MAX_NAME:
        raise ValueError(
            f"a protocol name has at most {_MAX_NAME} characters, not {len(name)}"
        )
    parts = name.split("_")
    if len(parts) != 5 or parts[0] != "Noise":
        raise ValueError(
            f"{name!r} is not a protocol name: it has the form "
            "Noise_PATTERN_DH_CIPHER_HASH"
        )
    pattern = _parsePattern(parts[1])
    dh = _known("DH", parts[2], (_DH, _HYBRID_DH))
    cipher = CIPHERS[_known("cipher", parts[3], CIPHERS)]
    hashFunctions = HASHES[_known("hash", parts[4], HASHES)]
    hybrid = any("e1" in tokens for tokens in pattern.messages)
    if hybrid != (dh == _HYBRID_DH):
        wanted, why = (_HYBRID_DH, "has") if hybrid else (_DH, "lacks")
        raise ValueError(
            f"DH {dh!r} does not fit pattern {parts[1]!r}, which {why} the modifier "
            f"hfs: {wanted} does"
        )
    psks = sum(tokens.count("psk") for tokens in pattern.messages)
    # InitializeSymmetric, section 5.2: done here, since it is the same for every
    # handshake with this name.
    encoded = name.encode("ascii")
    if len(encoded) <= hashFunctions.length:
        initialHash = encoded.ljust(hashFunctions.length, b"\0")
    else:
        initialHash = hashFunctions.new(encoded).digest()
    return Protocol(
        name,
        pattern,
        cipher,
        hashFunctions,
        hybrid,
        psks,
        pattern.neededKeys(initiator=True),
        pattern.neededKeys(initiator=False),
        _messageLengths(pattern, usesPSK=psks > 0),
        initialHash,
    )


def _parsePattern(part: str) -> Pattern:
    """Find out what a name's second part means, such as C{"XXhfs+psk0"}."""
    tail = part.lstrip(string.ascii_uppercase + string.digits)
    base = part.removesuffix(tail)
    pattern = PATTERNS[_known("pattern", base, PATTERNS)]
    modifiers = tail.split("+") if tail else []
    for modifier in modifiers:
        _known("modifier", modifier, _MODIFIERS)
    # One spelling for one protocol: both sides hash the name.
    right = sorted(set(modifiers))
    if modifiers != right:
        raise ValueError(
            f"the modifiers of {part!r} are to be written once each and in "
            f"alphabetical order: {base}{'+'.join(right)}"
        )
    for modifier in modifiers:
        pattern = pattern.withModifier(modifier)
    return pattern


def _known(kind: str, part: str, known: Iterable[str]) -> str:
    """Check one part of a name, and return it."""
    known = tuple(known)
    if part not in known:
        raise ValueError(f"unknown {kind} {part!r}: known are {', '.join(known)}")
    return part


def _messageLengths(pattern: Pattern, usesPSK: bool) -> tuple[int, ...]:
    """The lengths of messages without payload (Noise, sections 3, 5.3, 9.2)."""
    known = pattern.initiatorKeys + pattern.responderKeys
    tag = TAGLEN if usesPSK and "e" in known else 0
    lengths = []
    for tokens in pattern.messages:
        length = 0
        for token in tokens:
            if token in FIELD_LENGTHS:
                length += FIELD_LENGTHS[token] + tag
            elif token == "e":
                length += DHLEN
            if token not in ("s", "e1") and (token != "e" or usesPSK):
                tag = TAGLEN  # from here on there is a key
        lengths.append(length + tag)
    return tuple(lengths)
