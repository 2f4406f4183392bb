"""How far to trust predictions: their metrics against a truth, by magnitude, redshift and survey half."""

from astroclip.evaluate.report import Report, evaluate_table

__all__ = ["Report", "evaluate_table"]
