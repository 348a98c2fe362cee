"""
Checks of an implementation of AESM/1 from outside: see L{aesm.conformance.__main__},
and docs/conformance.md.
"""
