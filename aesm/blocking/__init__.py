"""
The blocking face: the reactor in a thread of its own, for programs that have never
heard of one.
"""
