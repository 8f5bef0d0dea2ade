"""Losses seen row by row, and their second derivatives at the logits."""
