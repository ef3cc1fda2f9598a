"""How fast and how far optimizers train real tasks, beside their rivals, in cells that resume."""
