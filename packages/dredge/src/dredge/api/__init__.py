"""The HTTP interface: routes, limits, errors and the page."""
