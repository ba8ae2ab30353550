"""Many workers as one server, through Redis: the broker, the ring, who is where."""
