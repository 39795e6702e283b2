"""The application's doors: one file a page, with its routes."""
