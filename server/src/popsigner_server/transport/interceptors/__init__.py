"""What every call passes, in this order: telemetry, errors, draining, deadline, auth, limits, pressure."""
