"""Raw rows to conversations: pure functions on rows and text, no framework."""
