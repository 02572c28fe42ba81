"""Clusters: submission, preflight checks and rendering."""
