"""The composition root: roles, the Faust runtime, settings, the command line. The only folder that imports Faust."""
