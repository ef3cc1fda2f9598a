"""Gradients and Hessian-vector products of a minibatch loss that a closure computes."""

from yfkernels.curvature.closures import Closure, Gradient, Product, Tensors, gradient
from yfkernels.curvature.evaluation import validation_gradient
from yfkernels.curvature.modules import Discovered, discover
from yfkernels.curvature.product import METHODS, HessianProduct, gradient_and_product

__all__ = [
    "METHODS",
    "Closure",
    "Discovered",
    "Gradient",
    "HessianProduct",
    "Product",
    "Tensors",
    "discover",
    "gradient",
    "gradient_and_product",
    "validation_gradient",
]
