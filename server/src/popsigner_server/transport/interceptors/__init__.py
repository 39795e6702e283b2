"""What every call passes, in this order: telemetry, errors, deadline, auth."""
