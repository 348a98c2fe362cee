"""
Keys, their files, whom to trust, whom to let in.
"""
