"""
The message layer without I/O: sections 6 to 9 of docs/protocol.md.
"""
