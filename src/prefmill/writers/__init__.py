"""From frames to files: layouts of trainers, encoders, targets."""
