"""Tests for L{aesm.cluster}."""
