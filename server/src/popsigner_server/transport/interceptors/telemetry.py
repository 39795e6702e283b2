"""Counts and times every call, and opens its span; the outermost, so that it sees every end."""



