"""How much a wrong learning rate or momentum costs each optimizer: `yfkernels robustness`."""
