"""The school: a labelled dataset, networks, training, evaluation and the model folders that come of it."""
