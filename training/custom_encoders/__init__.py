"""Encoders that are no transformer, known to the Auto classes by importing this; the JSON files are their configs."""

from fastmux.training.custom_encoders import lstm_experts as lstm_experts
