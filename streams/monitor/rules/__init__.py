"""What users ask of closed windows: threshold rules, burn rates of objectives, and money. Nothing here states a rate of
false alarms; the detectors do."""
