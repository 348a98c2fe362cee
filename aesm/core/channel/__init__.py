"""
The secure channel without I/O: sections 2 to 5 of docs/protocol.md.
"""
