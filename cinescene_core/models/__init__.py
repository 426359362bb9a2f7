"""The networks. They know shapes and weights, no stage and no host."""
