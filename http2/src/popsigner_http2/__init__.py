"""The server's side of gRPC over HTTP/2 (RFC 9113): frames, header blocks, windows, connections. What a call means is
its server's to say. The server and the secrets engine share it."""
