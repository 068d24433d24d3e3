"""A model trained from scratch over all that is stored, beside the live one."""
