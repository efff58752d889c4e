"""The pieces that algorithms are made of: losses and optimiser steps."""
