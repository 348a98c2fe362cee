"""
Files, sent by requests: into a directory, under safe names, and whole or not at all.
"""
