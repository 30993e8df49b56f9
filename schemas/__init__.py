"""The shared language: events, results, topics and their one codec. Imports nothing else of Driftline."""
