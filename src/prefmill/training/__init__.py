"""Reward models and policies, trained with TRL."""
