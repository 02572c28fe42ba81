"""Sources of raw video. The types that a user's own source needs can be imported from here."""

from orchestrator.data.sources.base import RawClip, Rejected, Source, WorkUnit

__all__ = ["RawClip", "Rejected", "Source", "WorkUnit"]
