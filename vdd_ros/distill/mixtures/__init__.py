"""What a student is: a Gaussian mixture of experts that a network predicts."""
