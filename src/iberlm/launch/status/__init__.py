"""How a run fares, and what people do about it: status, logs, cancel."""
