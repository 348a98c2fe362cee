"""
Hostile input, made by the thousand: see README.md in this folder.
"""
