"""The wire: gRPC in and out. Calls pass telemetry, errors, deadline and auth on their way to their handler."""
