"""Keys that come to the POP from files on this machine, and keys that leave it into such files.

`importing` and `exporting` are the two ways; `sources` reads the files, `targets` writes them, in `formats`; `results`
is what came of it, key by key. Nothing here asks or prints anything: `popsigner migrate` does. All but `formats` and
`results` needs the extra: pip install 'popsigner[keyfiles]'.
"""
