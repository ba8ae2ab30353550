"""Keeping order: moderation, retention, holds, export."""
