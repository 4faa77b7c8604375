"""Train models: labelled datasets, networks, training, evaluation and the model folders that result."""
