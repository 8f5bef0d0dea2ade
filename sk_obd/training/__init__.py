"""Private: a skorch net made ready, trained and measured."""
