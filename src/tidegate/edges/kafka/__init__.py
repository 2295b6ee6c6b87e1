"""The bridge to Kafka: topics into the ingest stream, and events of the log into topics, each record exactly once.

Needs the optional dependency `aiokafka` (`pip install 'tidegate[kafka]'`).
"""
