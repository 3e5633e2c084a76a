"""Fast forms of single operations, each proven equal to the plain one."""
