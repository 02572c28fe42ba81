"""Probes of frozen features: what can be read off them, on videos that nothing was fitted to."""
