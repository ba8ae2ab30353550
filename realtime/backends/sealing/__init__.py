"""Encryption at rest: what of encrypted rooms lies in a store or in Redis is sealed."""
