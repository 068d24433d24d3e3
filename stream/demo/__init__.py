"""The demo: what it replays, what it plays, what it shows."""
