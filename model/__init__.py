"""The arithmetic: what is learned from a click, and how; knows nothing of Kafka, S3, Ray, HTTP or the clock."""
