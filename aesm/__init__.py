"""
Encrypted, authenticated, acknowledged messages between two programs.
"""

__version__ = "0.1.0"
