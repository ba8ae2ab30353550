"""The compiled parts again in plain Python, readable and slow: specification and oracle, never a fallback."""
