"""Tests: the laws over every model, and the units one by one."""
