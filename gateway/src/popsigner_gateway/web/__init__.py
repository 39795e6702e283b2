"""The gateway's web application: log-in with identity providers, the pages of a browser's session, and the OAuth
endpoints of programs.

It speaks with identity providers and with the server, and keeps nothing: no database, no vault, and no session but
what its encrypted cookies hold. docs/login.md explains it.
"""
