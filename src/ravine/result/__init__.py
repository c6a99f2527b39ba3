"""Results: labelled arrays with a schema, read and written without torch."""
