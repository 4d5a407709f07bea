"""Numbers that the arithmetic contest fixes for its model, Llama-3-8B."""

LLAMA3_8B = 8_030_261_248
"""Parameters of Llama-3-8B."""

CONTEST_DENOMINATOR = 8_030_000_000
"""What the contest divides the trained parameters of that model by: its rules round it, and prescribe it."""
