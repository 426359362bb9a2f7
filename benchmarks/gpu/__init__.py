"""What full-size networks with random weights cost on a graphics card, beside what the card can do at best."""
