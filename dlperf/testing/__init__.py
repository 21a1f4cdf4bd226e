"""Cases and comparison: what the tests and ``dlperf check`` share."""
