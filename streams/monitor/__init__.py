"""The monitor role: from events to windows, evidence, alerts, breaker changes and rollback verdicts, as two folds
(events, embeddings). Pure: what comes out is a function of the log."""
