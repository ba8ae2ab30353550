"""A lean client of Redis Cluster, and of one Redis, for the hot path; see `contract` for what it does."""
