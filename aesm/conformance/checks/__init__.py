"""
The checks: importing a module here lists its own in
L{CHECKS<aesm.conformance.case.CHECKS>}.
"""
