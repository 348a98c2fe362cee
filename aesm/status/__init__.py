"""
What operators see of a running server, and what they can have it do.
"""
