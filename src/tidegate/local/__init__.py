"""Real servers for local runs: NATS, a Redis, a MongoDB, an S3 with an Iceberg catalog, each a process of its own."""
