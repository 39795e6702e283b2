"""Which key: the catalogue and its life cycle. The rows are here, the private keys in the vault."""
