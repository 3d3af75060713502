"""What is meant: concepts, the papers' presets, prompts with what they should show."""
