"""What energynets costs, next to its rivals and to the products it cannot do without; part of a checkout only."""
