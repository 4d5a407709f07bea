"""What the small base model is made from: arithmetic drills, reading passages and its tokenizer."""
