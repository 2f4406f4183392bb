"""Sizes of the models that astroclip knows by name."""
