"""What a model learned and what it forgot, in numbers that can be recomputed from files."""
