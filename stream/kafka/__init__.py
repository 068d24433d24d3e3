"""Kafka's door: the source, the dead letters, publishing, and what they share."""
