"""
Servers: who comes in, who is in, who is told.
"""
