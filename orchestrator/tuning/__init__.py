"""Sweeps: a search space over a train job, trials that cannot starve each other, and a winner."""
