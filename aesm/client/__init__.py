"""
Clients: C{connect}, and the service that comes back.
"""
