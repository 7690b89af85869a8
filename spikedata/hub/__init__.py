"""Publish a data set on the Hugging Face Hub, and fetch one back."""
