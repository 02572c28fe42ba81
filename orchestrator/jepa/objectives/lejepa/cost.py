"""What a step of LeJEPA costs."""

from __future__ import annotations

from orchestrator.estimate.objective_cost import ObjectiveCost


class LeJEPACost(ObjectiveCost):
    """As V-JEPA 2; the encoder reads the whole clip with a gradient, and SIGReg its features."""

    @property
    def encoder_lengths(self) -> list[int]:
        return [*super().encoder_lengths, self.tokens.clip]

    @property
    def sigreg_projections(self) -> int:
        return self.tokens.clip * int(self.keys.slices)
