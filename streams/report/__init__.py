"""`driftline report`: two periods of an app side by side, as one HTML file."""
