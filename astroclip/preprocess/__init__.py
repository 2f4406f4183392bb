"""From survey pixels to model inputs, batched in torch: the same numbers on CPU and GPU."""
