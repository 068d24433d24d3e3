"""An independent check of what is stored, with code of its own."""
