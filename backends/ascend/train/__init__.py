"""Training on MindSpore, through mindformers."""
