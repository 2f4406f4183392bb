"""The networks, and how they are stored, converted and fetched."""
