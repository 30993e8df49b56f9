"""Runs folds on Kafka with exact state: our Faust transport, the state topic, the checkpoint cycle, topics."""
