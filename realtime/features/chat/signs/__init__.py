"""Signs of life: typing, reading, presence."""
