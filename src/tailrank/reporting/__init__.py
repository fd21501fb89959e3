"""Results as JSON, tables and figures; knows nothing of models, queues or how numbers were got."""
