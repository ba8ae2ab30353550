"""Messages: sent, edited, answered, and what became of them."""
