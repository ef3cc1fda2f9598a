"""The fused operations on tables of tensors; `backend` says what they are and who offers them."""
