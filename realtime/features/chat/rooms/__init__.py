"""Rooms and their members: who may be where, and do what."""
