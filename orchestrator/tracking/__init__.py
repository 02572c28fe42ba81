"""The MLflow contract: runs, metrics, pictures, checkpoints, datasets and the registry."""

import os

# MLflow reads these when it is imported; a value that the user has set wins. Retries are few
# because the logger has its own and a person at a terminal should not wait four minutes to
# hear that a server is down.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
# A connection that is lost without a word is given up after so many seconds, or a server that has
# been back for a minute is not noticed. Files have longer: `mlflow_errors.file_transfer_timeouts`.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
