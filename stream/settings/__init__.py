"""Every setting: what can be set, how it is checked, and the one reader of the environment."""
