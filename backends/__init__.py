"""The two ways to train one recipe: CUDA through PEFT, Ascend through mindformers."""
