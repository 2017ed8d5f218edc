"""Fine-tuning on selected data: supervised, then on preferences; what a model is trained on, token by token."""
