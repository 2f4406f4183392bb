"""Training of the encoders and of their alignment: settings in, a model directory out (`fit.train`)."""
