"""
Sessions that outlive the process: one interface, SQLite behind it.
"""
