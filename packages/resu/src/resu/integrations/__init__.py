"""The same cycles inside other people's training loops: Hugging Face's and Lightning's."""
