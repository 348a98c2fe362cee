"""
Many nodes, one server: sessions in an engine that all nodes reach, Redis or Valkey, so
that a client goes on with its session at any of them.
"""
