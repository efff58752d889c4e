"""The way out of a run: its policy as an object, its evaluation, its pictures."""
