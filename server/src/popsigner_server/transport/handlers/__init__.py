"""One RPC a file: from the contract's messages to the rooms and back."""
