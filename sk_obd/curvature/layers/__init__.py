"""Rules: how a layer passes second derivatives at its output on to its parameters."""
