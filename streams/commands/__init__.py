"""Commands that ask: each in a file of its own, with what it shows beside it."""
