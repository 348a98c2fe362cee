"""
The version: hatchling reads it here, peers see it in the hello.
"""

__version__ = "0.1.0"
