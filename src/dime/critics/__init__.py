"""Critics: what an action is worth, as a number or as a distribution.

The quantile and Gaussian heads of the compared algorithms will stand here.
"""
