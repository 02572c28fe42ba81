"""A data-efficiency study: cells that are trained and probed, curves, and what may be claimed."""
