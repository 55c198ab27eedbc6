"""What can be known of the kernels without a GPU, and who holds memory."""
