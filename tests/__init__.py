"""
Tests of aesm; run them with C{python -m twisted.trial tests}.
"""
