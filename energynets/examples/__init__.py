"""Worked examples, short enough to read: `python -m energynets.examples.chain_tagging` and `.face_completion`."""
