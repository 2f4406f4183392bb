"""What each survey publishes: its files, names, units and traps. Nothing here knows of models."""
