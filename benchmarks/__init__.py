"""
How fast aesm is, beside what one would use instead::

    python -m benchmarks --rounds 5
    python -m benchmarks --quick --only small,pingpong --peers aesm,twistedtls

Each measurement is a server process and a client process on loopback.  The
peers take turns (A B C A B C ...), so that a machine that slows down slows all
of them down, and are compared within each round.  docs/performance.md says what
the figures mean.
"""
