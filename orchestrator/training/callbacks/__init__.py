"""What happens beside the training step, one callback a file."""

BUILT_IN: dict[str, str] = {
    "gradient-norms": "orchestrator.training.callbacks.gradient_norms:GradientNorms",
}
"""Callbacks that a job names without an import path (`callbacks: [NAME]`), with theirs,
`package.module:Name`."""
