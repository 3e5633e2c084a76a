"""One module a version, named after it; a published one never changes."""
