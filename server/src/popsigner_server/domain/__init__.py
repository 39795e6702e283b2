"""The values that every room trades in, and the rules that hold for them: pure, without I/O.

`ids` names things, `keys` and `principals` say what they are and who asks, `digests` and `signatures` are what is
signed and what comes back, `addresses` (over `bech32`) is how chains name a public key, `plans` is what an organization
may use.
"""
