"""
What users of Twisted hold: the connection, what came, and what will be acknowledged.
"""
