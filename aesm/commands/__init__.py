"""
What is typed in a shell: C{aesm ...} and C{twistd aesm}.  Options and console, no
logic.
"""
