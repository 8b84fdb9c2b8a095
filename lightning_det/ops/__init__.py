"""Batched box geometry and suppression: pure functions of tensors."""
