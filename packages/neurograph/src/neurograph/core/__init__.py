"""Tables, graph, node store, engine and radiation."""
